//! A small authority by commands.

mod tool;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use ouroboros::{
    crypto::identity::{CertificateError, PeerCertificate},
    trust::{authorities, certificate},
};
use ouroboros_testing::Folder;
use tool::{complaint, irm, socket_in, told};

fn utc() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_nanos()).expect("before 2554")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("changed");
}

#[test]
fn an_authority_signs_for_keys_that_were_exported_elsewhere() {
    let (home, other) = (Folder::new(), Folder::new());
    let (at_home, elsewhere) = (socket_in(&home), socket_in(&other));
    let said = complaint(irm(&at_home, "cert sign for my_vpn"), 1);
    assert!(said.contains("irm cert authority NAME"), "{said}");
    let path = told(irm(&at_home, "cert authority home"));
    let path = Path::new(path.trim_end());
    let folder = path.parent().expect("a folder");
    let key = fs::metadata(folder.join("authority.key")).expect("a key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    assert!(complaint(irm(&at_home, "cert authority home"), 1).contains("there is a key already"));
    let (store, unused) = authorities(folder).expect("a folder of authorities");
    assert!(store.len() == 1 && unused.is_empty(), "{unused:?}");

    let exported = home.path().join("server.pub");
    write(&exported, &told(irm(&elsewhere, "key export")));
    let sign = |words: &str| irm(&at_home, &format!("cert sign for my_vpn {words}"));
    let signed = home.path().join("my_vpn.pem");
    write(&signed, &told(sign(&format!("key {}", exported.display()))));
    let der = certificate(&signed).expect("a certificate");
    let parsed = PeerCertificate::parse(&der).expect("a certificate");
    let shown = told(irm(&elsewhere, "key show"));
    assert!(shown.starts_with(&parsed.public_key().fingerprint().to_string()), "{shown}");
    let name = "my_vpn".parse().expect("a name");
    store.verify_server(&parsed, &name, utc()).expect("the authority vouches for it");
    let ends = utc() + 366 * 86_400 * 1_000_000_000;
    assert!(store.verify_server(&parsed, &name, ends).is_err(), "after a year");
    assert!(matches!(
        store.verify_server(&parsed, &"other".parse().expect("a name"), utc()),
        Err(CertificateError::WrongName(_))
    ));

    // A certificate has a public key, too: it can be signed again.
    let again = told(sign(&format!("days 1 key {}", signed.display())));
    write(&signed, &again);
    let der = certificate(&signed).expect("a certificate");
    let again = PeerCertificate::parse(&der).expect("a certificate");
    assert_eq!(again.public_key(), parsed.public_key());
    write(&exported, "nonsense");
    let said = complaint(sign(&format!("key {}", exported.display())), 1);
    assert!(said.contains("no public key in PEM"), "{said}");
}
