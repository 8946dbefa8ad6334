//! New keys while packets pass.

use ouroboros::{Flow, FlowSpec, Tunnel, crypto::AeadBackend, proto::native::KeyLimits};

use crate::{
    hosts::{Hosts, PATIENCE, eventually},
    offloads::counter,
    traffic::{FIRST, PORT, exchange_while},
};
use std::time::Instant;

pub(crate) fn keys_change_under_load_and_no_packet_is_lost() {
    const EPOCHS: u64 = 5;
    let hosts = Hosts::on_udp();
    let limits = KeyLimits { due: 500, ..KeyLimits::default() };
    let flow = hosts.raw_flow(FlowSpec::raw().encrypted());
    let flow = flow.map(|raw| Flow::with_limits(raw, AeadBackend::default(), limits));
    let flow = flow.map(|flow| flow.expect("a flow"));
    let ends = hosts.run(flow, [(); 2].map(|()| Tunnel::builder()));
    let start = ends[0].statistics().flow.epoch;
    let started = Instant::now();
    exchange_while(&hosts.two, &hosts.one, FIRST[0], PORT, &|_| {
        assert!(started.elapsed() < PATIENCE, "no new keys");
        let done = ends.iter().all(|end| end.statistics().flow.epoch >= start + EPOCHS);
        if done { 0 } else { usize::MAX }
    });
    eventually("all have arrived", || {
        let [one, two] = ends.each_ref().map(|end| end.statistics().flow);
        (one.sent_packets, two.sent_packets) == (two.received_packets, one.received_packets)
    });
    for end in &ends {
        let seen = end.statistics();
        assert!(seen.flow.epoch >= start + EPOCHS && seen.flow.sent_packets > 1000, "{seen}");
        assert_eq!((seen.flow.unopened, seen.flow.unsealed), (0, 0), "{seen}");
        assert_eq!(counter(end.host, "Udp.RcvbufErrors"), 0);
    }
}
