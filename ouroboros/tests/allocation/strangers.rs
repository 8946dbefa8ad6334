//! Strangers who begin and never finish, at any rate and from anywhere, beside
//! clients who mean it: over seeds, with virtual time.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ouroboros::{
    crypto::Suite,
    proto::allocation::{
        AllocationId, Allocator, ClientSecurity, Event, Limits, ProfilePolicy, RequestId,
    },
    transport::Destination,
    wire::{Dialect, Eid, PeerAddress, management::Message},
};
use ouroboros_testing::Random;

use crate::harness::{SERVER, asked, at, first_frame, hash_of, name, request_like, template};

const UDP: Dialect = Dialect::Udp;
const SEEDS: u64 = 1_000;
/// Half-open flows of senders that have not proved their address, and of those that
/// know no cookies.
const UNVALIDATED: usize = 16;
const WITHOUT_COOKIES: usize = 24;
/// Honest clients of a run.
const CLIENTS: u32 = 3;
/// What a message takes each way, in milliseconds.
const DELAY: u64 = 10;
/// How long an honest client may take at most, in milliseconds: a cookie, and a
/// few requests that were not looked at.
const PATIENCE: u64 = 5_000;

fn address(ip: u32, port: u16) -> PeerAddress {
    PeerAddress::Udp(SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(ip)), port))
}

fn native() -> ClientSecurity {
    Suite::default().into()
}

fn old() -> ClientSecurity {
    ClientSecurity { profile: ProfilePolicy::Wire023, ..native() }
}

/// Where a run's strangers send from, as far as the server can see.
#[derive(Clone, Copy, Debug)]
enum Strangers {
    OneAddress,
    OnePrefix,
    Anywhere,
    /// In the names of the honest clients, and from anywhere.
    AsClients,
}

/// An honest client: its allocation, and the keys once it has them.
struct Client {
    from: PeerAddress,
    allocator: Allocator,
    allocation: Option<AllocationId>,
    begins: u64,
    done: Option<u64>,
}

impl Client {
    fn new(number: u32, begins: u64) -> Self {
        let allocator = Allocator::new(UDP, hash_of(UDP), Limits::default());
        let from = address((198 << 24) | (number << 8) | 7, 5_000);
        Self { from, allocator, allocation: None, begins, done: None }
    }
}

/// A message, or a data frame for an endpoint, to a client or to the server.
struct Sent {
    client: Option<usize>,
    from: PeerAddress,
    endpoint: Option<Eid>,
    bytes: Vec<u8>,
}

struct Run {
    random: Random,
    server: Allocator,
    limits: Limits,
    clients: Vec<Client>,
    /// By arrival, in milliseconds.
    wire: BTreeMap<u64, VecDeque<Sent>>,
    half_open: HashSet<RequestId>,
    /// The most that were half-open at a time.
    most: usize,
    next_endpoint: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let limits = Limits {
            pending_requests: 96,
            unvalidated_requests: UNVALIDATED,
            half_open_without_cookies: WITHOUT_COOKIES,
            ..Limits::default()
        };
        let mut server = Allocator::new(UDP, hash_of(UDP), limits);
        server.register(&name());
        let mut random = Random::new(seed);
        let clients = (0..CLIENTS).map(|n| Client::new(n, 500 + random.below(3_000))).collect();
        let (wire, half_open) = (BTreeMap::new(), HashSet::new());
        let (most, next_endpoint) = (0, 1_000);
        Self { random, server, limits, clients, wire, half_open, most, next_endpoint }
    }

    fn send(&mut self, time: u64, sent: Sent) {
        self.wire.entry(time + DELAY).or_default().push_back(sent);
    }

    /// The server does all that it has to do, and accepts whatever comes.
    fn serve(&mut self, time: u64) {
        let now = at(time);
        self.server.handle_timeout(now, &mut self.random);
        while let Some(event) = self.server.poll() {
            match event {
                Event::Requested { request, .. } => {
                    let local = Eid(self.next_endpoint);
                    self.next_endpoint += 1;
                    if self.server.accept(now, &mut self.random, request, local).is_ok() {
                        self.half_open.insert(request);
                    }
                }
                Event::Expired { request } => drop(self.half_open.remove(&request)),
                Event::Confirmed { request, .. } => {
                    assert!(self.half_open.remove(&request), "confirmed twice, or never accepted");
                }
                _ => {}
            }
        }
        while let Some(sent) = self.server.poll_transmit() {
            let Destination::Peer(peer) = sent.to else { continue };
            // What goes to strangers nobody reads.
            let to = self.clients.iter().position(|client| client.from == peer);
            if to.is_some() {
                let (from, bytes) = (SERVER, sent.message);
                self.send(time, Sent { client: to, from, endpoint: None, bytes });
            }
        }
        let held = self.server.half_open();
        assert_eq!(held, self.half_open.len(), "what is half-open is told when it ends");
        self.most = self.most.max(held);
        let most = UNVALIDATED + WITHOUT_COOKIES + self.clients.len();
        assert!(held <= most && self.server.held().0 <= most, "{held} flows are half-open");
    }

    fn client(&mut self, index: usize, time: u64) {
        let now = at(time);
        let client = &mut self.clients[index];
        if client.done.is_some() || time < client.begins {
            return;
        }
        if client.allocation.is_none() {
            let request = asked(Some(native()));
            let allocated = client.allocator.allocate(now, &mut self.random, request);
            client.allocation = Some(allocated.expect("within limits"));
        }
        client.allocator.handle_timeout(now, &mut self.random);
        let mut leaving = Vec::new();
        while let Some(event) = client.allocator.poll() {
            match event {
                Event::Allocated { agreed, remote, .. } => {
                    client.done = Some(time);
                    leaving.push((
                        Some(remote),
                        first_frame(agreed.map(|agreed| agreed.keys), remote),
                    ));
                }
                Event::Failed { reason, .. } => panic!("client {index} at {time} ms: {reason:?}"),
                _ => {}
            }
        }
        while let Some(sent) = client.allocator.poll_transmit() {
            leaving.push((None, sent.message));
        }
        let from = client.from;
        for (endpoint, bytes) in leaving {
            self.send(time, Sent { client: None, from, endpoint, bytes });
        }
    }

    fn deliver(&mut self, time: u64) {
        let now = at(time);
        for Sent { client, from, endpoint, bytes } in self.wire.remove(&time).unwrap_or_default() {
            match (client, endpoint) {
                (None, None) => self.server.handle(now, &mut self.random, from, None, &bytes),
                (None, Some(local)) => {
                    let confirmed = self.server.handle_frame(now, from, local, &bytes);
                    assert!(confirmed, "the first packet of {from} is no proof");
                }
                (Some(index), _) => {
                    let client = &mut self.clients[index];
                    let via = client.allocation;
                    client.allocator.handle(now, &mut self.random, from, via, &bytes);
                }
            }
        }
    }
}

/// One run; panics where a property does not hold. The most that was half-open at a
/// time, and the requests that were asked for a cookie.
fn run(seed: u64, templates: &[Vec<u8>]) -> (usize, u64) {
    let mut run = Run::new(seed);
    let strangers =
        [Strangers::OneAddress, Strangers::OnePrefix, Strangers::Anywhere, Strangers::AsClients]
            [run.random.below(4) as usize];
    // Requests in a second: from one to more than the server looks at.
    let rate = 1 << run.random.below(13);
    let mut number = 0u32;
    let last = run.clients.iter().map(|client| client.begins).max().unwrap_or(0) + PATIENCE;
    for time in 0..last {
        // A budget for the whole run, in front of which the first client stands.
        let due =
            if number < 600 { (rate * (time + 1)) / 1_000 - (rate * time) / 1_000 } else { 0 };
        for _ in 0..due {
            let (host, port) = (run.random.next_u64() as u32, run.random.below(60_000) as u16 + 1);
            let from = match strangers {
                Strangers::OneAddress => address(0x0a00_0001, port),
                Strangers::OnePrefix => address(0x0a00_0000 | (host & 0xff), port),
                Strangers::Anywhere => address(host, port),
                Strangers::AsClients if host % 2 == 0 => {
                    run.clients[host as usize / 2 % CLIENTS as usize].from
                }
                Strangers::AsClients => address(host, port),
            };
            let template = &templates[run.random.below(templates.len() as u64) as usize];
            let message = request_like(number, at(time), template);
            number += 1;
            run.server.handle(at(time), &mut run.random, from, None, &message);
        }
        run.deliver(time);
        run.serve(time);
        for index in 0..run.clients.len() {
            run.client(index, time);
        }
        if number >= 600
            && run.clients.iter().all(|client| client.done.is_some())
            && run.wire.is_empty()
        {
            break;
        }
    }
    for (index, client) in run.clients.iter().enumerate() {
        let took = client.done.map(|done| done - client.begins);
        assert!(
            took.is_some_and(|took| took <= PATIENCE),
            "seed {seed}, {strangers:?} at {rate} a second: client {index} took {took:?} ms"
        );
    }
    // Nothing is left of who never finished.
    let longest = run.limits.half_open_for_silent.max(run.limits.half_open_for);
    let end = last + DELAY + longest.as_millis() as u64;
    run.serve(end);
    run.serve(end + Duration::from_secs(60).as_millis() as u64);
    assert_eq!((run.server.half_open(), run.server.held().0), (0, 0), "seed {seed}");
    (run.most, run.server.counters().cookies)
}

#[test]
fn strangers_who_never_finish_leave_nothing_and_keep_nobody_waiting() {
    let templates = [template(Some(native())), template(Some(old())), template(None)];
    let (mut most, mut with_cookies) = (0, 0);
    for seed in 0..SEEDS {
        let (half_open, cookies) = run(seed, &templates);
        most = most.max(half_open);
        with_cookies += u64::from(cookies > 0);
    }
    // They did reach the bounds.
    assert!(most >= UNVALIDATED + WITHOUT_COOKIES, "no more than {most} were half-open");
    assert!(with_cookies > SEEDS / 10, "{with_cookies} runs had cookies");
}

#[test]
fn a_strangers_request_is_one() {
    let message = request_like(7, at(3), &template(Some(native())));
    let parsed = Message::parse(UDP, hash_of(UDP), &message);
    assert!(matches!(parsed, Ok(Message::FlowRequest { .. })), "{parsed:?}");
}
