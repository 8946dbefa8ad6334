//! Flows in order through the public API: over networks that lose, repeat and
//! reorder, with applications that do not read, and to the last packet.

use std::time::{Duration, Instant};

use futures_lite::future;
use ouroboros::{
    AllocateError, Flow, FlowError, FlowSpec, Irm,
    proto::negotiation::{ClientSecurity, ProfilePolicy, ServerSecurity},
    transport::{
        fault::{Faults, Faulty},
        memory::Network,
    },
    wire::QosSpec,
};

const NONE: Faults = Faults { lost: 0, duplicated: 0, reordered: 0, corrupted: 0 };
const QUALITIES: [QosSpec; 4] =
    [QosSpec::BEST_EFFORT, QosSpec::VIDEO, QosSpec::VOICE, QosSpec::DATA];

/// Plain, as with a 0.23 peer, and in the native profile.
fn protections(qos: QosSpec) -> [FlowSpec; 3] {
    let spec = FlowSpec::with_qos(qos);
    [spec.clone(), spec.clone().native(false), spec.encrypted()]
}

/// Allocates over a good network, or over a bad one until it works.
async fn pair(faults: Faults, spec: FlowSpec) -> (Flow, Flow) {
    served_pair(faults, spec, ServerSecurity::default()).await
}

async fn served_pair(faults: Faults, spec: FlowSpec, security: ServerSecurity) -> (Flow, Flow) {
    let network = Network::new();
    let (server, client) = (Irm::new(), Irm::new());
    let station = Faulty::new(network.station(), faults, 7);
    let layer = server.bootstrap("my_layer", station).await.expect("a station");
    layer.register("my_vpn").await.expect("registered");
    server.set_policy("my_vpn".parse().expect("a name"), security).expect("a policy");
    let station = Faulty::new(network.station(), faults, 8);
    client.bootstrap("my_layer", station).await.expect("a station");
    let (accepted, allocated) =
        future::zip(server.accept("my_vpn"), client.allocate("my_vpn", spec)).await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

fn is_native(security: &ClientSecurity) -> bool {
    security.profile != ProfilePolicy::Wire023
}

fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![number as u8; 4 + number as usize % 1000];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet
}

async fn send(flow: &Flow, count: u32) {
    for number in 0..count {
        flow.send(&packet(number)).await.expect("sent");
    }
}

async fn receive(flow: &Flow, count: u32) {
    let mut buffer = vec![0; 65_536];
    for number in 0..count {
        let size = flow.recv(&mut buffer).await.expect("received");
        assert_eq!(buffer[..size], packet(number), "packet {number}");
    }
}

#[test]
fn each_quality_carries_packets_both_ways_and_to_the_largest() {
    for spec in QUALITIES.into_iter().flat_map(protections) {
        future::block_on(async {
            let (accepted, allocated) = pair(NONE, spec).await;
            for (from, to) in [(&allocated, &accepted), (&accepted, &allocated)] {
                let largest = vec![5; from.largest_packet()];
                from.send(&largest).await.expect("sent");
                assert_eq!(to.recv_vec().await.expect("received"), largest);
                let more = vec![5; largest.len() + 1];
                assert!(matches!(from.send(&more).await, Err(FlowError::TooLarge { .. })));
                future::zip(send(from, 100), receive(to, 100)).await;
            }
        });
    }
}

#[test]
fn the_header_is_inside_the_encryption_and_counts_as_0_23_counts_it() {
    future::block_on(async {
        let size = |spec| async { pair(NONE, spec).await.1.largest_packet() };
        let raw = size(FlowSpec::raw()).await;
        assert_eq!(size(FlowSpec::with_qos(QosSpec::DATA)).await, raw - 12);
        let sealed = FlowSpec::with_qos(QosSpec::DATA).native(false);
        assert_eq!(size(sealed).await, raw - 12 - 28);
    });
}

#[test]
fn an_ordered_flow_between_two_that_can_costs_no_more_than_a_raw_one() {
    let none = || ServerSecurity { ordered: false, ..ServerSecurity::default() };
    future::block_on(async {
        let raw = pair(NONE, FlowSpec::raw().encrypted()).await.1.largest_packet();
        let (accepted, allocated) = pair(NONE, FlowSpec::ordered().encrypted()).await;
        assert!(accepted.info().ordered && allocated.info().ordered);
        assert_eq!([&accepted, &allocated].map(Flow::largest_packet), [raw; 2]);
        // Towards a server that knows of nothing better, it is FRCT's header that keeps it.
        let spec = FlowSpec::ordered().encrypted();
        let (accepted, allocated) = served_pair(NONE, spec, none()).await;
        assert!(!accepted.info().ordered && !allocated.info().ordered);
        assert_eq!([&accepted, &allocated].map(Flow::largest_packet), [raw - 12; 2]);
        future::zip(send(&allocated, 100), receive(&accepted, 100)).await;
    });
}

#[test]
fn everything_arrives_once_and_in_order_over_a_bad_network() {
    let faults = Faults { lost: 50, duplicated: 30, reordered: 50, corrupted: 0 };
    for spec in protections(QosSpec::DATA) {
        let corrupted = if spec.is_encrypted() { 20 } else { 0 };
        future::block_on(async {
            let (accepted, allocated) = pair(Faults { corrupted, ..faults }, spec).await;
            const COUNT: u32 = 300;
            let there = future::zip(send(&allocated, COUNT), receive(&accepted, COUNT));
            let back = future::zip(send(&accepted, COUNT), receive(&allocated, COUNT));
            future::zip(there, back).await;
        });
    }
}

#[test]
fn an_ordered_flow_keeps_its_order_over_a_bad_network_and_goes_on() {
    let faults = Faults { lost: 100, duplicated: 100, reordered: 100, corrupted: 0 };
    for spec in protections(QosSpec::VOICE) {
        future::block_on(async {
            let (accepted, allocated) = pair(faults, spec).await;
            let sending = async {
                for number in 0.. {
                    allocated.send(&packet(number)).await.expect("sent");
                    async_io::Timer::after(Duration::from_micros(200)).await;
                }
            };
            let receiving = async {
                let mut last = None;
                while last.is_none_or(|last| last < 1000) {
                    let found = accepted.recv_vec().await.expect("received");
                    let number = u32::from_be_bytes(found[..4].try_into().expect("four bytes"));
                    assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                    assert_eq!(found, packet(number));
                    last = Some(number);
                }
            };
            future::or(sending, receiving).await;
        });
    }
}

#[test]
fn a_reader_that_waits_holds_the_sender_back_and_loses_nothing() {
    future::block_on(async {
        let (accepted, allocated) = pair(NONE, FlowSpec::with_qos(QosSpec::DATA)).await;
        let mut sent = 0;
        while allocated.try_send(&packet(sent)).expect("open") {
            sent += 1;
            // All that is acknowledged makes room.
            async_io::Timer::after(Duration::from_millis(1)).await;
        }
        assert!(sent >= 256, "{sent}");
        let rest = async {
            for number in sent..sent + 500 {
                allocated.send(&packet(number)).await.expect("sent");
            }
        };
        future::zip(rest, receive(&accepted, sent + 500)).await;
    });
}

#[test]
fn what_was_sent_arrives_though_the_flow_is_dropped_at_once() {
    let faults = Faults { lost: 100, ..NONE };
    for spec in protections(QosSpec::DATA) {
        future::block_on(async {
            let native = spec.is_encrypted() && spec.security().is_some_and(is_native);
            let (accepted, allocated) = pair(faults, spec).await;
            send(&allocated, 200).await;
            drop(allocated);
            receive(&accepted, 200).await;
            if native {
                assert!(matches!(accepted.recv_vec().await, Err(FlowError::EndOfStream)));
            }
        });
    }
}

#[test]
fn packets_are_acknowledged_though_the_application_does_not_read() {
    future::block_on(async {
        let (accepted, allocated) = pair(NONE, FlowSpec::with_qos(QosSpec::DATA)).await;
        // What is acknowledged leaves room: 200 and 200 are more than may wait.
        for number in 0..200 {
            allocated.send(&packet(number)).await.expect("sent");
        }
        let start = Instant::now();
        while !allocated.try_send(&packet(200)).expect("open") {
            assert!(start.elapsed() < Duration::from_secs(120), "never acknowledged");
            async_io::Timer::after(Duration::from_millis(1)).await;
        }
        receive(&accepted, 201).await;
    });
}

#[test]
fn both_halves_and_polling_work_in_order() {
    let (accepted, allocated) = future::block_on(pair(NONE, FlowSpec::with_qos(QosSpec::DATA)));
    let (mut sender, _receiver) = allocated.split();
    let sending = std::thread::spawn(move || {
        for number in 0..2000 {
            let packet = packet(number);
            let slot = loop {
                if sender.fits(packet.len()) {
                    break sender.push(packet.len()).expect("it fits");
                }
                sender.flush().expect("sent");
            };
            slot.copy_from_slice(&packet);
            if number % 7 == 0 {
                sender.flush().expect("sent");
            }
        }
        sender.flush().expect("sent");
    });
    let (_sender, mut receiver) = accepted.split();
    let mut next = 0;
    while next < 2000 {
        for index in 0..receiver.receive().expect("received") {
            assert_eq!(receiver.packet(index), packet(next));
            next += 1;
        }
    }
    sending.join().expect("all was sent");
    let (accepted, allocated) = future::block_on(pair(NONE, FlowSpec::with_qos(QosSpec::DATA)));
    let sending = async {
        for number in 0..1000 {
            let packet = packet(number);
            future::poll_fn(|context| allocated.poll_send(context, &packet)).await.expect("sent");
        }
    };
    let receiving = async {
        let mut buffer = vec![0; 2000];
        for number in 0..1000 {
            let polled = future::poll_fn(|context| accepted.poll_recv(context, &mut buffer)).await;
            let size = polled.expect("received");
            assert_eq!(buffer[..size], packet(number));
        }
    };
    future::block_on(future::zip(sending, receiving));
}

#[test]
fn a_flow_in_order_with_checked_errors_is_refused() {
    future::block_on(async {
        let network = Network::new();
        let client = Irm::new();
        client.bootstrap("my_layer", network.station()).await.expect("a station");
        for qos in QUALITIES {
            let spec = FlowSpec::with_qos(qos).with_crc32();
            let refused = client.allocate("my_vpn", spec).await;
            assert!(matches!(refused, Err(AllocateError::UnsupportedQos)));
        }
    });
}
