//! How long an acknowledgement takes, and how long it is waited for. Not here: which
//! packets are measured (`send`).

use std::time::Duration;

/// Waited before anything was measured.
const INITIAL: Duration = Duration::from_secs(1);
/// A 0.23 peer puts an acknowledgement off for up to this long.
const PEER_DELAY: Duration = Duration::from_millis(15);
const LEAST_VARIATION: Duration = Duration::from_millis(1);
const MIN_TIMEOUT: Duration = Duration::from_millis(20);
/// Waiting longer helps nobody, also where a peer's application was slow to read: only
/// then does a 0.23 peer acknowledge.
const MOST: Duration = Duration::from_secs(5);

/// A smoothed round trip and its mean deviation (RFC 6298, section 2).
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    /// `None`: nothing was measured yet.
    smoothed: Option<Duration>,
    deviation: Duration,
    backoff: u32,
}

impl RoundTrip {
    pub(super) fn measured(&mut self, sample: Duration) {
        match &mut self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.deviation = sample / 2;
            }
            Some(smoothed) => {
                self.deviation = (3 * self.deviation + smoothed.abs_diff(sample)) / 4;
                *smoothed = (7 * *smoothed + sample) / 8;
            }
        }
    }

    pub(super) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or_default()
    }

    /// Something was acknowledged: the network is as it was.
    pub(super) fn reset_backoff(&mut self) {
        self.backoff = 0;
    }

    pub(super) fn back_off(&mut self) {
        self.backoff += 1;
    }

    /// Returns how long the oldest packet waits for its acknowledgement.
    pub(super) fn timeout(&self) -> Duration {
        let once = self.smoothed.map_or(INITIAL, |smoothed| {
            (smoothed + (4 * self.deviation).max(LEAST_VARIATION) + PEER_DELAY).max(MIN_TIMEOUT)
        });
        once.saturating_mul(1 << self.backoff.min(16)).min(MOST)
    }
}
