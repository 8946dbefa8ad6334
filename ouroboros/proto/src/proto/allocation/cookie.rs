//! Cookies: a sender that echoes one has received what was sent to its address,
//! and when by this side's clock.
//! Nothing is kept for them but two secrets (PROTOCOL.md, "Cookies").

use std::{net::SocketAddr, time::Duration};

use subtle::ConstantTimeEq;

use crate::{
    crypto::{Entropy, Hash, Secret},
    proto::Now,
    wire::PeerAddress,
};

/// A cookie is good for this long at least, and for twice as long at most.
const PERIOD: Duration = Duration::from_secs(60);
/// Milliseconds from the secret's begin to the cookie's, and what vouches for
/// them.
const SIZE: usize = TIME + TAG;
const TIME: usize = 4;
const TAG: usize = 16;

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
        self.present.as_ref().map_or([0; SIZE], |(secret, since)| {
            // A secret is used for no longer than its period.
            let begin = now.monotonic.saturating_sub(*since).as_millis() as u32;
            let mut cookie = [0; SIZE];
            let (time, tag) = cookie.split_at_mut(TIME);
            time.copy_from_slice(&begin.to_be_bytes());
            tag.copy_from_slice(&vouch(secret, time, address));
            cookie
        })
    }

    /// Returns how long ago `address` was given this cookie; `None` if it was not, or that is
    /// too long ago.
    pub(super) fn age(&self, now: Now, address: PeerAddress, given: &[u8]) -> Option<Duration> {
        let (time, tag) = given.split_first_chunk::<TIME>()?;
        let begin = Duration::from_millis(u32::from_be_bytes(*time).into());
        let secrets = [&self.present, &self.former].into_iter().flatten();
        let mut alive =
            secrets.filter(|(_, since)| now.monotonic.saturating_sub(*since) < 2 * PERIOD);
        let (_, since) =
            alive.find(|(secret, _)| bool::from(vouch(secret, time, address)[..].ct_eq(tag)))?;
        Some(now.monotonic.saturating_sub(since.saturating_add(begin)))
    }
}

fn vouch(secret: &Secret, time: &[u8], address: PeerAddress) -> [u8; TAG] {
    let mut label = Vec::with_capacity(32);
    label.extend_from_slice(time);
    match address {
        PeerAddress::Udp(address) => {
            match address {
                SocketAddr::V4(v4) => label.extend_from_slice(&v4.ip().octets()),
                SocketAddr::V6(v6) => {
                    label.extend_from_slice(&v6.ip().octets());
                    label.extend_from_slice(&v6.scope_id().to_be_bytes());
                }
            }
            label.extend_from_slice(&address.port().to_be_bytes());
        }
        PeerAddress::Mac(mac) => label.extend_from_slice(&mac.0),
        PeerAddress::Memory(station) => label.extend_from_slice(&station.to_be_bytes()),
    }
    *secret.expand(&label)
}
