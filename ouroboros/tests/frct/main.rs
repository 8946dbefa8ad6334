//! FRCT: the machine against a model of a 0.23 peer with its faults, under a seed
//! and a virtual clock, and in the place of either end of captures.

mod captures;
mod faults;
mod live;
mod peer;
mod simulator;
mod timing;

use std::time::Duration;

use ouroboros::{
    crypto::Entropy,
    proto::frct::{Config, Frct, Service},
    wire::frct::{Flags, Header},
};

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

impl Entropy for Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| (self.next() >> 16) as u8);
    }
}

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The longest life of a packet over Ethernet.
pub(crate) const LIFETIME: Duration = ms(100);

/// What has a machine choose this first number.
pub(crate) struct First(pub(crate) u32);

impl Entropy for First {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.to_be_bytes());
    }
}

/// A machine of ours, whose first number is chosen by `entropy`.
pub(crate) fn machine(service: Service, now: Duration, entropy: &mut dyn Entropy) -> Frct {
    Frct::new(now, entropy, Config { service, packet_lifetime: LIFETIME })
}

/// The next packet that leaves, as bytes; empty for a keepalive.
pub(crate) fn transmit(frct: &mut Frct, now: Duration) -> Option<Vec<u8>> {
    let transmit = frct.poll_transmit(now)?;
    let mut packet = vec![0; transmit.size()];
    transmit.write(&mut packet);
    Some(packet)
}

/// A machine of a reliable flow.
pub(crate) fn reliable() -> Frct {
    machine(Service::Reliable, Duration::ZERO, &mut Random::seeded(1))
}

/// A packet with one byte of data.
pub(crate) fn data(flags: Flags, sequence: u32) -> Vec<u8> {
    let header = Header { flags: Flags::DATA | flags, sequence, ..Header::default() };
    [&header.encode()[..], &[7]].concat()
}

/// What leaves at `now`, keepalives aside.
pub(crate) fn sent(frct: &mut Frct, now: Duration) -> Vec<Header> {
    let packets = std::iter::from_fn(|| transmit(frct, now)).filter(|packet| !packet.is_empty());
    packets.map(|packet| Header::parse(&packet).expect("well-formed").0).collect()
}
