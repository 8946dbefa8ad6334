//! Bytes that nobody meant.

use ouroboros::{wire::Dialect, wire::management::Message, wire::oap::Allocation};
use proptest::prelude::*;

use crate::harness::{DIALECTS, Pair, STRANGER, at, hash_of};

proptest! {
    #[test]
    fn arbitrary_bytes_are_dropped_or_read_as_what_they_say(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        code in 0u8..5,
        dialect in prop::sample::select(&DIALECTS[..]),
    ) {
        // Most codes are unknown: let the others be tried, too.
        let code_at = match dialect { Dialect::EthDix => 37, Dialect::Udp => 40 };
        if let Some(byte) = bytes.get_mut(code_at) {
            *byte = code;
        }
        if let Ok(message) = Message::parse(dialect, hash_of(dialect), &bytes) {
            let encoded = message.encode(dialect);
            prop_assert_eq!(Message::parse(dialect, hash_of(dialect), &encoded), Ok(message));
        }
        let mut pair = Pair::new(dialect, None);
        pair.give_server(at(1), STRANGER, &bytes);
        pair.give_client(at(1), STRANGER, &bytes);
        prop_assert!(pair.client.poll().is_none());
    }

    #[test]
    fn arbitrary_allocation_headers_are_refused_or_read_as_what_they_say(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        lengths in prop::array::uniform3(0u8..60),
        hash in prop::sample::select(&[0usize, 32, 48, 64][..]),
    ) {
        // Lengths that can be true, in certificate, key and data.
        for (index, length) in lengths.into_iter().enumerate() {
            if let Some(field) = bytes.get_mut(30 + 2 * index..32 + 2 * index) {
                let flags = if index == 1 { field[0] & 0xc0 } else { 0 };
                field.copy_from_slice(&[flags, length]);
            }
        }
        if let Ok(header) = Allocation::parse(&bytes, hash) {
            prop_assert_eq!(header.encode(), Some(bytes));
        }
    }
}
