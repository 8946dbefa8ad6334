//! Cookies: a sender that echoes one has received what was sent to its address.
//! Nothing is kept for them but two secrets (PROTOCOL.md, "Cookies").

use std::time::Duration;

use subtle::ConstantTimeEq;

use crate::{
    crypto::{Entropy, Hash, Secret},
    proto::Now,
    wire::PeerAddress,
};

/// A cookie is good for this long at least, and for twice as long at most.
const PERIOD: Duration = Duration::from_secs(60);
const SIZE: usize = 16;

/// The secrets that cookies are made with.
#[derive(Default)]
pub(super) struct Cookies {
    /// The present one, and when it came to be.
    present: Option<(Secret, Duration)>,
    former: Option<(Secret, Duration)>,
}

impl Cookies {
    /// The cookie of `address`, ports and all.
    pub(super) fn bake(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        address: PeerAddress,
    ) -> [u8; SIZE] {
        let fresh = |since: Duration| now.monotonic.saturating_sub(since) < PERIOD;
        if !self.present.as_ref().is_some_and(|(_, since)| fresh(*since)) {
            let mut seed = [0; 32];
            entropy.fill(&mut seed);
            let secret = Secret::extract(Hash::Sha256, b"o7s cookie", &seed);
            self.former = self.present.replace((secret, now.monotonic));
        }
        self.present.as_ref().map_or([0; SIZE], |(secret, _)| cookie(secret, address))
    }

    /// Whether `address` was given this cookie of late.
    pub(super) fn is_good(&self, now: Now, address: PeerAddress, given: &[u8]) -> bool {
        let secrets = [&self.present, &self.former].into_iter().flatten();
        let mut alive =
            secrets.filter(|(_, since)| now.monotonic.saturating_sub(*since) < 2 * PERIOD);
        alive.any(|(secret, _)| bool::from(cookie(secret, address)[..].ct_eq(given)))
    }
}

fn cookie(secret: &Secret, address: PeerAddress) -> [u8; SIZE] {
    let mut label = Vec::with_capacity(32);
    match address {
        PeerAddress::Udp(address) => {
            match address.ip() {
                std::net::IpAddr::V4(ip) => label.extend_from_slice(&ip.octets()),
                std::net::IpAddr::V6(ip) => label.extend_from_slice(&ip.octets()),
            }
            label.extend_from_slice(&address.port().to_be_bytes());
        }
        PeerAddress::Mac(mac) => label.extend_from_slice(&mac.0),
        PeerAddress::Memory(station) => label.extend_from_slice(&station.to_be_bytes()),
    }
    *secret.expand(&label)
}
