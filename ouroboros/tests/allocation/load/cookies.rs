//! Cookies: who is asked for one, whom it is for, and how long it is one.

use super::*;

#[test]
fn under_load_a_native_client_gets_its_flow_by_a_cookie() {
    let mut server = busy();
    let from = address("192.0.2.1", 5_000);
    let mut client = Client::new(9, at(1), native());
    let first = client.sent().expect("a request");
    assert!(!server.takes(at(1), from, &first));
    // The network doubles the request.
    assert!(!server.takes(at(1), from, &first));
    let held = server.allocator.held();
    let refusal = server.sent().expect("a refusal");
    let again = server.sent().expect("another");
    assert!(cookie_of(&refusal).is_some());
    assert!(refusal.len() <= first.len());
    client.take(at(2), &refusal);
    let second = client.sent().expect("the request once more");
    assert!(second.len() <= 1200);
    assert!(server.takes(at(3), from, &second));
    assert_eq!(server.allocator.held(), (held.0 + 1, held.1 + 1));
    // What is said to the first request is of no more account.
    client.take(at(3), &again);
    assert!(client.allocator.poll().is_none() && client.sent().is_none());
}

#[test]
fn a_cookie_is_asked_for_once() {
    let mut server = busy();
    let from = address("192.0.2.1", 5_000);
    let mut client = Client::new(9, at(1), native());
    let first = client.sent().expect("a request");
    server.takes(at(1), from, &first);
    client.take(at(2), &server.sent().expect("a refusal"));
    let second = client.sent().expect("the request once more");
    // Another server has taken the address over, or somebody plays.
    let mut other = busy();
    assert!(!other.takes(at(3), from, &second));
    client.take(at(4), &other.sent().expect("a refusal"));
    assert!(client.sent().is_none());
    // Later there is another request, without what was good for the first.
    let (_, third) = client.waits().expect("a request");
    assert!(!other.takes(at(1_000), from, &third));
    assert!(cookie_of(&other.sent().expect("a refusal")).is_some());
}

#[test]
fn a_busy_server_is_asked_again_for_as_long_as_the_allocation_may_take() {
    for security in [None, native()] {
        let mut client = Client::new(9, at(0), security);
        let (mut requests, mut asked_at) = (vec![client.sent().expect("a request")], Vec::new());
        let mut now = Duration::ZERO;
        let busy = Message::FlowReply {
            requester: LOCAL,
            responder: ouroboros::wire::Eid(0),
            response: Refusal::Busy.code(),
            allocation: &[],
        };
        let busy = busy.encode(UDP);
        loop {
            client.take(at(now.as_millis() as u64), &busy);
            assert!(client.allocator.poll().is_none() && client.sent().is_none());
            let Some((due, request)) = client.waits() else { break };
            let waited = (due - now).as_millis();
            assert!((50..=3_000).contains(&waited), "{waited} ms");
            assert!(!requests.contains(&request), "a copy would be refused as one");
            now = due;
            asked_at.push(due);
            requests.push(request);
        }
        assert!((5..=20).contains(&requests.len()), "{asked_at:?}");
        let busy = AllocationFailure::Refused(Refusal::Busy.code());
        let end = client.allocator.poll();
        assert!(
            matches!(end, Some(Event::Failed { ref reason, .. }) if *reason == busy),
            "{end:?}"
        );
    }
}

#[test]
fn a_client_that_did_not_offer_the_native_profile_takes_a_cookie_for_a_refusal() {
    for security in [
        None,
        Some(ClientSecurity { profile: ProfilePolicy::Wire023, ..ClientSecurity::default() }),
    ] {
        let mut client = Client::new(9, at(1), security);
        let sent = client.sent().expect("a request");
        let header = Allocation::parse(header_of(UDP, &sent), 0).expect("a header");
        let data = Extensions { cookie: Some(b"sweet"), ..Extensions::default() }.encode();
        let header = Allocation { data: &data, ..Allocation::plain(header.id, 0) };
        let header = header.encode().expect("encodes");
        let refusal = Message::FlowReply {
            requester: LOCAL,
            responder: ouroboros::wire::Eid(0),
            response: -4,
            allocation: &header,
        };
        client.take(at(2), &refusal.encode(UDP));
        assert!(client.sent().is_none(), "not at once");
        let (_, again) = client.waits().expect("a request");
        assert_eq!(again.len(), sent.len(), "without the cookie");
    }
}

#[test]
fn a_cookie_is_for_one_address_and_for_a_while() {
    let mut server = busy();
    let (from, other_port) = (address("192.0.2.1", 5_000), address("192.0.2.1", 5_001));
    let (elsewhere, v6) = (address("192.0.2.2", 5_000), address("2001:db8::1", 5_000));
    let plain = request_like(1_000, at(0), &template(native()));
    assert!(!server.takes(at(0), from, &plain));
    let cookie = cookie_of(&server.sent().expect("a refusal")).expect("a cookie");
    let mut number = 2_000;
    let mut is_good = |server: &mut Server, time: u64, from, cookie: &[u8]| {
        // Keep it busy: what waited is gone after 5 s.
        let template = template(native());
        for filler in 0..Limits::default().unvalidated_requests as u32 {
            number += 1;
            server.takes(at(time), anywhere(filler), &request_like(number, at(time), &template));
        }
        while server.sent().is_some() {}
        number += 1;
        let taken = server.takes(at(time), from, &with_cookie(number, at(time), cookie));
        while server.sent().is_some() {}
        taken
    };
    assert!(is_good(&mut server, 1, from, &cookie));
    for from in [other_port, elsewhere, v6] {
        assert!(!is_good(&mut server, 1, from, &cookie), "{from}");
    }
    for byte in 0..cookie.len() {
        let mut forged = cookie.clone();
        forged[byte] ^= 1;
        assert!(!is_good(&mut server, 1, from, &forged));
    }
    assert!(!is_good(&mut server, 1, from, &cookie[..cookie.len() - 1]));
    assert!(!is_good(&mut server, 1, from, &[&cookie[..], &[0]].concat()));
    // The secret is another after a minute; the former is good for one more.
    for (time, good) in [(59_000, true), (61_000, true), (119_000, true), (121_000, false)] {
        server.allocator.handle_timeout(at(time), &mut server.entropy);
        while server.allocator.poll().is_some() {}
        assert_eq!(is_good(&mut server, time, from, &cookie), good, "after {time} ms");
    }
}

#[test]
fn no_native_request_is_answered_with_more_than_came() {
    let [_, p256, p384] = certified();
    let long: String = "n".repeat(200);
    let identities: [Option<Identity>; 5] =
        [None, Some(own(1, "my_vpn")), Some(own(1, &long)), Some(p256.clone()), Some(p384.clone())];
    let suites = [KeyExchange::X25519, KeyExchange::P256, KeyExchange::X25519MlKem768]
        .map(|kex| Suite { kex, ..Suite::default() });
    let mut answered = 0;
    for server in &identities {
        for suite in suites {
            for client in &identities {
                for clients in [Trust::Anyone, authority()] {
                    for profile in [ProfilePolicy::PreferNative, ProfilePolicy::Wire023] {
                        let policy = ServerSecurity {
                            identity: server.clone(),
                            clients: clients.clone(),
                            profile,
                            ..ServerSecurity::default()
                        };
                        let asked = ClientSecurity {
                            identity: client.clone(),
                            suite,
                            ..ClientSecurity::default()
                        };
                        answered += usize::from(amplifies_nothing(policy, asked));
                    }
                }
            }
        }
    }
    assert!(answered > 100, "many are accepted at once: {answered}");
}

/// Whether the request was accepted without a cookie.
fn amplifies_nothing(policy: ServerSecurity, asked: ClientSecurity) -> bool {
    let mut server = Server::new(Limits::default(), policy);
    let from = anywhere(1);
    let request = Client::new(9, at(0), Some(asked)).sent().expect("a request");
    let (mut came, mut went) = (0, 0);
    let mut accepted = false;
    // The request, copies of it, and what looks like one but is shorter.
    let header = Allocation::parse(header_of(UDP, &request), 0).expect("a header");
    let short = request_with(UDP, &Allocation::plain(header.id, header.timestamp));
    for message in [&request, &request, &short, &request, &short] {
        came += message.len();
        server.allocator.handle(at(0), &mut server.entropy, from, None, message);
        while let Some(event) = server.allocator.poll() {
            if let Event::Requested { request, .. } = event {
                accepted |=
                    server.allocator.accept(at(0), &mut server.entropy, request, REMOTE).is_ok();
            }
        }
        while let Some(sent) = server.sent() {
            went += sent.len();
        }
        assert!(went <= came, "{went} bytes for {came}");
    }
    accepted
}

#[test]
fn a_server_whose_reply_is_longer_than_the_request_asks_for_a_cookie_first() {
    // A name as long as they get, twice in the certificate: all that fits in a
    // request is not enough.
    let policy = ServerSecurity::default().identity(own(1, &"n".repeat(255)));
    let mut server = Server::new(Limits::default(), policy);
    let mut client = Client::new(
        9,
        at(0),
        Some(Suite { kex: KeyExchange::X25519MlKem768, ..Suite::default() }.into()),
    );
    let from = anywhere(1);
    let first = client.sent().expect("a request");
    assert!(!server.takes(at(0), from, &first));
    client.take(at(0), &server.sent().expect("a refusal"));
    assert!(server.takes(at(0), from, &client.sent().expect("with a cookie")));
}
