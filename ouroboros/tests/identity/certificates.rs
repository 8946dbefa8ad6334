//! Certificates: one's own, and those that authorities vouch by.

use super::*;

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
