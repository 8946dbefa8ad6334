//! Tunnels over several flows, a queue of the device each.

use std::thread;

use futures_lite::future::block_on;
use ouroboros::{FlowSpec, Irm, LaneAcceptor, Tunnel};

use crate::{
    hosts::{End, Hosts, eventually},
    traffic::{FIRST, datagrams, exchange_on},
};

/// Both ends of what is allocated with so many lanes.
fn tunnel<'a>(hosts: &'a Hosts, spec: FlowSpec, lanes: u8) -> [End<'a>; 2] {
    let [serves, asks]: [&Irm; 2] = hosts.irms();
    let flows = thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let accept = || block_on(LaneAcceptor::new(serves, Some(Hosts::NAME)).accept());
            hosts.one.inside(accept).expect("accepted")
        });
        let asked = hosts.two.inside(|| block_on(asks.allocate_lanes(Hosts::NAME, spec, lanes)));
        [accepting.join().expect("no panic"), asked.expect("allocated")]
    });
    let counts = flows.each_ref().map(Vec::len);
    assert_eq!(counts[0], counts[1]);
    let builders = counts.map(|count| Tunnel::builder().queues(count));
    hosts.run_lanes(flows, builders)
}

pub(crate) fn several_connections_share_the_lanes_of_a_tunnel() {
    const LANES: u8 = 3;
    for hosts in [Hosts::on_udp(), Hosts::on_ethernet()] {
        let ends = tunnel(&hosts, FlowSpec::raw().encrypted(), LANES);
        thread::scope(|scope| {
            for port in 5000..5012 {
                let ends = &ends;
                scope.spawn(move || {
                    exchange_on(
                        ends[1].host,
                        ends[0].host,
                        FIRST[port as usize % 2],
                        port,
                        1 << 20,
                    );
                });
            }
        });
        datagrams(&ends, FIRST[0], ends[1].mtu());
        for end in &ends {
            let lanes = end.lanes();
            assert_eq!(lanes.len(), usize::from(LANES));
            // The kernel spreads connections by a hash that nobody knows.
            let used = lanes.iter().filter(|lane| lane.sent_packets > 10).count();
            assert!(used > 1, "{lanes:?}");
            assert_eq!(lanes.iter().map(|lane| lane.unopened).sum::<u64>(), 0);
        }
        // A lane that ends takes the tunnel with it.
        ends[1].close_lane(1);
        eventually("both ends are gone", || ends.iter().all(End::has_ended));
    }
}

pub(crate) fn who_does_not_know_of_lanes_has_one_flow() {
    let hosts = Hosts::on_udp();
    for spec in [FlowSpec::raw(), FlowSpec::raw().encrypted().native(false)] {
        let ends = tunnel(&hosts, spec, 4);
        assert_eq!(ends.each_ref().map(|end| end.lanes().len()), [1; 2]);
        datagrams(&ends, FIRST[0], ends[1].mtu());
    }
}
