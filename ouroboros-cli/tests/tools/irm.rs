//! What `irm` has the daemon do, and shows of it.

use super::*;

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
    assert!(complaint(irm(&socket, &create), 1).contains("the name exists already"));
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
