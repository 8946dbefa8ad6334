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
        include_bytes!(concat!("vectors/certificates/", $name))
    };
}

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

#[test]
fn an_own_certificate_is_small_and_says_what_it_should() {
    for (key, least) in keys().iter().zip([200, 250, 290]) {
        for text in ["my_vpn", "é", &"n".repeat(255)] {
            let der = key.certificate(&name(text));
            if text.len() < 32 {
                assert!((least..least + 60).contains(&der.len()), "{} bytes", der.len());
            }
            let certificate = certificate(&der);
            assert_eq!(certificate.der(), der);
            assert_eq!(certificate.common_name(), text);
            assert_eq!(certificate.public_key(), key.public_key());
            assert_eq!(certificate.verify_self_signed(), Ok(()));
            assert_eq!(key.certificate(&name(text)), der);
        }
    }
    assert_eq!(keys()[0].certificate(&name("my_vpn")).len(), 211);
}

#[test]
fn a_certificate_signed_by_another_key_is_not_self_signed() {
    for der in [&made!("ed25519.der")[..], made!("p256.der"), made!("client.der")] {
        assert_eq!(certificate(der).verify_self_signed(), Err(CertificateError::BadSignature));
    }
    assert_eq!(certificate(made!("self-signed.der")).verify_self_signed(), Ok(()));
    let own = keys()[0].certificate(&name("my_vpn"));
    for at in 0..own.len() {
        let mut altered = own.clone();
        altered[at] ^= 1;
        if let Ok(certificate) = PeerCertificate::parse(&altered) {
            assert!(certificate.verify_self_signed().is_err(), "byte {at} is not signed");
        }
    }
}

#[test]
fn a_certificate_has_no_room_for_anything_else() {
    let der = made!("ed25519.der");
    for bytes in [&der[..der.len() - 1], &[&der[..], &[0]].concat(), &[&der[..], der].concat(), &[]]
    {
        assert_eq!(PeerCertificate::parse(bytes), Err(CertificateError::Malformed));
    }
    assert_eq!(PeerCertificate::parse(made!("rsa.der")), Err(CertificateError::UnusableKey));
    for der in [&made!("no-name.der")[..], made!("two-names.der")] {
        assert_eq!(PeerCertificate::parse(der), Err(CertificateError::NoCommonName));
    }
}

#[test]
fn authorities_vouch_for_servers_of_their_name_in_their_time() {
    let authority = store(&[made!("authority.pem")]);
    for der in [&made!("ed25519.der")[..], made!("p256.der"), made!("p384.der")] {
        let certificate = certificate(der);
        let verify =
            |store: &CaStore, text, utc| store.verify_server(&certificate, &name(text), utc);
        assert_eq!(verify(&authority, "my_vpn", UTC), Ok(()));
        for other in ["my_vpn2", "MY_VPN", "my_vp", "Test"] {
            let wrong = CertificateError::WrongName("my_vpn".to_owned());
            assert_eq!(verify(&authority, other, UTC), Err(wrong));
        }
        let (before, after) = (UTC - YEAR, UTC + 110 * YEAR);
        assert_eq!(verify(&authority, "my_vpn", before), Err(CertificateError::NotYetValid));
        assert_eq!(verify(&authority, "my_vpn", after), Err(CertificateError::Expired));
        assert_eq!(verify(&CaStore::new(), "my_vpn", UTC), Err(CertificateError::UnknownIssuer));
        let stranger = store(&[made!("stranger.pem")]);
        assert_eq!(verify(&stranger, "my_vpn", UTC), Err(CertificateError::UnknownIssuer));
        let impostor = store(&[made!("impostor.pem")]);
        assert_eq!(verify(&impostor, "my_vpn", UTC), Err(CertificateError::BadSignature));
        let both = store(&[made!("impostor.pem"), made!("authority.pem")]);
        assert_eq!(verify(&both, "my_vpn", UTC), Ok(()));
    }
    let by_rsa = certificate(made!("by-rsa.der"));
    let rsa = store(&[made!("authority-rsa.pem")]);
    assert_eq!(rsa.verify_server(&by_rsa, &name("my_vpn"), UTC), Ok(()));
}

#[test]
fn expired_certificates_and_authorities_count_for_nothing() {
    let name = name("my_vpn");
    let short = certificate(made!("short.der"));
    let authority = store(&[made!("authority.pem")]);
    assert_eq!(authority.verify_server(&short, &name, UTC), Err(CertificateError::Expired));
    let by_old = certificate(made!("by-old.der"));
    let old = store(&[made!("old.pem")]);
    assert_eq!(old.verify_server(&by_old, &name, UTC), Err(CertificateError::UnknownIssuer));
}

/// UTC time, in nanoseconds, by this machine's clock.
fn now() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    u64::try_from(since.as_nanos()).expect("before 2554")
}

#[test]
fn a_certificate_of_version_1_is_refused_with_what_to_do() {
    // 2027-12-31: the pair is younger than the others.
    let utc = UTC + YEAR / 2;
    let authority = store(&[made!("authority-v1.pem")]);
    let old = certificate(made!("v1.der"));
    let refused = authority.verify_server(&old, &name("my_vpn"), utc);
    assert_eq!(refused, Err(CertificateError::OldVersion));
    let said = CertificateError::OldVersion.to_string();
    assert!(said.contains("-extfile") && said.contains("basicConstraints=CA:FALSE"), "{said}");
}

#[test]
fn what_an_authority_of_ours_certifies_is_accepted_for_its_name_in_its_time() {
    let (utc, day) = (now(), Duration::from_secs(86_400));
    for authority_key in keys() {
        let entropy = &mut SystemEntropy;
        let authority =
            Authority::new(&authority_key, &name("home"), utc, 365 * day, entropy).expect("made");
        let trusting = store(&[authority.certificate()]);
        for key in keys() {
            let issued =
                authority.certify(key.public_key(), &name("my_vpn"), utc, 30 * day, entropy);
            let issued = certificate(&issued.expect("made"));
            assert_eq!(issued.public_key(), key.public_key());
            let verify = |text, utc| trusting.verify_server(&issued, &name(text), utc);
            assert_eq!(verify("my_vpn", utc), Ok(()));
            assert_eq!(trusting.verify_client(&issued, utc), Ok(()));
            let later = utc + 31 * u64::try_from(day.as_nanos()).expect("small");
            assert_eq!(verify("my_vpn", later), Err(CertificateError::Expired));
            let earlier = utc - 1_000_000_000;
            assert_eq!(verify("my_vpn", earlier), Err(CertificateError::NotYetValid));
            assert!(matches!(verify("other", utc), Err(CertificateError::WrongName(_))));
            // What was certified certifies nobody.
            assert!(Authority::from_certificate(&key, issued.der()).is_err());
        }
        // The same authority, read again.
        let again = Authority::from_certificate(&authority_key, authority.certificate());
        let issued = again.expect("an authority").certify(
            keys()[0].public_key(),
            &name("my_vpn"),
            utc,
            day,
            entropy,
        );
        let issued = certificate(&issued.expect("made"));
        assert_eq!(trusting.verify_server(&issued, &name("my_vpn"), utc), Ok(()));
        openssl_verifies(authority.certificate(), issued.der());
    }
    let [one, other, _] = keys();
    let authority = Authority::new(&one, &name("home"), utc, day, &mut SystemEntropy);
    let certificate = authority.expect("made").certificate().to_vec();
    assert!(Authority::from_certificate(&other, &certificate).is_err());
}

/// If there is an OpenSSL, it agrees.
fn openssl_verifies(authority: &[u8], issued: &[u8]) {
    let folder = std::env::temp_dir().join(format!("o7s-authority-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let pem = |name: &str, der: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, der).expect("written");
        let made = Command::new("openssl")
            .args(["x509", "-inform", "DER", "-out"])
            .arg(path.with_extension("pem"))
            .arg("-in")
            .arg(&path)
            .output();
        (path.with_extension("pem"), made)
    };
    let (root, made) = pem("root", authority);
    if made.is_ok_and(|made| made.status.success()) {
        let (leaf, _) = pem("leaf", issued);
        let verified = Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .args([root, leaf])
            .output()
            .expect("openssl is here");
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        fs::remove_dir_all(&folder).expect("removed");
        assert!(verified.status.success(), "{said}");
    } else {
        fs::remove_dir_all(&folder).expect("removed");
    }
}

#[test]
fn a_client_certificate_is_not_a_servers() {
    let authority = store(&[made!("authority.pem")]);
    let client = certificate(made!("client.der"));
    assert_eq!(authority.verify_client(&client, UTC), Ok(()));
    assert!(matches!(
        authority.verify_server(&client, &name("a client"), UTC),
        Err(CertificateError::Unacceptable(_))
    ));
    let server = certificate(made!("ed25519.der"));
    assert_eq!(authority.verify_client(&server, UTC), Ok(()));
}

#[test]
fn a_certificate_in_the_store_is_trusted_itself_and_is_no_authority() {
    let key = IdentityKey::generate(&mut SystemEntropy);
    let own = key.certificate(&name("my_vpn"));
    let trusting = store(&[&own, made!("self-signed.der")]);
    for der in [&own[..], made!("self-signed.der")] {
        let certificate = certificate(der);
        assert_eq!(trusting.verify_server(&certificate, &name("my_vpn"), UTC), Ok(()));
        assert!(trusting.verify_server(&certificate, &name("other"), UTC).is_err());
    }
    // Neither another certificate of the same key, nor one that the key's
    // owner made out to somebody else.
    let renamed = certificate(&key.certificate(&name("other")));
    assert_eq!(
        trusting.verify_server(&renamed, &name("other"), UTC),
        Err(CertificateError::UnknownIssuer)
    );
    let server = store(&[made!("ed25519.der")]);
    let by_server = certificate(made!("by-server.der"));
    assert_eq!(
        server.verify_server(&by_server, &name("other"), UTC),
        Err(CertificateError::UnknownIssuer)
    );
}

#[test]
fn a_store_reads_der_and_bundles_and_refuses_the_rest_whole() {
    let mut store = CaStore::new();
    let bundle = [made!("authority.pem"), &b"between\n"[..], made!("stranger.pem")].concat();
    assert_eq!(store.add(&bundle), Ok(2));
    assert_eq!(store.add(made!("ed25519.der")), Ok(1));
    assert_eq!(store.len(), 3);
    let broken = String::from_utf8(bundle.clone()).expect("text").replacen("MII", "AAA", 1);
    for file in [&b""[..], b"text", made!("ed25519.key"), broken.as_bytes()] {
        assert_eq!(store.add(file), Err(CertificateError::Malformed));
    }
    assert_eq!(store.len(), 3);
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
