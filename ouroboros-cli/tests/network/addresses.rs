//! Addresses and interfaces that come after the daemon.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use crate::{
    host::{Host, Pair, UDP4, eventually},
    probe::{INSIDE, ping, ping_until_answered},
};

pub(crate) fn a_layer_on_an_address_that_is_not_there_yet_waits_for_it() {
    let host = Host::new();
    let text = "[udp.wan]\nbootstrap = \"net\"\nip = \"10.77.0.1\"\nreg = [\"office\"]\n\
                [eth-dix.lan]\nbootstrap = \"local\"\ndev = \"later0\"\n";
    let file = host.folder.write("irmd.conf", text);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("changed");
    let words = format!("--stdout --config {}", file.display());
    let daemon = host.start("irmd", &words, "serves");
    for waiting in ["IPCP wan has to wait", "IPCP lan has to wait"] {
        assert_eq!(daemon.said.matches(waiting).count(), 1, "{}", daemon.said);
    }
    let has = |list: &str, word: &str| host.must("irm", list).contains(word);
    assert!(!has("ipcp list", "net") && !has("name list", "office"));
    host.ip("link set lo up");
    host.ip("addr add 10.77.0.1/24 dev lo");
    eventually("the address is used", || has("ipcp list", "10.77.0.1"));
    eventually("the name is registered", || has("name list", "net"));
    host.ip("link add later0 type veth peer name later1");
    host.ip("link set later0 up");
    eventually("the interface is used", || has("ipcp list", "eth-dix on later0"));
    assert_eq!(daemon.lines_with("has to wait"), 0, "it is said once");
}

pub(crate) fn a_client_waits_for_its_daemon_a_layer_and_the_server_s_address() {
    let mut pair = Pair::new(UDP4);
    let _server = pair.one.start("ovpn", "--ip 10.9.0.1/24", "Waiting");
    pair.daemons[1] = None;
    // The same file, which the client looks into.
    let hosts = |text: &str| drop(pair.two.folder.write("hosts", text));
    hosts("127.0.0.1 localhost\n");
    let words = "-n my_vpn -i 10.9.0.2/24 --crypt";
    let client = pair.two.start("ovpn", words, "irmd is not running");
    let _daemon = pair.two.irmd();
    client.must_say("No flow yet: there is no layer");
    pair.two.must("irm", UDP4.second);
    // The resolver says that there is no such host, or cannot be asked.
    let hash = "2694581a473adbf3d988f56c79953cae";
    client.must_say(hash);
    let line = pair.one.must("irm", "name dns my_vpn");
    hosts(line.lines().find(|line| line.ends_with(hash)).expect("a line for the hosts file"));
    client.must_say("is up");
    ping(&pair.two, INSIDE);
    assert_eq!(client.lines_with("No flow yet: there is no layer"), 1);
}

pub(crate) fn a_client_that_is_told_its_server_s_host_needs_no_line_in_the_hosts_file() {
    let pair = Pair::new(UDP4);
    let hosts = |text: &str| drop(pair.two.folder.write("hosts", text));
    // The first address is nobody's: the other one is asked without waiting for it.
    hosts("10.66.0.99 office.example\n10.66.0.1 office.example\n");
    let _server = pair.one.start("ovpn", "--ip 10.9.0.1/24", "Waiting");
    let words = "-n my_vpn --server office.example:3435 -i 10.9.0.2/24 --crypt";
    let client = pair.two.start("ovpn", words, "is up");
    ping(&pair.two, INSIDE);
    drop(client);
    let words = "-n my_vpn --server elsewhere.example -i 10.9.0.2/24 --crypt";
    let client = pair.two.start("ovpn", words, "elsewhere.example");
    hosts("10.66.0.1 elsewhere.example\n");
    client.must_say("is up");
    // Once the server has it in the place of the first one.
    ping_until_answered(&pair.two, INSIDE);
}
