//! Under attack: shares, and what leaves for what came.

mod cookies;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ouroboros::{
    crypto::{KeyExchange, Suite},
    proto::{
        Now,
        allocation::{
            AllocationFailure, AllocationId, Allocator, ClientSecurity, Event, Identity, Limits,
            ProfilePolicy, Refusal, ServerSecurity, Trust,
        },
    },
    wire::{Dialect, PeerAddress, extension::Extensions, management::Message, oap::Allocation},
};

use crate::harness::{
    Counting, LOCAL, REMOTE, SERVER, asked, at, authority, certified, hash_of, header_of, name,
    own, request_like, request_with, template,
};

const UDP: Dialect = Dialect::Udp;

fn address(ip: &str, port: u16) -> PeerAddress {
    PeerAddress::Udp(SocketAddr::new(ip.parse().expect("an address"), port))
}

/// The `number`th of many addresses, each in a network of its own.
fn anywhere(number: u32) -> PeerAddress {
    let ip = IpAddr::V4(std::net::Ipv4Addr::from_bits((10 << 24) | (number << 8)));
    PeerAddress::Udp(SocketAddr::new(ip, 4_000))
}

struct Server {
    allocator: Allocator,
    entropy: Counting,
}

impl Server {
    fn new(limits: Limits, policy: ServerSecurity) -> Self {
        let mut allocator = Allocator::new(UDP, hash_of(UDP), limits);
        allocator.set_policy(&name(), policy);
        allocator.register(&name());
        Self { allocator, entropy: Counting(1) }
    }

    /// Whether the request gets to the application.
    fn takes(&mut self, now: Now, from: PeerAddress, message: &[u8]) -> bool {
        self.allocator.handle(now, &mut self.entropy, from, None, message);
        matches!(self.allocator.poll(), Some(Event::Requested { .. }))
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.allocator.poll_transmit().map(|transmit| transmit.message)
    }
}

struct Client {
    allocator: Allocator,
    allocation: AllocationId,
    entropy: Counting,
}

impl Client {
    fn new(seed: u8, now: Now, security: Option<ClientSecurity>) -> Self {
        let mut entropy = Counting(seed);
        let mut allocator = Allocator::new(UDP, hash_of(UDP), Limits::default());
        let request = asked(security);
        let allocation = allocator.allocate(now, &mut entropy, request).expect("within limits");
        Self { allocator, allocation, entropy }
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.allocator.poll_transmit().map(|transmit| transmit.message)
    }

    /// What it sends when the time comes, and when that is; `None`: it gives up.
    fn waits(&mut self) -> Option<(Duration, Vec<u8>)> {
        let due = self.allocator.poll_timeout().expect("it goes on");
        let now = Now { monotonic: due, utc: at(0).utc + due.as_nanos() as u64 };
        self.allocator.handle_timeout(now, &mut self.entropy);
        self.sent().map(|sent| (due, sent))
    }

    fn take(&mut self, now: Now, message: &[u8]) {
        let via = Some(self.allocation);
        self.allocator.handle(now, &mut self.entropy, SERVER, via, message);
    }
}

fn native() -> Option<ClientSecurity> {
    Some(ClientSecurity::default())
}

/// A server that demands cookies: as many requests wait as may without.
fn busy() -> Server {
    let mut server = Server::new(Limits::default(), ServerSecurity::default());
    let template = template(native());
    let limit = Limits::default().unvalidated_requests as u32;
    for number in 0..limit {
        assert!(server.takes(at(0), anywhere(number), &request_like(number, at(0), &template)));
    }
    server
}

fn cookie_of(message: &[u8]) -> Option<Vec<u8>> {
    let header = Allocation::parse(header_of(UDP, message), 0).ok()?;
    Extensions::parse(header.data).ok()?.cookie.map(<[u8]>::to_vec)
}

/// A native request with a cookie.
fn with_cookie(number: u32, now: Now, cookie: &[u8]) -> Vec<u8> {
    let template = template(native());
    let template = request_like(number, now, &template);
    let header = Allocation::parse(header_of(UDP, &template), 0).expect("a header");
    let mut extensions = Extensions::parse(header.data).expect("extensions");
    extensions.cookie = Some(cookie);
    request_with(UDP, &Allocation { data: &extensions.encode(), ..header })
}

#[test]
fn native_floods_leave_0_23_peers_their_share_and_the_other_way_round() {
    let mut server = busy();
    let old = template(None);
    let limit = Limits::default().unvalidated_requests as u32;
    for number in 0..limit {
        assert!(server.takes(at(1), anywhere(500 + number), &request_like(number, at(1), &old)));
    }
    // Beyond it they are refused.
    assert!(!server.takes(at(1), anywhere(900), &request_like(900, at(1), &old)));
    let refusal = server.sent().expect("a refusal");
    assert!(matches!(
        Message::parse(UDP, hash_of(UDP), &refusal),
        Ok(Message::FlowReply { response, allocation: &[], .. }) if response == Refusal::Busy.code()
    ));
    // With both shares gone, who proves its address is heard.
    let from = address("192.0.2.1", 5_000);
    assert!(!server.takes(at(1), from, &request_like(901, at(1), &template(native()))));
    let cookie = cookie_of(&server.sent().expect("a refusal")).expect("a cookie");
    assert!(server.takes(at(1), from, &with_cookie(902, at(1), &cookie)));
    // And without the native ones there is room for the others.
    let mut server = Server::new(Limits::default(), ServerSecurity::default());
    for number in 0..limit {
        assert!(server.takes(at(1), anywhere(500 + number), &request_like(number, at(1), &old)));
    }
    assert!(server.takes(at(1), from, &request_like(903, at(1), &template(native()))));
}

#[test]
fn no_source_and_no_prefix_takes_what_is_others() {
    let limits = Limits::default();
    let old = template(None);
    // The flooder's addresses, how many it has room for, and a neighbour.
    type Addresses = fn(u16) -> PeerAddress;
    let v4: Addresses = |_| address("192.0.2.7", 1);
    let v4_ports: Addresses = |number| address("192.0.2.7", 1 + number);
    let v4_prefix: Addresses = |number| address(&format!("192.0.2.{}", number % 200), 1);
    let v6: Addresses = |number| address(&format!("2001:db8:1:1::{number:x}"), 1);
    let v6_prefix: Addresses = |number| address(&format!("2001:db8:1:{number:x}::1"), 1);
    let mapped: Addresses = |number| address("::ffff:192.0.2.7", 1 + number);
    for (flooder, room, neighbour) in [
        (v4, limits.unvalidated_of.host, "192.0.2.8"),
        (v4_ports, limits.unvalidated_of.host, "192.0.2.8"),
        (v4_prefix, limits.unvalidated_of.prefix, "192.0.3.7"),
        (v6, limits.unvalidated_of.host, "2001:db8:1:2::1"),
        (v6_prefix, limits.unvalidated_of.prefix, "2001:db8:2::1"),
        (mapped, limits.unvalidated_of.host, "192.0.2.8"),
    ] {
        let mut server = Server::new(limits, ServerSecurity::default());
        let taken = (0..2_000)
            .filter(|&number| {
                server.takes(at(1), flooder(number), &request_like(number.into(), at(1), &old))
            })
            .count();
        assert_eq!(taken, room);
        while server.sent().is_some() {}
        assert!(server.takes(at(1), address(neighbour, 1), &request_like(9_000, at(1), &old)));
        assert!(server.takes(
            at(1),
            address(neighbour, 1),
            &request_like(9_001, at(1), &template(native()))
        ));
        // It gives back what it does not use any more.
        server.allocator.handle_timeout(at(6_000), &mut server.entropy);
        while server.allocator.poll().is_some() {}
        assert!(server.takes(at(6_000), flooder(0), &request_like(9_002, at(6_000), &old)));
    }
}

#[test]
fn who_sends_in_anothers_name_does_not_lock_it_out() {
    let mut server = Server::new(Limits::default(), ServerSecurity::default());
    let victim = address("192.0.2.7", 5_000);
    let template = template(native());
    for number in 0..5_000 {
        server.takes(at(1), victim, &request_like(number, at(1), &template));
        while server.sent().is_some() {}
    }
    // Nor does it lock out others.
    assert!(server.takes(
        at(1),
        address("198.51.100.1", 1),
        &request_like(6_000, at(1), &template)
    ));
    let mut client = Client::new(9, at(1), native());
    let first = client.sent().expect("a request");
    assert!(!server.takes(at(1), victim, &first));
    client.take(at(1), &server.sent().expect("a refusal"));
    assert!(server.takes(at(1), victim, &client.sent().expect("with a cookie")));
}

#[test]
fn what_a_flood_leaves_is_bounded_whoever_sends_it() {
    let limits = Limits { pending_requests: 64, remembered_requests: 500, ..Limits::default() };
    let mut server = Server::new(limits, ServerSecurity::default());
    let (native, old) = (template(native()), template(None));
    for number in 0..30_000 {
        let now = at(u64::from(number) / 10);
        let template = if number % 2 == 0 { &native } else { &old };
        server.allocator.handle(
            now,
            &mut server.entropy,
            anywhere(number % 5_000),
            None,
            &request_like(number, now, template),
        );
        while server.sent().is_some() {}
        while let Some(event) = server.allocator.poll() {
            // The application refuses all it is asked.
            if let Event::Requested { request, .. } = event {
                server.allocator.refuse(now, request, Refusal::NotAvailable);
            }
        }
        let (pending, remembered) = server.allocator.held();
        assert!(pending <= 64 && remembered <= 500);
    }
    assert_eq!(server.allocator.held(), (0, 500));
    // One address alone does not fill the memory.
    let limits = Limits::default();
    let mut server = Server::new(limits, ServerSecurity::default());
    for number in 0..60_000 {
        let now = at(u64::from(number) / 4);
        let from = address("192.0.2.1", 1);
        server.allocator.handle(
            now,
            &mut server.entropy,
            from,
            None,
            &request_like(number, now, &old),
        );
        while let Some(event) = server.allocator.poll() {
            if let Event::Requested { request, .. } = event {
                server.allocator.refuse(now, request, Refusal::NotAvailable);
            }
        }
        while server.sent().is_some() {}
    }
    assert_eq!(server.allocator.held().1, limits.remembered_of.host);
    assert!(server.takes(
        at(15_000),
        address("192.0.3.1", 1),
        &request_like(70_000, at(15_000), &old)
    ));
}

/// What went out to an address that nobody has proved to be at, in bytes, and
/// what came from there.
#[test]
fn copies_of_a_request_are_answered_so_many_times() {
    let mut server = Server::new(Limits::default(), ServerSecurity::default());
    let from = anywhere(1);
    let request = Client::new(9, at(0), native()).sent().expect("a request");
    server.allocator.handle(at(0), &mut server.entropy, from, None, &request);
    let Some(Event::Requested { request: id, .. }) = server.allocator.poll() else {
        panic!("no request")
    };
    server.allocator.accept(at(0), &mut server.entropy, id, REMOTE).expect("accepted");
    let mut answers = 0;
    for _ in 0..1000 {
        server.allocator.handle(at(0), &mut server.entropy, from, None, &request);
        while server.sent().is_some() {
            answers += 1;
        }
    }
    assert_eq!(answers, 17, "the reply, and so many copies");
}

/// Their answers cost milliseconds each, which strangers could make a server
/// spend.
#[test]
fn slow_key_exchanges_have_a_share_of_their_own() {
    let mut server = Allocator::new(Dialect::EthDix, hash_of(Dialect::EthDix), Limits::default());
    server.register(&name());
    let taken = |server: &mut Allocator, kex, count: u32, time: u32| {
        let mut taken = 0;
        for number in 0..count {
            let suite = Suite { kex, ..Suite::default() };
            let mut client =
                Allocator::new(Dialect::EthDix, hash_of(Dialect::EthDix), Limits::default());
            let entropy = &mut Counting((number * 3 + time) as u8);
            let now = at(u64::from(time));
            client.allocate(now, entropy, asked(Some(suite.into()))).expect("within limits");
            let request = client.poll_transmit().expect("a request").message;
            let from = PeerAddress::Memory(1_000 * time + number);
            server.handle(now, entropy, from, None, &request);
            taken += usize::from(matches!(server.poll(), Some(Event::Requested { .. })));
        }
        taken
    };
    assert_eq!(taken(&mut server, KeyExchange::P384, 60, 1), 50);
    assert_eq!(taken(&mut server, KeyExchange::X25519, 20, 2), 20);
    assert_eq!(taken(&mut server, KeyExchange::P521, 10, 3), 0);
    assert_eq!(taken(&mut server, KeyExchange::P521, 10, 1_100), 10);
}
