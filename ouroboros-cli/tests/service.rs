//! The tools as a service manager meets them.

mod tool;

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use ouroboros_testing::Folder;
use rustix::process::{Pid, Signal, kill_process};
use tool::{irm, socket_in, told, tool};

/// A service manager's end of the sd_notify protocol.
struct Manager {
    folder: Folder,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("bound");
        Self { folder, socket }
    }

    /// Starts a tool, whose watchdog wants to hear of it ten times a second.
    fn start(&self, program: &str, words: &str) -> Child {
        tool(program, &socket_in(&self.folder))
            .args(words.split_whitespace())
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", "100000")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts")
    }

    /// A tool that finds a journal, the journal's socket, and a file whose stream counts as
    /// going to the journal, by its path and open.
    fn before_journal(&self, program: &str) -> (Command, UnixDatagram, PathBuf, File) {
        let journal = self.folder.path().join("journal");
        let socket = UnixDatagram::bind(&journal).expect("bound");
        let path = self.folder.path().join("log");
        let file = File::create(&path).expect("made");
        let of = file.metadata().expect("told");
        let mut command = tool(program, &socket_in(&self.folder));
        command.env("JOURNAL_STREAM", format!("{}:{}", of.dev(), of.ino()));
        command.env("OUROBOROS_JOURNAL", &journal).env_remove("NOTIFY_SOCKET");
        (command, socket, path, file)
    }

    /// Waits until it is told a line that begins with `sign`.
    fn is_told(&self, sign: &str) {
        let mut message = [0; 1024];
        loop {
            let size = self.socket.recv(&mut message).expect("a message");
            let text = std::str::from_utf8(&message[..size]).expect("UTF-8");
            if text.lines().any(|line| line.starts_with(sign)) {
                return;
            }
        }
    }
}

fn end(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}

#[test]
fn irmd_tells_its_manager_when_it_serves_that_it_runs_and_that_it_ends() {
    let manager = Manager::new();
    let daemon = manager.start(env!("CARGO_BIN_EXE_irmd"), "");
    manager.is_told("READY=1");
    // At once, as units that come after it do.
    told(irm(&socket_in(&manager.folder), "name list"));
    manager.is_told("WATCHDOG=1");
    manager.is_told("WATCHDOG=1");
    end(daemon);
    manager.is_told("STOPPING=1");
}

#[test]
fn lines_for_the_journal_have_their_priority_in_front() {
    let manager = Manager::new();
    for stdout in [true, false] {
        let path = manager.folder.path().join(format!("log-{stdout}"));
        let log = File::create(&path).expect("made");
        let of = log.metadata().expect("told");
        for (stream, prefixed) in
            [(format!("{}:{}", of.dev(), of.ino()), true), ("1:1".to_owned(), false)]
        {
            log.set_len(0).expect("emptied");
            let mut command = tool(env!("CARGO_BIN_EXE_irmd"), &socket_in(&manager.folder));
            command.env("JOURNAL_STREAM", stream).env_remove("NOTIFY_SOCKET");
            // There may be a journal on this machine.
            command.env("OUROBOROS_JOURNAL", manager.folder.path().join("none"));
            let file = File::options().append(true).open(&path).expect("there");
            if stdout {
                command.arg("--stdout").stdout(file).stderr(Stdio::null());
            } else {
                command.stdout(Stdio::null()).stderr(file);
            }
            let mut daemon = command.spawn().expect("it starts");
            let text = loop {
                let text = fs::read_to_string(&path).expect("text");
                if text.contains(" serves") {
                    break text;
                }
                assert!(daemon.try_wait().expect("a child").is_none(), "it has ended: {text}");
                thread::yield_now();
            };
            end(daemon);
            let line = text.lines().find(|line| line.contains(" serves")).expect("found");
            assert_eq!(line.starts_with("<6>"), prefixed, "{line}");
            assert_eq!(line.contains(" INFO "), !prefixed, "{line}");
        }
    }
}

#[test]
fn events_reach_the_journal_with_their_fields() {
    let manager = Manager::new();
    let (mut command, journal, path, file) = manager.before_journal(env!("CARGO_BIN_EXE_irmd"));
    let daemon = command.stdout(Stdio::null()).stderr(file).spawn().expect("it starts");
    let mut entry = [0; 4096];
    let serves = loop {
        let size = journal.recv(&mut entry).expect("an entry");
        let entry = std::str::from_utf8(&entry[..size]).expect("UTF-8");
        if entry.contains(" serves") {
            break entry.to_owned();
        }
    };
    end(daemon);
    for field in ["PRIORITY=6", "SYSLOG_IDENTIFIER=irmd"] {
        assert!(serves.lines().any(|line| line == field), "{serves}");
    }
    assert!(serves.lines().any(|line| line.starts_with("OUROBOROS_SOCKET=")), "{serves}");
    assert_eq!(fs::read_to_string(&path).expect("text"), "", "nothing is told twice");
}

/// Its lines are for people, and say in fields what they are about.
#[test]
fn lines_of_ovpn_about_a_flow_reach_the_journal_with_fields() {
    let manager = Manager::new();
    let (mut command, journal, path, file) = manager.before_journal(env!("CARGO_BIN_EXE_ovpn"));
    command.args(["-n", "my_vpn", "-i", "10.0.0.2/24"]);
    let tunnel = command.stdout(file).stderr(Stdio::null()).spawn().expect("it starts");
    let mut entry = [0; 4096];
    let size = journal.recv(&mut entry).expect("an entry");
    let entry = std::str::from_utf8(&entry[..size]).expect("UTF-8");
    for field in [
        "MESSAGE=Allocating a flow to my_vpn.",
        "PRIORITY=6",
        "SYSLOG_IDENTIFIER=ovpn",
        "OUROBOROS_NAME=my_vpn",
    ] {
        assert!(entry.lines().any(|line| line == field), "{field}: {entry}");
    }
    end(tunnel);
    let text = fs::read_to_string(&path).expect("text");
    assert!(!text.contains("Allocating"), "nothing is told twice: {text}");
}

#[test]
fn ovpn_tells_its_manager_what_it_waits_for() {
    let manager = Manager::new();
    let tunnel = manager.start(env!("CARGO_BIN_EXE_ovpn"), "-n my_vpn -i 10.0.0.2/24");
    manager.is_told("READY=1");
    manager.is_told("STATUS=No flow yet: irmd is not running");
    manager.is_told("WATCHDOG=1");
    end(tunnel);
    manager.is_told("STOPPING=1");
}
