//! How many packets the peer has got, which it is asked for.

use std::time::Duration;

use super::{Event, Session};
use crate::proto::{Now, native::control::Message};

/// The peer is asked no more often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Packets after which it is asked unasked for: more than two idle ends send each
/// other between two questions.
const MANY: u64 = 64;

/// The last answer.
#[derive(Default)]
pub(super) struct Delivery {
    /// When the peer was asked, and the number of the packet that was next then.
    asked: Option<(Duration, u64)>,
    /// The newest packet that the peer had when it answered.
    newest: u64,
}

impl Session {
    /// Asks the peer how many packets it has got, if that was not asked within the last
    /// second and packets have left since: [`Event::Delivery`].
    pub fn ask_delivery(&mut self, now: Now) {
        self.count_after(now.monotonic, 2);
    }

    pub(super) fn count_now_and_then(&mut self, now: Duration) {
        self.count_after(now, MANY);
    }

    fn count_after(&mut self, now: Duration, packets: u64) {
        let next = self.channel.sending.next();
        let due = self
            .delivery
            .asked
            .is_none_or(|(asked, before)| now >= asked + INTERVAL && next >= before + packets);
        if due && next >= packets && self.confirmed && !self.ended {
            self.delivery.asked = Some((now, next));
            self.send(now, &Message::Count);
        }
    }

    pub(super) fn count(&mut self, now: Duration) {
        let (newest, packets) = self.channel.receiving.count();
        self.send(now, &Message::Counted { newest, packets });
    }

    pub(super) fn counted(&mut self, newest: u64, packets: u64) {
        // Later answers are of more packets.
        if newest >= self.delivery.newest && newest < self.channel.sending.next() {
            self.delivery.newest = newest;
            let skipped = self.channel.sending.skipped();
            let undelivered = (newest + 1).saturating_sub(packets).saturating_sub(skipped);
            self.events.push_back(Event::Delivery { undelivered });
        }
    }
}
