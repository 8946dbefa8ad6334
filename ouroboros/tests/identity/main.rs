//! Identities: keys, fingerprints, certificates and who vouches for them,
//! against files that OpenSSL made (`vectors/certificates/make`).

use std::{fs, process::Command, time::Duration};

use ouroboros::{
    crypto::{
        Entropy, Hash, SystemEntropy,
        identity::{
            Authority, BadSignature, CaStore, CertificateError, Fingerprint, IdentityKey,
            InvalidFingerprint, PeerCertificate, PublicKey, UnusableKey,
        },
    },
    wire::Name,
};
use proptest::prelude::*;

macro_rules! made {
    ($name:literal) => {
        include_bytes!(concat!("../vectors/certificates/", $name))
    };
}

// Behind the macro, which it uses.
mod certificates;

/// 2027-06-01, when all certificates but the short-lived are valid.
const UTC: u64 = 1_811_808_000_000_000_000;
const YEAR: u64 = 31_536_000_000_000_000;
const MESSAGE: &[u8] = made!("message");

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn key(pem: &[u8]) -> IdentityKey {
    IdentityKey::from_pkcs8_pem(std::str::from_utf8(pem).expect("text")).expect("a key")
}

fn keys() -> [IdentityKey; 3] {
    [key(made!("ed25519.key")), key(made!("p256.key")), key(made!("p384.key"))]
}

fn store(files: &[&[u8]]) -> CaStore {
    let mut store = CaStore::new();
    for file in files {
        assert_eq!(store.add(file), Ok(1));
    }
    store
}

fn certificate(der: &[u8]) -> PeerCertificate {
    PeerCertificate::parse(der).expect("a certificate")
}

#[test]
fn keys_are_read_and_written_as_openssl_does() {
    let spki: [&[u8]; 3] = [made!("ed25519.spki"), made!("p256.spki"), made!("p384.spki")];
    let pem: [&[u8]; 3] = [made!("ed25519.key"), made!("p256.key"), made!("p384.key")];
    for ((key, spki), pem) in keys().iter().zip(spki).zip(pem) {
        assert_eq!(key.public_key().spki(), spki);
        assert_eq!(PublicKey::from_spki(spki).as_ref(), Ok(key.public_key()));
        assert_eq!(key.to_pkcs8_pem().as_bytes(), pem);
    }
}

#[test]
fn a_generated_key_comes_back_from_its_file() {
    let key = IdentityKey::generate(&mut SystemEntropy);
    let again = IdentityKey::from_pkcs8_pem(&key.to_pkcs8_pem()).expect("a key");
    assert_eq!(again.public_key(), key.public_key());
    assert_eq!(again.sign(MESSAGE), key.sign(MESSAGE));
    let other = IdentityKey::generate(&mut SystemEntropy);
    assert_ne!(other.public_key(), key.public_key());
}

#[test]
fn what_is_no_private_key_is_refused() {
    let good = String::from_utf8(made!("ed25519.key").to_vec()).expect("text");
    for text in [
        String::new(),
        "PRIVATE KEY".to_owned(),
        good.replace("PRIVATE KEY", "PUBLIC KEY"),
        good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
        good.replace("MC4CAQ", "MC4CAg"),
        good[..good.len() / 2].to_owned(),
        String::from_utf8(made!("authority.pem").to_vec()).expect("text"),
    ] {
        assert_eq!(IdentityKey::from_pkcs8_pem(&text).err(), Some(UnusableKey), "{text}");
    }
}

#[test]
fn a_key_does_not_print_its_secret() {
    let key = key(made!("ed25519.key"));
    let fingerprint = key.public_key().fingerprint();
    assert_eq!(format!("{key:?}"), format!("IdentityKey(PublicKey({fingerprint}))"));
}

#[test]
fn signatures_that_openssl_made_verify_and_others_do_not() {
    let [ed25519, p256, p384] = keys();
    let sha = [Some(Hash::Sha256), Some(Hash::Sha384), Some(Hash::Sha512)];
    let [sha256, sha384, sha512] = sha;
    let signatures: [(&IdentityKey, Option<Hash>, &[u8]); 7] = [
        (&ed25519, None, made!("ed25519.signature")),
        (&p256, sha256, made!("p256-sha256.signature")),
        (&p256, sha384, made!("p256-sha384.signature")),
        (&p256, sha512, made!("p256-sha512.signature")),
        (&p384, sha256, made!("p384-sha256.signature")),
        (&p384, sha384, made!("p384-sha384.signature")),
        (&p384, sha512, made!("p384-sha512.signature")),
    ];
    for (key, digest, signature) in signatures {
        let verify = |digest, message: &[u8], signature: &[u8]| {
            key.public_key().verify(digest, message, signature)
        };
        assert_eq!(verify(digest, MESSAGE, signature), Ok(()));
        assert_eq!(verify(digest, b"another message", signature), Err(BadSignature));
        assert_eq!(verify(digest, MESSAGE, &[]), Err(BadSignature));
        assert_eq!(verify(digest, MESSAGE, &signature[1..]), Err(BadSignature));
        assert_eq!(verify(digest, MESSAGE, &[signature, &[0]].concat()), Err(BadSignature));
        // With an EC key, no digest means SHA-256 (WIRE.md, "Allocation header").
        let meant = |digest: Option<Hash>| match digest {
            None if key.digest().is_some() => sha256,
            other => other,
        };
        for other in [None, sha256, sha384, sha512] {
            let fits = meant(other) == digest;
            assert_eq!(verify(other, MESSAGE, signature).is_ok(), fits, "{other:?} for {digest:?}");
        }
        for other in keys().iter().filter(|other| other.public_key() != key.public_key()) {
            assert_eq!(other.public_key().verify(digest, MESSAGE, signature), Err(BadSignature));
        }
    }
}

#[test]
fn what_a_key_signs_its_public_half_verifies() {
    for key in keys() {
        let signature = key.sign(MESSAGE);
        assert_eq!(key.public_key().verify(key.digest(), MESSAGE, &signature), Ok(()));
        assert_eq!(key.sign(MESSAGE), signature);
        for at in 0..signature.len() {
            let mut altered = signature.clone();
            altered[at] ^= 0x40;
            assert_eq!(key.public_key().verify(key.digest(), MESSAGE, &altered), Err(BadSignature));
        }
    }
    // What OpenSSL makes with a deterministic algorithm is the same to the bit.
    assert_eq!(keys()[0].sign(MESSAGE), made!("ed25519.signature"));
}

#[test]
fn an_ed25519_key_of_small_order_vouches_for_nothing() {
    let mut spki = made!("ed25519.spki").to_vec();
    spki[12..].fill(0);
    spki[12] = 1; // the neutral element
    let key = PublicKey::from_spki(&spki).expect("a point of the curve");
    let mut signature = [0; 64];
    signature[0] = 1; // R neutral, s = 0: fits every message without strictness
    assert_eq!(key.verify(None, MESSAGE, &signature), Err(BadSignature));
}

#[test]
fn malformed_public_keys_are_refused() {
    for key in keys() {
        let spki = key.public_key().spki();
        assert_eq!(PublicKey::from_spki(&spki[..spki.len() - 1]), Err(UnusableKey));
        assert_eq!(PublicKey::from_spki(&[spki, &[0]].concat()), Err(UnusableKey));
    }
    let mut off_curve = made!("p256.spki").to_vec();
    off_curve[90] ^= 1;
    assert_eq!(PublicKey::from_spki(&off_curve), Err(UnusableKey));
}

#[test]
fn fingerprints_are_the_front_of_the_hash_of_the_public_key() {
    for key in keys() {
        let fingerprint = key.public_key().fingerprint();
        let hash = Hash::Sha256.digest(key.public_key().spki());
        assert_eq!(fingerprint.as_bytes()[..], hash[..20]);
    }
}

#[test]
fn fingerprints_are_read_as_they_are_written_and_more_loosely() {
    let fingerprint = key(made!("ed25519.key")).public_key().fingerprint();
    let text = fingerprint.to_string();
    let groups: Vec<&str> = text.strip_prefix("o7s:").expect("a prefix").split('-').collect();
    assert_eq!(groups.len(), 8);
    assert!(groups.iter().all(|group| group.len() == 4));
    for text in [text.clone(), text.to_uppercase(), text.replace('-', "")] {
        assert_eq!(text.parse(), Ok(fingerprint));
    }
    for text in [
        &text["o7s:".len()..],
        &text[..text.len() - 1],
        &format!("{text}a"),
        &text.replace('-', "1"),
        &text.replace('-', "é"),
        "o7s:",
        "",
    ] {
        assert_eq!(text.parse::<Fingerprint>(), Err(InvalidFingerprint), "{text}");
    }
}

/// RFC 4648, section 10, has no vector of 20 bytes; its alphabet is seen here.
#[test]
fn fingerprints_are_base32() {
    let text = "o7s:abcd-efgh-ijkl-mnop-qrst-uvwx-yz23-4567";
    let fingerprint: Fingerprint = text.parse().expect("a fingerprint");
    assert_eq!(fingerprint.to_string(), text);
    assert_eq!(fingerprint.as_bytes()[..5], [0x00, 0x44, 0x32, 0x14, 0xc7]);
    let other: Fingerprint = text.replace("abcd", "abcc").parse().expect("a fingerprint");
    assert_ne!(fingerprint, other);
}

/// A seed's bytes, to make keys that are the same in each run.
struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

#[test]
fn a_generated_key_is_made_of_the_entropy_it_is_given() {
    let key = |byte| IdentityKey::generate(&mut Fixed(byte)).public_key().fingerprint();
    assert_eq!(key(1), key(1));
    assert_ne!(key(1), key(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn altered_certificates_are_refused_without_a_panic(
        at in 0..380_usize,
        with in prop::collection::vec(any::<u8>(), 1..8),
        cut in prop::option::of(0..380_usize),
    ) {
        let mut der = made!("ed25519.der").to_vec();
        let original = der.clone();
        let end = (at + with.len()).min(der.len());
        der[at..end].copy_from_slice(&with[..end - at]);
        der.truncate(cut.unwrap_or(der.len()));
        prop_assume!(der != original);
        let authority = store(&[made!("authority.pem")]);
        if let Ok(certificate) = PeerCertificate::parse(&der) {
            prop_assert!(authority.verify_server(&certificate, &name("my_vpn"), UTC).is_err());
            prop_assert!(certificate.verify_self_signed().is_err());
        }
        let _ = CaStore::new().add(&der);
    }

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(PeerCertificate::parse(&bytes).is_err());
        prop_assert!(PublicKey::from_spki(&bytes).is_err());
        prop_assert!(CaStore::new().add(&bytes).is_err());
        prop_assert!(IdentityKey::from_pkcs8_pem(&String::from_utf8_lossy(&bytes)).is_err());
        prop_assert!(String::from_utf8_lossy(&bytes).parse::<Fingerprint>().is_err());
        for (spki, digest) in [
            (&made!("ed25519.spki")[..], None),
            (made!("p256.spki"), Some(Hash::Sha256)),
            (made!("p384.spki"), Some(Hash::Sha384)),
        ] {
            let key = PublicKey::from_spki(spki).expect("a key");
            prop_assert!(key.verify(digest, MESSAGE, &bytes).is_err());
        }
    }
}
