//! How much peers can make an IPCP keep and do, and what of it is left. Whose
//! share it is, is counted in `sources`.

use std::time::Duration;

use super::sources::Share;
use crate::proto::Now;

/// Bounds on what peers can make an IPCP keep, do and send.
///
/// Over UDP a sender may write any address into its requests. As long as there
/// are few, they are taken at their word. Beyond, a native request has to echo
/// a cookie that was sent to its address. 0.23 peers and plain flows know no
/// cookies: they have a share of their own, which floods of native requests do
/// not touch; beyond it they are refused. What is sent in a source's name
/// without proof is not counted with what it has proved to have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flow requests that wait to be accepted.
    pub pending_requests: usize,
    /// The same from one source.
    pub pending_of: Share,
    /// Requests that may wait without proof of their address: that many native
    /// ones, and that many others.
    pub unproved_requests: usize,
    /// Requests looked at in a second without proof of their address, counted
    /// in the same way.
    pub unproved_per_second: u32,
    /// Cookies sent in a second.
    pub cookies_per_second: u32,
    /// Requests looked at closely in a second, from one source.
    pub requests_per_second_of: Share,
    /// Own allocations under way.
    pub allocations: usize,
    /// Requests remembered against replay.
    pub remembered_requests: usize,
    /// The same from one source.
    pub remembered_of: Share,
    /// Answers per second to messages that lead to no new flow.
    pub answers_per_second: u32,
    /// How long a request waits to be accepted before it is refused.
    pub hold: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_requests: 512,
            pending_of: Share { host: 32, prefix: 64 },
            unproved_requests: 128,
            unproved_per_second: 3000,
            cookies_per_second: 20_000,
            requests_per_second_of: Share { host: 2000, prefix: 2500 },
            allocations: 1024,
            remembered_requests: 65_536,
            remembered_of: Share { host: 16_384, prefix: 32_768 },
            answers_per_second: 1000,
            hold: Duration::from_secs(5),
        }
    }
}

/// How many more there may be in this second.
#[derive(Default)]
pub(super) struct Budget {
    /// `None` before the first.
    since: Option<Duration>,
    left: u32,
}

impl Budget {
    pub(super) fn take(&mut self, now: Now, per_second: u32) -> bool {
        let second = Duration::from_secs(1);
        if self.since.is_none_or(|since| now.monotonic.saturating_sub(since) >= second) {
            *self = Self { left: per_second, since: Some(now.monotonic) };
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// Requests whose senders' addresses may be others'.
#[derive(Default)]
pub(super) struct Unproved {
    pub(super) pending: usize,
    budget: Budget,
}

impl Unproved {
    /// Whether one more may be taken without proof.
    pub(super) fn take(&mut self, now: Now, limits: &Limits) -> bool {
        self.pending < limits.unproved_requests && self.budget.take(now, limits.unproved_per_second)
    }
}
