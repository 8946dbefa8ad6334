//! Announces the capabilities of the program at this end, until the peer has acknowledged them.

use std::time::Duration;

use super::{
    Session,
    repeat::{RETRY, Repeat},
};
use crate::proto::{
    Now,
    native::{Capabilities, control::Message},
};

/// An announcement that the peer has not heard.
pub(super) struct Announcement {
    capabilities: Capabilities,
    repeat: Repeat,
}

impl Announcement {
    /// Returns `true` if these flags were announced.
    pub(super) fn says(&self, flags: u8) -> bool {
        self.capabilities.bits() == flags
    }

    pub(super) fn next(&self) -> Duration {
        self.repeat.next()
    }
}

impl Session {
    /// Tells the peer, until it has heard it, what the program at this end takes
    /// beyond packets as they are.
    pub fn announce(&mut self, now: Now, capabilities: Capabilities) {
        let now = now.monotonic;
        self.announcement = Some(Announcement { capabilities, repeat: Repeat::new(now, RETRY) });
        self.send(now, &Message::Announce(capabilities.bits()));
    }

    pub(super) fn announce_again(&mut self, now: Duration) {
        let Some(announcement) = &mut self.announcement else { return };
        if announcement.repeat.is_due(now) {
            let flags = announcement.capabilities.bits();
            self.send(now, &Message::Announce(flags));
        }
    }
}
