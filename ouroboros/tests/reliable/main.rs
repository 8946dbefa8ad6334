//! Reliable flows between two of this library through the public API: messages and
//! streams, over networks that lose, repeat, reorder and corrupt, and to the last byte.

mod streams;

use std::{
    net::{IpAddr, Ipv4Addr},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use futures_lite::{FutureExt, future};
use ouroboros::{
    CongestionControl, Flow, FlowError, FlowSpec, Irm, ServerSecurity,
    transport::{
        IntoTransport, Udp,
        fault::{Faults, Faulty},
        memory::Network,
    },
};

const NONE: Faults = Faults { lost: 0, duplicated: 0, reordered: 0, corrupted: 0 };
const BAD: Faults = Faults { lost: 50, duplicated: 30, reordered: 50, corrupted: 20 };
/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(300);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("nothing moves any more");
    };
    work.or(late).await
}

async fn pair_over(
    (server_at, client_at): (impl IntoTransport, impl IntoTransport),
    policy: ServerSecurity,
    spec: FlowSpec,
) -> (Flow, Flow) {
    let (server, client) = (Irm::new(), Irm::new());
    let layer = server.bootstrap("my_layer", server_at).await.expect("a station");
    server.set_policy("files".parse().expect("a name"), policy).expect("embedded");
    layer.register("files").await.expect("registered");
    client.bootstrap("my_layer", client_at).await.expect("a station");
    let allocate = async {
        loop {
            // Over a bad network an allocation may fail.
            if let Ok(flow) = client.allocate("files", spec.clone()).await {
                return flow;
            }
        }
    };
    let (accepted, allocated) = future::zip(server.accept("files"), allocate).await;
    (accepted.expect("accepted"), allocated)
}

async fn pair(faults: Faults) -> (Flow, Flow) {
    let network = Network::new();
    let ends =
        (Faulty::new(network.station(), faults, 7), Faulty::new(network.station(), faults, 8));
    pair_over(ends, ServerSecurity::default(), FlowSpec::reliable().encrypted()).await
}

/// A loopback address that no other test has.
fn address() -> IpAddr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, COUNT.fetch_add(1, Relaxed) as u8).into()
}

fn message(number: u32) -> Vec<u8> {
    let size = 4 + (number as usize * 7919) % 3000;
    let mut message = vec![number as u8; size];
    message[..4].copy_from_slice(&number.to_be_bytes());
    message
}

async fn send(flow: &Flow, count: u32) {
    for number in 0..count {
        flow.send(&message(number)).await.expect("sent");
    }
    flow.finish().await.expect("the peer has all of them");
}

async fn receive(flow: &Flow, count: u32) {
    let mut buffer = vec![0; 4096];
    for number in 0..count {
        let size = flow.recv(&mut buffer).await.expect("received");
        assert_eq!(buffer[..size], message(number), "message {number}");
    }
    assert!(matches!(flow.recv(&mut buffer).await, Err(FlowError::EndOfStream)));
}

#[test]
fn ten_thousand_messages_arrive_once_and_in_order_over_a_bad_udp_network() {
    future::block_on(in_time(async {
        let (ip, port) = (address(), 3435);
        let server = Faulty::new(Udp::at(ip).port(port), BAD, 1);
        let client = Faulty::new(Udp::connect_only(ip).server((ip, port).into()), BAD, 2);
        let spec = FlowSpec::reliable().encrypted();
        let (accepted, allocated) = pair_over((server, client), Default::default(), spec).await;
        assert!(allocated.info().reliable.is_some(), "the library's own protocol");
        const COUNT: u32 = 10_000;
        let there = future::zip(send(&allocated, COUNT), receive(&accepted, COUNT));
        let back = future::zip(send(&accepted, COUNT), receive(&allocated, COUNT));
        future::zip(there, back).await;
        assert!(allocated.statistics().retransmitted > 0, "there were losses");
    }));
}

#[test]
fn a_message_may_be_as_large_as_the_peer_says_and_no_larger() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(BAD).await;
        let largest = allocated.largest_packet();
        assert_eq!(largest, 1 << 20);
        for (from, to) in [(&allocated, &accepted), (&accepted, &allocated)] {
            for size in [1, 1_000, 70_000, largest, 3] {
                let message: Vec<u8> = (0..size).map(|at| (at * 31 / 7) as u8).collect();
                let (sent, received) = future::zip(from.send(&message), to.recv_vec()).await;
                sent.expect("sent");
                assert!(received.expect("received") == message, "{size} bytes");
            }
        }
        let more = vec![0; largest + 1];
        let refused = allocated.send(&more).await;
        assert!(matches!(refused, Err(FlowError::TooLarge { size, .. }) if size == more.len()));
        assert!(matches!(allocated.send(&[]).await, Err(FlowError::Empty)));
    }));
}

#[test]
fn who_does_not_have_the_profile_gets_frct_and_the_same_messages() {
    future::block_on(in_time(async {
        let network = Network::new();
        let ends = (network.station(), network.station());
        let policy = ServerSecurity { reliable: None, ..ServerSecurity::default() };
        let spec = FlowSpec::reliable().encrypted();
        let (accepted, allocated) = pair_over(ends, policy, spec).await;
        assert!(allocated.info().reliable.is_none() && accepted.info().reliable.is_none());
        allocated.send(b"hello").await.expect("sent");
        assert_eq!(accepted.recv_vec().await.expect("received"), b"hello");
        allocated.finish().await.expect("acknowledged");
    }));
}

#[test]
fn a_sender_that_is_faster_than_the_reader_waits() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        let mut sent = 0;
        loop {
            let full = async {
                async_io::Timer::after(Duration::from_millis(300)).await;
                false
            };
            let send = async {
                allocated.send(&message(sent)).await.expect("sent");
                true
            };
            if !send.or(full).await {
                break;
            }
            sent += 1;
            assert!(sent < 100_000, "nobody reads, and the sender goes on");
        }
        let mut buffer = vec![0; 4096];
        for number in 0..sent {
            let size = accepted.recv(&mut buffer).await.expect("received");
            assert_eq!(buffer[..size], message(number));
        }
    }));
}

#[test]
fn a_close_says_why_once_everything_was_received() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(BAD).await;
        let closing = async {
            for number in 0..200 {
                allocated.send(&message(number)).await.expect("sent");
            }
            allocated.close_with(42, "a reason").await.expect("the peer has all of it");
            assert!(matches!(allocated.closed().await, FlowError::Closed));
        };
        let receiving = async {
            for number in 0..200 {
                assert_eq!(accepted.recv_vec().await.expect("received"), message(number));
            }
            for _ in 0..2 {
                let Err(FlowError::ClosedWith(why)) = accepted.recv_vec().await else {
                    panic!("the peer has closed the flow with a reason");
                };
                assert_eq!((why.code, &why.reason[..]), (42, &b"a reason"[..]));
            }
        };
        future::zip(closing, receiving).await;
        let FlowError::ClosedWith(why) = accepted.closed().await else { panic!("no reason") };
        assert_eq!(why.code, 42);
        assert!(matches!(accepted.send(b"more").await, Err(FlowError::ClosedWith(_))));
    }));
}

#[test]
fn a_reader_that_stops_is_told_to_the_writer() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        allocated.send(b"one").await.expect("sent");
        assert_eq!(accepted.recv_vec().await.expect("received"), b"one");
        accepted.stop(9);
        let stopped = loop {
            if let Err(error) = allocated.send(&[0; 1000]).await {
                break error;
            }
        };
        assert!(matches!(stopped, FlowError::Stopped(9)), "{stopped:?}");
        // The other direction goes on.
        accepted.send(b"two").await.expect("sent");
        assert_eq!(allocated.recv_vec().await.expect("received"), b"two");
    }));
}

#[test]
fn messages_arrive_whatever_the_congestion_control_and_when_it_is_changed() {
    future::block_on(in_time(async {
        let network = Network::new();
        let ends = (Faulty::new(network.station(), BAD, 7), Faulty::new(network.station(), BAD, 8));
        let spec = FlowSpec::reliable().encrypted().congestion_control(CongestionControl::Bbr);
        let (accepted, allocated) = pair_over(ends, ServerSecurity::default(), spec).await;
        let sending = async {
            for number in 0..3_000 {
                if number == 2_000 {
                    allocated.set_congestion_control(CongestionControl::Cubic);
                }
                allocated.send(&message(number)).await.expect("sent");
            }
            allocated.finish().await.expect("the peer has all of them");
        };
        future::zip(sending, receive(&accepted, 3_000)).await;
    }));
}

#[test]
fn figures_are_had_of_reliable_flows_only() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(BAD).await;
        future::zip(send(&allocated, 2_000), receive(&accepted, 2_000)).await;
        let figures = allocated.reliable_statistics().expect("reliable");
        assert!(figures.lost > 0 && figures.congestion_events > 0, "{figures:?}");
        assert!(figures.rtt >= figures.min_rtt && figures.min_rtt > Duration::ZERO);
        assert!(figures.congestion_window > 0 && figures.rate > 0 && figures.mtu >= 512);
        assert_eq!(figures.unacknowledged, 0, "the peer has all of it");
        assert_eq!(allocated.watcher().reliable_statistics().map(|f| f.lost), Some(figures.lost));
        let network = Network::new();
        let ends = (network.station(), network.station());
        let spec = FlowSpec::raw().encrypted();
        let (_accepted, raw) = pair_over(ends, ServerSecurity::default(), spec).await;
        assert!(raw.reliable_statistics().is_none());
    }));
}

/// Most bytes that `each` counts to `moved` within one poll of it, until it is done.
async fn most_in_a_poll(moved: &AtomicU32, each: impl Future<Output = ()>) -> u32 {
    let (mut each, mut most) = (std::pin::pin!(each), 0);
    future::poll_fn(|context| {
        let before = moved.load(Relaxed);
        let polled = each.as_mut().poll(context);
        most = most.max(moved.load(Relaxed) - before);
        polled
    })
    .await;
    most
}

#[test]
fn a_task_that_moves_messages_in_bulk_lets_others_run_after_a_turn() {
    const SIZE: u32 = 1000;
    const COUNT: u32 = 250;
    // A turn, and the message that it ends with.
    const TURN: u32 = 128 * 1024 + SIZE;
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        for by_poll in [false, true] {
            let moved = AtomicU32::new(0);
            let sent = most_in_a_poll(&moved, async {
                for _ in 0..COUNT {
                    let packet = [7; SIZE as usize];
                    match by_poll {
                        false => allocated.send(&packet).await,
                        true => future::poll_fn(|it| allocated.poll_send(it, &packet)).await,
                    }
                    .expect("sent");
                    moved.fetch_add(SIZE, Relaxed);
                }
            });
            assert!(sent.await <= TURN, "of {}", COUNT * SIZE);
            while allocated.reliable_statistics().expect("reliable").in_flight > 0 {
                async_io::Timer::after(Duration::from_millis(1)).await;
            }
            // All is there, and nothing has to be waited for.
            let moved = AtomicU32::new(0);
            let received = most_in_a_poll(&moved, async {
                let mut buffer = [0; SIZE as usize];
                while moved.load(Relaxed) < COUNT * SIZE {
                    let size = match by_poll {
                        false => accepted.recv(&mut buffer).await,
                        true => future::poll_fn(|it| accepted.poll_recv(it, &mut buffer)).await,
                    };
                    moved.fetch_add(size.expect("received") as u32, Relaxed);
                }
            });
            assert!(received.await <= TURN, "of {}", COUNT * SIZE);
        }
    }));
}
