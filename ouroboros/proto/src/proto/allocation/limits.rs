//! How much peers can make an IPCP keep and do, and what of it is left. Whose
//! share it is, is counted in `sources`.

use std::time::Duration;

use super::sources::Share;
use crate::{proto::Now, wire::QosSpec};

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
    /// Flow requests that wait to be accepted, and half-open flows.
    pub pending_requests: usize,
    /// The same from one source, of those that have proved their address.
    pub pending_of: Share,
    /// The same from one source, of the others.
    pub unvalidated_of: Share,
    /// Requests that may wait without proof of their address: that many native
    /// ones, half-open flows included, and that many others.
    pub unvalidated_requests: usize,
    /// Half-open flows of peers that know no cookies: 0.23 peers and plain
    /// flows. The newest takes the place of the oldest.
    pub half_open_without_cookies: usize,
    /// How long a flow may be half-open, whatever timeout was asked for.
    pub half_open_for: Duration,
    /// The same for a peer that may be silent at first: a 0.23 peer sends its
    /// first keepalive after a quarter of the timeout, 30 s of 120 s.
    pub half_open_for_silent: Duration,
    /// Established flows that peers asked for.
    pub established: usize,
    /// The same from one source.
    pub established_of: Share,
    /// The shortest and the longest timeout that a flow has here, whatever was
    /// asked for; "never" becomes the longest.
    pub flow_timeout: (Duration, Duration),
    /// Requests looked at in a second without proof of their address, counted
    /// in the same way.
    pub unvalidated_per_second: u32,
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
            pending_requests: 2048,
            pending_of: Share { host: 512, prefix: 1024 },
            unvalidated_of: Share { host: 32, prefix: 64 },
            unvalidated_requests: 128,
            half_open_without_cookies: 1024,
            half_open_for: Duration::from_secs(10),
            half_open_for_silent: Duration::from_secs(40),
            established: 4096,
            established_of: Share { host: 1024, prefix: 2048 },
            flow_timeout: (Duration::from_millis(100), Duration::from_secs(120)),
            unvalidated_per_second: 3000,
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

impl Limits {
    /// The same quality of service with a timeout within bounds.
    pub(super) fn bounded(&self, qos: QosSpec) -> QosSpec {
        let (shortest, longest) = self.flow_timeout;
        let asked = match qos.timeout {
            0 => longest,
            milliseconds => Duration::from_millis(milliseconds.into()),
        };
        let timeout = asked.max(shortest).min(longest).as_millis();
        QosSpec { timeout: u32::try_from(timeout).unwrap_or(u32::MAX), ..qos }
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
pub(super) struct Unvalidated {
    pub(super) pending: usize,
    budget: Budget,
}

impl Unvalidated {
    /// Returns `true` if one more may be taken without proof.
    pub(super) fn take(&mut self, now: Now, limits: &Limits) -> bool {
        self.pending < limits.unvalidated_requests
            && self.budget.take(now, limits.unvalidated_per_second)
    }
}
