//! Opening. What does not authenticate changes nothing but a count; the replay
//! window is asked after authentication, once for a batch.

use std::sync::{Arc, Weak};

use super::{
    Content, EPOCHS, HEAD, HEADER, KIND, KeyLimits, TAIL, associated, nonce,
    schedule::{DirectionCipher, ReceiveKey},
    window::ReplayWindow,
};
use crate::{
    proto::packet::{OpenError, Opened},
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

/// A cipher with what is to be known of its use.
struct Current {
    cipher: DirectionCipher,
    /// Whether data may come under it.
    data: bool,
    failures: AtomicU64,
}

/// A key that packets may come under, and its cipher while it is in use.
struct Held {
    key: ReceiveKey,
    data: bool,
    /// Failures of ciphers that were let go of.
    failures: u64,
    current: Option<Arc<Current>>,
}

impl Held {
    fn new(key: ReceiveKey, data: bool) -> Self {
        Self { key, data, failures: 0, current: None }
    }

    fn failures(&self) -> u64 {
        self.current.as_ref().map_or(self.failures, |current| current.failures.load(Relaxed))
    }

    /// Lets go of the cipher, unless a packet is being opened.
    fn rest(&mut self) {
        self.current = self.current.take().and_then(|current| match Arc::try_unwrap(current) {
            Ok(current) => {
                self.failures = current.failures.into_inner();
                None
            }
            Err(current) => Some(current),
        });
    }

    fn current(&mut self) -> &Arc<Current> {
        let Self { key, data, failures, current } = self;
        current.get_or_insert_with(|| {
            let (cipher, failures) = (key.cipher(), AtomicU64::new(*failures));
            Arc::new(Current { cipher, data: *data, failures })
        })
    }
}

/// The state that the openers of a flow share.
pub(super) struct Receiving {
    receiver: Eid,
    limits: KeyLimits,
    /// Changes with `keys`, so that a look at it is enough to know.
    version: AtomicU64,
    /// Oldest first; as many as epochs overlap.
    keys: Mutex<Vec<Held>>,
    window: Mutex<ReplayWindow>,
    /// The window's newest number.
    newest: AtomicU64,
    attention: AtomicBool,
}

/// No version of the keys.
const UNKNOWN: u64 = u64::MAX;

/// Keys by the low bits of their epoch. They are not kept alive: an opener that
/// is not used would keep those of epochs that are over.
type Keys = [Weak<Current>; EPOCHS as usize + 1];

impl Receiving {
    pub(super) fn new(receiver: Eid, key: ReceiveKey, data: bool, limits: KeyLimits) -> Self {
        Self {
            receiver,
            limits,
            version: AtomicU64::new(0),
            keys: Mutex::new(vec![Held::new(key, data)]),
            window: Mutex::new(ReplayWindow::new()),
            newest: AtomicU64::new(0),
            attention: AtomicBool::new(false),
        }
    }

    /// Installs the peer's next key: packets sealed with it can be opened from now on.
    pub(super) fn install(&self, key: ReceiveKey) {
        self.change(|keys| keys.push(Held::new(key, true)));
    }

    /// Removes the keys before epoch `oldest`: packets sealed with them can be opened no
    /// longer.
    pub(super) fn retire(&self, oldest: u64) {
        self.change(|keys| keys.retain(|held| held.key.epoch() >= oldest));
    }

    /// Lets go of the ciphers, until the next packet comes.
    pub(super) fn rest(&self) {
        self.change(|keys| {
            keys.iter_mut().for_each(Held::rest);
            keys.shrink_to_fit();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Held>)) {
        let mut keys = lock(&self.keys);
        change(&mut keys);
        self.version.fetch_add(1, Release);
    }

    /// Returns `true` if so many frames did not open that the next key is due.
    pub(super) fn is_due(&self) -> bool {
        let keys = lock(&self.keys);
        keys.iter().any(|held| held.failures() >= self.limits.failures / 2)
    }

    /// The newest packet's number, and how many packets were opened.
    pub(super) fn count(&self) -> (u64, u64) {
        let window = lock(&self.window);
        (window.newest(), window.taken())
    }

    /// Returns how many keys open packets.
    pub(super) fn held(&self) -> usize {
        lock(&self.keys).len()
    }

    fn keys(&self) -> (u64, Keys) {
        let mut known = lock(&self.keys);
        let mut keys = Keys::default();
        for held in known.iter_mut() {
            let place = usize::from(held.key.epoch() as u8 & EPOCHS);
            keys[place] = Arc::downgrade(held.current());
        }
        (self.version.load(Relaxed), keys)
    }

    fn failed(&self, current: &Current) {
        let failures = current.failures.fetch_add(1, Relaxed) + 1;
        if failures == self.limits.failures / 2 {
            self.attention.store(true, Relaxed);
        }
    }
}

impl Opened {
    /// Enters the packet in the window; whether it is new.
    fn take(&mut self, window: &mut ReplayWindow) -> bool {
        let new = window.take(self.number);
        self.leads = new && window.newest() == self.number;
        new
    }
}

/// Opens packets, for one thread.
pub struct Opener {
    shared: Arc<Receiving>,
    version: u64,
    keys: Keys,
    /// The key that opened the last frame of the batch.
    held: Option<Arc<Current>>,
    /// The newest number when the batch began.
    newest: u64,
    /// The newest that came from elsewhere.
    elsewhere: u64,
}

impl Opener {
    pub(super) fn new(shared: Arc<Receiving>) -> Self {
        let (version, keys) = (UNKNOWN, Keys::default());
        Self { shared, version, keys, held: None, newest: 0, elsewhere: 0 }
    }

    /// An opener of the same flow, for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.shared.clone())
    }

    /// Forgets the keys until the next packet: they are not kept alive, but their memory is.
    pub(in crate::proto) fn rest(&mut self) {
        (self.version, self.keys) = (UNKNOWN, Keys::default());
    }

    /// Opens `frame` in place.
    ///
    /// # Errors
    ///
    /// It is no new packet of the flow; what it holds then is undefined.
    pub fn open(&mut self, frame: &mut [u8]) -> Result<Opened, OpenError> {
        self.begin();
        let opened = self.authenticate(0, frame);
        self.held = None;
        let mut opened = opened?;
        let mut window = lock(&self.shared.window);
        let new = opened.take(&mut window);
        self.shared.newest.store(window.newest(), Relaxed);
        if new { Ok(opened) } else { Err(OpenError::Replayed) }
    }

    /// Opens `frame`, which came from elsewhere than the peer's address, in
    /// place. Control is taken as by [`open`](Self::open). Data is not entered
    /// in the replay window: it is for who opens what comes along the path,
    /// and a copy that was faster takes nothing from them.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_off_path(&mut self, frame: &mut [u8]) -> Result<Opened, OpenError> {
        self.begin();
        let opened = self.authenticate(0, frame);
        self.held = None;
        let mut opened = opened?;
        let mut window = lock(&self.shared.window);
        let newest = window.newest().max(self.elsewhere);
        let new = if opened.content == Content::Control {
            opened.take(&mut window)
        } else {
            window.is_new(opened.number)
        };
        self.shared.newest.store(window.newest(), Relaxed);
        if !new {
            return Err(OpenError::Replayed);
        }
        opened.leads = opened.number > newest;
        self.elsewhere = opened.number.max(newest);
        Ok(opened)
    }

    /// Before the frames of a batch.
    pub(in crate::proto) fn begin(&mut self) {
        if self.shared.version.load(Acquire) != self.version {
            (self.version, self.keys) = self.shared.keys();
        }
        self.newest = self.shared.newest.load(Relaxed);
    }

    /// After the frames of a batch: lets go of those among `opened`, from
    /// `first` on, that were seen before.
    pub(in crate::proto) fn finish(&mut self, opened: &mut Vec<Opened>, first: usize) {
        self.held = None;
        if first == opened.len() {
            return;
        }
        let mut window = lock(&self.shared.window);
        let mut position = 0;
        opened.retain_mut(|packet| {
            position += 1;
            position <= first || packet.take(&mut window)
        });
        self.shared.newest.store(window.newest(), Relaxed);
    }

    /// Opens a frame of a batch; whether it was seen before is not asked yet.
    pub(in crate::proto) fn authenticate(
        &mut self,
        index: usize,
        frame: &mut [u8],
    ) -> Result<Opened, OpenError> {
        let size = frame.len();
        let (header, rest) = frame.split_first_chunk_mut::<HEADER>().ok_or(OpenError::TooShort)?;
        let (sealed, tag) = rest.split_last_chunk_mut::<TAIL>().ok_or(OpenError::TooShort)?;
        if sealed.is_empty() {
            return Err(OpenError::TooShort);
        }
        if header[0] & !EPOCHS != KIND {
            return Err(OpenError::NotAuthentic);
        }
        let low_epoch = header[0] & EPOCHS;
        let same = |current: &Arc<Current>| current.cipher.epoch() as u8 & EPOCHS == low_epoch;
        if !self.held.as_ref().is_some_and(same) {
            let place = usize::from(low_epoch);
            self.held = self.keys[place].upgrade();
            if self.held.is_none() && self.shared.version.load(Acquire) != self.version {
                // It may have been let go of since the look at the version.
                (self.version, self.keys) = self.shared.keys();
                self.held = self.keys[place].upgrade();
            }
        }
        let current = self
            .held
            .as_deref()
            .filter(|current| current.failures.load(Relaxed) < self.shared.limits.failures)
            .ok_or(OpenError::NotAuthentic)?;
        let low = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let number = whole_number(self.newest, low);
        let nonce = nonce(current.cipher.iv(), number);
        let associated = associated(self.shared.receiver, header);
        if current.cipher.aead().open_in_place(&nonce, &associated, sealed, tag).is_err() {
            self.shared.failed(current);
            return Err(OpenError::NotAuthentic);
        }
        let content = Content::from_id(sealed[0]).ok_or(OpenError::UnknownContent)?;
        if content != Content::Control && !current.data {
            return Err(OpenError::UnknownContent);
        }
        let epoch = current.cipher.epoch();
        Ok(Opened { index, content, body: HEAD..size - TAIL, epoch, leads: false, number })
    }

    /// Returns `true` if the flow's session should look after its keys now; once.
    pub fn wants_attention(&self) -> bool {
        self.shared.attention.load(Relaxed) && self.shared.attention.swap(false, Relaxed)
    }
}

/// The number with the low half `low` that is nearest to `newest`.
fn whole_number(newest: u64, low: u32) -> u64 {
    // How far ahead it is, as a signed distance.
    let ahead = low.wrapping_sub(newest as u32) as i32;
    newest.checked_add_signed(ahead.into()).unwrap_or_else(|| {
        let high = newest & !u64::from(u32::MAX);
        high | u64::from(low)
    })
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}

#[cfg(test)]
mod tests {
    use super::whole_number;

    #[test]
    fn numbers_are_completed_by_the_nearest() {
        let half = 1u64 << 31;
        for newest in [0, 5, half, u64::from(u32::MAX), 1 << 32, 7 << 40, u64::MAX - 3] {
            for number in [
                newest.saturating_sub(half - 1),
                newest.saturating_sub(1),
                newest,
                newest.saturating_add(1),
                newest.saturating_add(half - 1),
            ] {
                assert_eq!(whole_number(newest, number as u32), number, "near {newest}");
            }
        }
    }
}
