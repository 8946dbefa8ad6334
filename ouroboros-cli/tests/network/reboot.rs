//! Machines that are started anew, and servers whose configuration changes while they run:
//! nothing is typed at the other side.

use std::fs;

use rustix::process::Signal;

use crate::{
    host::{Host, Running, eventually},
    site::{SERVE, Site, address, pings},
};

/// Kills all that runs on a host and takes its addresses, as a reboot does; then starts it
/// as the units do, before the network is up.
fn reboot(host: &Host, number: u8, running: [Running; 2]) -> [Running; 2] {
    for process in running {
        assert_eq!(process.end(Signal::KILL), None);
    }
    host.ip("link set eth0 down");
    host.ip("addr flush dev eth0");
    assert!(!host.ip("-o link").contains("office"), "no device is left");
    let ovpn = host.start("ovpn", &host.configured("office"), "irmd is not running");
    let irmd = host.irmd();
    address(host, "eth0", 66, number);
    [irmd, ovpn]
}

pub(crate) fn a_tunnel_is_back_after_a_reboot_of_either_side() {
    let site = Site::new();
    let server = site.server.start("ovpn", &format!("{SERVE} --save"), "Waiting");
    let file = site.server.folder.path().join("trust/irmd.conf");
    site.server.must("irm", &format!("config save {}", file.display()));
    let line =
        site.alice.folder.write("line", &site.invite(&format!("alice --server {}", Site::NAME)));
    let script = format!("exec ovpn join - --dev office < {}\n", line.display());
    let script = site.alice.folder.write("script", &script);
    let client = site.alice.start("sh", &script.display().to_string(), "is up");
    eventually("a ping comes back", || pings(&site.alice));
    let Site { server: one, alice: two, daemons: [irmd, other, _third], .. } = site;
    let at_server = reboot(&one, 1, [irmd, server]);
    eventually("a ping comes back after the server's reboot", || pings(&two));
    assert!(two.has_device("office"));
    let at_client = reboot(&two, 2, [other, client]);
    eventually("a ping comes back after the client's reboot", || pings(&two));
    let _running = [reboot(&two, 2, at_client), reboot(&one, 1, at_server)];
    eventually("a ping comes back after both", || pings(&two));
    let listed = one.must("ovpn", "clients list");
    assert!(listed.contains("connected from"), "{listed}");
}

pub(crate) fn a_server_that_runs_follows_its_configuration_and_keeps_its_flows() {
    let site = Site::new();
    let configure = |server: &str, more: &str| {
        let text =
            format!("[tunnel.office]\nserve = \"office\"\n{server}\n[tunnel.more]\n{more}\n");
        fs::write(site.server.folder.path().join("trust/ovpn.toml"), text).expect("written");
    };
    let same = "dev = \"office0\"\nip = \"10.9.0.1/24\"";
    site.server.must("irm", "key show");
    configure(&format!("{same}\nroute = [\"10.77.1.0/24\", \"10.77.2.0/24\"]"), "frob = 1");
    let server = site.server.start("ovpn", &site.server.configured("office"), "Waiting");
    let line = site.invite("alice --server 10.66.0.1");
    let alice = site.alice.start("ovpn", &format!("join {line} --accept-routes"), "is up");
    let routed = |network: &str| site.alice.ip("route").contains(network);
    eventually("what the server tells is routed", || routed("10.77.1.0") && routed("10.77.2.0"));
    configure(&format!("{same}\nroute = [\"10.77.2.0/24\", \"10.77.3.0/24\"]\nforward = true"), "");
    site.write_prefixes("alice", "172.16.2.0/24");
    server.signal(Signal::HUP);
    eventually("it is routed anew", || !routed("10.77.1.0") && routed("10.77.3.0"));
    server.must_say("Changed when the tunnel is started again: forward.");
    eventually("the network behind the client is routed", || {
        site.server.ip("route").contains("172.16.2.0/24 dev office0")
    });
    assert!(routed("10.77.2.0"));
    // A client follows, too.
    let file = site.alice.folder.path().join("trust/ovpn.toml");
    let text = fs::read_to_string(&file).expect("read");
    fs::write(&file, text.replace("accept-routes = true\n", "")).expect("written");
    alice.signal(Signal::HUP);
    eventually("it takes no routes any more", || !routed("10.77.2.0") && !routed("10.77.3.0"));
    alice.must_say("The server offers routes: 10.77.2.0/24, 10.77.3.0/24");
    eventually("a ping comes back", || pings(&site.alice));
    assert_eq!(alice.lines_with("has ended"), 0);
}
