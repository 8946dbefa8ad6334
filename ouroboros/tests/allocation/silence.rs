//! A name that demands its clients' identities says nothing to others: it is
//! like one that is not there.

use std::net::{IpAddr, SocketAddr};

use ouroboros::{
    crypto::identity::IdentityKey,
    proto::allocation::{
        AllocationRequest, Allocator, ClientSecurity, Event, Identity, Limits, ProfilePolicy,
        ServerSecurity, Trust,
    },
    wire::{Dialect, PeerAddress, oap::Allocation},
};

use crate::harness::{
    CLIENT, Counting, DIALECTS, Pair, REMOTE, SERVER, STRANGER, asked, at, hash_of, name, only,
    own, request_with,
};

fn guarded(dialect: Dialect, friend: &Identity) -> Allocator {
    let mut server = Allocator::new(dialect, hash_of(dialect), Limits::default());
    server.set_policy(&name(), policy(friend));
    server.register(&name());
    server
}

fn policy(friend: &Identity) -> ServerSecurity {
    ServerSecurity::encrypted().identity(own(1, "my_vpn")).clients(only(friend))
}

fn request(dialect: Dialect, security: Option<ClientSecurity>, of: &str) -> Vec<u8> {
    let mut client = Allocator::new(dialect, hash_of(dialect), Limits::default());
    let request = AllocationRequest { name: of.parse().expect("a name"), ..asked(security) };
    client.allocate(at(0), &mut Counting(of.len() as u8), request).expect("within limits");
    client.poll_transmit().expect("a request").message
}

fn asking(identity: Option<Identity>, profile: ProfilePolicy) -> Option<ClientSecurity> {
    Some(ClientSecurity { identity, profile, ..ClientSecurity::default() })
}

#[test]
fn strangers_hear_nothing_and_leave_nothing() {
    let friend = own(2, "friend");
    for dialect in DIALECTS {
        let mut server = guarded(dialect, &friend);
        let stranger = || Some(own(3, "friend"));
        let stale = Allocation::plain([1; 16], at(0).utc - 60_000_000_000);
        let unknown = Allocation { cipher: 7, ..Allocation::plain([2; 16], at(0).utc) };
        let requests = [
            request(dialect, None, "my_vpn"),
            request(dialect, asking(None, ProfilePolicy::PreferNative), "my_vpn"),
            request(dialect, asking(None, ProfilePolicy::Wire023), "my_vpn"),
            request(dialect, asking(stranger(), ProfilePolicy::PreferNative), "my_vpn"),
            request(dialect, asking(stranger(), ProfilePolicy::Wire023), "my_vpn"),
            request_with(dialect, &stale),
            request_with(dialect, &unknown),
            // A name that is not there, for comparison.
            request(dialect, None, "nobody"),
            request(dialect, asking(stranger(), ProfilePolicy::PreferNative), "nobody"),
        ];
        let entropy = &mut Counting(1);
        for time in [0, 1, 6_000, 21_000] {
            for (number, request) in requests.iter().enumerate() {
                server.handle(at(time), entropy, STRANGER, None, request);
                server.handle_timeout(at(time), &mut Counting(1));
                assert!(server.poll_transmit().is_none(), "request {number} at {time}");
                match server.poll() {
                    None | Some(Event::Unauthorized { from: STRANGER, .. }) => {}
                    Some(Event::Refused { from: STRANGER, .. }) => {}
                    other => panic!("request {number}: {other:?}"),
                }
            }
            assert_eq!(server.held(), (0, 0));
        }
        // Two are no requests, three others are of strangers.
        assert!(server.counters().unauthorized >= 5);
        // The friend is heard all the same.
        let asked =
            request(dialect, asking(Some(friend.clone()), ProfilePolicy::default()), "my_vpn");
        server.handle(at(1), entropy, CLIENT, None, &asked);
        let Some(Event::Requested { request, .. }) = server.poll() else { panic!("no request") };
        server.accept(at(1), entropy, request, REMOTE).expect("accepted");
        assert!(server.poll_transmit().is_some());
    }
}

#[test]
fn a_friend_that_asks_for_a_plain_flow_is_refused() {
    let friend = own(2, "friend");
    let key = IdentityKey::generate(&mut Counting(2));
    for dialect in DIALECTS {
        let plain = Allocation::plain([5; 16], at(0).utc);
        let header = Allocation { certificate: friend.certificate(), ..plain };
        let signature = key.sign(&header.encode().expect("encodes"));
        let message = request_with(dialect, &Allocation { signature: &signature, ..header });
        let mut server = guarded(dialect, &friend);
        // What is encrypted goes without saying.
        let security = ServerSecurity { require_encryption: false, ..policy(&friend) };
        server.set_policy(&name(), security);
        let entropy = &mut Counting(1);
        server.handle(at(0), entropy, CLIENT, None, &message);
        let Some(Event::Requested { request, .. }) = server.poll() else { panic!("no request") };
        assert!(server.accept(at(0), entropy, request, REMOTE).is_err());
        assert!(server.poll_transmit().is_some());
    }
}

#[test]
fn a_replayed_signed_request_opens_nothing() {
    let friend = own(2, "friend");
    for dialect in DIALECTS {
        for accepted in [true, false] {
            let mut server = guarded(dialect, &friend);
            let entropy = &mut Counting(1);
            let asked =
                request(dialect, asking(Some(friend.clone()), ProfilePolicy::default()), "my_vpn");
            server.handle(at(0), entropy, CLIENT, None, &asked);
            let Some(Event::Requested { request, .. }) = server.poll() else {
                panic!("no request")
            };
            if accepted {
                server.accept(at(0), entropy, request, REMOTE).expect("accepted");
                server.released(request);
                server.poll_transmit().expect("a reply");
            }
            for time in (1..25_000).step_by(100) {
                for from in [CLIENT, STRANGER] {
                    server.handle(at(time), entropy, from, None, &asked);
                    match server.poll() {
                        None => {}
                        Some(Event::Withdrawn { .. }) => {}
                        other => panic!("at {time}: {other:?}"),
                    }
                    // When it is not fresh any more, a cookie, which the sender
                    // can do nothing with.
                    let answer = server.poll_transmit();
                    assert!(answer.is_none() || time > 20_000, "at {time}");
                }
            }
        }
    }
}

#[test]
fn a_friend_that_nobody_accepts_is_told() {
    let friend = own(2, "friend");
    let mut server = guarded(Dialect::Udp, &friend);
    let asked = request(Dialect::Udp, asking(Some(friend), ProfilePolicy::default()), "my_vpn");
    server.handle(at(0), &mut Counting(1), CLIENT, None, &asked);
    server.handle_timeout(at(5_000), &mut Counting(1));
    assert!(server.poll_transmit().is_some());
}

#[test]
fn a_policy_that_changes_while_requests_wait_holds_for_them() {
    let friend = own(2, "friend");
    let strict = ServerSecurity::encrypted().clients(only(&friend));
    // Nobody was asked who it is when the request came.
    for refused in [false, true] {
        let mut pair = Pair::new(Dialect::Udp, Some(Default::default()));
        let message = pair.sent_by_client();
        pair.give_server(at(1), CLIENT, &message);
        let request = pair.requested();
        pair.server.set_policy(&name(), strict.clone());
        if refused {
            pair.server.handle_timeout(at(6_000), &mut Counting(1));
        } else {
            assert!(pair.accept(at(2), request, &strict).is_err());
        }
        assert!(pair.server.poll_transmit().is_none());
    }
    // The friend that was one is one no longer.
    let mut server = guarded(Dialect::Udp, &friend);
    let asked = request(Dialect::Udp, asking(Some(friend), ProfilePolicy::default()), "my_vpn");
    let entropy = &mut Counting(1);
    server.handle(at(0), entropy, CLIENT, None, &asked);
    let Some(Event::Requested { request, .. }) = server.poll() else { panic!("no request") };
    server.set_policy(&name(), ServerSecurity::encrypted().clients(Trust::Keys(Vec::new())));
    assert!(server.accept(at(1), entropy, request, REMOTE).is_err());
    assert!(server.poll_transmit().is_none());
}

/// Where names are asked for, who knows the name's hash learns where it is.
#[test]
fn unknown_names_are_refused_over_udp_only_where_none_is_guarded() {
    let friend = own(2, "friend");
    let asked = request(Dialect::Udp, None, "nobody");
    let mut server = guarded(Dialect::Udp, &friend);
    let entropy = &mut Counting(1);
    let from = PeerAddress::Memory(9);
    server.handle(at(0), entropy, from, None, &asked);
    assert!(server.poll_transmit().is_none());
    server.set_policy(&name(), ServerSecurity::default());
    server.handle(at(0), entropy, from, None, &asked);
    assert!(server.poll_transmit().is_some());
}

/// What a server under load says to who asks for `of` in these ways, one after
/// the other, and answers what it is told; and how many of them it takes for
/// requests.
fn said_under_load(
    of: &str,
    friend: &Identity,
    ways: &[Option<ClientSecurity>],
) -> (Vec<Vec<u8>>, usize) {
    let limits = Limits { unvalidated_requests: 2, ..Limits::default() };
    let mut server = Allocator::new(Dialect::Udp, hash_of(Dialect::Udp), limits);
    server.set_policy(&name(), policy(friend));
    server.register(&name());
    // Anybody may ask for this one, and as many as may wait without proof do.
    server.register(&"open".parse().expect("a name"));
    let entropy = &mut Counting(1);
    let mut number = 0u8;
    let mut next = |of: &str, security: Option<ClientSecurity>| {
        number += 1;
        let mut client = Allocator::new(Dialect::Udp, hash_of(Dialect::Udp), limits);
        let request = AllocationRequest { name: of.parse().expect("a name"), ..asked(security) };
        let allocation = client.allocate(at(0), &mut Counting(number), request);
        let ip = IpAddr::from([10, number, 0, 1]);
        let from = PeerAddress::Udp(SocketAddr::new(ip, 4_000));
        (client, allocation.expect("within limits"), from)
    };
    let native = || asking(None, ProfilePolicy::PreferNative);
    for security in [None, native(), None, native(), None, native()] {
        let (mut client, _, from) = next("open", security);
        let request = client.poll_transmit().expect("a request").message;
        server.handle(at(0), entropy, from, None, &request);
    }
    let waiting = std::iter::from_fn(|| server.poll()).count();
    assert_eq!(waiting, 4, "two of each kind wait");
    while server.poll_transmit().is_some() {}
    let mut said = Vec::new();
    for security in ways {
        let (mut client, allocation, from) = next(of, security.clone());
        while let Some(request) = client.poll_transmit() {
            server.handle(at(1), entropy, from, None, &request.message);
            for answer in std::iter::from_fn(|| server.poll_transmit()) {
                client.handle(at(1), &mut Counting(9), SERVER, Some(allocation), &answer.message);
                said.push(answer.message);
            }
        }
    }
    (said, server.held().0 - waiting)
}

/// Cookies are asked for whatever the name, and nothing else is said.
#[test]
fn under_load_a_guarded_name_is_met_like_one_that_is_not_there() {
    let friend = own(2, "friend");
    let stranger = || Some(own(3, "friend"));
    let ways = [
        None,
        asking(None, ProfilePolicy::PreferNative),
        asking(None, ProfilePolicy::Wire023),
        asking(stranger(), ProfilePolicy::RequireNative),
        asking(stranger(), ProfilePolicy::Wire023),
    ];
    let (said, taken) = said_under_load("my_vpn", &friend, &ways);
    assert_eq!((said.len(), taken), (2, 0), "a cookie for each native request, and no more");
    assert_eq!((said, taken), said_under_load("nobody", &friend, &ways));
    // The one for the friend is the same; what he says then is heard.
    let asked = [asking(Some(friend.clone()), ProfilePolicy::RequireNative)];
    let (said, taken) = said_under_load("my_vpn", &friend, &asked);
    assert_eq!((said.len(), taken), (1, 1));
}
