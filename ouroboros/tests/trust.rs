//! Files of trust, as a user and other processes meet them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ouroboros::{
    crypto::{
        SystemEntropy,
        identity::{Fingerprint, IdentityKey},
    },
    trust::{
        ChangedKey, Flaw, KeyFile, KnownNames, Pin, TrustError, TrustFolder, authorities,
        authorized_keys, reread_authorized_keys,
    },
    wire::Name,
};
use ouroboros_testing::Folder;

/// A folder that only its owner can write to.
fn folder() -> Folder {
    let folder = Folder::new();
    mode(folder.path(), 0o755);
    folder
}

/// Writes a file that only its owner can write to.
fn file(folder: &Folder, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("written");
    mode(&path, 0o644);
    path
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn key() -> IdentityKey {
    IdentityKey::generate(&mut SystemEntropy)
}

fn fingerprint() -> Fingerprint {
    key().public_key().fingerprint()
}

fn flaw<T>(result: Result<T, TrustError>) -> (PathBuf, Flaw) {
    match result {
        Err(TrustError::Unsafe(path, flaw)) => (path, flaw),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    }
}

#[test]
fn a_key_is_made_once_for_its_owner_alone_and_found_again() {
    let folder = folder();
    let file = KeyFile::at(folder.path().join("new/identity.pem"));
    assert!(file.load().expect("no error").is_none());
    let made = file.load_or_generate(&mut SystemEntropy).expect("made");
    assert_eq!(mode_of(file.path()), 0o600);
    let text = fs::read_to_string(file.path()).expect("readable by its owner");
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS#8");
    for found in [file.load_or_generate(&mut SystemEntropy), file.load().map(Option::unwrap)] {
        assert_eq!(found.expect("found").public_key(), made.public_key());
    }
    let again = file.generate(&mut SystemEntropy);
    assert!(matches!(again, Err(TrustError::Exists(path)) if path == file.path()));
    let other = file.replace(&mut SystemEntropy).expect("replaced");
    assert_ne!(other.public_key(), made.public_key());
    assert_eq!(file.load().expect("read").expect("there").public_key(), other.public_key());
    let files = fs::read_dir(folder.path().join("new")).expect("a folder").count();
    assert_eq!(files, 1, "drafts are gone");
}

#[test]
fn a_key_that_others_can_read_or_replace_is_refused() {
    let folder = folder();
    let file = KeyFile::at(folder.path().join("identity.pem"));
    file.generate(&mut SystemEntropy).expect("made");
    for (bits, expected) in
        [(0o640, Flaw::Readable), (0o604, Flaw::Readable), (0o602, Flaw::Writable)]
    {
        mode(file.path(), bits);
        assert_eq!(flaw(file.load()), (file.path().to_owned(), expected), "{bits:o}");
    }
    mode(file.path(), 0o400);
    file.load().expect("a key that nobody can write is as good");
    for bits in [0o775, 0o757, 0o1777] {
        mode(folder.path(), bits);
        assert_eq!(flaw(file.load()), (folder.path().to_owned(), Flaw::Writable), "{bits:o}");
        assert_eq!(flaw(file.replace(&mut SystemEntropy)).1, Flaw::Writable, "{bits:o}");
    }
}

#[test]
fn links_lead_to_a_key_only_between_folders_that_are_safe() {
    let (safe, open) = (folder(), folder());
    for folder in [&safe, &open] {
        KeyFile::at(folder.path().join("real.pem")).generate(&mut SystemEntropy).expect("made");
    }
    let link = |target: PathBuf, name: &str| {
        symlink(target, safe.path().join(name)).expect("a link");
        KeyFile::at(safe.path().join(name))
    };
    let good = link(safe.path().join("real.pem"), "good.pem");
    let bad = link(open.path().join("real.pem"), "bad.pem");
    let nowhere = link(safe.path().join("nothing"), "nowhere.pem");
    mode(open.path(), 0o777);
    assert!(good.load().expect("followed").is_some());
    assert_eq!(flaw(bad.load()), (open.path().to_owned(), Flaw::Writable));
    assert!(nowhere.load().expect("no error").is_none());
    symlink(safe.path().join("real.pem"), open.path().join("from.pem")).expect("a link");
    let from = KeyFile::at(open.path().join("from.pem"));
    assert_eq!(flaw(from.load()), (open.path().to_owned(), Flaw::Writable));
    // A new key takes the link's place, and not that of what it leads to.
    let old = good.load().expect("read").expect("there");
    good.replace(&mut SystemEntropy).expect("replaced");
    let kept = KeyFile::at(safe.path().join("real.pem")).load().expect("read").expect("there");
    assert_eq!(kept.public_key(), old.public_key());
}

#[test]
fn what_is_no_key_is_named() {
    let folder = folder();
    let path = file(&folder, "identity.pem", "not a key");
    mode(&path, 0o600);
    let file = KeyFile::at(&path);
    let error = file.load().expect_err("no key").to_string();
    assert!(error.starts_with(&path.display().to_string()) && error.contains("PKCS#8"), "{error}");
    fs::write(&path, vec![b'x'; 100_000]).expect("written");
    assert!(matches!(file.load(), Err(TrustError::TooLong(..))));
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("a folder");
    assert_eq!(flaw(file.load()).1, Flaw::Special);
    fs::remove_dir(&path).expect("removed");
    let made = Command::new("mkfifo").arg("-m600").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    assert_eq!(flaw(file.load()).1, Flaw::Special, "and it is not waited for");
}

#[test]
fn a_name_is_known_by_the_key_of_its_first_use() {
    let folder = folder();
    let known = TrustFolder::at(folder.path().join("new")).known_names();
    let (mine, other) = (fingerprint(), fingerprint());
    assert!(!known.check(&name("my_vpn"), Some(mine)).expect("no file"));
    assert!(!known.check(&name("my_vpn"), None).expect("no file"));
    assert_eq!(known.verify_or_pin(&name("my_vpn"), mine).expect("met"), Pin::New);
    assert_eq!(known.verify_or_pin(&name("my_vpn"), mine).expect("met"), Pin::Known);
    assert_eq!(known.verify_or_pin(&name("two words"), other).expect("met"), Pin::New);
    let text = fs::read_to_string(known.path()).expect("a file");
    assert_eq!(text, format!("my_vpn {mine}\ntwo words {other}\n"));
    for shown in [Some(other), None] {
        let Err(TrustError::Changed(error)) = known.check(&name("my_vpn"), shown) else {
            panic!("taken")
        };
        let ChangedKey { name: of, known: keys, shown: what, path } = &error;
        assert_eq!((of.as_str(), *what, path.as_path()), ("my_vpn", shown, known.path()));
        assert_eq!(
            keys.iter().map(|key| (key.fingerprint, key.line)).collect::<Vec<_>>(),
            [(mine, 1)]
        );
        let said = error.to_string();
        for part in [mine.to_string(), "line 1".into(), known.path().display().to_string()] {
            assert!(said.contains(&part), "{said}");
        }
        assert_eq!(said.contains(&other.to_string()), shown.is_some(), "{said}");
    }
    assert!(matches!(known.verify_or_pin(&name("my_vpn"), other), Err(TrustError::Changed(_))));
    assert_eq!(fs::read_to_string(known.path()).expect("a file"), text, "nothing is written");
}

#[test]
fn known_names_may_be_written_by_hand() {
    let folder = folder();
    let (one, two) = (fingerprint(), fingerprint());
    let plain = one.to_string().replace('-', "").to_uppercase();
    let text = format!("# ours\n\n  my_vpn \t {plain}\r\nmy_vpn {two}\na#b {two}\nlast {one}");
    let known = KnownNames::at(file(&folder, "known_names", text));
    let lines = |of: &str| -> Vec<_> {
        let keys = known.keys(&name(of)).expect("read");
        keys.iter().map(|key| (key.fingerprint, key.line)).collect()
    };
    assert_eq!(lines("my_vpn"), [(one, 3), (two, 4)]);
    assert_eq!((lines("a#b"), lines("my")), (vec![(two, 5)], vec![]));
    for shown in [one, two] {
        assert_eq!(known.verify_or_pin(&name("my_vpn"), shown).expect("known"), Pin::Known);
    }
    let error = known.check(&name("my_vpn"), Some(fingerprint())).expect_err("a third");
    assert!(error.to_string().contains("(line 3) and"), "{error}");
    // The last line had no end.
    assert_eq!(known.verify_or_pin(&name("next"), two).expect("met"), Pin::New);
    assert_eq!((lines("last"), lines("next")), (vec![(one, 6)], vec![(two, 7)]));
    for unfit in ["#name", " name"] {
        let met = known.verify_or_pin(&name(unfit), one);
        assert!(matches!(met, Err(TrustError::Name(_))), "{unfit}");
    }
}

#[test]
fn lines_that_make_no_sense_are_named() {
    let folder = folder();
    let good = fingerprint();
    for (text, line) in [
        (format!("my_vpn {good}\nmy_vpn"), 2),
        ("a o7s:xxxx".to_owned(), 1),
        (format!("# x\n\n{good}\n"), 3),
        (format!("{} {good}\n", "n".repeat(256)), 1),
    ] {
        let known = KnownNames::at(file(&folder, "known_names", &text));
        let error = known.verify_or_pin(&name("my_vpn"), good).expect_err(&text);
        assert!(matches!(&error, TrustError::Line { line: found, .. } if *found == line), "{text}");
        let place = format!("{}, line {line}: ", known.path().display());
        assert!(error.to_string().starts_with(&place), "{error}");
    }
    let invalid = KnownNames::at(file(&folder, "known_names", b"a\n\xff\xfe\n"));
    assert!(invalid.keys(&name("a")).is_err());
    let long = KnownNames::at(file(&folder, "known_names", "#".repeat(2 << 20)));
    assert!(matches!(long.keys(&name("a")), Err(TrustError::TooLong(..))));
    assert!(matches!(long.verify_or_pin(&name("a"), good), Err(TrustError::TooLong(..))));
}

#[test]
fn known_names_and_authorized_keys_that_others_can_change_are_refused() {
    let folder = folder();
    let known = KnownNames::at(file(&folder, "known_names", ""));
    let list = file(&folder, "clients", "");
    for path in [known.path(), &list] {
        mode(path, 0o666);
    }
    let (one, key) = (name("a"), fingerprint());
    assert_eq!(flaw(known.keys(&one)), (known.path().to_owned(), Flaw::Writable));
    assert_eq!(flaw(known.verify_or_pin(&one, key)).1, Flaw::Writable);
    assert_eq!(flaw(authorized_keys(&list)), (list.clone(), Flaw::Writable));
    for path in [known.path(), &list] {
        mode(path, 0o644);
    }
    mode(folder.path(), 0o777);
    assert_eq!(flaw(known.keys(&one)), (folder.path().to_owned(), Flaw::Writable));
    assert_eq!(flaw(known.verify_or_pin(&one, key)).1, Flaw::Writable);
    assert_eq!(flaw(authorized_keys(&list)).1, Flaw::Writable);
    assert_eq!(flaw(authorities(folder.path())).1, Flaw::Writable);
}

#[test]
fn authorized_keys_are_one_a_line() {
    let folder = folder();
    let (one, two) = (fingerprint(), fingerprint());
    let list = file(&folder, "clients", format!("# ours\n{one} Ann's laptop\n\n\t{two}\n"));
    assert_eq!(authorized_keys(&list).expect("read"), [one, two]);
    let nobody = file(&folder, "nobody", "");
    assert_eq!(authorized_keys(&nobody).expect("read"), []);
    let bad = file(&folder, "bad", format!("{one}\nAnn {two}\n"));
    let error = authorized_keys(&bad).expect_err("no fingerprint in front").to_string();
    assert!(error.starts_with(&format!("{}, line 2: ", bad.display())), "{error}");
    let missing =
        authorized_keys(&folder.path().join("missing")).expect_err("not there").to_string();
    assert!(missing.contains("missing: "), "{missing}");
}

#[test]
fn authorities_are_those_of_a_folder_and_what_is_unusable_is_reported() {
    let folder = folder();
    let certificate = |of: &str| key().certificate(&name(of));
    let pem = |der: &[u8]| {
        let body = base64(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    file(&folder, "one.der", certificate("one"));
    file(&folder, "two.pem", pem(&certificate("two")) + &pem(&certificate("three")));
    file(&folder, "four.crt", pem(&certificate("four")));
    file(&folder, "readme.txt", "nothing to see");
    let (store, unused) = authorities(folder.path()).expect("read");
    assert_eq!((store.len(), unused.len()), (4, 0));
    let bad = file(&folder, "bad.pem", "not a certificate");
    let open = file(&folder, "open.crt", pem(&certificate("open")));
    mode(&open, 0o666);
    symlink("nowhere", folder.path().join("link.pem")).expect("a link");
    let (store, unused) = authorities(folder.path()).expect("read");
    assert_eq!(store.len(), 4);
    let said: Vec<_> = unused.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    for (path, said) in [bad, folder.path().join("link.pem"), open].iter().zip(&said) {
        assert!(said.starts_with(&path.display().to_string()), "{said}");
    }
    assert!(authorities(&folder.path().join("missing")).is_err());
}

/// RFC 4648, section 4, in lines of 64.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().chain([&0; 2]).take(3).fold(0, |word, byte| word << 8 | u32::from(*byte));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at)) as usize % 64];
            text.push(if at > three.len() { '=' } else { digit.into() });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    text
}

const CHILD: &str = "O7S_TRUST_CHILD";

/// Runs this very test in processes of their own, all at once; what they print.
fn at_once(test: &str, folder: &Path, arguments: &[String]) -> Vec<String> {
    let program = std::env::current_exe().expect("a path");
    let start = |argument: &String| {
        let mut command = Command::new(&program);
        command.args([test, "--exact", "--nocapture"]).env(CHILD, folder).env("SHOWN", argument);
        command.stdout(Stdio::piped()).spawn().expect("started")
    };
    let children: Vec<_> = arguments.iter().map(start).collect();
    let said = |child: std::process::Child| {
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let line = text.lines().find_map(|line| line.split("child: ").nth(1));
        line.expect("a line of the child").to_owned()
    };
    children.into_iter().map(said).collect()
}

#[test]
fn processes_that_make_a_key_at_once_have_the_same() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let file = TrustFolder::at(folder).identity();
        let key = file.load_or_generate(&mut SystemEntropy).expect("a key");
        println!("child: {}", key.public_key().fingerprint());
        return;
    }
    let folder = folder();
    let test = "processes_that_make_a_key_at_once_have_the_same";
    let said = at_once(test, folder.path(), &vec![String::new(); 12]);
    let key = TrustFolder::at(folder.path()).identity().load().expect("read").expect("there");
    assert_eq!(said, vec![key.public_key().fingerprint().to_string(); 12]);
}

#[test]
fn processes_that_meet_a_server_at_once_write_it_down_once() {
    let meeting = name("my_vpn");
    if let Some(folder) = std::env::var_os(CHILD) {
        let known = TrustFolder::at(folder).known_names();
        let shown = std::env::var("SHOWN").expect("set").parse().expect("a fingerprint");
        match known.verify_or_pin(&meeting, shown) {
            Ok(met) => println!("child: {met:?}"),
            Err(TrustError::Changed(_)) => println!("child: Changed"),
            Err(other) => panic!("{other}"),
        }
        return;
    }
    let folder = folder();
    let shown = [fingerprint().to_string(), fingerprint().to_string()];
    let arguments: Vec<_> = (0..12).map(|index| shown[index % 2].clone()).collect();
    let test = "processes_that_meet_a_server_at_once_write_it_down_once";
    let said = at_once(test, folder.path(), &arguments);
    let keys = TrustFolder::at(folder.path()).known_names().keys(&meeting).expect("read");
    assert_eq!(keys.len(), 1);
    let first = keys[0].fingerprint.to_string();
    assert_eq!(said.iter().filter(|said| *said == "New").count(), 1, "{said:?}");
    for (argument, said) in arguments.iter().zip(&said) {
        assert_eq!(*argument == first, said != "Changed", "{said}");
    }
}

#[test]
fn a_list_that_is_damaged_shuts_out_nobody_and_lets_nobody_back_in() {
    let folder = Folder::new();
    let (one, two, three) = (fingerprint(), fingerprint(), fingerprint());
    let list = folder.write("clients", &format!("{one}\nrubbish\n{three}\n"));
    let permit = |mode| fs::set_permissions(&list, Permissions::from_mode(mode));
    permit(0o644).expect("changed");
    let last = [one, two];
    let (keys, flaws) = reread_authorized_keys(&list, &last);
    assert_eq!(keys, [one, three], "two was removed");
    assert!(flaws[0].to_string().contains("line 2"), "{}", flaws[0]);
    // Anybody may have added the third.
    permit(0o666).expect("changed");
    let (keys, flaws) = reread_authorized_keys(&list, &last);
    assert_eq!((keys, flaws.len()), (vec![one], 1));
    fs::remove_file(&list).expect("removed");
    let (keys, flaws) = reread_authorized_keys(&list, &last);
    assert_eq!((keys, flaws.len()), (Vec::new(), 1));
}
