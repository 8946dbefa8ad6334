//! New keys while packets pass.

use ouroboros::{Flow, FlowSpec, Offload, Tunnel, crypto::AeadBackend, proto::native::KeyLimits};

use crate::{
    hosts::{Hosts, PATIENCE, eventually},
    offloads::counter,
    traffic::{FIRST, PORT, exchange_while, transfer},
};
use std::time::Instant;

/// With the limits that flows have, and more packets than one key may seal.
pub(crate) fn ten_gigabytes_each_way_arrive_intact() {
    const SIZE: usize = 10_000_000_000;
    let hosts = Hosts::on_udp();
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let (epoch, start) = (ends[0].statistics().flow.epoch, Instant::now());
    transfer(&ends, FIRST[0], SIZE);
    let seconds = start.elapsed().as_secs_f64();
    let rate = SIZE as f64 * 8e-9 / seconds;
    println!(
        "{SIZE} bytes each way, hashed at both ends, in {seconds:.1} s: {rate:.2} Gbit/s each way"
    );
    for end in &ends {
        let seen = end.statistics();
        println!("{seen}; epoch {}", seen.flow.epoch);
        assert!(seen.flow.epoch > epoch && seen.received_bytes > SIZE as u64, "{seen}");
        assert_eq!((seen.flow.unopened, seen.flow.unsealed, seen.not_taken), (0, 0, 0), "{seen}");
    }
}

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
