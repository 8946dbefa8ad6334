//! What is measured of whom. The first of each figure is compared with the others. TCP
//! has CUBIC where its name does not say BBR.

use crate::rounds::{Pinned, UNPINNED, Work};

/// Some figures of one run.
pub(crate) struct Part {
    /// As it is selected.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    /// The value of `work` is seconds.
    pub(crate) is_timed: bool,
    pub(crate) pinned: Pinned,
    pub(crate) units: &'static [&'static str],
    pub(crate) of: &'static [&'static str],
}

const ALL: &[&str] =
    &["ours", "ours-messages", "ours-irmd", "ours-eth", "quinn", "s2n-quic", "tls", "tcp"];
/// With the floor below all of them.
const ROUND_TRIPS: &[&str] =
    &["ours", "ours-messages", "ours-irmd", "ours-eth", "quinn", "s2n-quic", "tls", "tcp", "udp"];
const STREAMS: &[&str] = &["ours", "quinn", "s2n-quic", "tls", "tcp"];
const OPENED: &[&str] = &["ours", "ours-x25519", "quinn", "s2n-quic", "tls", "tcp"];

const BULK: &[&str] = &["Gbit/s", "CPU s/GB"];
const LATENCY: &[&str] = &["us p50", "us p99"];

const fn work(what: &'static str, value: f64, parallel: usize) -> Work {
    Work { what, value, parallel }
}

const fn part(name: &'static str, title: &'static str, work: Work) -> Part {
    Part { name, title, work, is_timed: true, pinned: UNPINNED, units: BULK, of: ALL }
}

pub(crate) const PARTS: &[Part] = &[
    part("bulk", "bulk to the server", work("up", 1.5, 1)),
    part("bulk", "bulk to the client", work("down", 1.5, 1)),
    Part {
        pinned: Pinned("0", "0"),
        units: LATENCY,
        of: ROUND_TRIPS,
        ..part("round-trip", "64 B, on one core", work("round-trip", 1.0, 1))
    },
    Part {
        pinned: Pinned("0", "1"),
        units: LATENCY,
        of: ROUND_TRIPS,
        ..part("round-trip", "64 B, on two cores", work("round-trip", 1.0, 1))
    },
    Part {
        units: LATENCY,
        of: STREAMS,
        ..part("loaded", "64 B, beside bulk", work("loaded", 1.0, 1))
    },
    Part { units: &["1/s"], of: OPENED, ..part("open", "opened one by one", work("open", 1.0, 1)) },
    Part {
        units: &["1/s"],
        of: OPENED,
        ..part("open", "opened by 16 at once", work("open", 1.0, 16))
    },
    Part {
        units: &["kB"],
        is_timed: false,
        of: &["ours", "quinn", "s2n-quic"],
        ..part("idle", "idle, at the server", work("idle", 1000.0, 1))
    },
];

/// Milliseconds of round trip, and per cent of loss.
pub(crate) const LINKS: &[(u64, f64)] = &[(20, 0.0), (20, 0.1), (20, 1.0), (20, 5.0), (100, 0.0)];
pub(crate) const OVER_LINKS: &[&str] =
    &["ours", "ours-cubic", "quinn", "s2n-quic-bbr", "tcp", "tcp-bbr"];
pub(crate) const BESIDE_TCP: &[&str] = &["ours", "ours-cubic", "s2n-quic-bbr", "tcp"];
