//! Packets in fragments: agreed by both ends or not had, and as given to the byte.

use std::time::Duration;

use ouroboros::{
    crypto::KeyExchange,
    proto::{
        native::{
            Capabilities, Channel, Content, FRAGMENT_HEAD, HEAD, KeyLimits, NativeKeys, Reassembly,
            TAIL, fragments,
        },
        negotiation::{
            Client, ClientSecurity, Offer, ProfilePolicy, ServerSecurity, Shape, Terms, answer,
        },
        protection::FlowKeys,
    },
    tun::offload::Ecn,
    wire::{DirectoryHash, Eid, Name, QosSpec},
};
use serde_json::Value;

use crate::harness::{Counting, hex, suite};

const TIME: u64 = 1_800_000_000_000_000_000;
/// The largest body on a path of 576 bytes over UDP and IPv4: the packet of the vector is
/// in three parts.
const ROOM: usize = 522;

/// Both headers, and the keys of both ends.
fn allocate(client: Capabilities, server: Capabilities) -> ([Vec<u8>; 2], [NativeKeys; 2]) {
    let name: Name = "my_vpn".parse().expect("a name");
    let terms = Terms { name: DirectoryHash::Sha3_256.of(&name), qos: QosSpec::RAW };
    let asked = ClientSecurity {
        capabilities: client,
        profile: ProfilePolicy::RequireNative,
        ..suite(KeyExchange::X25519)
    };
    let served = ServerSecurity { capabilities: server, ..ServerSecurity::default() };
    let entropy = &mut Counting(0);
    let offer = Offer::new(TIME, terms, Some(asked), Shape::default(), entropy);
    let (reply, answered) =
        answer(Client::Unchecked, &offer.header, TIME, &terms, &served, entropy).expect("answered");
    let agreed = offer.check(&reply, &name, TIME).expect("accepted").expect("encrypted");
    match (agreed.keys, answered.expect("encrypted").keys) {
        (FlowKeys::Native(client), FlowKeys::Native(server)) => {
            ([offer.header, reply], [client, server])
        }
        _ => panic!("native keys"),
    }
}

#[test]
fn fragments_are_taken_if_both_ends_take_them() {
    let both = Capabilities::FRAGMENTS;
    for (client, server) in [
        (both, both),
        (both, Capabilities::NONE),
        (Capabilities::NONE, both),
        (Capabilities::NONE, Capabilities::NONE),
    ] {
        let agreed = client.intersection(server);
        for keys in allocate(client, server).1 {
            assert_eq!(keys.capabilities(), agreed);
        }
    }
}

#[test]
fn a_packet_in_fragments_is_as_given_to_the_byte() {
    let vector: Value =
        serde_json::from_str(include_str!("../vectors/fragments.json")).expect("JSON");
    let ([request, reply], [client, server]) =
        allocate(Capabilities::FRAGMENTS, Capabilities::FRAGMENTS);
    let (eids, limits) = ((Eid(302), Eid(70_001)), KeyLimits::default());
    let sender = Channel::new(client, eids, Default::default(), limits);
    let receiver = Channel::new(server, (eids.1, eids.0), Default::default(), limits);
    let (mut sealer, mut opener) = (sender.sealer(), receiver.opener());
    let packet: Vec<u8> = (0..1280).map(|at| at as u8).collect();
    let mut reassembly = Reassembly::new();
    let mut sealed = Vec::new();
    let mut whole = None;
    for fragment in fragments(0, Content::Packet, &packet, ROOM).expect("it can be cut") {
        let mut frame = vec![0; HEAD + FRAGMENT_HEAD + fragment.bytes.len() + TAIL];
        let end = frame.len() - TAIL;
        fragment.write(&mut frame[HEAD..end]);
        sealer.reserve(1, true).expect("a number").seal(&mut frame, Content::Fragment);
        sealed.push(hex(&frame));
        let opened = opener.open(&mut frame).expect("authentic");
        assert_eq!(opened.content, Content::Fragment);
        assert_eq!(whole, None, "whole before its last fragment");
        let taken = reassembly.handle(Duration::ZERO, Ecn::NotEct, &frame[opened.body]);
        whole = taken.expect("well formed");
    }
    let whole = whole.expect("whole");
    assert_eq!((&*whole.bytes, whole.content), (&*packet, Content::Packet));
    for (field, found) in
        [("request", hex(&request)), ("reply", hex(&reply)), ("packet", hex(&packet))]
    {
        assert_eq!(vector[field].as_str(), Some(&*found), "{field}");
    }
    let given: Vec<_> = vector["frames"].as_array().expect("a list").iter().collect();
    assert_eq!(given, sealed.iter().collect::<Vec<_>>());
}
