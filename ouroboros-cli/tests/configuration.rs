//! A daemon with a configuration file.

mod tool;

use std::{
    fs::{self, Permissions},
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ouroboros_testing::Folder;
use rustix::process::Signal;
use tool::{Daemon, complaint, irm, socket_in, told, tool};

/// A port that nobody has.
fn port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
    socket.local_addr().expect("an address").port()
}

fn layer(name: &str, port: u16, more: &str) -> String {
    format!("[udp4.{name}]\nbootstrap = \"{name}\"\nip = \"127.0.0.1\"\nport = {port}\n{more}\n")
}

fn write(folder: &Folder, text: &str) -> PathBuf {
    let path = folder.write("irmd.conf", text);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("changed");
    path
}

fn start(socket: &Path, file: &Path) -> Daemon {
    Daemon::run(tool(env!("CARGO_BIN_EXE_irmd"), socket).arg("--config").arg(file))
}

/// The line of a list that begins with `name`; empty if there is none.
fn entry(socket: &Path, list: &str, name: &str) -> String {
    let list = told(irm(socket, list));
    list.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

#[test]
fn a_daemon_begins_with_what_its_file_says_and_follows_what_changes_in_it() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let (kept, moved, new) = (port(), port(), port());
    let names = "[name.office]\nprog = [\"sh\"]\nreg = [\"kept\"]\n";
    let first = layer("kept", kept, "") + &layer("other", moved, "reg = [\"office\", \"old\"]");
    let file = write(&folder, &(first + names));
    let mut daemon = start(&socket, &file);
    assert!(entry(&socket, "ipcp list", "kept").contains(&format!("127.0.0.1:{kept}")));
    assert!(entry(&socket, "ipcp list", "other").contains(&format!("127.0.0.1:{moved}")));
    let office = entry(&socket, "name list", "office");
    assert!(office.contains("kept, other") && office.contains("sh"), "{office}");
    assert!(!office.contains("native only"), "{office}");
    assert!(entry(&socket, "name list", "old").contains("other"));

    // What was done by hand is the hand's.
    told(irm(&socket, "reg n byhand l kept"));
    let second = layer("kept", kept, "") + &layer("other", new, "reg = [\"office\"]");
    write(&folder, &(second.clone() + names + "native = true\n"));
    daemon.signal(Signal::HUP);
    daemon.logs("configured");
    assert!(entry(&socket, "ipcp list", "other").contains(&format!("127.0.0.1:{new}")));
    assert!(entry(&socket, "name list", "byhand").contains("kept"));
    let office = entry(&socket, "name list", "office");
    for part in ["kept, other", "sh", "native only"] {
        assert!(office.contains(part), "{part}: {office}");
    }
    assert_eq!(entry(&socket, "name list", "old"), "");

    let before = [told(irm(&socket, "ipcp list")), told(irm(&socket, "name list"))];
    write(&folder, &("[udp4.third]\nip = \"nonsense\"\n".to_owned() + &second));
    daemon.signal(Signal::HUP);
    let said = daemon.logs("nothing is changed");
    assert!(said.contains(&format!("{}, line 2: ip: ", file.display())), "{said}");
    assert_eq!([told(irm(&socket, "ipcp list")), told(irm(&socket, "name list"))], before);

    write(&folder, &layer("kept", kept, ""));
    daemon.signal(Signal::HUP);
    daemon.logs("configured");
    assert_eq!(told(irm(&socket, "ipcp list")).lines().count(), 2);
    assert_eq!(entry(&socket, "name list", "office"), "");
    assert!(entry(&socket, "name list", "byhand").contains("kept"));
}

#[test]
fn what_cannot_be_had_yet_is_waited_for() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let taken = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("an address").port();
    let file = write(&folder, &layer("net", port, "reg = [\"office\"]"));
    let mut daemon = start(&socket, &file);
    assert_eq!(entry(&socket, "ipcp list", "net"), "");
    drop(taken);
    while entry(&socket, "name list", "office").is_empty() {
        std::thread::yield_now();
    }
    assert!(entry(&socket, "ipcp list", "net").contains(&port.to_string()));
    daemon.signal(Signal::USR1);
    daemon.logs("irmd serves");
}

#[test]
fn a_file_beside_the_key_is_used_unasked() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let trust = tool::trust_beside(&socket);
    fs::create_dir_all(&trust).expect("a folder");
    fs::write(trust.join("irmd.conf"), layer("net", port(), "")).expect("written");
    fs::set_permissions(trust.join("irmd.conf"), Permissions::from_mode(0o600)).expect("changed");
    let _daemon = Daemon::start(&socket);
    assert!(!entry(&socket, "ipcp list", "net").is_empty());
}

#[test]
fn a_file_that_makes_no_sense_is_told_by_the_check_and_by_the_daemon() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let check = |path: &Path| irm(&socket, &format!("config check {}", path.display()));
    let file = write(&folder, &layer("net", 4000, "reg = [\"office\"]"));
    assert!(told(check(&file)).contains("IPCPs: 1, names: 0, registrations: 1"));
    let bad = layer("net", 4000, "prot = 1");
    let file = write(&folder, &bad);
    let place = format!("{}, line 5: prot: not a key of [udp4.net]", file.display());
    let said = complaint(check(&file), 1);
    assert!(said.contains(&place), "{said}");
    let mut command = tool(env!("CARGO_BIN_EXE_irmd"), &socket);
    let said = complaint(command.arg("--config").arg(&file).output().expect("irmd runs"), 1);
    assert!(said.contains(&place), "{said}");
    assert!(!socket.exists(), "the socket goes with it");
    // The daemon also looks into the files that policies name.
    let friends = folder.write("friends", "nonsense\n");
    fs::set_permissions(friends, Permissions::from_mode(0o644)).expect("changed");
    let file = write(&folder, "\n[name.office]\nclients = \"friends\"\n");
    let mut command = tool(env!("CARGO_BIN_EXE_irmd"), &socket);
    let said = complaint(command.arg("--config").arg(&file).output().expect("irmd runs"), 1);
    assert!(said.contains("irmd.conf, line 2: ") && said.contains("friends, line 1"), "{said}");
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("changed");
    assert!(complaint(check(&file), 1).contains("others can write to it"));
    assert!(complaint(check(&folder.path().join("none")), 1).contains("No such file"));
}

#[test]
fn what_is_in_force_is_saved_and_a_file_is_compared_with_it() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let daemon = Daemon::start(&socket);
    let (first, second) = (port(), port());
    told(irm(&socket, &format!("i b t udp n wan l internet ip 127.0.0.1 port {first}")));
    told(irm(&socket, "n c office native"));
    told(irm(&socket, "reg n office l internet"));
    told(irm(&socket, "reg n other l internet"));
    told(irm(&socket, "bind program sh name office"));
    let saved = folder.path().join("saved.conf");
    told(irm(&socket, &format!("config save {}", saved.display())));
    let text = fs::read_to_string(&saved).expect("written");
    assert_eq!(told(irm(&socket, "config save")), text);
    let said = complaint(irm(&socket, &format!("config save {}", saved.display())), 1);
    assert!(said.contains("there is such a file") && said.contains(" force"), "{said}");
    told(irm(&socket, &format!("config save {} force", saved.display())));
    told(irm(&socket, &format!("config check {}", saved.display())));
    let diff = |path: &Path| told(irm(&socket, &format!("config diff {}", path.display())));
    assert!(diff(&saved).contains("would change nothing"), "{}", diff(&saved));
    let before = [told(irm(&socket, "ipcp list")), told(irm(&socket, "name list"))];
    daemon.end(Signal::TERM);

    // The next daemon begins with the same.
    let mut daemon = start(&socket, &saved);
    assert_eq!([told(irm(&socket, "ipcp list")), told(irm(&socket, "name list"))], before);
    assert!(diff(&saved).contains("would change nothing"));
    let more = layer("lan", second, "") + &text.replace("native = true\n", "");
    let file = write(&folder, &more);
    let expected = format!("+ IPCP lan: udp4 over 127.0.0.1 port {second} in lan\n~ name office\n");
    assert_eq!(diff(&file), expected);
    // As it then does.
    fs::rename(&file, &saved).expect("renamed");
    daemon.signal(Signal::HUP);
    daemon.logs("configured");
    assert!(diff(&saved).contains("would change nothing"));
    assert!(entry(&socket, "ipcp list", "lan").contains(&second.to_string()));
    assert!(!entry(&socket, "name list", "office").contains("native only"));
}
