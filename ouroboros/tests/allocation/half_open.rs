//! Half-open flows: what proves a peer, what is kept until then, and for how long.

use std::time::Duration;

use ouroboros::{
    crypto::{AeadBackend, Suite},
    proto::{
        allocation::{
            Accepted, AllocationRequest, Allocator, ClientSecurity, Event, Limits, ProfilePolicy,
            RequestId,
        },
        native::KeyLimits,
        protection::{FlowKeys, protection},
    },
    wire::{Dialect, Eid, PeerAddress, QosSpec},
};

use crate::harness::{
    CLIENT, Counting, LOCAL, Pair, REMOTE, SERVER, STRANGER, asked, at, first_frame, hash_of, name,
};

const UDP: Dialect = Dialect::Udp;

fn old() -> Option<ClientSecurity> {
    Some(ClientSecurity { profile: ProfilePolicy::Wire023, ..Suite::default().into() })
}

fn native() -> Option<ClientSecurity> {
    Some(Suite::default().into())
}

/// A server with one half-open flow, and the keys of its client.
fn half_open(
    limits: Limits,
    request: AllocationRequest,
) -> (Allocator, RequestId, Option<FlowKeys>) {
    let mut entropy = Counting(3);
    let [mut server, mut client] =
        [limits, Limits::default()].map(|limits| Allocator::new(UDP, hash_of(UDP), limits));
    server.register(&name());
    let id = client.allocate(at(0), &mut entropy, request).expect("within limits");
    let request = client.poll_transmit().expect("a request").message;
    server.handle(at(0), &mut entropy, CLIENT, None, &request);
    let Some(Event::Requested { request, .. }) = server.poll() else { panic!("no request") };
    server.accept(at(0), &mut entropy, request, REMOTE).expect("accepted");
    let reply = server.poll_transmit().expect("a reply").message;
    client.handle(at(0), &mut entropy, SERVER, Some(id), &reply);
    let Some(Event::Allocated { agreed, .. }) = client.poll() else { panic!("not allocated") };
    let keys = agreed.map(|agreed| agreed.keys);
    assert_eq!(server.half_open(), 1);
    assert!(server.poll().is_none(), "nobody is told yet");
    (server, request, keys)
}

fn confirmed(server: &mut Allocator) -> Option<(RequestId, Accepted, Vec<u8>)> {
    match server.poll()? {
        Event::Confirmed { request, accepted, frame } => Some((request, accepted, frame)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flow_is_one_when_its_peer_has_proved_that_it_has_the_reply() {
    for security in [native(), old(), None] {
        let plain = security.is_none();
        let (mut server, request, keys) = half_open(Limits::default(), asked(security));
        let frame = first_frame(keys, REMOTE);
        let mut forged = frame.clone();
        *forged.last_mut().expect("bytes") ^= 1;
        let of_others = [
            (STRANGER, REMOTE, &frame, true),
            (CLIENT, LOCAL, &frame, true),
            (CLIENT, REMOTE, &forged, !plain),
        ];
        for (from, local, frame, refused) in of_others {
            if refused {
                assert!(!server.handle_frame(at(1), from, local, frame));
                assert!(server.poll().is_none());
            }
        }
        assert!(server.handle_frame(at(2), CLIENT, REMOTE, &frame));
        let (told, accepted, first) = confirmed(&mut server).expect("confirmed");
        assert_eq!((told, &first), (request, &frame));
        assert_eq!(server.half_open(), 0);
        // Once, and the packet is as new for who opens it.
        assert!(!server.handle_frame(at(2), CLIENT, REMOTE, &frame));
        let (backend, limits) = (AeadBackend::default(), KeyLimits::default());
        let ends = (REMOTE, LOCAL);
        let mut flow = protection(
            accepted.agreed.map(|agreed| agreed.keys),
            ends,
            false,
            backend,
            limits,
            &mut Counting(1),
        );
        let body = flow.opener.open(&mut first.clone()).expect("opens").body;
        assert_eq!(body.len(), 5);
    }
}

#[test]
fn a_keepalive_shows_an_address_and_no_keys() {
    for (security, enough) in [(None, true), (old(), true), (native(), false)] {
        let (mut server, _, _) = half_open(Limits::default(), asked(security));
        assert_eq!(server.handle_frame(at(1), CLIENT, REMOTE, &[]), enough);
        assert_eq!(confirmed(&mut server).is_some(), enough);
    }
}

#[test]
fn what_is_not_confirmed_is_gone_within_seconds_whatever_timeout_was_asked_for() {
    let limits = Limits::default();
    for (security, life) in [(native(), limits.half_open_for), (None, limits.half_open_for_silent)]
    {
        let qos = QosSpec { timeout: 0, ..QosSpec::RAW };
        let asked = AllocationRequest { qos, ..asked(security) };
        let (mut server, request, keys) = half_open(limits, asked);
        assert_eq!(server.poll_timeout(), Some(life));
        let end = life.as_millis() as u64;
        server.handle_timeout(at(end - 1), &mut Counting(1));
        assert!(server.poll().is_none());
        server.handle_timeout(at(end), &mut Counting(1));
        let told = server.poll();
        assert!(matches!(told, Some(Event::Expired { request: r }) if r == request), "{told:?}");
        assert_eq!((server.half_open(), server.held().0), (0, 0));
        assert!(!server.handle_frame(at(end), CLIENT, REMOTE, &first_frame(keys, REMOTE)));
    }
}

#[test]
fn a_flow_has_a_timeout_within_the_bounds_of_its_server() {
    let limits = Limits::default();
    let (shortest, longest) = limits.flow_timeout;
    for (asked_for, given) in [
        (0, longest),
        (1, shortest),
        (5_000, Duration::from_secs(5)),
        (120_000, Duration::from_secs(120)),
        (u32::MAX, longest),
    ] {
        let qos = QosSpec { timeout: asked_for, ..QosSpec::RAW };
        let asked = AllocationRequest { qos, ..asked(native()) };
        let (mut server, _, keys) = half_open(limits, asked);
        assert!(server.handle_frame(at(1), CLIENT, REMOTE, &first_frame(keys, REMOTE)));
        let (_, accepted, _) = confirmed(&mut server).expect("confirmed");
        assert_eq!(Duration::from_millis(accepted.qos.timeout.into()), given);
    }
}

/// Requests of their own from `peers`, accepted as soon as they come; how many
/// were.
fn flood(
    server: &mut Allocator,
    security: Option<ClientSecurity>,
    peers: impl Iterator<Item = PeerAddress>,
    first: u32,
) -> Vec<(RequestId, PeerAddress, Eid)> {
    let mut entropy = Counting(9);
    let mut accepted = Vec::new();
    for (number, from) in (first..).zip(peers) {
        let local = Eid(number);
        let mut client = Allocator::new(UDP, hash_of(UDP), Limits::default());
        let request = AllocationRequest { local, ..asked(security.clone()) };
        let now = at(u64::from(number));
        client.allocate(now, &mut entropy, request).expect("within limits");
        let message = client.poll_transmit().expect("a request").message;
        server.handle(now, &mut entropy, from, None, &message);
        while let Some(event) = server.poll() {
            if let Event::Requested { request, .. } = event {
                server.accept(now, &mut entropy, request, local).expect("accepted");
                accepted.push((request, from, local));
            }
        }
        while server.poll_transmit().is_some() {}
    }
    accepted
}

fn many(count: u32) -> impl Iterator<Item = PeerAddress> {
    (0..count).map(|number| {
        let ip = std::net::Ipv4Addr::from_bits((10 << 24) | (number << 8));
        PeerAddress::Udp((ip, 4_000).into())
    })
}

#[test]
fn of_plain_half_open_flows_the_newest_take_the_places_of_the_oldest() {
    let limits = Limits { half_open_without_cookies: 100, ..Limits::default() };
    let mut server = Allocator::new(UDP, hash_of(UDP), limits);
    server.register(&name());
    let accepted = flood(&mut server, None, many(500), 1000);
    assert_eq!((accepted.len(), server.half_open()), (500, 100));
    for (index, (_, from, local)) in accepted.into_iter().enumerate() {
        assert_eq!(server.handle_frame(at(2_000), from, local, &[]), index >= 400, "{index}");
    }
}

#[test]
fn native_half_open_flows_without_proof_are_as_few_as_requests() {
    let limits = Limits::default();
    let mut server = Allocator::new(UDP, hash_of(UDP), limits);
    server.register(&name());
    let accepted = flood(&mut server, native(), many(500), 1000);
    assert_eq!(accepted.len(), limits.unvalidated_requests);
    assert_eq!(server.half_open(), limits.unvalidated_requests);
    assert!(server.counters().cookies > 300, "the others are asked for a cookie");
}

#[test]
fn one_host_has_its_share_of_the_flows_and_no_more() {
    let share = ouroboros::proto::allocation::Share { host: 10, prefix: 15 };
    let limits = Limits { established_of: share, ..Limits::default() };
    let mut server = Allocator::new(UDP, hash_of(UDP), limits);
    server.register(&name());
    let host = |last, port: u32| PeerAddress::Udp(([10, 0, 0, last], 1000 + port as u16).into());
    let mut established = Vec::new();
    for port in 0..20 {
        for (request, from, local) in
            flood(&mut server, None, std::iter::once(host(1, port)), 1000 + port)
        {
            assert!(server.handle_frame(at(1_100), from, local, &[]));
            established.push(request);
        }
    }
    assert_eq!(established.len(), share.host);
    // Others of the prefix have what is left of that; who is elsewhere, his own.
    let neighbours = flood(&mut server, None, (0..20).map(|port| host(2, port)), 1100);
    let taken = neighbours
        .iter()
        .filter(|(_, from, local)| server.handle_frame(at(1_200), *from, *local, &[]));
    assert_eq!(taken.count(), share.prefix - share.host);
    assert_eq!(flood(&mut server, None, many(2).skip(1), 1150).len(), 1);
    // A flow that ends makes room.
    server.released(established[0]);
    assert_eq!(flood(&mut server, None, std::iter::once(host(1, 99)), 1160).len(), 1);
}

/// No more than three times what came, whoever asks and however often.
#[test]
fn an_address_that_has_proved_nothing_gets_three_times_what_it_sent_at_most() {
    for security in [None, old(), native()] {
        let mut pair = Pair::new(UDP, None);
        let mut entropy = Counting(4);
        let mut client = Allocator::new(UDP, hash_of(UDP), Limits::default());
        client.allocate(at(0), &mut entropy, asked(security)).expect("within limits");
        let message = client.poll_transmit().expect("a request").message;
        let (mut came, mut went) = (0, 0);
        for copy in 0..40 {
            came += message.len();
            pair.give_server(at(copy), CLIENT, &message);
            while let Some(event) = pair.server.poll() {
                if let Event::Requested { request, .. } = event {
                    pair.server.accept(at(copy), &mut entropy, request, REMOTE).expect("accepted");
                }
            }
            while let Some(sent) = pair.server.poll_transmit() {
                went += sent.message.len();
            }
            assert!(went <= 3 * came, "{went} bytes for {came}");
        }
        assert!(went > 0);
    }
}
