//! The tools as a user meets them: exit codes and messages.

mod completions;
mod daemon;
mod irm;
#[path = "../tool/mod.rs"]
mod tool;

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{BufRead, BufReader},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Command, Stdio},
};

use ouroboros::{
    crypto::{SystemEntropy, identity::IdentityKey},
    proto::negotiation::InvitationSecret,
    trust::Invitation,
};
use ouroboros_cli::http;
use ouroboros_testing::Folder;
use rustix::{
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, shutdown, socket,
    },
    process::{Pid, Signal, kill_process},
};

use tool::{Daemon, complaint, irm, socket_in, told, tool, trust_beside};

#[test]
fn wrong_usage_is_one_line_and_exit_code_two() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let (irmd, irm, ovpn) =
        (env!("CARGO_BIN_EXE_irmd"), env!("CARGO_BIN_EXE_irm"), env!("CARGO_BIN_EXE_ovpn"));
    for (path, line) in [
        (irmd, "--frobnicate"),
        (irmd, "my_layer"),
        (irmd, "--metrics 10.0.0.1:9585"),
        (irm, ""),
        (irm, "frobnicate"),
        (irm, "--frobnicate"),
        (irm, "ipcp bootstrap type udp name a layer b ip nonsense"),
        (irm, "ipcp bootstrap type eth-dix name a layer b dev lo hash md5"),
        (irm, "name create"),
        (ovpn, ""),
        (ovpn, "--ip 10.0.0.1"),
        (ovpn, "--ip 10.0.0.1/33"),
        (ovpn, "--ip nonsense --mask 255.255.255.0"),
        (ovpn, "--ip 10.0.0.1 --mask 255.0.255.0"),
        (ovpn, "--ip 10.0.0.1 --mask nonsense"),
        (ovpn, "--ip 10.0.0.1/24 --frobnicate"),
        (ovpn, "--ip 10.0.0.1/24 --server-key o7s:0"),
        (ovpn, "--ip 10.0.0.1/24 --ca folder"),
        (ovpn, "--ip 10.0.0.1/24 --metrics 0.0.0.0:9586"),
        (ovpn, "--ip 10.0.0.1/24 status"),
        (ovpn, "status --frobnicate"),
        (ovpn, "doctor --frobnicate"),
        (ovpn, "frobnicate"),
    ] {
        let output = tool(path, &socket).args(line.split_whitespace()).output().expect("runs");
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).expect("a name");
        let said = complaint(output, 2);
        assert!(said.starts_with(&format!("{name}: ")), "{said}");
    }
}

#[test]
fn a_number_that_makes_no_sense_is_refused_with_those_that_do() {
    let socket = socket_in(&Folder::new());
    for (words, range) in [
        ("--queues 0", "from 1 to 255"),
        ("--lanes 256", "from 1 to 255"),
        ("--timeout 0", "from 1 to 86400"),
        ("--timeout soon", "from 1 to 86400"),
    ] {
        let words = format!("-n my_vpn --ip 10.0.0.1/24 {words}");
        let words = words.split_whitespace();
        let output = tool(env!("CARGO_BIN_EXE_ovpn"), &socket).args(words).output().expect("runs");
        let said = complaint(output, 2);
        assert!(said.contains(range), "{said}");
    }
}

#[test]
fn without_a_daemon_the_tools_say_how_to_start_it() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let expected = format!("irmd is not running at {}: start it with `irmd`", socket.display());
    assert!(complaint(irm(&socket, "name list"), 1).contains(&expected));
    let unknown = irm(&socket, "bind program no-such-program name n");
    assert!(complaint(unknown, 1).contains("no such program in PATH"));
}

/// No daemon, and no server, is needed to know that.
#[test]
fn an_invitation_that_has_expired_is_refused_at_once() {
    let folder = Folder::new();
    let server_key = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
    let secret = InvitationSecret::generate(&mut SystemEntropy);
    let (name, servers) =
        ("office".parse().expect("a name"), vec!["192.0.2.1".parse().expect("a host")]);
    let line = Invitation::new(name, servers, server_key, secret, 1_000_000_000).expect("one");
    let mut command = tool(env!("CARGO_BIN_EXE_ovpn"), &socket_in(&folder));
    let said = complaint(command.args(["join", &line.to_string()]).output().expect("it runs"), 1);
    for part in ["has expired", "valid until 2001-09-09T01:46:40Z", "`ovpn invite NAME`"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn ovpn_waits_for_the_daemon_and_for_a_layer_and_says_so_once() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let missing = format!("irmd is not running at {}: start it with `irmd`", socket.display());
    for (words, then) in [
        ("-i 10.0.0.1/24", "This machine's key is"),
        ("-n my_vpn -i 10.0.0.1 -m 255.255.255.0 -C", "No flow yet: there is no layer"),
        ("-n my_vpn -i 10.0.0.1/24 -I", "No flow yet: there is no layer"),
    ] {
        let mut command = tool(env!("CARGO_BIN_EXE_ovpn"), &socket);
        command.args(words.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut ovpn = command.spawn().expect("ovpn starts");
        let mut said = BufReader::new(ovpn.stdout.take().expect("piped")).lines();
        let mut lines = Vec::new();
        let mut until = |sign: &str| {
            while !lines.last().is_some_and(|line: &String| line.contains(sign)) {
                lines.push(said.next().expect("it goes on").expect("UTF-8"));
            }
        };
        until(&missing);
        let daemon = Daemon::start(&socket);
        until(then);
        assert_eq!(lines.iter().filter(|line| line.contains(&missing)).count(), 1, "{lines:?}");
        // The server goes on to its device, which not everybody may make.
        if words.contains("my_vpn") {
            kill_process(Pid::from_child(&ovpn), Signal::TERM).expect("it runs");
            assert_eq!(ovpn.wait().expect("a child").code(), Some(0), "{words}");
        } else {
            let _ = ovpn.kill();
            ovpn.wait().expect("a child");
        }
        daemon.end(Signal::TERM);
    }
}

#[test]
fn ovpn_that_waits_ends_on_sigterm_with_success() {
    let folder = Folder::new();
    for words in ["-i 10.0.0.1/24", "-n my_vpn -i 10.0.0.1/24"] {
        let mut command = tool(env!("CARGO_BIN_EXE_ovpn"), &socket_in(&folder));
        command.args(words.split_whitespace()).stdout(Stdio::piped());
        let mut ovpn = command.spawn().expect("ovpn starts");
        let mut said = BufReader::new(ovpn.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("irmd is not running") {
            assert_ne!(said.read_line(&mut line).expect("UTF-8"), 0, "it has ended: {line}");
        }
        kill_process(Pid::from_child(&ovpn), Signal::TERM).expect("it runs");
        assert_eq!(ovpn.wait().expect("a child").code(), Some(0), "{words}");
    }
}

#[test]
fn what_the_measuring_tools_cannot_do_is_one_line_and_its_own_exit_code() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let run = |path: &str, words: &str| {
        tool(path, &socket).args(words.split_whitespace()).output().expect("runs")
    };
    for (path, words) in [
        (env!("CARGO_BIN_EXE_oping"), ""),
        (env!("CARGO_BIN_EXE_oping"), "-n my_vpn -i 5x"),
        (env!("CARGO_BIN_EXE_oping"), "-n my_vpn -c 4294967295"),
        (env!("CARGO_BIN_EXE_operf"), "-n my_vpn -t both"),
        (env!("CARGO_BIN_EXE_operf"), "-n my_vpn -r 0"),
        (env!("CARGO_BIN_EXE_ocbr"), "-n my_vpn -s -1"),
    ] {
        complaint(run(path, words), 2);
    }
    // There is no daemon.
    for (path, words) in [
        (env!("CARGO_BIN_EXE_oping"), "-n my_vpn"),
        (env!("CARGO_BIN_EXE_oping"), "-n my_vpn --json"),
        (env!("CARGO_BIN_EXE_oecho"), ""),
        (env!("CARGO_BIN_EXE_operf"), "-n my_vpn"),
        (env!("CARGO_BIN_EXE_ocbr"), "-n my_vpn"),
    ] {
        assert!(complaint(run(path, words), 1).contains("irmd"));
    }
}

#[test]
fn arguments_that_are_not_utf8_are_one_line_and_exit_code_two() {
    let folder = Folder::new();
    let (socket, word) = (socket_in(&folder), OsStr::from_bytes(b"\xe9t\xe9"));
    let (irm, irmd, ovpn) =
        (env!("CARGO_BIN_EXE_irm"), env!("CARGO_BIN_EXE_irmd"), env!("CARGO_BIN_EXE_ovpn"));
    for (program, words) in [
        (irm, &[][..]),
        (irm, &["reg", "name"]),
        (irmd, &[]),
        (ovpn, &[]),
        (ovpn, &["-i", "10.0.0.1/24", "-n"]),
        (ovpn, &["-i"]),
    ] {
        let output = tool(program, &socket).args(words).arg(word).output().expect("it runs");
        assert!(complaint(output, 2).contains("not UTF-8"));
    }
    // A path is any bytes: something else is wrong here.
    let words = ["-i", "10.0.0.1/24", "-n", "my_vpn", "--leases"];
    let output = tool(ovpn, &socket).args(words).arg(word).output().expect("it runs");
    let complaint = complaint(output, 2);
    assert!(!complaint.contains("not UTF-8") && complaint.contains("--leases"), "{complaint}");
}
