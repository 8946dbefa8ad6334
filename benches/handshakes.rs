//! What a flow's allocation costs: both sides of an honest one, the server's
//! part of it, and the server's cost of a request that nobody means. One thread,
//! no I/O: handshakes per second and core.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ouroboros::{
    crypto::{KeyExchange, Suite, SystemEntropy, identity::IdentityKey},
    proto::{
        Now,
        allocation::{
            AllocationId, AllocationRequest, Allocator, ClientSecurity, Event, Identity, Limits,
            ProfilePolicy, ServerSecurity, Share, Trust,
        },
    },
    wire::{Dialect, DirectoryHash, Eid, Name, PeerAddress, QosSpec, management::LARGEST_MESSAGE},
};

/// Between two requests: few enough in a second for every limit.
const PAUSE: Duration = Duration::from_millis(10);
/// The same in a flood: 100,000 a second.
const FLOOD: Duration = Duration::from_micros(10);
const REMOTE: Eid = Eid(400);

fn address(host: u8) -> PeerAddress {
    PeerAddress::Udp((Ipv4Addr::new(10, 0, 0, host), 3435).into())
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn identity() -> Identity {
    Identity::self_signed(IdentityKey::generate(&mut SystemEntropy), &name("bench"))
}

struct Pair {
    server: Allocator,
    client: Allocator,
    security: Option<ClientSecurity>,
    now: Now,
}

impl Pair {
    fn new(limits: Limits, client: Option<ClientSecurity>, server: ServerSecurity) -> Self {
        let allocator = |limits| Allocator::new(Dialect::Udp, DirectoryHash::Md5, limits);
        let mut pair = Self {
            server: allocator(limits),
            client: allocator(Limits::default()),
            security: client,
            now: Now { monotonic: Duration::from_secs(60), utc: 1_800_000_000_000_000_000 },
        };
        pair.server.set_policy(&name("bench"), server);
        pair.server.register(&name("bench"));
        pair
    }

    fn pass(&mut self, time: Duration) {
        self.now.monotonic += time;
        self.now.utc += time.as_nanos() as u64;
    }

    fn request(&mut self, to: &str) -> (AllocationId, Vec<u8>) {
        let request = AllocationRequest {
            name: name(to),
            qos: QosSpec::RAW,
            security: self.security.clone(),
            local: Eid(300),
            peer: Some(address(1)),
            timeout: Duration::from_secs(5),
            largest_message: LARGEST_MESSAGE,
        };
        let allocation =
            self.client.allocate(self.now, &mut SystemEntropy, request).expect("within limits");
        (allocation, self.client.poll_transmit().expect("a request").message)
    }

    /// What the server sends, once a request has come and was accepted.
    fn serve(&mut self, request: &[u8]) -> Vec<u8> {
        let (now, entropy) = (self.now, &mut SystemEntropy);
        self.server.handle(now, entropy, address(2), None, request);
        if let Some(Event::Requested { request, .. }) = self.server.poll() {
            self.server.accept(now, entropy, request, REMOTE).expect("accepted");
            self.server.confirm(request).expect("half-open");
            self.server.released(request);
        }
        self.server.poll_transmit().expect("an answer").message
    }

    /// Until the client has its flow; `served`: what the server takes for it.
    fn allocate(&mut self, served: &mut Duration) {
        self.pass(PAUSE);
        self.server.handle_timeout(self.now, &mut SystemEntropy);
        let (allocation, mut request) = self.request("bench");
        loop {
            let start = Instant::now();
            let answer = self.serve(&request);
            *served += start.elapsed();
            let via = Some(allocation);
            self.client.handle(self.now, &mut SystemEntropy, address(1), via, &answer);
            match self.client.poll() {
                Some(Event::Allocated { agreed, .. }) => return drop(black_box(agreed)),
                None => request = self.client.poll_transmit().expect("with a cookie").message,
                Some(event) => panic!("{event:?}"),
            }
        }
    }

    /// What the server does with a message from somebody else.
    fn flood(&mut self, count: u64, message: &[u8]) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            // Not of the other clock: the message stays as fresh as it was.
            self.now.monotonic += FLOOD;
            self.server.handle(self.now, &mut SystemEntropy, address(3), None, message);
            while let Some(transmit) = self.server.poll_transmit() {
                black_box(transmit);
            }
            while let Some(event) = self.server.poll() {
                black_box(event);
            }
        }
        start.elapsed()
    }
}

fn with(kex: KeyExchange, profile: ProfilePolicy) -> Option<ClientSecurity> {
    let suite = Suite { kex, ..Suite::default() };
    Some(ClientSecurity { profile, ..ClientSecurity::from(suite) })
}

fn honest(criterion: &mut Criterion) {
    let native = || with(KeyExchange::X25519, ProfilePolicy::RequireNative);
    let hybrid = || with(KeyExchange::X25519MlKem768, ProfilePolicy::RequireNative);
    let anyone = ServerSecurity::default;
    let (of_client, of_server) = (identity(), identity());
    let signed = ServerSecurity::encrypted().identity(of_server.clone());
    let trusting = |security: Option<ClientSecurity>| {
        let trust = Trust::Keys(vec![of_server.fingerprint()]);
        security.map(|security| ClientSecurity { trust, ..security })
    };
    let known = |security: Option<ClientSecurity>| {
        let identity = Some(of_client.clone());
        trusting(security).map(|security| ClientSecurity { identity, ..security })
    };
    let friends = signed.clone().clients(Trust::Keys(vec![of_client.fingerprint()]));
    let cases = [
        ("plain", None, anyone()),
        ("X25519, 0.23", with(KeyExchange::X25519, ProfilePolicy::Wire023), anyone()),
        ("X25519", native(), anyone()),
        ("X25519MLKEM768", hybrid(), anyone()),
        ("X25519, server's key", trusting(native()), signed.clone()),
        ("X25519, both keys", known(native()), friends),
        ("X25519MLKEM768, server's key", trusting(hybrid()), signed),
    ];
    for (side, server_only) in [("both sides", false), ("the server", true)] {
        let mut group = criterion.benchmark_group(format!("handshake, {side}"));
        group.throughput(Throughput::Elements(1));
        for (case, client, server) in cases.clone() {
            let mut pair = Pair::new(Limits::default(), client, server);
            group.bench_function(case, |bencher| {
                bencher.iter_custom(|count| {
                    let (mut served, start) = (Duration::ZERO, Instant::now());
                    (0..count).for_each(|_| pair.allocate(&mut served));
                    if server_only { served } else { start.elapsed() }
                });
            });
        }
        group.finish();
    }
}

fn flood(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spoofed request");
    group.throughput(Throughput::Elements(1));
    let native = || with(KeyExchange::X25519, ProfilePolicy::RequireNative);
    // Only who has a cookie is looked at.
    let wary = Limits { unvalidated_requests: 0, ..Limits::default() };
    let mut case = |name: &str, limits: Limits, server: ServerSecurity, message: Vec<u8>| {
        group.bench_function(name, |bencher| {
            let mut pair = Pair::new(limits, native(), server.clone());
            bencher.iter_custom(|count| pair.flood(count, &message));
        });
    };
    let mut pair = Pair::new(Limits::default(), native(), ServerSecurity::default());
    let (anyone, limits) = (ServerSecurity::default, Limits::default());
    let (_, request) = pair.request("bench");
    let (_, unknown) = pair.request("somebody");
    pair.now.utc -= 30_000_000_000;
    let (_, stale) = pair.request("bench");
    case("malformed", limits, anyone(), vec![0; 200]);
    case("of an unknown name", limits, anyone(), unknown);
    case("stale", limits, anyone(), stale);
    case("replayed", limits, anyone(), request.clone());
    case("valid, without a cookie", wary, anyone(), request);
    // The dearest: certificates are read, and the signature of who has a friend's
    // is checked.
    let eager = Limits {
        unvalidated_per_second: u32::MAX,
        requests_per_second_of: Share { host: usize::MAX, prefix: usize::MAX },
        ..limits
    };
    let friend = identity();
    let friends = ServerSecurity::encrypted().clients(Trust::Keys(vec![friend.fingerprint()]));
    pair.now.utc = 1_800_000_000_000_000_000;
    for (name, identity) in [("signed by a stranger", identity()), ("in a friend's name", friend)] {
        pair.security = native().map(|s| ClientSecurity { identity: Some(identity), ..s });
        let (_, mut request) = pair.request("bench");
        // The end of the signature.
        request.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        case(&format!("{name}, within the limits"), eager, friends.clone(), request);
    }
    group.finish();
}

criterion_group!(benches, honest, flood);
criterion_main!(benches);
