//! Whether the peer is there: pings until there is a pong.

use std::time::Duration;

use super::{
    Event, Session,
    repeat::{RETRY, Repeat},
};
use crate::proto::{Now, native::control::Message};

/// A question whether the peer is there.
pub(super) struct Probe {
    /// When it is given up.
    until: Duration,
    repeat: Repeat,
    /// When the latest ping left, which is its token, too.
    sent: Duration,
    /// Whether anybody wants to know.
    asked: bool,
}

impl Probe {
    pub(super) fn next(&self) -> Duration {
        self.repeat.next().min(self.until)
    }
}

impl Session {
    /// Asks whether the peer is there: [`Event::Responded`] or, after
    /// `patience`, [`Event::Unresponsive`]. One that is under way is replaced.
    pub fn probe(&mut self, now: Now, patience: Duration) {
        if !self.ended {
            self.probe_at(now.monotonic, patience, true);
        }
    }

    /// Sends a ping, whose answer makes a new [`round_trip`](Self::round_trip). Nothing
    /// follows if none comes.
    pub fn measure_round_trip(&mut self, now: Now) {
        if !self.ended {
            self.ping(now.monotonic);
        }
    }

    /// From the latest ping that was answered in turn to its pong.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Returns `true` if the latest ping has not been answered.
    pub fn awaits_pong(&self) -> bool {
        self.pinged.is_some()
    }

    pub(super) fn probe_at(&mut self, now: Duration, patience: Duration, asked: bool) {
        let wait = (patience / 8).clamp(Duration::from_millis(50), RETRY);
        let (until, repeat) = (now + patience, Repeat::new(now, wait));
        self.probe = Some(Probe { until, repeat, sent: now, asked });
        self.ping(now);
    }

    pub(super) fn ping(&mut self, now: Duration) {
        self.pinged = Some(now);
        self.send(now, &Message::Ping(token(now)));
    }

    pub(super) fn ponged(&mut self, now: Duration, answered: u64) {
        if let Some(sent) = self.pinged.take_if(|sent| answered == token(*sent)) {
            self.round_trip = Some(now.saturating_sub(sent));
        }
        if let Some(probe) = self.probe.take_if(|probe| probe.asked) {
            let latest = answered == token(probe.sent);
            let round_trip = latest.then(|| now.saturating_sub(probe.sent));
            self.events.push_back(Event::Responded { round_trip });
        }
        self.probe = None;
    }

    pub(super) fn probe_timeout(&mut self, now: Duration) {
        let Some(probe) = &mut self.probe else { return };
        if now >= probe.until {
            if probe.asked {
                self.events.push_back(Event::Unresponsive);
            }
            self.probe = None;
        } else if probe.repeat.is_due(now) {
            probe.sent = now;
            self.ping(now);
        }
    }
}

/// A ping's token: when it left, in nanoseconds.
fn token(sent: Duration) -> u64 {
    sent.as_nanos() as u64
}
