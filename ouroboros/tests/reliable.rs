//! Reliable flows between two of this library through the public API: messages and
//! streams, over networks that lose, repeat, reorder and corrupt, and to the last byte.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
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

/// The bytes of a stream.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn a_stream_is_had_to_its_end_both_ways() {
    for faults in [NONE, BAD] {
        future::block_on(in_time(async {
            let (accepted, allocated) = pair(faults).await;
            let data = bytes(if faults.lost == 0 { 5_000_000 } else { 500_000 });
            let (mut server, mut client) = (accepted.into_stream(), allocated.into_stream());
            let serve = async {
                let mut all = Vec::new();
                server.read_to_end(&mut all).await?;
                server.write_all(&all).await?;
                server.close().await?;
                Ok::<_, io::Error>(())
            };
            let ask = async {
                client.write_all(&data).await?;
                client.finish().await?;
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await?;
                assert!(answer == data, "{} bytes came back", answer.len());
                assert_eq!(client.read(&mut [0; 10]).await?, 0, "the end stays the end");
                Ok(())
            };
            future::try_zip(serve, ask).await.expect("to the end");
        }));
    }
}

#[test]
fn nothing_is_lost_by_leaving_a_scope() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(BAD).await;
        let data = bytes(300_000);
        let write = async {
            let mut stream = allocated.into_stream();
            stream.write_all(&data).await.expect("written");
            // Dropped here, with most of it on its way.
        };
        let read = async {
            let mut all = Vec::new();
            accepted.into_stream().read_to_end(&mut all).await.expect("to the end");
            all
        };
        let ((), all) = future::zip(write, read).await;
        assert!(all == data, "{} bytes came", all.len());
    }));
}

#[test]
fn halves_end_one_after_the_other() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        let (mut reader, mut writer) = allocated.into_stream().split();
        let mut server = accepted.into_stream();
        writer.write_all(b"question").await.expect("written");
        drop(writer);
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.expect("to the end");
        assert_eq!(question, b"question");
        server.write_all(b"answer").await.expect("written");
        server.close().await.expect("the peer has it");
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.expect("to the end");
        assert_eq!(answer, b"answer");
    }));
}

#[test]
fn an_abort_is_no_end() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        let mut reader = accepted.into_stream();
        let mut writer = allocated.into_stream();
        writer.write_all(b"begun").await.expect("written");
        let mut begun = [0; 5];
        reader.read_exact(&mut begun).await.expect("read");
        writer.abort(42);
        let error = reader.read(&mut begun).await.expect_err("aborted");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let source = error.get_ref().and_then(|source| source.downcast_ref());
        assert!(matches!(source, Some(FlowError::Aborted(42))), "{error:?}");
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
fn a_stream_that_is_closed_with_a_reason_is_read_to_its_end() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(BAD).await;
        let (mut stream, mut writer) = (accepted.into_stream(), allocated.into_stream());
        let writing = async {
            writer.write_all(&bytes(100_000)).await.expect("written");
            writer.close_with(0, b"").await.expect("the peer has all of it");
        };
        let mut read = Vec::new();
        let (_, outcome) = future::zip(writing, stream.read_to_end(&mut read)).await;
        outcome.expect("an end and no error");
        assert!(read == bytes(100_000));
        assert!(matches!(stream.flow().closed().await, FlowError::ClosedWith(_)));
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

#[test]
fn a_peer_that_vanishes_is_no_end_either() {
    future::block_on(in_time(async {
        let network = Network::new();
        let ends = (network.station(), network.station());
        let spec = FlowSpec::reliable().encrypted();
        let (accepted, allocated) = pair_over(ends, Default::default(), spec).await;
        let mut stream = allocated.into_stream();
        stream.flow().expect_answers_within(Duration::from_millis(500));
        network.cut();
        stream.write_all(b"is anybody there?").await.expect("written");
        let read = async { stream.read(&mut [0; 10]).await };
        let error = read.await.expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error:?}");
        drop(accepted);
    }));
}

#[test]
fn a_raw_flow_is_no_stream() {
    future::block_on(in_time(async {
        let network = Network::new();
        let ends = (network.station(), network.station());
        let (_accepted, allocated) = pair_over(ends, Default::default(), FlowSpec::raw()).await;
        let mut stream = allocated.into_stream();
        let error = stream.write(b"data").await.expect_err("no stream");
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }));
}

#[test]
fn a_read_that_was_given_up_keeps_nobody_waiting() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        let (mut reader, mut writer) = (accepted.into_stream(), allocated.into_stream());
        let mut buffer = [0; 100];
        assert!(future::poll_once(reader.read(&mut buffer)).await.is_none());
        // Nobody polls the reader any more.
        writer.write_all(&[7; 100]).await.expect("written");
        let late = async {
            async_io::Timer::after(Duration::from_secs(15)).await;
            panic!("nothing is acknowledged");
        };
        writer.finish().or(late).await.expect("acknowledged");
        reader.read_exact(&mut buffer).await.expect("read");
        assert_eq!(buffer, [7; 100]);
    }));
}

#[test]
fn many_tasks_share_many_streams() {
    future::block_on(in_time(async {
        let network = Network::new();
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
        layer.register("echo").await.expect("registered");
        client.bootstrap("my_layer", network.station()).await.expect("a station");
        let client = Arc::new(client);
        const COUNT: usize = 50;
        let executor = async_executor::Executor::new();
        let serve = async {
            for _ in 0..COUNT {
                let flow = server.accept("echo").await.expect("accepted");
                let echo = async move {
                    let (mut reader, mut writer) = flow.into_stream().split();
                    futures_lite::io::copy(&mut reader, &mut writer).await.expect("echoed");
                    writer.finish().await.expect("finished");
                };
                executor.spawn(echo).detach();
            }
        };
        let asks: Vec<_> = (0..COUNT)
            .map(|index| {
                let client = client.clone();
                executor.spawn(async move {
                    let spec = FlowSpec::reliable().encrypted();
                    let flow = client.allocate("echo", spec).await.expect("allocated");
                    let mut stream = flow.into_stream();
                    let data = bytes(10_000 + index);
                    stream.write_all(&data).await.expect("written");
                    stream.finish().await.expect("finished");
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.expect("to the end");
                    assert!(all == data, "stream {index}");
                })
            })
            .collect();
        let ask = async {
            for ask in asks {
                ask.await;
            }
        };
        executor.run(future::zip(serve, ask)).await;
    }));
}
