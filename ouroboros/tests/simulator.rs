//! The allocation core under a seeded network with virtual time: loss,
//! duplication, reordering, corruption, garbage, replays.

use std::{collections::HashMap, time::Duration};

use ouroboros::{
    crypto::{Entropy, Suite, identity::IdentityKey},
    proto::{
        Now,
        allocation::{
            AcceptError, AllocationRequest, Allocator, ClientSecurity, Event, Identity, Limits,
            ServerSecurity, Share, Trust,
        },
        protection::FlowKeys,
    },
    transport::Destination,
    wire::{Dialect, DirectoryHash, Eid, PeerAddress, QosSpec, management::LARGEST_MESSAGE},
};
use ouroboros_testing::Random;

const UTC: u64 = 1_800_000_000_000_000_000;

fn at(monotonic: Duration) -> Now {
    Now { monotonic, utc: UTC + monotonic.as_nanos() as u64 }
}

const SERVER: PeerAddress = PeerAddress::Memory(1);
const CLIENT: PeerAddress = PeerAddress::Memory(2);
const STRANGER: PeerAddress = PeerAddress::Memory(3);

/// Length of the longer of the two management headers.
const GUARDED: usize = 43;

/// An identity that is always the same.
fn identity(seed: u64, name: &str) -> Identity {
    let key = IdentityKey::generate(&mut Random::from_state(seed));
    Identity::self_signed(key, &name.parse().expect("a name"))
}

/// One run; panics where a property does not hold. In a `signed` one both sides
/// know each other by their keys.
fn run(seed: u64, dialect: Dialect, signed: bool) {
    let random = &mut Random::new(seed);
    let hash = match dialect {
        Dialect::EthDix => DirectoryHash::Sha3_256,
        Dialect::Udp => DirectoryHash::Md5,
    };
    let limits = Limits {
        pending_requests: 16,
        pending_of: Share { host: 8, prefix: 16 },
        ..Limits::default()
    };
    let mut server = Allocator::new(dialect, hash, limits);
    let mut client = Allocator::new(dialect, hash, limits);
    let name = "my_vpn".parse().expect("a name");
    let (ours, theirs) = (identity(1, "my_vpn"), identity(2, "client"));
    let known = |identity: &Identity| Trust::Keys(vec![identity.fingerprint()]);
    if signed {
        let policy = ServerSecurity::encrypted().identity(ours.clone()).clients(known(&theirs));
        server.set_policy(&name, policy);
    }
    server.register(&name);
    // No faults at all; all faults but altered bytes; all.
    let (quiet, unaltered) = (seed.is_multiple_of(4), seed % 4 < 2);
    let mut time = Duration::ZERO;
    let timeout = Duration::from_secs(10);
    let mut ids = HashMap::new();
    for number in 0..3 {
        let request = AllocationRequest {
            name: name.clone(),
            qos: QosSpec::RAW,
            security: (signed || number != 0).then(|| {
                let security = ClientSecurity::from(Suite::default());
                match signed {
                    true => ClientSecurity {
                        identity: Some(theirs.clone()),
                        trust: known(&ours),
                        ..security
                    },
                    false => security,
                }
            }),
            local: Eid(100 + number),
            peer: (dialect == Dialect::Udp).then_some(SERVER),
            timeout,
            largest_message: LARGEST_MESSAGE,
        };
        let id = client.allocate(at(time), random, request).expect("within limits");
        ids.insert(id, Eid(100 + number));
    }
    let via: HashMap<Eid, _> = ids.iter().map(|(id, eid)| (*eid, *id)).collect();
    // (arrives, to, from, message)
    let mut wire: Vec<(Duration, PeerAddress, PeerAddress, Vec<u8>)> = Vec::new();
    let mut accepted: HashMap<Eid, Vec<(Eid, Option<FlowKeys>)>> = HashMap::new();
    let mut allocated: HashMap<Eid, (Eid, Option<FlowKeys>)> = HashMap::new();
    let mut waiting = Vec::new();
    let (mut failed, mut next_eid) = (0, 1000);
    while allocated.len() + failed < 3 {
        assert!(time < timeout, "an allocation outlived its timeout");
        for (allocator, own, other) in
            [(&mut server, SERVER, CLIENT), (&mut client, CLIENT, SERVER)]
        {
            while let Some(transmit) = allocator.poll_transmit() {
                let to = match transmit.to {
                    Destination::Broadcast => other,
                    Destination::Peer(peer) => peer,
                };
                let copies = if quiet { 1 } else { [0, 1, 1, 2][random.next_u64() as usize % 4] };
                for _ in 0..copies {
                    let delay = Duration::from_millis(random.next_u64() % 300);
                    let mut message = transmit.message.clone();
                    // Of what can be altered, the 0.23 format notices this: the
                    // header of a request, by its hash in the reply. Without a
                    // certificate nothing guards the reply itself.
                    let guarded = (signed || own == CLIENT) && message.len() > GUARDED;
                    if !unaltered && guarded && random.one_in(5) {
                        let at = GUARDED + random.next_u64() as usize % (message.len() - GUARDED);
                        message[at] ^= 1 << (random.next_u64() % 8);
                    }
                    wire.push((time + delay, to, own, message));
                }
                if !quiet && random.one_in(5) {
                    // A stranger repeats what it saw.
                    let delay = Duration::from_millis(random.next_u64() % 1000);
                    wire.push((time + delay, to, STRANGER, transmit.message));
                }
            }
        }
        if !quiet && random.one_in(3) {
            let mut garbage = vec![0; random.next_u64() as usize % 120];
            random.fill(&mut garbage);
            let to = if random.one_in(2) { SERVER } else { CLIENT };
            wire.push((time, to, STRANGER, garbage));
        }
        time += Duration::from_millis(10);
        let (now, mut later) = (at(time), Vec::new());
        for (arrives, to, from, message) in wire.drain(..) {
            if arrives > time {
                later.push((arrives, to, from, message));
            } else if to == SERVER {
                server.handle(now, random, from, None, &message);
            } else if to == CLIENT {
                // UDP: the path it comes by is that of the requester's EID.
                let eid =
                    message.get(..4).map(|eid| u32::from_be_bytes(eid.try_into().expect("4")));
                let path = eid.and_then(|eid| via.get(&Eid(eid)).copied());
                let path = path.filter(|_| dialect == Dialect::Udp);
                client.handle(now, random, from, path, &message);
            }
        }
        wire = later;
        server.handle_timeout(now, random);
        client.handle_timeout(now, random);
        let (pending, _) = server.held();
        assert!(pending <= 16, "more is pending than the limit");
        while let Some(event) = server.poll() {
            match event {
                Event::Requested { request, remote, from, .. } => {
                    // The application may come too late.
                    let limit = if quiet { 3_000 } else { 6_000 };
                    let when = time + Duration::from_millis(random.next_u64() % limit);
                    waiting.push((when, request, remote, from));
                }
                Event::Withdrawn { request } => waiting.retain(|(_, r, ..)| *r != request),
                _ => {}
            }
        }
        for (_, request, remote, from) in waiting.extract_if(.., |(when, ..)| *when <= time) {
            next_eid += 1;
            match server.accept(now, random, request, Eid(next_eid)) {
                Ok(()) if from == CLIENT => {
                    let flow = server.confirm(request).expect("half-open");
                    let identity = flow.agreed.as_ref().and_then(|agreed| agreed.identity.as_ref());
                    let known = identity.map(|identity| identity.fingerprint);
                    assert_eq!(known, signed.then(|| theirs.fingerprint()));
                    accepted
                        .entry(remote)
                        .or_default()
                        .push((Eid(next_eid), flow.agreed.map(|agreed| agreed.keys)));
                }
                Err(AcceptError::Gone) => panic!("a request is gone without a word"),
                _ => {}
            }
        }
        while let Some(event) = client.poll() {
            match event {
                Event::Allocated { allocation, peer, remote, agreed, .. } => {
                    assert_eq!(peer, SERVER);
                    let identity = agreed.as_ref().and_then(|agreed| agreed.identity.as_ref());
                    let known = identity.map(|identity| identity.fingerprint);
                    assert_eq!(known, signed.then(|| ours.fingerprint()));
                    allocated.insert(ids[&allocation], (remote, agreed.map(|agreed| agreed.keys)));
                }
                Event::Failed { .. } => failed += 1,
                _ => {}
            }
        }
    }
    if quiet {
        assert_eq!(failed, 0, "a network without faults fails no allocation");
    }
    for (local, (remote, keys)) in &allocated {
        let flows = accepted.get(local).expect("what is allocated was accepted");
        let other = flows.iter().find(|(eid, _)| eid == remote).expect("at that endpoint");
        match (&other.1, keys) {
            (Some(keys), Some(other)) => assert!(keys.is_counterpart(other), "of one flow"),
            (keys, other) => assert!(keys.is_none() && other.is_none(), "both are plain"),
        }
    }
    if unaltered {
        // A request whose id was altered on its way is another request.
        assert!(accepted.values().all(|flows| flows.len() == 1), "one flow for each allocation");
    }
}

fn run_all(seeds: u64, signed: bool) {
    for dialect in [Dialect::EthDix, Dialect::Udp] {
        for seed in 0..seeds {
            if let Err(panic) = std::panic::catch_unwind(|| run(seed, dialect, signed)) {
                eprintln!("failed with seed {seed}, {dialect:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn allocations_end_alike_on_both_sides_whatever_the_network_does() {
    run_all(1_500, false);
}

#[test]
fn signed_allocations_end_with_the_right_peer_whatever_the_network_does() {
    run_all(500, true);
}

#[test]
fn a_flood_of_requests_leaves_a_bounded_state() {
    let random = &mut Random::from_state(7);
    let limits = Limits::default();
    let mut server = Allocator::new(Dialect::Udp, DirectoryHash::Md5, limits);
    let name = "my_vpn".parse().expect("a name");
    server.register(&name);
    let mut answers = 0;
    for source in 0..20_000u32 {
        let mut flooder = Allocator::new(Dialect::Udp, DirectoryHash::Md5, limits);
        let request = AllocationRequest {
            name: if source % 2 == 0 { name.clone() } else { "nobody".parse().expect("a name") },
            qos: QosSpec::RAW,
            security: None,
            local: Eid(source + 1),
            peer: Some(SERVER),
            timeout: Duration::from_secs(1),
            largest_message: LARGEST_MESSAGE,
        };
        flooder.allocate(at(Duration::ZERO), random, request).expect("within limits");
        let message = flooder.poll_transmit().expect("a request").message;
        server.handle(at(Duration::ZERO), random, PeerAddress::Memory(source), None, &message);
        while server.poll_transmit().is_some() {
            answers += 1;
        }
    }
    let (pending, remembered) = server.held();
    assert_eq!(pending, limits.unvalidated_requests);
    assert!(remembered <= limits.remembered_requests);
    assert_eq!(answers, limits.answers_per_second, "refusals keep to the rate");
    server.handle_timeout(at(limits.hold), random);
    assert_eq!(server.held().0, 0, "what is not accepted is let go");
}

#[test]
fn a_request_for_another_process_on_the_interface_is_left_to_it() {
    let random = &mut Random::from_state(11);
    for (dialect, hash, answers) in [
        (Dialect::EthDix, DirectoryHash::Sha3_256, false),
        (Dialect::Udp, DirectoryHash::Md5, true),
    ] {
        let mut asking = Allocator::new(dialect, hash, Limits::default());
        let request = AllocationRequest {
            name: "elsewhere".parse().expect("a name"),
            qos: QosSpec::RAW,
            security: None,
            local: Eid(300),
            peer: Some(SERVER),
            timeout: Duration::from_secs(1),
            largest_message: LARGEST_MESSAGE,
        };
        asking.allocate(at(Duration::ZERO), random, request).expect("within limits");
        let message = asking.poll_transmit().expect("a request").message;
        let mut bystander = Allocator::new(dialect, hash, Limits::default());
        bystander.handle(at(Duration::ZERO), random, CLIENT, None, &message);
        assert_eq!(bystander.poll_transmit().is_some(), answers, "{dialect:?}");
    }
}
