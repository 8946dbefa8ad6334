//! How large packets may be, and what the device is told of it. Time is an
//! argument; `outbound` drives it.

use std::time::{Duration, Instant};

use crate::tun::LEAST_IPV6;

/// How often the path is asked for its MTU.
const INTERVAL: Duration = Duration::from_secs(1);
/// A path that is too small for IPv6 for so long stays so. While its MTU is
/// searched it may seem to be for some seconds, and the kernel would take IPv6
/// away from the device, with all its addresses and routes.
const LASTING: Duration = Duration::from_secs(10);

/// The MTUs of a tunnel, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mtus {
    /// Of packets in one piece.
    pub(super) packets: u16,
    /// Of the device.
    pub(super) device: u16,
}

/// Follows the path's.
pub(super) struct Following {
    /// The MTU that the user wants the device to have.
    fixed: Option<u16>,
    /// Packets that are larger than the path's may travel in fragments.
    fragments: bool,
    mtus: Mtus,
    asked: Instant,
    small_since: Option<Instant>,
}

impl Following {
    /// For a path of that MTU.
    pub(super) fn new(now: Instant, fixed: Option<u16>, path: u16, fragments: bool) -> Self {
        let device = fixed.unwrap_or(if fragments { path.max(LEAST_IPV6) } else { path });
        let mtus = Mtus { packets: device.min(path), device };
        Self { fixed, fragments, mtus, asked: now, small_since: None }
    }

    pub(super) fn mtus(&self) -> Mtus {
        self.mtus
    }

    /// Returns `true` if the path should be asked now; `hurry`: it has refused a packet.
    pub(super) fn is_due(&self, now: Instant, hurry: bool) -> bool {
        hurry || now - self.asked >= INTERVAL
    }

    /// Returns the change that a path of that MTU makes; `None`: nothing has changed.
    pub(super) fn path_says(&mut self, now: Instant, path: u16) -> Option<Mtus> {
        self.asked = now;
        let mut mtus = Mtus { packets: path, device: path };
        if path >= LEAST_IPV6 || self.fragments {
            self.small_since = None;
            mtus.device = path.max(LEAST_IPV6);
        } else if self.mtus.device >= LEAST_IPV6 {
            let since = *self.small_since.get_or_insert(now);
            if now - since < LASTING {
                mtus.device = LEAST_IPV6;
            }
        }
        if let Some(fixed) = self.fixed {
            mtus = Mtus { packets: path.min(fixed), device: fixed };
        }
        // Once, when it is found to last.
        if self.fixed.is_none() && mtus.device < LEAST_IPV6 && self.mtus.device >= LEAST_IPV6 {
            warn_of(path);
        }
        let changed = mtus != self.mtus;
        self.mtus = mtus;
        changed.then_some(mtus)
    }
}

/// Says that a tunnel has no IPv6 inside, and why.
pub(super) fn warn_of(path: u16) {
    tracing::warn!(
        path,
        "the path carries packets of {path} bytes, less than the {LEAST_IPV6} of IPv6, and the \
         peer does not take fragments (they need an encrypted native flow, with a peer that has \
         them): there is no IPv6 in the tunnel"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_device_follows_unless_it_is_fixed_and_packets_do_always() {
        let start = Instant::now();
        let mut free = Following::new(start, None, 1424, false);
        assert_eq!(free.mtus(), Mtus { packets: 1424, device: 1424 });
        assert_eq!(free.path_says(start, 1424), None);
        assert_eq!(free.path_says(start, 1300), Some(Mtus { packets: 1300, device: 1300 }));
        let mut fixed = Following::new(start, Some(1400), 1424, false);
        assert_eq!(fixed.mtus(), Mtus { packets: 1400, device: 1400 });
        assert_eq!(fixed.path_says(start, 1300), Some(Mtus { packets: 1300, device: 1400 }));
        assert!(!fixed.is_due(start, false));
        assert!(fixed.is_due(start, true) && fixed.is_due(start + SECOND, false));
    }

    #[test]
    fn the_device_keeps_ipv6_until_the_path_is_too_small_for_good() {
        let start = Instant::now();
        let mut following = Following::new(start, None, 1424, false);
        let small = Some(Mtus { packets: 1178, device: 1280 });
        assert_eq!(following.path_says(start, 1178), small);
        assert_eq!(
            following.path_says(start + 5 * SECOND, 1424),
            Some(Mtus { packets: 1424, device: 1424 })
        );
        assert_eq!(following.path_says(start + 10 * SECOND, 1178), small);
        assert_eq!(following.path_says(start + 19 * SECOND, 1178), None);
        let lasting = Mtus { packets: 1178, device: 1178 };
        assert_eq!(following.path_says(start + 20 * SECOND, 1178), Some(lasting));
        assert_eq!(following.path_says(start + 21 * SECOND, 1178), None);
        let mut from_the_start = Following::new(start, None, 1178, false);
        assert_eq!(from_the_start.path_says(start, 1178), None);
    }

    #[test]
    fn with_fragments_the_device_has_ipv6_whatever_the_path_carries() {
        let start = Instant::now();
        let mut small = Following::new(start, None, 522, true);
        assert_eq!(small.mtus(), Mtus { packets: 522, device: 1280 });
        assert_eq!(small.path_says(start, 1424), Some(Mtus { packets: 1424, device: 1424 }));
        for at in [1, 20, 40] {
            let now = start + at * SECOND;
            let changed = (at == 1).then_some(Mtus { packets: 946, device: 1280 });
            assert_eq!(small.path_says(now, 946), changed);
        }
        let mut fixed = Following::new(start, Some(1400), 946, true);
        assert_eq!(fixed.mtus(), Mtus { packets: 946, device: 1400 });
        assert_eq!(fixed.path_says(start, 522), Some(Mtus { packets: 522, device: 1400 }));
    }
}
