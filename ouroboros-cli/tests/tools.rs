//! The tools as a user meets them: exit codes, messages, the daemon's life.

mod tool;

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{BufRead, BufReader},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Command, Stdio},
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
fn the_daemon_ends_cleanly_on_either_signal_and_removes_its_socket() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    for signal in [Signal::INT, Signal::TERM] {
        let daemon = Daemon::start(&socket);
        assert!(socket.exists());
        let (code, log) = daemon.end(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("irmd ends"), "{log}");
        assert!(!socket.exists());
    }
}

#[test]
fn the_daemon_does_not_start_twice_but_again_after_a_forced_kill() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let daemon = Daemon::start(&socket);
    let second = tool(env!("CARGO_BIN_EXE_irmd"), &socket).output().expect("irmd runs");
    assert!(complaint(second, 1).contains("another irmd is running"));
    told(irm(&socket, "ipcp list"));
    daemon.end(Signal::KILL);
    assert!(socket.exists(), "a killed daemon leaves its socket");
    assert!(complaint(irm(&socket, "ipcp list"), 1).contains("irmd is not running at"));
    let daemon = Daemon::start(&socket);
    told(irm(&socket, "ipcp list"));
    assert_eq!(daemon.end(Signal::TERM).0, Some(0));
}

#[test]
fn only_the_owner_and_the_group_may_connect() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    let mode = fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn garbage_on_the_socket_does_not_stop_the_daemon() {
    let folder = Folder::new();
    let path = socket_in(&folder);
    let _daemon = Daemon::start(&path);
    let address = SocketAddrUnix::new(&path).expect("an address");
    let dial = || {
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
        connect(&socket, &address).expect("connected");
        socket
    };
    let deep = "[".repeat(60_000);
    let long = format!("{{\"destroy-name\":{{\"name\":\"{}\"}}}}", "x".repeat(60_000));
    let beyond = vec![b' '; 100_000];
    for garbage in [
        &b"\0"[..],
        b"not json",
        b"{}",
        b"{\"accept\":{\"name\":5}}",
        b"{\"frobnicate\":null}",
        b"{\"allocate\":{\"name\":\"\",\"qos\":null}}",
        b"\xff\xfe\xfd",
        deep.as_bytes(),
        long.as_bytes(),
        &beyond,
    ] {
        let socket = dial();
        send(&socket, garbage, SendFlags::NOSIGNAL).expect("sent");
        let mut answer = [0; 65_536];
        let (size, _) = recv(&socket, &mut answer, rustix::net::RecvFlags::empty()).expect("heard");
        let answer = String::from_utf8_lossy(&answer[..size]);
        assert!(answer.starts_with("{\"error\":"), "{answer}");
    }
    // Those who say nothing, ask and leave, or close half of the connection.
    let silent: Vec<_> = (0..50).map(|_| dial()).collect();
    for request in ["{\"accept\":{\"name\":null}}", "\"list-names\""] {
        send(dial(), request.as_bytes(), SendFlags::NOSIGNAL).expect("sent");
    }
    shutdown(dial(), rustix::net::Shutdown::Write).expect("shut down");
    told(irm(&path, "name list"));
    drop(silent);
    told(irm(&path, "name list"));
}

#[test]
fn names_and_bindings_are_kept_and_listed() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    assert_eq!(told(irm(&socket, "name list")), "NAME  LAYERS  BOUND TO  ENCRYPTION\n");
    told(irm(&socket, "bind program /bin/sh name my_vpn"));
    told(irm(&socket, "bind process 1 name my_vpn"));
    let shell = fs::canonicalize("/bin/sh").expect("a shell");
    let list = told(irm(&socket, "n l"));
    assert!(list.contains(&format!("{}, 1", shell.display())), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&told(irm(&socket, "name list --json"))).expect("JSON");
    assert_eq!(json[0]["name"], "my_vpn");
    assert_eq!(json[0]["programs"][0], shell.to_str().expect("UTF-8"));
    assert_eq!(json[0]["processes"][0], 1);
    told(irm(&socket, "unbind process 1 name my_vpn"));
    assert!(complaint(irm(&socket, "unbind process 1 name my_vpn"), 1).contains("no such binding"));
    told(irm(&socket, "name destroy my_vpn"));
    assert!(complaint(irm(&socket, "name destroy my_vpn"), 1).contains("no such name"));

    let conf = folder.path().join("enc.conf");
    fs::write(&conf, "kex=prime256v1\ncipher=aes-128-gcm\nkdf=sha512\n").expect("written");
    told(irm(&socket, &format!("name create safe sencpath {}", conf.display())));
    let list = told(irm(&socket, "name list"));
    for part in ["prime256v1", "aes-128-gcm", "sha512"] {
        assert!(list.contains(part), "{list}");
    }
    fs::write(&conf, "kex=rot13\n").expect("written");
    let bad = irm(&socket, &format!("name create bad sencpath {}", conf.display()));
    assert!(complaint(bad, 1).contains("line 1"));
}

#[test]
fn a_binding_goes_with_its_process() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process");
    let bind = format!("bind process {} name my_vpn", process.id());
    told(irm(&socket, &bind));
    assert!(told(irm(&socket, "name list")).contains(&process.id().to_string()));
    drop(process.stdin.take());
    process.wait().expect("ended");
    // The name was there for the binding alone.
    assert_eq!(told(irm(&socket, "name list")).lines().count(), 1);
    assert!(complaint(irm(&socket, &format!("un{bind}")), 1).contains("no such binding"));
    assert!(complaint(irm(&socket, &bind), 1).contains("no such process"));
}

#[test]
fn a_name_is_created_once_and_may_be_in_use_before() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    let conf = folder.write("enc.conf", "cipher=aes-128-gcm\n");
    let create = format!("name create my_vpn sencpath {}", conf.display());
    told(irm(&socket, "bind program /bin/sh name my_vpn"));
    told(irm(&socket, &create));
    let list = told(irm(&socket, "name list"));
    assert!(list.contains("aes-128-gcm") && list.contains("/bin/"), "{list}");
    assert!(complaint(irm(&socket, &create), 1).contains("there is such a name already"));
    // Created, it stays without any use.
    told(irm(&socket, "unbind program /bin/sh name my_vpn"));
    assert!(told(irm(&socket, "name list")).contains("my_vpn"));
    told(irm(&socket, "name destroy my_vpn"));
    assert_eq!(told(irm(&socket, "name list")).lines().count(), 1);
}

#[test]
fn ipcps_come_and_go_on_the_loopback_address() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    let port =
        std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).expect("bound");
    told(irm(&socket, "ipcp create type udp6 name u"));
    let other = format!("i b t udp n u l my_layer ip 127.0.0.1 port {}", port.port());
    assert!(complaint(irm(&socket, &other), 1).contains("created with type udp6"));
    told(irm(&socket, "ipcp destroy name u"));
    told(irm(&socket, "ipcp create type udp name u"));
    assert!(told(irm(&socket, "ipcp list")).contains("udp, not bootstrapped"));
    let bootstrap = format!("i b t udp n u l my_layer ip 127.0.0.1 port {}", port.port());
    told(irm(&socket, &bootstrap));
    let list = told(irm(&socket, "ipcp list"));
    assert!(list.contains("my_layer") && !list.contains("not bootstrapped"), "{list}");
    assert!(complaint(irm(&socket, &bootstrap), 1).contains("bootstrapped already"));
    told(irm(&socket, "reg name my_vpn layer my_layer"));
    assert!(told(irm(&socket, "name list")).contains("my_layer"));
    assert!(complaint(irm(&socket, "reg n my_vpn l other"), 1).contains("no such layer"));
    told(irm(&socket, "name unreg my_vpn layer my_layer"));
    told(irm(&socket, "ipcp destroy name u"));
    assert_eq!(told(irm(&socket, "ipcp list")), "NAME  LAYER  ATTACHED TO\n");
    assert!(complaint(irm(&socket, "ipcp destroy name u"), 1).contains("no such IPCP"));
    // What it had is free again.
    told(irm(&socket, &bootstrap));
}

#[test]
fn a_name_s_lines_for_hosts_files_and_dns_have_the_addresses_of_its_layers() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let hash = "2694581a473adbf3d988f56c79953cae";
    let said = told(irm(&socket, "name dns my_vpn ip 192.0.2.1 ip 2001:db8::1"));
    let lines: Vec<_> = said.lines().filter(|line| !line.starts_with(['#', ';'])).collect();
    let expected = [
        format!("192.0.2.1 {hash}"),
        format!("2001:db8::1 {hash}"),
        format!("{hash} IN A 192.0.2.1"),
        format!("{hash} IN AAAA 2001:db8::1"),
    ];
    assert_eq!(lines, expected);
    assert!(complaint(irm(&socket, "name dns my_vpn"), 1).contains("irmd is not running"));
    let _daemon = Daemon::start(&socket);
    let output = irm(&socket, "name dns my_vpn");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no layer over UDP"));
    told(irm(&socket, "i b t udp n udp l my_layer ip 127.0.0.1 port 47113"));
    told(irm(&socket, "reg n my_vpn l my_layer"));
    let said = told(irm(&socket, "name dns my_vpn --json"));
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&json["hash"], &json["addresses"][0]), (&hash.into(), &"127.0.0.1".into()));
}

#[test]
fn a_key_is_made_at_first_need_and_told_the_same_with_and_without_the_daemon() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let file = trust_beside(&socket).join("identity.pem");
    let shown = told(irm(&socket, "key show"));
    let (fingerprint, path) = shown.trim_end().split_once(' ').expect("two words");
    assert_eq!(path, file.to_str().expect("UTF-8"));
    assert!(fingerprint.starts_with("o7s:") && fingerprint.len() == 43, "{shown}");
    let daemon = Daemon::start(&socket);
    assert_eq!(told(irm(&socket, "key show")), shown);
    let json: serde_json::Value =
        serde_json::from_str(&told(irm(&socket, "key show --json"))).expect("JSON");
    assert_eq!(
        (json["fingerprint"].as_str(), json["path"].as_str()),
        (Some(fingerprint), Some(path))
    );
    assert!(complaint(irm(&socket, "key generate"), 1).contains("there is a key already"));
    assert_eq!(told(irm(&socket, "k s")), shown, "it was kept");
    let other = told(irm(&socket, "key generate force"));
    assert_ne!(other, shown);
    assert_eq!(told(irm(&socket, "k s")), other);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("changed");
    assert_eq!(told(irm(&socket, "key show")), other, "the key in use is kept");
    drop(daemon);
    let said = complaint(irm(&socket, "key show"), 1);
    assert!(said.contains(path) && said.contains("others can read it: chmod 600"), "{said}");
}

#[test]
fn a_name_s_policy_is_checked_when_it_is_said_and_listed() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    let clients = folder.write("clients", "nonsense\n");
    fs::set_permissions(&clients, Permissions::from_mode(0o644)).expect("changed");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("changed");
    let create = format!("name create safe clients {} native", clients.display());
    assert!(complaint(irm(&socket, &create), 1).contains("clients, line 1: "));
    let shown = told(irm(&socket, "key show"));
    let fingerprint = shown.split(' ').next().expect("a word");
    folder.write("clients", &format!("{fingerprint} this machine\n"));
    told(irm(&socket, &create));
    let list = told(irm(&socket, "name list"));
    assert!(list.contains("encrypted, both authenticated, native only"), "{list}");
    let missing = format!("name create other key {}", folder.path().join("none").display());
    assert!(complaint(irm(&socket, &missing), 1).contains("none: there is no such file"));
    told(irm(&socket, "name create other auth server"));
    assert!(told(irm(&socket, "n l")).contains("encrypted, server authenticated"));
    told(irm(&socket, "i b t udp n udp l my_layer ip 127.0.0.1 port 47114"));
    told(irm(&socket, "reg n other l my_layer"));
    told(irm(&socket, "name change other native"));
    let list = told(irm(&socket, "n l"));
    let other = list.lines().find(|line| line.starts_with("other")).expect("it is there");
    assert!(other.contains("my_layer") && other.contains("native only"), "{other}");
    assert!(!other.contains("authenticated"), "all of it was replaced: {other}");
    assert!(complaint(irm(&socket, "name change nobody"), 1).contains("no such name"));
    assert!(complaint(irm(&socket, "n c a clients f ca d"), 2).contains("clients and ca"));
}

#[test]
fn the_status_shows_layers_names_and_flows() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let _daemon = Daemon::start(&socket);
    assert!(told(irm(&socket, "status")).contains("There is no layer: irm ipcp bootstrap"));
    told(irm(&socket, "i b t udp n wan l my_layer ip 127.0.0.1 port 47143"));
    told(irm(&socket, "reg n my_name l my_layer"));
    let text = told(irm(&socket, "status"));
    for part in ["127.0.0.1:47143", "my_layer", "my_name", "No program has a flow."] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&told(irm(&socket, "status --json"))).expect("JSON");
    assert_eq!(json["ipcps"][0]["name"], "wan");
    assert_eq!(json["names"][0]["layers"][0], "my_layer");
    assert_eq!(json["flows"], serde_json::json!([]));
    assert!(complaint(irm(&socket, "--watch name create n"), 2).contains("--watch"));
}

#[test]
fn a_daemon_s_metrics_are_at_its_socket() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let metrics = folder.path().join("metrics");
    let place = format!("unix:{}", metrics.display());
    let daemon = Daemon::run(tool(env!("CARGO_BIN_EXE_irmd"), &socket).args(["--metrics", &place]));
    told(irm(&socket, "i b t udp n wan l my_layer ip 127.0.0.1 port 47144"));
    told(irm(&socket, "reg n my_name l my_layer"));
    let page = || async_std::task::block_on(http::get(&metrics, "/metrics")).expect("a page");
    for line in [
        "irmd_ipcps{layer=\"my_layer\"} 1",
        "irmd_names{layer=\"my_layer\"} 1",
        "irmd_flows{packets=\"relayed\"} 0",
        "irmd_management_dropped_total{ipcp=\"wan\",cause=\"malformed\"} 0",
    ] {
        assert!(page().lines().any(|known| known == line), "{line}: {}", page());
    }
    // Another program's place is not taken.
    let other = socket_in(&Folder::new());
    let mut second = tool(env!("CARGO_BIN_EXE_irmd"), &other);
    let said = complaint(second.args(["--metrics", &place]).output().expect("irmd runs"), 1);
    assert!(said.contains("--metrics: "), "{said}");
    assert!(page().contains("irmd_info"));
    daemon.end(Signal::TERM);
    assert!(!metrics.exists());
}

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
fn each_tool_tells_its_version_and_its_man_page() {
    let folder = Folder::new();
    for (path, name) in [
        (env!("CARGO_BIN_EXE_irmd"), "irmd"),
        (env!("CARGO_BIN_EXE_irm"), "irm"),
        (env!("CARGO_BIN_EXE_ovpn"), "ovpn"),
        (env!("CARGO_BIN_EXE_oping"), "oping"),
        (env!("CARGO_BIN_EXE_oecho"), "oecho"),
        (env!("CARGO_BIN_EXE_operf"), "operf"),
        (env!("CARGO_BIN_EXE_ocbr"), "ocbr"),
    ] {
        let run = |option: &str| {
            told(tool(path, &socket_in(&folder)).arg(option).output().expect("runs"))
        };
        assert_eq!(run("--version").trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
        let page = run("--generate-man");
        assert!(page.starts_with(&format!(".TH {} 1", name.to_uppercase())), "{page}");
        assert!(page.contains(".SH USAGE"), "{page}");
        if ["irmd", "irm", "ovpn"].contains(&name) {
            for section in ["EXAMPLES", "FILES", "ENVIRONMENT", "EXIT STATUS"] {
                assert!(page.contains(&format!(".SH {section}\n")), "{section}: {page}");
            }
        }
    }
}

#[test]
fn each_tool_has_completions_of_its_options() {
    let folder = Folder::new();
    for (path, option) in [
        (env!("CARGO_BIN_EXE_irmd"), "--version"),
        (env!("CARGO_BIN_EXE_ovpn"), "--server-key"),
        (env!("CARGO_BIN_EXE_oping"), "--count"),
        (env!("CARGO_BIN_EXE_oecho"), "--help"),
        (env!("CARGO_BIN_EXE_operf"), "--test"),
        (env!("CARGO_BIN_EXE_ocbr"), "--size"),
    ] {
        let run = |shell: &str| {
            let arguments = ["--generate-completions", shell];
            tool(path, &socket_in(&folder)).args(arguments).output().expect("runs")
        };
        for shell in ["bash", "zsh", "fish"] {
            let script = told(run(shell));
            assert!(script.contains(option.trim_start_matches('-')), "{script}");
        }
        complaint(run("tcsh"), 2);
    }
}

/// What bash offers behind `line`, of which the last word is completed.
fn offered(script: &Path, line: &str) -> Vec<String> {
    let ask = r#"
        source "$1"
        COMP_WORDS=("${@:2}")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _irm
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", ask, "bash"])
        .arg(script)
        .args(line.split(' '))
        .output()
        .expect("bash runs");
    told(output).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn irm_s_words_are_completed_as_its_parser_expects_them() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    for shell in ["bash", "zsh", "fish"] {
        let script = told(irm(&socket, &format!("completions {shell}")));
        for word in [
            "ipcp",
            "name",
            "flow",
            "key",
            "bind",
            "unbind",
            "register",
            "unregister",
            "completions",
            "create",
            "destroy",
            "bootstrap",
            "list",
            "dns",
            "show",
            "generate",
            "force",
            "program",
            "process",
            "layer",
            "ethertype",
            "sencpath",
            "native",
        ] {
            let mut words = script.split(|c: char| !c.is_ascii_alphabetic());
            assert!(words.any(|other| other == word), "{shell}: {word}");
        }
    }
    let script = folder.path().join("irm.bash");
    fs::write(&script, told(irm(&socket, "completions bash"))).expect("written");
    for (line, words) in [
        ("irm un", "unbind unregister"),
        ("irm flow ", "list"),
        ("irm ipcp b", "bootstrap"),
        ("irm ipcp bootstrap type udp l", "layer"),
        ("irm ipcp bootstrap type ", ""),
        ("irm name create ", ""),
        ("irm name create my_vpn c", "cencpath clients ca cert"),
        ("irm name register my_vpn ", "layer"),
        ("irm key generate ", "force"),
        ("irm bind ", "program process name"),
        ("irm completions ", "bash zsh fish"),
        ("irm config ", "check save diff"),
        ("irm config save f ", "force"),
        ("irm st", "status"),
    ] {
        let expected: Vec<_> = words.split_whitespace().collect();
        assert_eq!(offered(&script, line), expected, "{line}");
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

#[test]
fn output_that_nobody_takes_is_lost_and_the_daemon_goes_on() {
    let folder = Folder::new();
    let socket = socket_in(&folder);
    let full = || File::options().write(true).open("/dev/full").expect("every system has it");
    let mut command = tool(env!("CARGO_BIN_EXE_irmd"), &socket);
    let mut daemon = command.stdout(full()).stderr(full()).arg("--stdout").spawn().expect("irmd");
    while irm(&socket, "name list").status.code() == Some(1) {
        assert!(daemon.try_wait().expect("a child").is_none(), "irmd has ended");
        std::thread::yield_now();
    }
    told(irm(&socket, "name create my_name"));
    let pid = Pid::from_child(&daemon);
    for signal in [Signal::HUP, Signal::USR1, Signal::PIPE, Signal::XFSZ] {
        kill_process(pid, signal).expect("it runs");
        assert!(told(irm(&socket, "name list")).contains("my_name"));
    }
    let mut list = tool(env!("CARGO_BIN_EXE_irm"), &socket);
    let output = list.args(["name", "list"]).stdout(full()).stderr(Stdio::piped()).output();
    assert!(complaint(output.expect("irm runs"), 1).contains("standard output"));
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(daemon.wait().expect("a child").code(), Some(0));
}
