//! Every cryptographic primitive in use, through the interface by which it is
//! used, against the vectors of Project Wycheproof.
//!
//! What this library does not do (compressed points, curves in full) must be
//! refused; what its types exclude (other sizes of keys and nonces) is left
//! out. No test passes on fewer vectors than it is meant to hold.

use std::collections::VecDeque;

use ouroboros::crypto::{
    AeadBackend, Cipher, Entropy, EphemeralSecret, FlowKey, Hash, KeyExchange, KeyExchangeError,
    NONCE, Secret, TAG, answer, identity::PublicKey,
};
use wycheproof::{TestResult, aead, ecdh, ecdsa, eddsa, hkdf, mlkem, xdh};

const X25519_PREFIX: &[u8] =
    &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
const P521_PREFIX: &[u8] = &[
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05,
    0x2b, 0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];

/// The epoch-0 key of a Diffie-Hellman secret (WIRE.md, key schedule).
fn agreed(shared: &[u8], one: &[u8], other: &[u8]) -> FlowKey {
    let salt = Hash::Sha256.digest(&[one.min(other), one.max(other)].concat());
    FlowKey::new(*Secret::extract(Hash::Sha256, &salt, shared).expand(b"o7s-ossl-dhe"))
}

fn aead_vectors(name: aead::TestName, ciphers: &[Cipher], least: usize) {
    let set = aead::TestSet::load(name).expect("vectors");
    let mut held = 0;
    for group in set.test_groups {
        let cipher = ciphers.iter().find(|cipher| cipher.key_size() * 8 == group.key_size);
        let Some(cipher) = cipher else { continue };
        if group.nonce_size != NONCE * 8 || group.tag_size != TAG * 8 {
            continue;
        }
        for test in group.tests {
            let mut key = [0; 32];
            key[..cipher.key_size()].copy_from_slice(&test.key);
            let nonce: [u8; NONCE] = test.nonce[..].try_into().expect("as the group says");
            let tag: [u8; TAG] = test.tag[..].try_into().expect("as the group says");
            for backend in [AeadBackend::Ring, AeadBackend::RustCrypto] {
                let aead = backend.with_key(*cipher, &key);
                let mut data = test.ct.to_vec();
                let opened = aead.open_in_place(&nonce, &test.aad, &mut data, &tag);
                if test.result.must_fail() {
                    assert!(opened.is_err(), "{backend:?} {cipher}, vector {}", test.tc_id);
                    continue;
                }
                opened.expect("authentic");
                assert_eq!(data, *test.pt);
                assert_eq!(aead.seal_in_place(&nonce, &test.aad, &mut data), tag);
                assert_eq!(data, *test.ct);
            }
            held += 1;
        }
    }
    assert!(held >= least, "only {held} vectors of {name:?}");
}

#[test]
fn aes_gcm() {
    aead_vectors(aead::TestName::AesGcm, &[Cipher::Aes128Gcm, Cipher::Aes256Gcm], 133);
}

#[test]
fn chacha20_poly1305() {
    aead_vectors(aead::TestName::ChaCha20Poly1305, &[Cipher::ChaCha20Poly1305], 316);
}

#[test]
fn hkdf() {
    /// The most that [`Secret::expand`] gives.
    const MOST: usize = 255 * 32;
    for (name, hash) in [
        (hkdf::TestName::HkdfSha256, Hash::Sha256),
        (hkdf::TestName::HkdfSha384, Hash::Sha384),
        (hkdf::TestName::HkdfSha512, Hash::Sha512),
    ] {
        let set = hkdf::TestSet::load(name).expect("vectors");
        let mut held = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            if test.result == TestResult::Invalid {
                // Too long an output: it does not compile.
                assert!(test.flags.contains(&hkdf::TestFlag::SizeTooLarge));
                continue;
            }
            // A shorter expansion is the front of a longer one.
            let expanded = Secret::extract(hash, &test.salt, &test.ikm).expand::<MOST>(&test.info);
            let size = test.size.min(MOST);
            assert_eq!(expanded[..size], test.okm[..size], "{hash}, vector {}", test.tc_id);
            held += 1;
        }
        assert!(held >= 80, "only {held} vectors of {name:?}");
    }
}

#[test]
fn x25519() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).expect("vectors");
    let mut held = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let own = EphemeralSecret::from_bytes(KeyExchange::X25519, &test.private_key)
            .expect("every 32 bytes are a scalar");
        let peer = [X25519_PREFIX, &test.public_key].concat();
        let expected = if test.public_key.len() != 32 {
            Err(KeyExchangeError::Malformed)
        } else if test.shared_secret.iter().all(|byte| *byte == 0) {
            Err(KeyExchangeError::Degenerate)
        } else {
            assert_ne!(test.result, TestResult::Invalid);
            Ok(agreed(&test.shared_secret, own.public_key(), &peer))
        };
        assert_eq!(own.agree(&peer, Hash::Sha256), expected, "vector {}", test.tc_id);
        held += 1;
    }
    assert!(held >= 518, "only {held} vectors");
}

#[test]
fn ecdh_on_every_curve() {
    let (p256, p384, p521) = (
        (KeyExchange::P256, P256_PREFIX, 32),
        (KeyExchange::P384, P384_PREFIX, 48),
        (KeyExchange::P521, P521_PREFIX, 66),
    );
    for (name, (kex, prefix, size), least) in [
        (ecdh::TestName::EcdhSecp256r1, p256, 612),
        (ecdh::TestName::EcdhSecp256r1Ecpoint, p256, 355),
        (ecdh::TestName::EcdhSecp384r1, p384, 500),
        (ecdh::TestName::EcdhSecp384r1Ecpoint, p384, 200),
        (ecdh::TestName::EcdhSecp521r1, p521, 500),
        (ecdh::TestName::EcdhSecp521r1Ecpoint, p521, 200),
    ] {
        let set = ecdh::TestSet::load(name).expect("vectors");
        let mut held = 0;
        for group in set.test_groups {
            for test in group.tests {
                let mut scalar = vec![0; size];
                let digits: Vec<u8> =
                    test.private_key.iter().copied().skip_while(|byte| *byte == 0).collect();
                scalar[size - digits.len()..].copy_from_slice(&digits);
                let own = EphemeralSecret::from_bytes(kex, &scalar).expect("scalar");
                let peer = match group.encoding {
                    ecdh::EcdhEncoding::Asn1 => test.public_key.to_vec(),
                    ecdh::EcdhEncoding::EcPoint => [prefix, &test.public_key].concat(),
                };
                let outcome = own.agree(&peer, Hash::Sha256);
                match test.result {
                    TestResult::Valid => {
                        let expected = agreed(&test.shared_secret, own.public_key(), &peer);
                        assert_eq!(outcome, Ok(expected), "vector {}", test.tc_id);
                    }
                    // Compressed points and curves in full are malformed here.
                    TestResult::Invalid | TestResult::Acceptable => {
                        assert_eq!(
                            outcome,
                            Err(KeyExchangeError::Malformed),
                            "vector {}",
                            test.tc_id
                        );
                    }
                }
                held += 1;
            }
        }
        assert!(held >= least, "only {held} vectors of {name:?}");
    }
}

#[test]
fn ecdsa() {
    for (name, hash) in [
        (ecdsa::TestName::EcdsaSecp256r1Sha256, Hash::Sha256),
        (ecdsa::TestName::EcdsaSecp256r1Sha512, Hash::Sha512),
        (ecdsa::TestName::EcdsaSecp384r1Sha256, Hash::Sha256),
        (ecdsa::TestName::EcdsaSecp384r1Sha384, Hash::Sha384),
        (ecdsa::TestName::EcdsaSecp384r1Sha512, Hash::Sha512),
    ] {
        let set = ecdsa::TestSet::load(name).expect("vectors");
        let mut held = 0;
        for group in set.test_groups {
            let key = PublicKey::from_spki(&group.der).expect("a public key");
            for test in group.tests {
                let valid = key.verify(Some(hash), &test.msg, &test.sig).is_ok();
                let expected = test.result == TestResult::Valid;
                assert_eq!(valid, expected, "{name:?}, vector {}", test.tc_id);
                held += 1;
            }
        }
        assert!(held >= 472, "only {held} vectors of {name:?}");
    }
}

#[test]
fn ed25519() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors");
    let mut held = 0;
    for group in set.test_groups {
        let key = PublicKey::from_spki(&group.der).expect("a public key");
        for test in group.tests {
            let valid = key.verify(None, &test.msg, &test.sig).is_ok();
            assert_eq!(valid, test.result == TestResult::Valid, "vector {}", test.tc_id);
            held += 1;
        }
    }
    assert!(held >= 151, "only {held} vectors");
}

/// The X25519 side of the hybrid in the ML-KEM tests.
const CLIENT_SCALAR: [u8; 32] = [0x11; 32];
const SERVER_SCALAR: [u8; 32] = [0x22; 32];

fn x25519_public(scalar: [u8; 32]) -> [u8; 32] {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(scalar)).to_bytes()
}

/// The epoch-0 key of the hybrid whose ML-KEM part is `ml_kem`.
fn encapsulated(ml_kem: &[u8], public_key: &[u8]) -> FlowKey {
    let server = x25519_dalek::StaticSecret::from(SERVER_SCALAR);
    let x25519 = server.diffie_hellman(&x25519_public(CLIENT_SCALAR).into());
    let shared = [ml_kem, x25519.as_bytes()].concat();
    let salt = Hash::Sha256.digest(public_key);
    FlowKey::new(*Secret::extract(Hash::Sha256, &salt, &shared).expand(b"o7s-ossl-encap"))
}

fn ml_kem_tests(name: mlkem::TestName) -> impl Iterator<Item = mlkem::Test> {
    let set = mlkem::TestSet::load(name).expect("vectors");
    set.test_groups.into_iter().flat_map(|group| group.tests)
}

fn hybrid(seed: &[u8]) -> Option<EphemeralSecret> {
    let secret = [seed, &CLIENT_SCALAR].concat();
    EphemeralSecret::from_bytes(KeyExchange::X25519MlKem768, &secret)
}

#[test]
fn ml_kem_768_keys() {
    let mut held = 0;
    for test in ml_kem_tests(mlkem::TestName::MlKem768KeyGenSeed) {
        let secret = hybrid(&test.seed.expect("a seed")).expect("64 bytes");
        let (ml_kem, x25519) = secret.public_key().split_at(1184);
        assert_eq!(ml_kem, **test.encaps_key.as_ref().expect("a key"), "vector {}", test.tc_id);
        assert_eq!(x25519, x25519_public(CLIENT_SCALAR));
        held += 1;
    }
    assert!(held >= 100, "only {held} vectors");
}

#[test]
fn ml_kem_768_decapsulation() {
    let mut held = 0;
    for test in ml_kem_tests(mlkem::TestName::MlKem768) {
        let seed = test.seed.expect("a seed");
        let Some(client) = hybrid(&seed) else {
            assert_eq!(test.result, TestResult::Invalid);
            assert_ne!(seed.len(), 64);
            held += 1;
            continue;
        };
        let ciphertext = test.ct.expect("a ciphertext");
        let outcome =
            client.agree(&[&ciphertext[..], &x25519_public(SERVER_SCALAR)].concat(), Hash::Sha256);
        if test.result == TestResult::Invalid {
            assert_eq!(outcome, Err(KeyExchangeError::Malformed), "vector {}", test.tc_id);
        } else {
            let shared = test.shared_secret.expect("a secret");
            let expected = encapsulated(&shared, client.public_key());
            assert_eq!(outcome, Ok(expected), "vector {}", test.tc_id);
        }
        held += 1;
    }
    assert!(held >= 201, "only {held} vectors");
}

/// Gives out what it is given, in order.
struct Given(VecDeque<u8>);

impl Entropy for Given {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.pop_front().expect("no more than is given");
        }
    }
}

#[test]
fn ml_kem_768_encapsulation() {
    let mut held = 0;
    for test in ml_kem_tests(mlkem::TestName::MlKem768Encaps) {
        let public_key =
            [&test.encaps_key.expect("a key")[..], &x25519_public(CLIENT_SCALAR)].concat();
        let mut entropy =
            Given([&test.msg.expect("a message")[..], &SERVER_SCALAR].concat().into());
        let outcome = answer(KeyExchange::X25519MlKem768, &public_key, Hash::Sha256, &mut entropy);
        if test.result == TestResult::Invalid {
            assert_eq!(outcome, Err(KeyExchangeError::Malformed), "vector {}", test.tc_id);
        } else {
            let ciphertext = test.ct.expect("a ciphertext");
            let shared = test.shared_secret.expect("a secret");
            let answer = [&ciphertext[..], &x25519_public(SERVER_SCALAR)].concat();
            assert_eq!(outcome, Ok((answer, encapsulated(&shared, &public_key))));
        }
        held += 1;
    }
    assert!(held >= 265, "only {held} vectors");
}
