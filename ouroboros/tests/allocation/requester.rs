//! The requester: whom it believes, what it repeats, when it gives up.

use std::time::Duration;

use ouroboros::{
    crypto::{Cipher, Hash, Suite},
    proto::allocation::{
        AllocationFailure, AllocationId, AllocationRequest, Allocator, Event, Limits,
    },
    transport::Destination,
    wire::{Dialect, DirectoryHash, Eid, management::Message, oap::Allocation},
};

use crate::harness::{
    CLIENT, Counting, DIALECTS, LOCAL, Pair, REMOTE, SERVER, STRANGER, TIMEOUT, asked, at, hash_of,
    header_of, name,
};

#[test]
fn only_the_peer_that_was_asked_is_believed() {
    for dialect in DIALECTS {
        let mut pair = Pair::new(dialect, Some(Suite::default()));
        let (_, reply, _) = pair.accepted();
        let Ok(Message::FlowReply { allocation, .. }) =
            Message::parse(dialect, hash_of(dialect), &reply)
        else {
            panic!("no reply");
        };
        let forged = |requester, responder, response, allocation: &[u8]| {
            Message::FlowReply { requester, responder, response, allocation }.encode(dialect)
        };
        // From elsewhere, acceptance and refusal alike.
        pair.give_client(at(2), STRANGER, &reply);
        pair.give_client(at(2), STRANGER, &forged(LOCAL, Eid(0), -1, &[]));
        // For an endpoint nobody asked for.
        pair.give_client(at(2), SERVER, &forged(Eid(301), REMOTE, 0, allocation));
        assert_eq!(pair.client.counters().unexpected, 3);
        // From the peer, but no answer to the request.
        pair.give_client(at(2), SERVER, &forged(LOCAL, REMOTE, 0, &[]));
        pair.give_client(at(2), SERVER, &forged(LOCAL, REMOTE, 1, allocation));
        pair.give_client(at(2), SERVER, &forged(LOCAL, Eid::MANAGEMENT, 0, allocation));
        let (id, hash) = (0, allocation.len() - 1);
        for at_byte in [id, hash] {
            let mut altered = allocation.to_vec();
            altered[at_byte] ^= 1;
            pair.give_client(at(2), SERVER, &forged(LOCAL, REMOTE, 0, &altered));
        }
        assert_eq!(pair.client.counters().bad_replies, 5);
        assert!(pair.client.poll().is_none(), "none of these ends the allocation");
        pair.give_client(at(2), SERVER, &reply);
        assert!(matches!(
            pair.client.poll(),
            Some(Event::Allocated { peer: SERVER, remote: REMOTE, agreed: Some(_), .. })
        ));
        // Once more: nobody waits for it now.
        pair.give_client(at(3), SERVER, &reply);
        assert!(pair.client.poll().is_none());
    }
}

#[test]
fn a_request_that_nobody_waits_for_is_not_repeated_and_its_reply_is_told() {
    let mut pair = Pair::new(Dialect::Udp, Some(Suite::default()));
    let (id, (_, reply, _)) = (pair.allocation, pair.accepted());
    assert!(pair.client.abandon(at(100), id));
    pair.client.handle_timeout(at(600), &mut Counting(1));
    assert!(pair.client.poll_transmit().is_none(), "nothing is asked again");
    pair.give_client(at(700), SERVER, &reply);
    assert!(
        matches!(pair.client.poll(), Some(Event::Allocated { allocation, .. }) if allocation == id)
    );
    assert_eq!(pair.client.poll_timeout(), None);
    // Without a reply it is over soon, whatever the allocation's own timeout.
    let mut pair = Pair::new(Dialect::Udp, Some(Suite::default()));
    let id = pair.allocation;
    pair.sent_by_client();
    assert!(pair.client.abandon(at(100), id));
    pair.client.handle_timeout(at(2_100), &mut Counting(1));
    assert!(
        matches!(pair.client.poll(), Some(Event::Failed { allocation, .. }) if allocation == id)
    );
    assert!(!pair.client.abandon(at(2_100), id), "it is not known any more");
    // No request has left while the name is still asked for.
    let (mut client, id) = querying(TIMEOUT);
    assert!(!client.abandon(at(1), id));
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn a_reply_on_another_path_is_not_taken() {
    let mut pair = Pair::new(Dialect::Udp, None);
    let (_, reply, _) = pair.accepted();
    pair.client.handle(at(2), &mut pair.entropy, SERVER, None, &reply);
    assert!(pair.client.poll().is_none());
    pair.give_client(at(2), SERVER, &reply);
    assert!(matches!(pair.client.poll(), Some(Event::Allocated { agreed: None, .. })));
}

/// A reply on eth-dix with this header.
fn accepting(header: &Allocation<'_>) -> Vec<u8> {
    let allocation = &header.encode().expect("encodes");
    let (requester, responder) = (LOCAL, REMOTE);
    Message::FlowReply { requester, responder, response: 0, allocation }.encode(Dialect::EthDix)
}

#[test]
fn a_weaker_reply_is_not_taken() {
    let asked = Suite { cipher: Cipher::Aes256Gcm, kdf: Hash::Sha384, ..Suite::default() };
    let weaker =
        [Suite { cipher: Cipher::Aes128Gcm, ..asked }, Suite { kdf: Hash::Sha256, ..asked }];
    for suite in weaker {
        let mut pair = Pair::new(Dialect::EthDix, Some(asked));
        let (_, reply, _) = pair.accepted();
        let header = header_of(Dialect::EthDix, &reply);
        let mut header = Allocation::parse(header, Hash::Sha256.size()).expect("a header");
        (header.cipher, header.kdf) = (suite.cipher.id(), suite.kdf.id());
        pair.give_client(at(2), SERVER, &accepting(&header));
        assert!(pair.client.poll().is_none());
        // Nor one without encryption.
        header.key = &[];
        (header.cipher, header.kdf) = (0, 0);
        pair.give_client(at(2), SERVER, &accepting(&header));
        assert_eq!(pair.client.counters().bad_replies, 2);
        pair.give_client(at(2), SERVER, &reply);
        assert!(
            matches!(pair.client.poll(), Some(Event::Allocated { agreed: Some(a), .. }) if a.suite == asked)
        );
    }
}

#[test]
fn requests_say_what_a_0_23_peer_expects() {
    let plain = Pair::new(Dialect::Udp, None).sent_by_client();
    let plain = Allocation::parse(header_of(Dialect::Udp, &plain), 0).expect("a header");
    assert_eq!(plain, Allocation::plain(plain.id, at(0).utc));
    let message = Pair::new(Dialect::Udp, Some(Suite::default())).sent_by_client();
    let header = Allocation::parse(header_of(Dialect::Udp, &message), 0).expect("a header");
    assert_eq!((header.cipher, header.kdf, header.md), (901, 672, 672));
    assert_eq!((header.raw_key, header.kem_role, header.key.len()), (false, false, 44));
}

#[test]
fn a_request_is_repeated_unchanged_until_its_time_is_up() {
    let mut pair = Pair::new(Dialect::Udp, Some(Suite::default()));
    let first = pair.sent_by_client();
    let mut times = Vec::new();
    while let Some(due) = pair.client.poll_timeout() {
        pair.client.handle_timeout(at(due.as_millis() as u64), &mut Counting(1));
        times.push(due.as_millis());
        if let Some(again) = pair.client.poll_transmit() {
            assert_eq!(again.message, first);
        }
    }
    assert_eq!(times, [500, 1_500, 3_500, 7_500, 10_000]);
    assert!(matches!(
        pair.client.poll(),
        Some(Event::Failed { reason: AllocationFailure::TimedOut, .. })
    ));
}

#[test]
fn the_refusal_of_a_copy_is_doubted() {
    for acceptance_comes in [true, false] {
        let mut pair = Pair::new(Dialect::EthDix, None);
        let (_, reply, _) = pair.accepted();
        pair.client.handle_timeout(at(500), &mut Counting(1));
        pair.sent_by_client();
        let refusal = Message::FlowReply {
            requester: LOCAL,
            responder: Eid(0),
            response: -5,
            allocation: &[],
        }
        .encode(Dialect::EthDix);
        pair.give_client(at(600), SERVER, &refusal);
        pair.give_client(at(700), SERVER, &refusal);
        pair.client.handle_timeout(at(2_599), &mut Counting(1));
        assert!(pair.client.poll().is_none());
        if acceptance_comes {
            pair.give_client(at(2_599), SERVER, &reply);
            assert!(matches!(pair.client.poll(), Some(Event::Allocated { .. })));
        } else {
            pair.client.handle_timeout(at(2_600), &mut Counting(1));
            assert!(matches!(
                pair.client.poll(),
                Some(Event::Failed { reason: AllocationFailure::Refused(-5), .. })
            ));
        }
        assert!(pair.client.poll_transmit().is_none());
        assert_eq!(pair.client.poll_timeout(), None);
    }
}

/// A client on eth-dix that does not know where the peer is.
fn querying(timeout: Duration) -> (Allocator, AllocationId) {
    let mut client = Allocator::new(Dialect::EthDix, DirectoryHash::Sha3_256, Limits::default());
    let request = AllocationRequest { peer: None, timeout, ..asked(None) };
    let id = client.allocate(at(0), &mut Counting(3), request).expect("within limits");
    (client, id)
}

#[test]
fn a_name_is_asked_for_until_two_seconds_have_passed() {
    let (mut client, id) = querying(TIMEOUT);
    let query = client.poll_transmit().expect("a query");
    assert_eq!(query.to, Destination::Broadcast);
    let mut times = Vec::new();
    while let Some(due) = client.poll_timeout() {
        client.handle_timeout(at(due.as_millis() as u64), &mut Counting(1));
        times.push(due.as_millis());
        if let Some(again) = client.poll_transmit() {
            assert_eq!(again, query);
        }
    }
    assert_eq!(times, [200, 600, 1_400, 2_000]);
    assert!(matches!(
        client.poll(),
        Some(Event::Failed { allocation, reason: AllocationFailure::NameNotFound }) if allocation == id
    ));
}

#[test]
fn only_who_serves_a_name_answers_for_it() {
    let (mut client, _) = querying(TIMEOUT);
    let query = client.poll_transmit().expect("a query").message;
    let mut server = Allocator::new(Dialect::EthDix, DirectoryHash::Sha3_256, Limits::default());
    server.handle(at(1), &mut Counting(1), CLIENT, None, &query);
    assert!(server.poll_transmit().is_none());
    server.register(&name());
    server.handle(at(1), &mut Counting(1), CLIENT, None, &query);
    let reply = server.poll_transmit().expect("a reply");
    assert_eq!(reply.to, Destination::Peer(CLIENT));
    client.handle(at(2), &mut Counting(1), SERVER, None, &reply.message);
    let request = client.poll_transmit().expect("a request");
    assert_eq!(request.to, Destination::Peer(SERVER));
    assert!(server.unregister(&name()));
    server.handle(at(3), &mut Counting(1), CLIENT, None, &query);
    assert!(server.poll_transmit().is_none());
}

#[test]
fn the_timeout_counts_from_the_start_with_the_query_in_it() {
    let (mut client, _) = querying(Duration::from_secs(3));
    client.poll_transmit().expect("a query");
    client.handle_timeout(at(200), &mut Counting(1));
    let reply = Message::NameReply(DirectoryHash::Sha3_256.of(&name())).encode(Dialect::EthDix);
    client.handle(at(1_300), &mut Counting(1), SERVER, None, &reply);
    client.handle_timeout(at(2_999), &mut Counting(1));
    assert!(client.poll().is_none());
    client.handle_timeout(at(3_000), &mut Counting(1));
    assert!(matches!(
        client.poll(),
        Some(Event::Failed { reason: AllocationFailure::TimedOut, .. })
    ));
}

#[test]
fn a_timeout_may_be_without_end() {
    let (mut client, _) = querying(Duration::MAX);
    let reply = Message::NameReply(DirectoryHash::Sha3_256.of(&name())).encode(Dialect::EthDix);
    client.handle(at(1), &mut Counting(1), SERVER, None, &reply);
    assert_eq!(client.poll_timeout(), Some(Duration::from_millis(501)));
}

/// On one interface, and all the more on `lo`, where a station hears itself,
/// every process gets every management frame, all under the same address.
#[test]
fn processes_that_share_an_interface_do_not_answer_for_each_other() {
    let (mut client, _) = querying(TIMEOUT);
    let allocator = || Allocator::new(Dialect::EthDix, DirectoryHash::Sha3_256, Limits::default());
    let (mut server, mut bystander) = (allocator(), allocator());
    server.register(&name());
    bystander.register(&"other".parse().expect("a name"));
    let entropy = &mut Counting(1);
    let (mut requests, mut allocated) = (Vec::new(), 0);
    for round in 0..6 {
        let now = at(round * 10);
        let mut frames = Vec::new();
        for allocator in [&mut client, &mut bystander, &mut server] {
            while let Some(transmit) = allocator.poll_transmit() {
                frames.push(transmit.message);
            }
        }
        for frame in frames {
            for allocator in [&mut client, &mut bystander, &mut server] {
                allocator.handle(now, entropy, SERVER, None, &frame);
            }
        }
        // The application takes its time.
        for request in requests.drain(..) {
            server.accept(now, entropy, request, REMOTE).expect("accepted");
        }
        while let Some(event) = server.poll() {
            if let Event::Requested { request, .. } = event {
                requests.push(request);
            }
        }
        assert!(bystander.poll().is_none());
        while let Some(event) = client.poll() {
            assert!(matches!(event, Event::Allocated { .. }), "{event:?}");
            allocated += 1;
        }
    }
    assert_eq!(allocated, 1);
}
