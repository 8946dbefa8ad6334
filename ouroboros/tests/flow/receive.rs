//! What is received: in batches, by polling, late, never, and after the end.

use super::*;

#[test]
fn batches_go_through_the_blocking_pair() {
    let (accepted, allocated) = future::block_on(async {
        let (server, client) = in_memory().await;
        pair(&server, &client, FlowSpec::raw().encrypted()).await
    });
    let (mut sender, _keep) = allocated.split();
    let (_keep_too, mut receiver) = accepted.split();
    for number in 0..20u8 {
        sender.push(100).expect("room").fill(number);
    }
    sender.pop();
    sender.flush().expect("sent");
    let mut next = 0;
    while next < 19 {
        for index in 0..receiver.receive().expect("received") {
            assert_eq!(receiver.packet(index), [next; 100]);
            next += 1;
        }
    }
}

/// Two ends of an encrypted flow that hears nothing for no longer than `timeout`
/// milliseconds.
async fn encrypted_pair(timeout: u32) -> ((Irm, Irm), (Flow, Flow)) {
    let (server, client) = in_memory().await;
    let qos = QosSpec { timeout, ..QosSpec::RAW };
    let pair = pair(&server, &client, FlowSpec::with_qos(qos).encrypted()).await;
    ((server, client), pair)
}

#[test]
fn a_flow_that_nobody_reads_stays_and_keeps_what_came() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(400).await;
        for number in 0..20u8 {
            allocated.send(&[number]).await.expect("sent");
            async_io::Timer::after(Duration::from_millis(100)).await;
        }
        for number in 0..20u8 {
            assert_eq!(accepted.recv_vec().await.expect("kept"), [number]);
        }
        accepted.send(b"alive").await.expect("sent");
        assert_eq!(allocated.recv_vec().await.expect("received"), b"alive");
    });
}

#[test]
fn what_is_too_much_to_wait_is_dropped_and_counted_and_the_flow_stays() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(400).await;
        let packet = [7; 1000];
        let mut sent = 0;
        while accepted.statistics().dropped_unread == 0 {
            allocated.send(&packet).await.expect("sent");
            sent += 1;
        }
        async_io::Timer::after(Duration::from_secs(4)).await;
        let mut received = 0;
        let mut buffer = [0; 2000];
        while accepted.try_recv(&mut buffer).expect("there").is_some() {
            received += 1;
        }
        // 128 KiB, and what came within one read of the limit.
        assert!((100..sent).contains(&received), "{received} of {sent}");
        accepted.send(b"alive").await.expect("sent");
        assert_eq!(allocated.recv_vec().await.expect("received"), b"alive");
    });
}

#[test]
fn what_came_before_the_peer_closed_is_received_and_then_the_end() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(120_000).await;
        allocated.send_many((0..50u8).map(|number| [number; 500])).await.expect("sent");
        allocated.close();
        assert!(matches!(allocated.closed().await, FlowError::Closed));
        assert!(matches!(accepted.closed().await, FlowError::ClosedByPeer));
        for number in 0..50u8 {
            assert_eq!(accepted.recv_vec().await.expect("came before"), [number; 500]);
        }
        assert!(matches!(accepted.recv_vec().await, Err(FlowError::ClosedByPeer)));
        assert!(matches!(accepted.send(b"late").await, Err(FlowError::ClosedByPeer)));
    });
}

#[test]
fn batches_polls_and_attempts_carry_the_same_packets() {
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(120_000).await;
        let mut buffer = [0; 100];
        assert_eq!(accepted.try_recv(&mut buffer).expect("a flow"), None);
        assert_eq!(allocated.send_many([b"one", b"two"]).await.expect("sent"), 2);
        assert!(allocated.try_send(b"three").expect("a flow"));
        poll_fn(|context| allocated.poll_send(context, b"four")).await.expect("sent");
        let mut packets = Packets::new();
        let mut all = Vec::new();
        while all.len() < 3 {
            accepted.recv_many(&mut packets).await.expect("received");
            all.extend(packets.iter().map(<[u8]>::to_vec));
        }
        if all.len() < 4 {
            let size = poll_fn(|context| accepted.poll_recv(context, &mut buffer)).await;
            all.push(buffer[..size.expect("received")].to_vec());
        }
        assert_eq!(all, [&b"one"[..], b"two", b"three", b"four"]);
        // Who polls is woken by what comes, and by the end.
        let waits = poll_fn(|context| accepted.poll_recv(context, &mut buffer));
        let (size, sent) = future::zip(waits, allocated.send(b"five")).await;
        sent.expect("sent");
        assert_eq!(&buffer[..size.expect("received")], b"five");
        let waits = poll_fn(|context| accepted.poll_recv(context, &mut buffer));
        let (end, ()) = future::zip(waits, async { allocated.close() }).await;
        assert!(matches!(end, Err(FlowError::ClosedByPeer)));
    });
}

/// Futures of both directions are dropped at any point, thousands of times.
#[test]
fn dropped_futures_lose_no_packet() {
    const PACKETS: u32 = 5_000;
    /// Polls `future` at most `polls` times.
    async fn within<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        for _ in 0..polls {
            if let Some(done) = future::poll_once(future.as_mut()).await {
                return Some(done);
            }
            future::yield_now().await;
        }
        None
    }
    future::block_on(async {
        let (_irms, (accepted, allocated)) = encrypted_pair(120_000).await;
        let sends = async {
            for number in 0..PACKETS {
                // One that was dropped may have been sent: it is sent again.
                let mut polls = number % 3;
                while within(polls, allocated.send(&number.to_be_bytes())).await.is_none() {
                    polls += 1;
                }
            }
        };
        let receives = async {
            let (mut next, mut polls) = (0, 0);
            while next < PACKETS {
                polls = (polls + 1) % 4;
                let Some(packet) = within(polls, accepted.recv_vec()).await else { continue };
                let packet = packet.expect("received");
                let number = u32::from_be_bytes(packet.try_into().expect("a number"));
                // In the memory network nothing is lost or overtaken.
                assert!(number == next || number + 1 == next, "{number} after {next}");
                next = number + 1;
            }
        };
        future::zip(sends, receives).await;
    });
}
