//! Packets that keep their order by their numbers: agreed by both ends or not had, as
//! given to the byte, and under a seeded network whatever it does.

use std::{collections::BTreeMap, time::Duration};

use ouroboros::{
    crypto::KeyExchange,
    proto::{
        native::{
            Capabilities, Channel, Content, HEAD, KeyLimits, NativeKeys, PacketOrder,
            SessionConfig, TAIL, Transmit,
        },
        negotiation::{
            Agreed, Client, ClientSecurity, NegotiationError, Offer, ProfilePolicy, ServerSecurity,
            Shape, Terms, answer,
        },
        protection::FlowKeys,
    },
    wire::{
        DirectoryHash, Eid, Name, QosSpec,
        extension::{Delivery, Extensions, ReliableParameters},
        oap::Allocation,
    },
};
use serde_json::Value;

use crate::harness::{Counting, Random, changed, hex, pair, suite};

const TIME: u64 = 1_800_000_000_000_000_000;
const HASH: usize = 32;

fn client() -> ClientSecurity {
    ClientSecurity { capabilities: Capabilities::NONE, ..suite(KeyExchange::X25519) }
}

fn terms(qos: QosSpec) -> (Name, Terms) {
    let name: Name = "my_vpn".parse().expect("a name");
    let terms = Terms { name: DirectoryHash::Sha3_256.of(&name), qos };
    (name, terms)
}

/// Both headers, and what the ends have agreed.
fn agree(
    qos: QosSpec,
    client: ClientSecurity,
    server: &ServerSecurity,
) -> ([Vec<u8>; 2], [Agreed; 2]) {
    let (name, terms) = terms(qos);
    let entropy = &mut Counting(0);
    let offer = Offer::new(TIME, terms, Some(client), Shape::default(), entropy);
    let (reply, answered) =
        answer(Client::Unchecked, &offer.header, TIME, &terms, server, entropy).expect("answered");
    let agreed = offer.check(&reply, &name, TIME).expect("accepted");
    ([offer.header, reply], [agreed, answered].map(|agreed| agreed.expect("encrypted")))
}

#[test]
fn an_ordered_flow_is_agreed_by_two_that_have_it() {
    for qos in [QosSpec::BEST_EFFORT, QosSpec::VIDEO, QosSpec::VOICE] {
        let ([request, reply], agreed) = agree(qos, client(), &ServerSecurity::default());
        assert!(reply.len() <= request.len(), "no more goes back than came");
        assert!(agreed.iter().all(|agreed| agreed.ordered && agreed.reliable.is_none()));
        assert!(agreed[0].keys.is_counterpart(&agreed[1].keys));
    }
}

#[test]
fn who_does_not_have_it_or_did_not_ask_for_it_gets_a_flow_without() {
    let server = ServerSecurity::default;
    let without = ServerSecurity { ordered: false, ..server() };
    let old = ServerSecurity { profile: ProfilePolicy::Wire023, ..server() };
    let voice = QosSpec::VOICE;
    for (qos, client, server) in [
        (voice, client(), without),
        (voice, client(), old),
        (voice, ClientSecurity { ordered: false, ..client() }, server()),
        (voice, ClientSecurity { profile: ProfilePolicy::Wire023, ..client() }, server()),
        (QosSpec::RAW, client(), server()),
        (QosSpec::DATA, client(), server()),
    ] {
        let (_, agreed) = agree(qos, client, &server);
        assert!(agreed.iter().all(|agreed| !agreed.ordered));
        assert!(agreed[0].keys.is_counterpart(&agreed[1].keys));
    }
}

#[test]
fn an_answer_that_was_not_asked_for_is_dropped_and_one_that_was_taken_away_parts_the_keys() {
    let reliable = Delivery::Reliable(ReliableParameters::default());
    for (qos, delivery, dropped) in [
        (QosSpec::RAW, Some(Delivery::Ordered), true),
        (QosSpec::DATA, Some(Delivery::Ordered), true),
        (QosSpec::VOICE, Some(reliable), true),
        (QosSpec::VOICE, None, false),
    ] {
        let (name, terms) = terms(qos);
        let entropy = &mut Counting(0);
        let offer = Offer::new(TIME, terms, Some(client()), Shape::default(), entropy);
        let server = ServerSecurity::default();
        let (reply, answered) =
            answer(Client::Unchecked, &offer.header, TIME, &terms, &server, entropy)
                .expect("answered");
        let header = Allocation::parse(&reply, HASH).expect("a header");
        let profile = Extensions::parse(header.data).expect("extensions").profile;
        let data = Extensions { profile, delivery, ..Extensions::default() }.encode();
        let altered = changed(&reply, HASH, |header| header.data = &data);
        let checked = offer.check(&altered, &name, TIME);
        if dropped {
            assert_eq!(checked.err(), Some(NegotiationError::Mismatch));
        } else {
            let agreed = checked.expect("well-formed").expect("encrypted");
            assert!(!agreed.keys.is_counterpart(&answered.expect("encrypted").keys));
        }
    }
}

fn native(keys: FlowKeys) -> NativeKeys {
    match keys {
        FlowKeys::Native(keys) => keys,
        FlowKeys::Wire023 { .. } => panic!("native keys"),
    }
}

/// The flow of `ordered.json`, whose random bytes count from 1: both headers and three
/// packets, which arrive in the order 0, 2, 1.
#[test]
fn a_flow_is_as_given_to_the_byte() {
    let vector: Value =
        serde_json::from_str(include_str!("../vectors/ordered.json")).expect("JSON");
    let ([request, reply], [client, server]) =
        agree(QosSpec::VOICE, client(), &ServerSecurity::default());
    let (ends, limits) = ((Eid(302), Eid(70_001)), KeyLimits::default());
    let sender = Channel::new(native(client.keys), ends, Default::default(), limits);
    let receiver = Channel::new(native(server.keys), (ends.1, ends.0), Default::default(), limits);
    let (mut sealer, mut opener) = (sender.sealer(), receiver.opener());
    let mut frames = ["one", "two", "three"].map(|packet| {
        let mut frame = [&[0; HEAD], packet.as_bytes(), &[0; TAIL]].concat();
        sealer.reserve(1, true).expect("a number").seal(&mut frame, Content::Packet);
        frame
    });
    let mut given = vec![("request", hex(&request)), ("reply", hex(&reply))];
    given.extend(["first", "second", "third"].into_iter().zip(frames.each_ref().map(|f| hex(f))));
    for (field, bytes) in given {
        assert_eq!(vector[field].as_str(), Some(&*bytes), "{field}");
    }
    let order = &mut PacketOrder::new();
    let taken = [0, 2, 1].map(|index| {
        let mut opened = vec![opener.open(&mut frames[index]).expect("authentic")];
        order.handle(&mut opened)
    });
    assert_eq!(taken, [0, 0, 1], "the second comes after the third");
}

/// Frames on their way, by when they arrive.
type Link = BTreeMap<(Duration, u64), Vec<u8>>;

/// Packets through several epochs, by a link that loses, repeats and delays each frame for
/// as long as it likes, control too.
fn run(seed: u64) {
    let random = &mut Random::new(seed);
    let limits = KeyLimits { due: 300, data: 3_000, all: 4_000, ..KeyLimits::default() };
    let mut ends = pair(random, client(), limits, SessionConfig::default());
    let lost = if seed.is_multiple_of(3) { 0 } else { random.below(100) };
    let (repeated, jitter) = (random.below(100), 1 + random.below(20_000));
    let mut links = [Link::new(), Link::new()];
    let mut orders = [PacketOrder::new(), PacketOrder::new()];
    let (mut sent, mut received, mut late) = ([0u64; 2], [const { Vec::new() }; 2], [0; 2]);
    let (mut now, mut frames) = (Duration::ZERO, 0);
    loop {
        // Then what is under way arrives.
        let sends = ends.iter().any(|end| end.session.epoch() < 3);
        if !sends && links.iter().all(Link::is_empty) {
            break;
        }
        now += Duration::from_micros(random.below(2_000));
        assert!(now < Duration::from_secs(300), "keys change whatever is lost");
        for index in 0..2 {
            let mut leaving = Vec::new();
            ends[index].tick(now, random);
            while let Some(Transmit { frame, .. }) = ends[index].session.poll_transmit() {
                leaving.push(frame);
            }
            // What cannot be sealed was never sent.
            if sends && let Ok(frame) = ends[index].seal(now, &sent[index].to_be_bytes()) {
                sent[index] += 1;
                leaving.push(frame);
            }
            for frame in leaving {
                let copies = if random.permille(repeated) { 2 } else { 1 };
                for _ in 0..copies {
                    frames += 1;
                    let due = now + Duration::from_micros(random.below(jitter));
                    if !random.permille(lost) {
                        links[1 - index].insert((due, frames), frame.clone());
                    }
                }
            }
        }
        for index in 0..2 {
            let end = &mut ends[index];
            let waiting = links[index].split_off(&(now, u64::MAX));
            let arrived = std::mem::replace(&mut links[index], waiting);
            let (mut opened, mut bodies) = (Vec::new(), BTreeMap::new());
            for mut frame in arrived.into_values() {
                let size = frame.len();
                let Ok(packet) = end.opener.open(&mut frame) else { continue };
                end.heard = now;
                let body = &frame[packet.body.clone()];
                end.session.heard_from(crate::harness::at(now), random, None, size, packet.leads);
                if packet.content == Content::Control {
                    end.session.handle(crate::harness::at(now), random, &packet, body);
                } else {
                    let counted = u64::from_be_bytes(body.try_into().expect("eight bytes"));
                    bodies.insert(packet.number, counted);
                    opened.push(packet);
                }
            }
            late[index] += orders[index].handle(&mut opened);
            received[index].extend(opened.iter().map(|packet| bodies[&packet.number]));
        }
    }
    for index in 0..2 {
        assert!(received[index].is_sorted_by(|a, b| a < b), "seed {seed}: in order, and once");
        let (received, late) = (received[index].len() as u64, late[index] as u64);
        let sent = sent[1 - index];
        assert!(received > 100 && received + late <= sent, "seed {seed}: {received}, {late}");
        assert!(lost > 0 || received + late == sent, "seed {seed}: each came or was late");
    }
    assert!(jitter < 10_000 || late.iter().sum::<usize>() > 0, "seed {seed}: none was late");
}

#[test]
fn order_is_kept_through_changes_of_keys_whatever_the_network_does() {
    for seed in 0..60 {
        run(seed);
    }
}
