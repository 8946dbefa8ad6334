use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const ALL: [KeyExchange; 5] = [
    KeyExchange::P256,
    KeyExchange::X25519,
    KeyExchange::P384,
    KeyExchange::P521,
    KeyExchange::X25519MlKem768,
];

/// A counter's bytes: different at each call, the same in each run.
struct Counted(u8);

impl Entropy for Counted {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(5).wrapping_add(11);
            *byte = self.0;
        }
    }
}

fn client(kex: KeyExchange) -> EphemeralSecret {
    EphemeralSecret::generate(kex, &mut Counted(1))
}

fn respond(kex: KeyExchange, key: &[u8]) -> Result<(Vec<u8>, FlowKey), KeyExchangeError> {
    answer(kex, key, Hash::Sha256, &mut Counted(2))
}

#[test]
fn a_kept_agreement_is_half_of_the_hybrid_where_both_ends_have_it() {
    let (x25519, hybrid, kdf) = (KeyExchange::X25519, KeyExchange::X25519MlKem768, Hash::Sha256);
    let first = client(x25519);
    let key = first.public_key().to_vec();
    let answered = || answer_and_keep(x25519, &key, kdf, &mut Counted(2)).expect("answered");
    let (reply, agreed, server) = answered();
    let agree = || first.agree_and_keep(&reply, kdf).expect("agreed");
    assert_eq!(agree().0, agreed);
    let (server, half) = (server.expect("kept"), |bytes: &[u8]| bytes[bytes.len() - 32..].to_vec());
    let beside = EphemeralSecret::generate_beside(agree().1.expect("kept"), &mut Counted(3));
    assert_eq!(KeyExchange::of_public_key(beside.public_key(), true), Some(hybrid));
    assert_eq!(half(beside.public_key()), half(&key));
    let fresh = client(hybrid);
    let (mut keys, mut entropy) = (vec![agreed], Counted(4));
    for secret in [beside, fresh] {
        let is_kept = half(secret.public_key()) == half(&key);
        for kept in [Some(&server), None] {
            let (answer, key) =
                answer_hybrid(kept, secret.public_key(), kdf, &mut entropy).expect("answered");
            assert_eq!(half(&answer) == half(&reply), is_kept && kept.is_some());
            assert_eq!(secret.agree(&answer, kdf), Ok(key.clone()));
            assert!(!keys.contains(&key));
            keys.push(key);
        }
    }
    let (.., none) = answer_and_keep(
        KeyExchange::P256,
        client(KeyExchange::P256).public_key(),
        kdf,
        &mut Counted(5),
    )
    .expect("answered");
    assert!(none.is_none(), "nothing else has that half");
}

#[test]
fn both_sides_of_every_exchange_agree() {
    for (kex, request, reply) in [
        (KeyExchange::P256, 91, 91),
        (KeyExchange::X25519, 44, 44),
        (KeyExchange::P384, 120, 120),
        (KeyExchange::P521, 158, 158),
        (KeyExchange::X25519MlKem768, 1216, 1120),
    ] {
        let client = client(kex);
        assert_eq!(client.public_key().len(), request);
        assert_eq!(KeyExchange::of_public_key(client.public_key(), kex.is_raw()), Some(kex));
        assert_eq!(KeyExchange::of_public_key(client.public_key(), !kex.is_raw()), None);
        let mut keys = Vec::new();
        for kdf in Hash::ALL {
            let (answer, key) =
                answer(kex, client.public_key(), kdf, &mut Counted(2)).expect("answered");
            assert_eq!(answer.len(), reply);
            assert_eq!(client.agree(&answer, kdf), Ok(key.clone()));
            assert!(!keys.contains(&key), "the hash is part of the key");
            keys.push(key);
        }
    }
}

#[test]
fn fresh_randomness_gives_fresh_secrets_and_answers() {
    for kex in ALL {
        let mut entropy = Counted(1);
        let one = EphemeralSecret::generate(kex, &mut entropy);
        let other = EphemeralSecret::generate(kex, &mut entropy);
        assert_ne!(one.public_key(), other.public_key());
        let mut answers = || answer(kex, one.public_key(), Hash::Sha256, &mut entropy);
        let (first, second) = (answers().expect("answered"), answers().expect("answered"));
        assert_ne!(first.0, second.0);
        assert_ne!(first.1, second.1);
    }
}

#[test]
fn a_key_or_answer_of_another_length_or_exchange_is_malformed() {
    for kex in ALL {
        let client = client(kex);
        let (reply, _) = respond(kex, client.public_key()).expect("answered");
        let malformed = |bytes: &[u8]| {
            assert_eq!(client.agree(bytes, Hash::Sha256), Err(KeyExchangeError::Malformed));
            assert_eq!(respond(kex, bytes), Err(KeyExchangeError::Malformed));
        };
        for bytes in [client.public_key(), &reply] {
            malformed(&bytes[..bytes.len() - 1]);
            malformed(&[bytes, &[0]].concat());
        }
        malformed(&[]);
        for other in ALL.into_iter().filter(|other| *other != kex) {
            let other_client = EphemeralSecret::generate(other, &mut Counted(3));
            malformed(other_client.public_key());
            malformed(&respond(other, other_client.public_key()).expect("answered").0);
        }
    }
}

/// The points of small order, and their encodings above the field's prime
/// (RFC 7748, section 6.1, names the check; the points are the curve's).
fn points_of_small_order() -> Vec<[u8; 32]> {
    let hex = |text: &str| {
        let mut point = [0; 32];
        for (byte, pair) in point.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
        }
        point
    };
    let mut points = vec![[0; 32]];
    for text in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ] {
        points.push(hex(text));
    }
    points
}

#[test]
fn points_of_small_order_are_degenerate_alone_and_in_the_hybrid() {
    for kex in [KeyExchange::X25519, KeyExchange::X25519MlKem768] {
        let client = client(kex);
        let (reply, _) = respond(kex, client.public_key()).expect("answered");
        for point in points_of_small_order() {
            for high_bit in [0, 0x80] {
                let with_point = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    let at = bytes.len() - 32;
                    bytes[at..].copy_from_slice(&point);
                    bytes[at + 31] |= high_bit;
                    bytes
                };
                let refused = Err(KeyExchangeError::Degenerate);
                assert_eq!(client.agree(&with_point(&reply), Hash::Sha256), refused);
                let key = with_point(client.public_key());
                assert_eq!(respond(kex, &key).map(|(_, key)| key), refused);
            }
        }
    }
}

#[test]
fn a_point_off_the_curve_is_malformed() {
    for (kex, prefix, size) in [
        (KeyExchange::P256, P256_PREFIX.len(), P256_SIZE),
        (KeyExchange::P384, P384_PREFIX.len(), P384_SIZE),
        (KeyExchange::P521, P521_PREFIX.len(), P521_SIZE),
    ] {
        let client = client(kex);
        for at in [prefix + 1, size - 1] {
            let mut key = client.public_key().to_vec();
            key[at] ^= 1;
            assert_eq!(client.agree(&key, Hash::Sha256), Err(KeyExchangeError::Malformed));
            assert_eq!(respond(kex, &key), Err(KeyExchangeError::Malformed));
        }
    }
}

#[test]
fn a_hybrid_key_with_a_coefficient_beyond_the_modulus_is_malformed() {
    let mut key = client(KeyExchange::X25519MlKem768).public_key().to_vec();
    key[0] = 0x01;
    key[1] = 0x0d | key[1] & 0xf0; // 3329 = 0xd01, little-endian in 12 bits
    assert_eq!(respond(KeyExchange::X25519MlKem768, &key), Err(KeyExchangeError::Malformed));
}

#[test]
fn an_altered_ciphertext_gives_another_key() {
    let client = client(KeyExchange::X25519MlKem768);
    let (reply, key) = respond(KeyExchange::X25519MlKem768, client.public_key()).expect("answered");
    for at in [0, 1087, 1088, 1119] {
        let mut altered = reply.clone();
        altered[at] ^= 1;
        assert_ne!(client.agree(&altered, Hash::Sha256), Ok(key.clone()));
    }
}

#[test]
fn exchanges_are_ordered_and_named_as_the_wire_has_them() {
    assert!(ALL.is_sorted());
    for kex in ALL {
        assert_eq!(kex.to_string().parse(), Ok(kex));
    }
    assert_eq!(KeyExchange::X25519MlKem768.to_string(), "X25519MLKEM768");
}

static CLIENTS: LazyLock<[EphemeralSecret; 5]> = LazyLock::new(|| ALL.map(client));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..1300),
        size in prop::sample::select(vec![44, 91, 120, 158, 1120, 1216]),
        raw: bool,
    ) {
        let mut sized = bytes.clone();
        sized.resize(size, 0x5a);
        for bytes in [&bytes, &sized] {
            let _ = KeyExchange::of_public_key(bytes, raw);
            for (kex, client) in ALL.into_iter().zip(CLIENTS.iter()) {
                let _ = respond(kex, bytes);
                let _ = client.agree(bytes, Hash::Sha256);
            }
        }
    }
}
