//! What an eavesdropper on the cable can read, and IP of both versions inside
//! the tunnel.

use crate::{
    host::{ETH, Pair, UDP4, UDP6, eventually},
    probe::{INSIDE, ping, readable, watch},
};

pub(crate) fn an_eavesdropper_reads_pings_of_a_plain_tunnel_only() {
    for layer in [ETH, UDP4, UDP6] {
        let first = layer.first;
        let pair = Pair::new(layer);
        for crypt in ["", "--crypt"] {
            let _ends = pair.tunnel(crypt);
            let watched = watch(&pair.one);
            ping(&pair.two, INSIDE);
            let (tun, cable) = readable(&watched);
            assert!(tun, "the echo request arrives on the server's TUN");
            assert_eq!(cable, crypt.is_empty(), "{first} {crypt}: readable on the cable");
        }
    }
}

pub(crate) fn ipv6_passes_inside_the_tunnel() {
    let pair = Pair::new(ETH);
    let _ends = pair.tunnel("--crypt");
    for (host, address) in [(&pair.one, "fd09::1"), (&pair.two, "fd09::2")] {
        host.ip(&format!("addr add {address}/64 dev tun0 nodad"));
        // The kernel takes the address into use behind the command's back.
        eventually("the address is in use", || {
            host.ip("-6 route show table local").contains(&format!("local {address} dev tun0"))
        });
    }
    ping(&pair.two, "fd09::1".parse().expect("an address"));
}
