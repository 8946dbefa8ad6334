//! The clients' file of a server: what programs change in it, and what they leave alone.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
    thread,
};

use ouroboros::{
    crypto::{
        SystemEntropy,
        identity::{Fingerprint, IdentityKey},
    },
    proto::negotiation::{InvitationSecret, Invited},
    trust::{
        ClientName, ClientsError, ClientsFile, Flaw, TrustError, authorized_keys, invitations,
        reread_authorized_keys,
    },
};
use ouroboros_testing::Folder;

const NOW: u64 = 1_800_000_000;

fn key() -> Fingerprint {
    IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint()
}

fn file(folder: &Folder, text: &str) -> PathBuf {
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("changed");
    let path = folder.path().join("clients");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("changed");
    path
}

fn name(text: &str) -> ClientName {
    text.parse().expect("a client's name")
}

fn invited(until: u64) -> Invited {
    let key = InvitationSecret::generate(&mut SystemEntropy).key().public_key().fingerprint();
    Invited { key, until }
}

#[test]
fn an_edit_changes_its_words_and_nothing_else() {
    let folder = Folder::new();
    let (alice, branch, nobody) = (key(), key(), key());
    let text = format!(
        "# who may come in\n\n  {alice}\talice   10.0.0.7  # since May\n\
         {branch} branch 10.0.0.8 172.16.2.0/24 fd00::/64\n{nobody}\nnonsense\n# {nobody} gone"
    );
    let path = file(&folder, &text);
    let clients = ClientsFile::at(&path);
    let entries = clients.entries().expect("read");
    let found: Vec<_> =
        entries.iter().map(|entry| (entry.line, entry.key, entry.name.as_deref())).collect();
    let expected = [(3, alice, Some("alice")), (4, branch, Some("branch")), (5, nobody, None)];
    assert_eq!(found, expected);
    let prefixes = ["10.0.0.8/32", "172.16.2.0/24", "fd00::/64"];
    assert_eq!(entries[1].prefixes, prefixes.map(|prefix| prefix.parse().expect("a prefix")));

    clients.rename("alice", &name("al")).expect("renamed");
    clients.rename(&nobody.to_string(), &name("somebody")).expect("renamed");
    let expected = text
        .replace("\talice ", "\tal ")
        .replace(&format!("{nobody}\nnon"), &format!("{nobody} somebody\nnon"));
    assert_eq!(fs::read_to_string(&path).expect("read"), expected);
    assert!(matches!(
        clients.rename("al", &name("branch")),
        Err(ClientsError::NameTaken(taken)) if taken.as_str() == "branch"
    ));
    assert!(matches!(clients.revoke("alice"), Err(ClientsError::NoClient(_))));

    assert_eq!(clients.revoke("branch").expect("revoked"), 1);
    let line = format!("{branch} branch 10.0.0.8 172.16.2.0/24 fd00::/64\n");
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text, expected.replace(&line, ""));
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
    let left: Vec<_> = fs::read_dir(folder.path()).expect("read").collect();
    assert_eq!(left.len(), 1, "no draft stays: {left:?}");
}

#[test]
fn an_invitation_becomes_a_client_once_and_in_time() {
    let folder = Folder::new();
    let path = file(&folder, "# nobody yet");
    let clients = ClientsFile::at(&path);
    let (first, over) = (invited(NOW + 60), invited(NOW));
    clients.invite(&name("alice"), over, &[], NOW - 60).expect("invited");
    assert!(matches!(clients.join(over.key, key(), NOW), Err(ClientsError::NotInvited)));
    assert_eq!(invitations(&path), [over]);
    assert_eq!(authorized_keys(&path).expect("read"), [], "an invitation is no client");
    // One that is over makes room for its name.
    clients.invite(&name("alice"), first, &[], NOW).expect("invited");
    let again = clients.invite(&name("alice"), invited(NOW + 60), &[], NOW);
    assert!(matches!(again, Err(ClientsError::NameTaken(_))), "{again:?}");
    let text = fs::read_to_string(&path).expect("read");
    let line = format!("invited {} alice until=2027-01-15T08:01:00Z\n", first.key);
    assert_eq!(text, format!("# nobody yet\n{line}"));
    let branch = invited(NOW + 60);
    let behind = ["10.0.0.9/32", "172.16.2.0/24"].map(|net| net.parse().expect("a network"));
    clients.invite(&name("branch"), branch, &behind, NOW).expect("invited");
    assert_eq!(clients.entries().expect("read")[1].prefixes, behind);
    clients.revoke("branch").expect("revoked");
    // What a person adds to it stays.
    fs::write(&path, text.replace("Z\n", "Z 10.0.0.7 # the laptop\n")).expect("written");

    let (alice, mallory) = (key(), key());
    clients.join(first.key, alice, NOW + 59).expect("in time");
    let text = fs::read_to_string(&path).expect("read");
    assert_eq!(text, format!("# nobody yet\n{alice} alice 10.0.0.7 # the laptop\n"));
    let second = clients.join(first.key, mallory, NOW + 59);
    assert!(matches!(second, Err(ClientsError::NotInvited)), "{second:?}");
    clients.join(first.key, alice, NOW + 59).expect("it is a client already");
    assert_eq!(authorized_keys(&path).expect("read"), [alice]);
}

#[test]
fn of_many_who_use_an_invitation_at_once_one_is_a_client() {
    let folder = Folder::new();
    let path = file(&folder, "");
    let (clients, only) = (ClientsFile::at(&path), invited(NOW + 60));
    clients.invite(&name("alice"), only, &[], NOW).expect("invited");
    let joined: usize = thread::scope(|scope| {
        let join = || scope.spawn(|| usize::from(clients.join(only.key, key(), NOW).is_ok()));
        let all: Vec<_> = (0..8).map(|_| join()).collect();
        all.into_iter().map(|joined| joined.join().expect("no panic")).sum()
    });
    assert_eq!((joined, authorized_keys(&path).expect("read").len()), (1, 1));
}

#[test]
fn a_file_that_others_can_change_is_not_edited_and_a_link_stays_one() {
    let folder = Folder::new();
    let path = file(&folder, &format!("{} alice\n", key()));
    let link = folder.path().join("link");
    symlink(&path, &link).expect("linked");
    ClientsFile::at(&link).rename("alice", &name("bob")).expect("renamed");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert!(fs::read_to_string(&path).expect("read").ends_with(" bob\n"));
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("changed");
    let refused = ClientsFile::at(&path).revoke("bob");
    let unsafe_file = |error: &TrustError| matches!(error, TrustError::Unsafe(_, Flaw::Writable));
    assert!(
        matches!(&refused, Err(ClientsError::Trust(error)) if unsafe_file(error)),
        "{refused:?}"
    );
    assert_eq!(invitations(&path), []);
}

#[test]
fn invitations_that_make_no_sense_are_named_with_their_lines() {
    let folder = Folder::new();
    let (key, alice) = (key(), key());
    let text = format!(
        "invited\ninvited alice\ninvited {key} alice\ninvited {key} alice until=tomorrow\n\
         invited {key} until=2027-01-15T08:01:00Z\n{alice} alice\n"
    );
    let path = file(&folder, &text);
    let (keys, flaws) = reread_authorized_keys(&path, &[]);
    assert_eq!(keys, [alice]);
    let lines: Vec<_> = flaws
        .iter()
        .map(|flaw| match flaw {
            TrustError::Line { line, .. } => *line,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(lines, [1, 2, 3, 4, 5]);
    assert_eq!(invitations(&path), []);
}

#[test]
fn names_of_clients_fit_a_line_and_a_terminal() {
    for good in ["a", "alice.laptop-2", "7_up", &"a".repeat(63)] {
        assert_eq!(name(good).to_string(), good);
    }
    for bad in ["", "-a", ".a", "a b", "a\tb", "#a", "a\n", "o7s:aaaa", "é", &"a".repeat(64)] {
        assert!(bad.parse::<ClientName>().is_err(), "{bad:?}");
    }
}
