//! Streams, to their last byte, and the ways in which they end.

use std::{io, sync::Arc, time::Duration};

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use ouroboros::{
    Bytes, FlowError, FlowSpec, Irm, ServerSecurity,
    transport::{fault::Faulty, memory::Network},
};

use crate::{BAD, NONE, in_time, pair, pair_over};

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
fn owned_bytes_are_had_between_those_that_were_copied() {
    let data = bytes(1_000_000);
    let owned = Bytes::from(data.clone());
    // The last has FRCT, which copies.
    for (faults, spec) in [
        (NONE, FlowSpec::reliable().encrypted()),
        (BAD, FlowSpec::reliable().encrypted()),
        (NONE, FlowSpec::reliable()),
    ] {
        future::block_on(in_time(async {
            let network = Network::new();
            let ends = [7, 8].map(|seed| Faulty::new(network.station(), faults, seed)).into();
            let (accepted, allocated) = pair_over(ends, ServerSecurity::default(), spec).await;
            let write = async {
                let mut stream = allocated.into_stream();
                let (mut at, mut turn) = (0, 0);
                while at < data.len() {
                    turn += 1;
                    // From a few bytes to more than may wait to be acknowledged.
                    let end = data.len().min(at + 1 + (turn * turn * 9_973) % 300_000);
                    if turn % 3 == 0 {
                        stream.write_all(&data[at..end]).await.expect("written");
                    } else {
                        stream.write_bytes(owned.slice(at..end)).await.expect("written");
                    }
                    at = end;
                }
                stream.close().await.expect("the peer has all of it");
            };
            let read = async {
                let (mut reader, mut all) = (accepted.into_stream(), vec![0; data.len()]);
                reader.read_exact(&mut all).await.expect("all of it");
                (all, reader)
            };
            // The reader stays until the writer knows that it has all.
            let ((), (all, _reader)) = future::zip(write, read).await;
            assert!(all == data);
        }));
    }
    assert!(owned.is_unique(), "what the peers have is let go of");
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
fn who_does_not_linger_leaves_no_end_behind() {
    future::block_on(in_time(async {
        let (accepted, allocated) = pair(NONE).await;
        allocated.set_linger(Duration::ZERO);
        let mut stream = allocated.into_stream();
        // Waits for the first part to be acknowledged; the rest is beyond the credit of a
        // peer that does not read.
        stream.write_all(&bytes(300_000)).await.expect("written");
        drop(stream);
        let mut all = Vec::new();
        let error = accepted.into_stream().read_to_end(&mut all).await.expect_err("not all came");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error:?}");
        assert!(all.len() < 300_000);
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
            async_io::Timer::after(Duration::from_secs(120)).await;
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
