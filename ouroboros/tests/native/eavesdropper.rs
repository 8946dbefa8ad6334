//! What can be seen on the wire of a native flow.

use std::{collections::HashSet, time::Duration};

use ouroboros::{
    crypto::KeyExchange,
    proto::native::{HEAD, KeyLimits, SessionConfig, TAIL},
};

use crate::harness::{End, Random, pair, suite};

/// Everything that both ends send while `seconds` pass, with the same packet
/// from each four times a second.
fn conversation(ends: &mut [End; 2], random: &mut Random, seconds: u64) -> Vec<(usize, Vec<u8>)> {
    let mut seen = Vec::new();
    for tick in 0..seconds * 20 {
        let now = Duration::from_millis(tick * 50);
        let mut frames = Vec::new();
        for (index, end) in ends.iter_mut().enumerate() {
            end.tick(now, random);
            while let Some(transmit) = end.session.poll_transmit() {
                frames.push((index, transmit.frame));
            }
            if tick % 5 == 0 {
                frames.push((index, end.seal(now, &[0; 100]).expect("a key")));
            }
        }
        for (from, frame) in frames {
            let taken = ends[1 - from].take(now, random, &frame, None);
            assert!(taken.is_ok_and(|packet| packet.is_none_or(|packet| packet == [0; 100])));
            seen.push((from, frame));
        }
    }
    seen
}

#[test]
fn nothing_is_seen_twice_though_the_same_is_said() {
    let random = &mut Random::new(1);
    let limits = KeyLimits { due: 100, ..KeyLimits::default() };
    for kex in [KeyExchange::X25519, KeyExchange::X25519MlKem768] {
        let mut ends = pair(random, suite(kex), limits, SessionConfig::default());
        let seen = conversation(&mut ends, random, 120);
        let epochs: HashSet<u8> = seen.iter().map(|(_, frame)| frame[0]).collect();
        assert!(epochs.len() > 3, "several epochs were seen");
        let mut windows = HashSet::new();
        for (_, frame) in &seen {
            for window in frame[HEAD - 1..].windows(8) {
                assert!(windows.insert(window), "{window:x?} was seen twice");
            }
        }
    }
}

#[test]
fn headers_tell_the_epoch_and_a_number_that_grows_by_one() {
    let random = &mut Random::new(2);
    let limits = KeyLimits { due: 100, ..KeyLimits::default() };
    let mut ends = pair(random, suite(KeyExchange::X25519), limits, SessionConfig::default());
    let seen = conversation(&mut ends, random, 60);
    for end in 0..2 {
        let mut epoch = 0x40;
        let own = seen.iter().filter(|(from, _)| *from == end);
        for ((_, frame), number) in own.zip(0u32..) {
            assert_eq!(frame[1..5], number.to_be_bytes());
            assert!(frame[0] == epoch || frame[0] == epoch + 1, "{:x} in {epoch:x}", frame[0]);
            epoch = frame[0];
        }
    }
}

#[test]
fn a_packet_is_as_long_as_promised_and_silence_has_no_empty_frames() {
    let random = &mut Random::new(3);
    let config = SessionConfig { timeout: Duration::from_secs(8), ..SessionConfig::default() };
    let mut ends = pair(random, suite(KeyExchange::X25519), KeyLimits::default(), config);
    let frame = ends[0].seal(Duration::ZERO, &[7; 333]).expect("a key");
    assert_eq!(frame.len(), HEAD + 333 + TAIL);
    let mut sizes = HashSet::new();
    for tick in 0..2_400 {
        let now = Duration::from_millis(tick * 50);
        for index in 0..2 {
            ends[index].tick(now, random);
            while let Some(transmit) = ends[index].session.poll_transmit() {
                sizes.insert(transmit.frame.len());
                let other = &mut ends[1 - index];
                other.take(now, random, &transmit.frame, None).expect("authentic");
            }
        }
    }
    // Pings and pongs, and one exchange of X25519 keys with its confirmations.
    let sizes: std::collections::BTreeSet<_> = sizes.into_iter().collect();
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [27, 31, 73]);
}
