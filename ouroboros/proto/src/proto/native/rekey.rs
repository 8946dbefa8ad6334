//! The exchange that makes the next epoch (PROTOCOL.md, "Rekeying"), from
//! either end. It installs keys in the flow's channel and says what to send;
//! when it begins, and how often it repeats, is `session`'s.

use sha2::{Digest, Sha256};

use super::{
    Channel, Role,
    control::{Assembly, Message, Part, parts},
    schedule::{Epoch, SendKey},
};
use crate::crypto::{self, Entropy, EphemeralSecret, Hash, KeptX25519, KeyExchange};

enum Stage {
    /// Both ends use the present epoch.
    Settled,
    /// This end offered its key.
    Offered(EphemeralSecret),
    /// This end answered: the peer may use the next epoch, and it is used here
    /// once the peer has been heard in it.
    Answered { answer: Vec<u8>, next: Epoch, send: SendKey },
    /// This end offered, has the answer and uses the new epoch, but has not
    /// heard the peer in it.
    Confirming,
}

/// The progress of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing that matters.
    None,
    /// This end seals in a new epoch.
    Sealing,
    /// Both ends seal in the present epoch, as the peer has shown.
    Settled,
    /// A copy of what was answered: the answer should be repeated.
    Repeated,
    /// The peer's offer was answered.
    Answered,
    /// This end seals in a new epoch, and so does the peer.
    SealingSettled,
}

pub(super) struct Rekey {
    kex: KeyExchange,
    kdf: Hash,
    role: Role,
    stage: Stage,
    offer: Assembly,
    answer: Assembly,
    /// The agreement of the headers, until the first exchange is done.
    kept: Option<Box<KeptX25519>>,
}

impl Rekey {
    pub(super) fn new(channel: &mut Channel) -> Self {
        let suite = channel.keys.suite();
        Self {
            kex: suite.kex,
            kdf: suite.kdf,
            role: channel.keys.role(),
            stage: Stage::Settled,
            offer: Assembly::default(),
            answer: Assembly::default(),
            kept: channel.keys.take_kept(),
        }
    }

    /// Returns `true` if an exchange can begin.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Settled)
    }

    /// Begins an exchange.
    pub(super) fn begin(&mut self, entropy: &mut dyn Entropy) {
        let secret = match self.kept.take() {
            Some(kept) => EphemeralSecret::generate_beside(*kept, entropy),
            None => EphemeralSecret::generate(self.kex, entropy),
        };
        self.stage = Stage::Offered(secret);
        self.answer.clear();
    }

    /// Returns the messages to send now, at first and again; parts of at most `size` bytes.
    pub(super) fn messages(&self, channel: &Channel, size: usize) -> Vec<Vec<u8>> {
        let next = channel.epoch.number + 1;
        let encode = |message: Message<'_>| message.encode();
        match &self.stage {
            Stage::Settled => Vec::new(),
            Stage::Offered(secret) => {
                parts(next, secret.public_key(), size).map(Message::Offer).map(encode).collect()
            }
            Stage::Answered { answer, .. } => {
                parts(next, answer, size).map(Message::Answer).map(encode).collect()
            }
            Stage::Confirming => vec![Message::Confirm(channel.epoch.number as u32).encode()],
        }
    }

    /// The peer was heard in `epoch`.
    pub(super) fn heard(&mut self, channel: &mut Channel, epoch: u64) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Confirming if epoch == channel.epoch.number => Progress::Settled,
            Stage::Answered { next, send, .. } if epoch == next.number => {
                channel.sending.install(send);
                channel.epoch = next;
                Progress::SealingSettled
            }
            stage => {
                self.stage = stage;
                Progress::None
            }
        }
    }

    /// A part of the peer's offer came. `ready`: a new epoch may begin.
    pub(super) fn offered(
        &mut self,
        channel: &mut Channel,
        entropy: &mut dyn Entropy,
        part: Part<'_>,
        ready: bool,
    ) -> Progress {
        if part.epoch != (channel.epoch.number + 1) as u32 {
            return Progress::None;
        }
        match &self.stage {
            Stage::Answered { .. } => return Progress::Repeated,
            // Of two offers the client's counts.
            Stage::Offered(_) if self.role == Role::Client => return Progress::None,
            Stage::Confirming => return Progress::None,
            Stage::Offered(_) | Stage::Settled => {}
        }
        if !ready {
            return Progress::None;
        }
        let Some(key) = self.offer.add(part) else { return Progress::None };
        let answered = match self.kept.as_deref() {
            Some(kept) => crypto::answer_hybrid(Some(kept), &key, self.kdf, entropy),
            None => crypto::answer(self.kex, &key, self.kdf, entropy),
        };
        let Ok((answer, fresh)) = answered else { return Progress::None };
        self.kept = None;
        let messages = exchange_hash(&key, &answer);
        let (next, send, receive) =
            channel.epoch.next(&channel.keys, &fresh, &messages, channel.backend);
        channel.receiving.install(receive);
        self.stage = Stage::Answered { answer, next, send };
        Progress::Answered
    }

    /// A part of the peer's answer came.
    pub(super) fn answered(&mut self, channel: &mut Channel, part: Part<'_>) -> Progress {
        let Stage::Offered(secret) = &self.stage else { return Progress::None };
        if part.epoch != (channel.epoch.number + 1) as u32 {
            return Progress::None;
        }
        let Some(answer) = self.answer.add(part) else { return Progress::None };
        let Ok(fresh) = secret.agree(&answer, self.kdf) else { return Progress::None };
        let messages = exchange_hash(secret.public_key(), &answer);
        let (next, send, receive) =
            channel.epoch.next(&channel.keys, &fresh, &messages, channel.backend);
        channel.receiving.install(receive);
        channel.sending.install(send);
        channel.epoch = next;
        self.stage = Stage::Confirming;
        Progress::Sealing
    }
}

/// The hash of an exchange's messages, which goes into the next secret.
fn exchange_hash(offer: &[u8], answer: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for message in [offer, answer] {
        // No message is longer than a length can say: see `Assembly`.
        hash.update((message.len() as u16).to_be_bytes());
        hash.update(message);
    }
    hash.finalize().into()
}
