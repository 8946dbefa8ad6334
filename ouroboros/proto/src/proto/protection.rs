//! Protection of a flow's packets: none, that of the 0.23 format (`rotation`),
//! or that of the native profile (`native`).
//!
//! A [`Sealer`] and an [`Opener`] belong to one flow and may be used from two
//! threads. Not here: sockets, keepalives, any decision about the flow's end.

use std::ops::Range;

use zeroize::Zeroizing;

pub use super::{
    native::SealError,
    packet::{Content, OpenError, Opened, Profile},
};
use super::{
    native::{self, Channel, NativeKeys},
    packet::KeyLimits,
    rotation::{Opening, PERIOD, Sealing, rotating},
};
use crate::{
    crypto::{AeadBackend, Cipher, Entropy, FlowKey, NONCE, Suite, TAG},
    packet::{ReceiveBatch, SendBatch},
    wire::Eid,
};

/// Length of the CRC in bytes.
const CRC: usize = 4;

/// The agreed keys of an encrypted flow. Not to be copied: see [`NativeKeys`].
#[derive(Debug)]
pub enum FlowKeys {
    /// For packets in the 0.23 format.
    Wire023 {
        /// The cipher that seals packets.
        cipher: Cipher,
        /// The key of epoch 0.
        key: FlowKey,
    },
    /// For packets of the native profile.
    Native(NativeKeys),
}

impl FlowKeys {
    /// Which format they are for.
    pub fn profile(&self) -> Profile {
        match self {
            Self::Wire023 { .. } => Profile::Wire023,
            Self::Native(_) => Profile::Native,
        }
    }

    /// The cipher that seals packets.
    pub fn cipher(&self) -> Cipher {
        match self {
            Self::Wire023 { cipher, .. } => *cipher,
            Self::Native(keys) => keys.suite().cipher,
        }
    }

    /// Returns `true` if they are for the native profile.
    pub fn is_native(&self) -> bool {
        self.profile() == Profile::Native
    }

    /// The frame by which the client of the flow between the endpoints `ends` shows,
    /// before anything else, that it has the reply; it may be repeated as it is. A
    /// keepalive in the 0.23 format, a ping in the native profile.
    pub fn greeting(&mut self, ends: (Eid, Eid)) -> Vec<u8> {
        match self {
            Self::Wire023 { .. } => Vec::new(),
            Self::Native(keys) => native::greeting(keys, ends).unwrap_or_default(),
        }
    }

    /// The same keys again, to try a frame on. Nothing may be sealed with them.
    fn to_try(&self) -> Self {
        match self {
            Self::Wire023 { cipher, key } => Self::Wire023 { cipher: *cipher, key: key.clone() },
            Self::Native(keys) => Self::Native(keys.to_try()),
        }
    }

    /// Returns `true` if `other` are the keys of the flow's other end.
    pub fn is_counterpart(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Wire023 { cipher, key },
                Self::Wire023 { cipher: other_cipher, key: other_key },
            ) => cipher == other_cipher && key == other_key,
            (Self::Native(keys), Self::Native(other)) => keys.is_counterpart(other),
            _ => false,
        }
    }

    /// The keys as bytes, to hand the flow to another process of this machine.
    /// The suite goes beside them.
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Wire023 { key, .. } => Zeroizing::new(key.as_bytes().to_vec()),
            Self::Native(keys) => keys.into_bytes(),
        }
    }

    /// Keys from their bytes, for a flow with `suite`; `None` if they make no
    /// sense.
    pub fn from_bytes(profile: Profile, suite: Suite, bytes: &[u8]) -> Option<Self> {
        match profile {
            Profile::Wire023 => {
                let key = FlowKey::new(bytes.try_into().ok()?);
                Some(Self::Wire023 { cipher: suite.cipher, key })
            }
            Profile::Native => NativeKeys::from_bytes(suite, bytes).map(Self::Native),
        }
    }
}

/// The protection of one flow.
#[derive(Debug)]
pub struct Protection {
    /// Seals what leaves.
    pub sealer: Sealer,
    /// Opens what comes.
    pub opener: Opener,
    /// For the session of a native flow.
    pub channel: Option<Channel>,
}

/// The protection of the flow between the endpoints `local` and `remote`.
/// `keys` is `None` for a plain flow. `checks_errors` puts a CRC-32 behind every
/// packet; the native profile needs none, for its tags do more. `limits` are for
/// the native profile's keys.
pub fn protection(
    keys: Option<FlowKeys>,
    ends: (Eid, Eid),
    checks_errors: bool,
    backend: AeadBackend,
    limits: KeyLimits,
    entropy: &mut dyn Entropy,
) -> Protection {
    match keys {
        Some(FlowKeys::Native(keys)) => {
            let channel = Channel::new(keys, ends, backend, limits);
            Protection {
                sealer: Sealer { kind: SealerKind::Native(channel.sealer()), checks_errors: false },
                opener: Opener { kind: OpenerKind::Native(channel.opener()), checks_errors: false },
                channel: Some(channel),
            }
        }
        Some(FlowKeys::Wire023 { cipher, key }) => {
            let rotating = rotating((cipher, key), backend, entropy, PERIOD);
            wire_023(Some(rotating), checks_errors)
        }
        None => wire_023(None, checks_errors),
    }
}

/// Returns `true` if `frame` is one that the peer of the flow between the
/// endpoints `local` and `remote` has sealed in its first epoch. Changes nothing:
/// what is opened later may be the same frame.
pub fn authenticates(
    keys: &FlowKeys,
    (local, remote): (Eid, Eid),
    checks_errors: bool,
    frame: &[u8],
) -> bool {
    /// Nothing is sealed: there is no need of random numbers.
    struct Unused;
    impl Entropy for Unused {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }
    let (backend, limits) = (AeadBackend::default(), KeyLimits::default());
    let keys = Some(keys.to_try());
    let ends = (local, remote);
    let mut tried = protection(keys, ends, checks_errors, backend, limits, &mut Unused);
    tried.opener.open(&mut frame.to_vec()).is_ok()
}

/// Packets in the 0.23 format, plain or sealed.
fn wire_023(sealed: Option<(Sealing, Opening)>, checks_errors: bool) -> Protection {
    let (sealer, opener) = match sealed {
        None => (SealerKind::Plain, OpenerKind::Plain),
        Some((sealing, opening)) => {
            (SealerKind::Wire023(Box::new(sealing)), OpenerKind::Wire023(Box::new(opening)))
        }
    };
    Protection {
        sealer: Sealer { kind: sealer, checks_errors },
        opener: Opener { kind: opener, checks_errors },
        channel: None,
    }
}

/// Seals outgoing packets.
pub struct Sealer {
    kind: SealerKind,
    checks_errors: bool,
}

enum SealerKind {
    Plain,
    Wire023(Box<Sealing>),
    Native(native::Sealer),
}

impl Sealer {
    /// Bytes in front of a packet in its frame.
    pub fn headroom(&self) -> usize {
        match &self.kind {
            SealerKind::Plain => 0,
            SealerKind::Wire023(_) => NONCE,
            SealerKind::Native(_) => native::HEAD,
        }
    }

    /// Bytes behind a packet in its frame.
    pub fn tailroom(&self) -> usize {
        let tag = match &self.kind {
            SealerKind::Plain => 0,
            SealerKind::Wire023(_) | SealerKind::Native(_) => TAG,
        };
        tag + if self.checks_errors { CRC } else { 0 }
    }

    /// Seals the packet in `frame` in place: headroom, packet, tailroom.
    ///
    /// # Errors
    ///
    /// Native flows: nothing may be sealed now; `frame` is as it was.
    ///
    /// # Panics
    ///
    /// If `frame` is shorter than headroom and tailroom, or if `content` is
    /// other than [`Content::Packet`] and the flow is not native.
    pub fn seal(&mut self, frame: &mut [u8], content: Content) -> Result<(), SealError> {
        if let SealerKind::Native(sealer) = &mut self.kind {
            sealer.reserve(1, content != Content::Control)?.seal(frame, content);
        } else {
            self.seal_023(frame, content);
        }
        Ok(())
    }

    /// Seals the frames of `batch` from `first` on, in place; `content` says
    /// what each is. All are data. Returns the packet number of the first frame, from
    /// which the others' go on; 0 in formats without numbers.
    ///
    /// # Errors
    ///
    /// Native flows: nothing may be sealed now; the frames are as they were.
    ///
    /// # Panics
    ///
    /// As for [`seal`](Self::seal).
    pub fn seal_batch(
        &mut self,
        batch: &mut SendBatch,
        first: usize,
        content: impl Fn(usize) -> Content,
    ) -> Result<u64, SealError> {
        let last = batch.len();
        if let SealerKind::Native(sealer) = &mut self.kind {
            let mut reserved = sealer.reserve(last.saturating_sub(first) as u64, true)?;
            let number = reserved.first();
            for index in first..last {
                reserved.seal(batch.frame_mut(index), content(index));
            }
            return Ok(number);
        }
        for index in first..last {
            self.seal_023(batch.frame_mut(index), content(index));
        }
        Ok(0)
    }

    /// Leaves out a packet number, and returns it: no packet has it, nor will one. `None` in
    /// formats without numbers.
    ///
    /// # Errors
    ///
    /// Nothing may be sealed now; no number was left out.
    pub fn skip_number(&mut self) -> Result<Option<u64>, SealError> {
        match &mut self.kind {
            SealerKind::Native(sealer) => sealer.skip().map(Some),
            SealerKind::Plain | SealerKind::Wire023(_) => Ok(None),
        }
    }

    fn seal_023(&mut self, frame: &mut [u8], content: Content) {
        assert_eq!(content, Content::Packet, "only native flows carry anything else");
        let end = frame.len() - if self.checks_errors { CRC } else { 0 };
        let (sealed, crc) = frame.split_at_mut(end);
        if let SealerKind::Wire023(sealing) = &mut self.kind {
            sealing.seal(sealed);
        }
        if self.checks_errors {
            crc.copy_from_slice(&crc32fast::hash(sealed).to_be_bytes());
        }
    }

    /// A sealer of the same flow for another thread; `None` if the flow's
    /// format has no packet numbers to share.
    pub fn another(&self) -> Option<Self> {
        match &self.kind {
            SealerKind::Native(sealer) => {
                let kind = SealerKind::Native(sealer.another());
                Some(Self { kind, checks_errors: self.checks_errors })
            }
            SealerKind::Plain => Some(Self { kind: SealerKind::Plain, ..*self }),
            SealerKind::Wire023(_) => None,
        }
    }

    /// Gives back memory that an idle flow has no use for.
    pub fn rest(&mut self) {
        if let SealerKind::Native(sealer) = &mut self.kind {
            sealer.rest();
        }
    }

    /// Returns `true` if the session of a native flow should be polled now; once.
    pub fn wants_attention(&self) -> bool {
        matches!(&self.kind, SealerKind::Native(sealer) if sealer.wants_attention())
    }
}

/// Opens incoming frames.
pub struct Opener {
    kind: OpenerKind,
    checks_errors: bool,
}

enum OpenerKind {
    Plain,
    Wire023(Box<Opening>),
    Native(native::Opener),
}

/// How the frames of a batch fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that are no new packets of the flow.
    pub unopened: usize,
    /// Keepalives: empty frames, where the format has them.
    pub keepalives: usize,
}

impl Opener {
    /// Opens `frame` in place.
    ///
    /// # Errors
    ///
    /// The frame is not a packet of the flow; nothing has changed, but what
    /// `frame` holds is undefined.
    pub fn open(&mut self, frame: &mut [u8]) -> Result<Opened, OpenError> {
        match &mut self.kind {
            OpenerKind::Native(opener) => opener.open(frame),
            _ => Ok(Opened::packet(0, self.open_023(frame)?)),
        }
    }

    /// Opens the frames of `batch` in place and adds to `opened` the packets
    /// that are in them, in order.
    pub fn open_batch(&mut self, batch: &mut ReceiveBatch, opened: &mut Vec<Opened>) -> Tally {
        let mut tally = Tally::default();
        let first = opened.len();
        if let OpenerKind::Native(opener) = &mut self.kind {
            opener.begin();
        }
        for index in 0..batch.len() {
            let frame = batch.frame_mut(index);
            let result = match &mut self.kind {
                OpenerKind::Native(opener) => opener.authenticate(index, frame),
                _ if frame.is_empty() => {
                    tally.keepalives += 1;
                    continue;
                }
                _ => self.open_023(frame).map(|body| Opened::packet(index, body)),
            };
            match result {
                Ok(packet) => opened.push(packet),
                Err(_) => tally.unopened += 1,
            }
        }
        if let OpenerKind::Native(opener) = &mut self.kind {
            let before = opened.len();
            opener.finish(opened, first);
            tally.unopened += before - opened.len();
        }
        if tally.keepalives > 0 {
            self.heard_keepalive();
        }
        tally
    }

    fn open_023(&mut self, frame: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let sealed = if self.checks_errors {
            let at = frame.len().checked_sub(CRC).ok_or(OpenError::TooShort)?;
            let (sealed, crc) = frame.split_at_mut(at);
            if crc32fast::hash(sealed).to_be_bytes() != *crc {
                return Err(OpenError::Checksum);
            }
            sealed
        } else {
            frame
        };
        match &mut self.kind {
            OpenerKind::Wire023(opening) => {
                opening.open(sealed)?;
                Ok(NONCE..sealed.len() - TAG)
            }
            _ => Ok(0..sealed.len()),
        }
    }

    /// A keepalive was heard: a sign of life, though not an authentic one.
    pub fn heard_keepalive(&mut self) {
        if let OpenerKind::Wire023(opening) = &self.kind {
            opening.heard();
        }
    }

    /// An opener of the same flow for another thread; `None` if the flow's
    /// format has no packet numbers to share.
    pub fn another(&self) -> Option<Self> {
        let kind = match &self.kind {
            OpenerKind::Native(opener) => OpenerKind::Native(opener.another()),
            OpenerKind::Plain => OpenerKind::Plain,
            OpenerKind::Wire023(_) => return None,
        };
        Some(Self { kind, checks_errors: self.checks_errors })
    }

    /// Gives back memory that an idle flow has no use for.
    pub fn rest(&mut self) {
        if let OpenerKind::Native(opener) = &mut self.kind {
            opener.rest();
        }
    }

    /// Returns `true` if the session of a native flow should be polled now; once.
    pub fn wants_attention(&self) -> bool {
        matches!(&self.kind, OpenerKind::Native(opener) if opener.wants_attention())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "protection_tests.rs"]
mod tests;
