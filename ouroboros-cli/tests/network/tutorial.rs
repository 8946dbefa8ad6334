//! The tutorial and its variants.

use rustix::process::Signal;

use crate::{
    host::{DUAL, ETH, Host, LINK_LOCAL, Pair, UDP4, UDP6},
    probe::{MARK, contains, seen, send_datagram, transfer, watch},
};

pub(crate) fn the_tutorial_over_the_loopback_interface() {
    let host = Host::new();
    let irmd = host.irmd();
    host.must("irm", "ipcp bootstrap type eth-dix name dix layer my_layer dev lo");
    host.must("irm", "reg name my_vpn layer my_layer");
    host.must("irm", "bind program ovpn name my_vpn");
    let server = host.start("ovpn", "--ip 127.0.0.3 --mask 255.255.255.0", "Waiting");
    let words = "-n my_vpn -i 127.0.0.8 -m 255.255.255.0 --crypt";
    let client = host.start("ovpn", words, "is up");
    assert!(client.said.contains("X25519") && client.said.contains("aes-256-gcm"));
    for (device, address) in [("tun0", "inet 127.0.0.3/24"), ("tun1", "inet 127.0.0.8/24")] {
        let shown = host.ip(&format!("addr show {device}"));
        assert!(shown.contains("<POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP>"), "{shown}");
        assert!(shown.contains(address), "{shown}");
    }

    let wire = watch(&host);
    // Into the server's device; it comes out of the client's.
    host.ip("route add 10.10.10.0/24 dev tun0");
    send_datagram(&host, "10.10.10.1:9");
    let mut sent_in = false;
    // The kernel has packets of its own for a new device, of other lengths.
    // Behind Ethernet: a native header and content type in front, a tag behind.
    let length = 18 + 6 + 28 + MARK.len() + 16;
    let ciphertext = seen(&wire, |frame| {
        // The TUN devices are seen by this socket, too: IP without Ethernet.
        sent_in |= frame.first() == Some(&0x45) && contains(frame, MARK);
        frame.len() == length && frame[12..14] == [0xa0, 0x00]
    });
    assert!(sent_in, "the packet went into a tunnel device");
    assert!(!contains(&ciphertext, MARK), "plaintext on the wire");
    seen(&wire, |frame| frame.first() == Some(&0x45) && contains(frame, MARK));

    assert_eq!(client.end(Signal::INT), Some(0));
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(!host.has_device("tun0") && !host.has_device("tun1"), "devices are removed");
    assert_eq!(irmd.end(Signal::INT), Some(0));
}

pub(crate) fn a_tunnel_carries_tcp_over_every_layer_plain_and_encrypted() {
    for layer in [UDP4, UDP6, LINK_LOCAL, DUAL, ETH] {
        let pair = Pair::new(layer);
        for crypt in ["", "--crypt"] {
            let ends = pair.tunnel(crypt);
            transfer(&pair.two, &pair.one, "10.9.0.1:4242", 8 << 20);
            transfer(&pair.one, &pair.two, "10.9.0.2:4242", 8 << 20);
            drop(ends);
        }
    }
}

pub(crate) fn a_gibibyte_arrives_intact_through_an_encrypted_tunnel() {
    let pair = Pair::new(UDP4);
    let _ends = pair.tunnel("--crypt");
    transfer(&pair.two, &pair.one, "10.9.0.1:4242", 1 << 30);
}

pub(crate) fn a_name_with_encryption_set_refuses_plain_flows() {
    let pair = Pair::new(ETH);
    let file = pair.one.folder.write("enc.conf", "kex=X25519\ncipher=chacha20-poly1305\n");
    // The name is there already, from its registration.
    pair.one.must("irm", &format!("name create my_vpn sencpath {}", file.display()));
    let _server = pair.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    let refused = pair.two.run("ovpn", "-n my_vpn -i 10.9.0.2/24");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("refused"));
    let client = pair.two.start("ovpn", "-n my_vpn -i 10.9.0.2/24 -C", "is up");
    assert!(client.said.contains("chacha20-poly1305"), "the stronger cipher: {}", client.said);
}

pub(crate) fn a_name_is_found_past_a_layer_that_cannot_look_it_up() {
    let pair = Pair::new(ETH);
    pair.two.must("irm", "ipcp destroy name dix");
    // Its names are the resolver's, and there is none to be reached.
    pair.two.must("irm", "i b t udp n udp l other ip 10.66.0.2");
    pair.two.must("irm", ETH.second);
    let _ends = pair.tunnel("--crypt");
}

pub(crate) fn a_process_is_bound_by_its_id() {
    let host = Host::new();
    let _irmd = host.irmd();
    host.must("irm", "ipcp bootstrap type eth-dix name dix layer my_layer dev lo");
    host.must("irm", "reg name my_vpn layer my_layer");
    let server = host.start("ovpn", "--ip 127.0.0.3 --mask 255.255.255.0", "Waiting");
    host.must("irm", &format!("bind process {} name my_vpn", server.id()));
    let _client = host.start("ovpn", "-n my_vpn -i 127.0.0.8/24 -C", "is up");
    host.must("irm", &format!("unbind process {} name my_vpn", server.id()));
}
