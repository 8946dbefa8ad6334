//! Sealing. Packet numbers come from one counter for all sealers of a flow and
//! all its epochs, and are reserved for a batch at a time.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use super::{
    Content, EPOCHS, HEAD, HEADER, KIND, KeyLimits, TAIL, associated, nonce,
    schedule::{DirectionCipher, SendKey},
};
use crate::{
    sync::shared::{
        Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
        lock,
    },
    wire::Eid,
};

/// Nothing may be sealed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The flow's session lets no data pass: the exchange that comes before
    /// data is not done, or the next key is overdue.
    #[error("no data may be sealed before the next key is agreed")]
    Paused,
    /// The key has sealed as much as it may.
    #[error("the key has sealed as many packets as it may")]
    Exhausted,
}

/// The last packet numbers that a key may be used for.
#[derive(Clone, Copy)]
struct Bounds {
    /// From here on the next key is due.
    due: u64,
    /// From here on no data, then nothing is sealed.
    data_end: u64,
    end: u64,
}

impl Bounds {
    fn new(from: u64, limits: KeyLimits) -> Self {
        Self { due: from + limits.due, data_end: from + limits.data, end: from + limits.all }
    }
}

struct Current {
    cipher: DirectionCipher,
    bounds: Bounds,
}

/// The state that the sealers of a flow share.
pub(super) struct Sending {
    receiver: Eid,
    /// The next packet number.
    next: AtomicU64,
    /// How many numbers were left out.
    skipped: AtomicU64,
    limits: KeyLimits,
    /// Changes with `state`, so that a look at it is enough to know.
    version: AtomicU64,
    state: Mutex<State>,
    attention: AtomicBool,
}

struct State {
    key: SendKey,
    bounds: Bounds,
    data: bool,
    /// While the key is in use.
    current: Option<Arc<Current>>,
}

impl Sending {
    /// Seals from packet number `first` on.
    pub(super) fn new(
        receiver: Eid,
        key: SendKey,
        data: bool,
        limits: KeyLimits,
        first: u64,
    ) -> Self {
        let state = State { key, bounds: Bounds::new(0, limits), data, current: None };
        Self {
            receiver,
            next: AtomicU64::new(first),
            skipped: AtomicU64::new(0),
            limits,
            version: AtomicU64::new(0),
            state: Mutex::new(state),
            attention: AtomicBool::new(false),
        }
    }

    /// Installs `key` for all that is sealed from now on.
    pub(super) fn install(&self, key: SendKey) {
        let bounds = Bounds::new(self.next.load(Relaxed), self.limits);
        self.change(|state| (state.key, state.bounds, state.current) = (key, bounds, None));
    }

    /// Lets go of the cipher, until the next packet leaves.
    pub(super) fn rest(&self) {
        self.change(|state| state.current = None);
    }

    /// Whether data may be sealed.
    pub(super) fn allow_data(&self, data: bool) {
        self.change(|state| state.data = data);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        self.version.fetch_add(1, Release);
    }

    /// Returns `true` if the number of packets makes the next key due.
    pub(super) fn is_due(&self) -> bool {
        self.next.load(Relaxed) >= lock(&self.state).bounds.due
    }

    /// The number of the packet that is sealed next: so many were sealed before it.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// How many packet numbers were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Goes on at `number`.
    #[cfg(test)]
    pub(super) fn leap(&self, number: u64) {
        self.next.store(number, Relaxed);
    }

    fn known(&self) -> Known {
        let mut state = lock(&self.state);
        let State { key, bounds, data, current } = &mut *state;
        let current = current
            .get_or_insert_with(|| Arc::new(Current { cipher: key.cipher(), bounds: *bounds }));
        let version = self.version.load(Relaxed);
        Known { version, current: Arc::downgrade(current), data: *data }
    }
}

/// The key that a sealer has seen last. It does not keep the key alive: a sealer that is not
/// used would keep the keys of an epoch that is over.
struct Known {
    version: u64,
    current: Weak<Current>,
    data: bool,
}

impl Known {
    /// No key, and no version of the state.
    fn nothing() -> Self {
        Self { version: u64::MAX, current: Weak::new(), data: false }
    }
}

/// Seals packets, for one thread.
pub struct Sealer {
    shared: Arc<Sending>,
    known: Known,
}

impl Sealer {
    pub(super) fn new(shared: Arc<Sending>) -> Self {
        Self { shared, known: Known::nothing() }
    }

    /// Forgets the key until the next packet: it is not kept alive, but its memory is.
    pub(in crate::proto) fn rest(&mut self) {
        self.known = Known::nothing();
    }

    /// A sealer of the same flow, for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.shared.clone())
    }

    /// Takes the numbers for `count` packets, under the key of now. Data is
    /// everything but [`Content::Control`].
    ///
    /// # Errors
    ///
    /// No numbers are to be had; none is lost.
    pub fn reserve(&mut self, count: u64, data: bool) -> Result<Reserved<'_>, SealError> {
        let shared = &*self.shared;
        if shared.version.load(Acquire) != self.known.version {
            self.known = shared.known();
        }
        let current = loop {
            match self.known.current.upgrade() {
                Some(current) => break current,
                // Replaced since the look at the version.
                None => self.known = shared.known(),
            }
        };
        if data && !self.known.data {
            return Err(SealError::Paused);
        }
        let bounds = current.bounds;
        let end = if data { bounds.data_end } else { bounds.end };
        let first = shared
            .next
            .fetch_update(Relaxed, Relaxed, |next| {
                next.checked_add(count).filter(|last| *last <= end)
            })
            .map_err(|_| {
                shared.attention.store(true, Relaxed);
                SealError::Exhausted
            })?;
        if first < bounds.due && first + count >= bounds.due {
            shared.attention.store(true, Relaxed);
        }
        Ok(Reserved { current, shared, numbers: first..first + count, data })
    }

    /// Leaves out a packet number, and returns it.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve), of data.
    pub fn skip(&mut self) -> Result<u64, SealError> {
        let number = self.reserve(1, true)?.first();
        self.shared.skipped.fetch_add(1, Relaxed);
        Ok(number)
    }

    /// Returns `true` if the flow's session should look after its keys now; once.
    pub fn wants_attention(&self) -> bool {
        // A look first: a write would take the line from the other threads.
        self.shared.attention.load(Relaxed) && self.shared.attention.swap(false, Relaxed)
    }
}

/// Numbers for packets, each used once.
pub struct Reserved<'s> {
    current: Arc<Current>,
    shared: &'s Sending,
    numbers: Range<u64>,
    data: bool,
}

impl Reserved<'_> {
    /// The number of the packet that is sealed next.
    pub fn first(&self) -> u64 {
        self.numbers.start
    }

    /// Seals `frame` in place: [`HEAD`] bytes, the body, [`TAIL`] bytes.
    ///
    /// # Panics
    ///
    /// If more packets are sealed than were reserved, if data is where none was
    /// reserved, if `frame` is shorter than head and tail.
    pub fn seal(&mut self, frame: &mut [u8], content: Content) {
        assert!(self.data || content == Content::Control, "no numbers were reserved for data");
        let number = self.numbers.next().expect("a number was reserved for the packet");
        let (header, rest) = frame.split_first_chunk_mut::<HEADER>().expect("room for the header");
        let (sealed, tag) = rest.split_last_chunk_mut::<TAIL>().expect("room for the tag");
        let cipher = &self.current.cipher;
        header[0] = KIND | cipher.epoch() as u8 & EPOCHS;
        header[1..].copy_from_slice(&(number as u32).to_be_bytes());
        sealed[HEAD - HEADER - 1] = content.id();
        let nonce = nonce(cipher.iv(), number);
        let associated = associated(self.shared.receiver, header);
        *tag = cipher.aead().seal_in_place(&nonce, &associated, sealed);
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl std::fmt::Debug for Reserved<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserved").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}
