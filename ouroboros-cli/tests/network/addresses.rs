//! Addresses and interfaces that come after the daemon.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use crate::host::{Host, eventually};

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
