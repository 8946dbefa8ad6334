//! The daemon's life, its socket and who may use it.

use super::*;

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
