//! Reliable and ordered flows of applications that two daemons serve: with the flow's own socket
//! handed over, and relayed. The daemons run in this process, behind real sockets.

mod daemon;

use std::{net::Ipv4Addr, process, time::Duration};

use async_std::task::{self, block_on};
use daemon::Host;
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use ouroboros::{
    Flow, FlowError, FlowSpec, Packets,
    transport::{
        Udp,
        fault::{Faults, Faulty},
        memory::Network,
    },
};

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(120);
const BAD: Faults = Faults { lost: 30, duplicated: 20, reordered: 30, corrupted: 10 };

async fn within<T>(event: impl Future<Output = T>) -> T {
    let late = async {
        task::sleep(PATIENCE).await;
        panic!("nothing moves any more")
    };
    future::or(event, late).await
}

async fn flow(server: &Host, client: &Host, spec: FlowSpec) -> (Flow, Flow) {
    server.register_and_bind("files").await;
    let allocate = async {
        loop {
            // Over a bad network an allocation may fail.
            if let Ok(flow) = client.application.allocate("files", spec.clone()).await {
                return flow;
            }
        }
    };
    let (accepted, allocated) = future::zip(server.application.accept("files"), allocate).await;
    (accepted.expect("accepted"), allocated)
}

async fn messages_and_a_stream(accepted: Flow, allocated: Flow) {
    assert!(allocated.info().reliable.is_some() && accepted.info().reliable.is_some());
    const COUNT: u32 = 2_000;
    let send = async {
        for number in 0..COUNT {
            allocated.send(&number.to_be_bytes().repeat(100)).await.expect("sent");
        }
        let large = vec![9; allocated.largest_packet()];
        allocated.send(&large).await.expect("sent");
        allocated.finish().await.expect("the peer has them");
    };
    let receive = async {
        for number in 0..COUNT {
            let message = accepted.recv_vec().await.expect("received");
            assert_eq!(message, number.to_be_bytes().repeat(100));
        }
        assert_eq!(accepted.recv_vec().await.expect("received").len(), 1 << 20);
        assert!(matches!(accepted.recv_vec().await, Err(FlowError::EndOfStream)));
    };
    future::zip(send, receive).await;
    let (mut reader, mut writer) = (allocated.into_stream(), accepted.into_stream());
    let data: Vec<u8> = (0..1_000_000u32).map(|at| (at / 3) as u8).collect();
    let write = async {
        writer.write_all(&data).await.expect("written");
        writer.close().await.expect("the peer has it");
    };
    let read = async {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.expect("to the end");
        all
    };
    let ((), all) = future::zip(write, read).await;
    assert!(all == data, "{} bytes came", all.len());
}

#[test]
fn messages_and_streams_are_had_over_a_socket_that_was_handed_over() {
    block_on(within(async {
        let ip = Ipv4Addr::new(127, 0x90, process::id() as u8, 77);
        let server = Host::new(Udp::at(ip.into()).port(3435)).await;
        let client = Host::new(Udp::connect_only(ip.into()).server((ip, 3435).into())).await;
        let (accepted, allocated) = flow(&server, &client, FlowSpec::reliable().encrypted()).await;
        assert_eq!((server.relayed(), client.relayed()), (vec![false], vec![false]));
        messages_and_a_stream(accepted, allocated).await;
    }));
}

#[test]
fn messages_and_streams_are_had_through_a_relay_and_a_bad_network() {
    block_on(within(async {
        let network = Network::new();
        let server = Host::new(Faulty::new(network.station(), BAD, 1)).await;
        let client = Host::new(Faulty::new(network.station(), BAD, 2)).await;
        let (accepted, allocated) = flow(&server, &client, FlowSpec::reliable().encrypted()).await;
        assert_eq!((server.relayed(), client.relayed()), (vec![true], vec![true]));
        messages_and_a_stream(accepted, allocated).await;
    }));
}

/// Packets both ways until enough have come, none before one that was sent earlier.
async fn ordered_packets(accepted: Flow, allocated: Flow) {
    assert!(allocated.info().ordered && accepted.info().ordered);
    assert_eq!(allocated.info().reliable, None);
    const ENOUGH: usize = 1_000;
    for (from, to) in [(&allocated, &accepted), (&accepted, &allocated)] {
        let send = async {
            for number in 0u32.. {
                from.send(&number.to_be_bytes().repeat(100)).await.expect("sent");
                task::yield_now().await;
            }
        };
        let receive = async {
            let (mut packets, mut count, mut last) = (Packets::new(), 0, None);
            while count < ENOUGH {
                count += to.recv_many(&mut packets).await.expect("received");
                for packet in packets.iter() {
                    let number = u32::from_be_bytes(packet[..4].try_into().expect("four bytes"));
                    assert!(last < Some(number), "{number} after {last:?}");
                    assert_eq!(packet, number.to_be_bytes().repeat(100));
                    last = Some(number);
                }
            }
        };
        future::or(send, receive).await;
    }
}

#[test]
fn ordered_flows_are_had_over_a_socket_that_was_handed_over() {
    block_on(within(async {
        let ip = Ipv4Addr::new(127, 0x91, process::id() as u8, 78);
        let server = Host::new(Udp::at(ip.into()).port(3435)).await;
        let client = Host::new(Udp::connect_only(ip.into()).server((ip, 3435).into())).await;
        let spec = FlowSpec::ordered().encrypted();
        let (accepted, allocated) = flow(&server, &client, spec).await;
        assert_eq!((server.relayed(), client.relayed()), (vec![false], vec![false]));
        ordered_packets(accepted, allocated).await;
    }));
}

#[test]
fn ordered_flows_are_had_through_a_relay_and_a_bad_network() {
    block_on(within(async {
        let network = Network::new();
        let server = Host::new(Faulty::new(network.station(), BAD, 3)).await;
        let client = Host::new(Faulty::new(network.station(), BAD, 4)).await;
        let spec = FlowSpec::ordered().encrypted();
        let (accepted, allocated) = flow(&server, &client, spec).await;
        assert_eq!((server.relayed(), client.relayed()), (vec![true], vec![true]));
        ordered_packets(accepted, allocated).await;
    }));
}
