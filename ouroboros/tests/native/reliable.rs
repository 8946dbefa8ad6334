//! The agreement on the reliable profile: offered only for flows that are to be
//! reliable, answered by who has it, bound into the keys, and as given to the byte.

use ouroboros::{
    crypto::{Entropy, KeyExchange},
    proto::{
        native::{Capabilities, Channel, Content, HEAD, KeyLimits, TAIL},
        negotiation::{
            Agreed, Client, ClientSecurity, NegotiationError, Offer, ProfilePolicy, ReliableTerms,
            ServerSecurity, Shape, Terms, answer,
        },
        protection::FlowKeys,
    },
    wire::{
        DirectoryHash, Eid, Name, QosSpec,
        extension::{Delivery, Extensions, ReliableParameters},
        frame::Frame,
        oap::Allocation,
    },
};
use serde_json::Value;

use crate::harness::{Counting, Random, changed, hex, suite};

const TIME: u64 = 1_800_000_000_000_000_000;
const HASH: usize = 32;
const OURS: ReliableParameters =
    ReliableParameters { max_ack_delay: 5, window: 70_000, message_limit: 1_000_000 };
const THEIRS: ReliableParameters =
    ReliableParameters { max_ack_delay: 2, window: 262_144, message_limit: 65_536 };

fn client() -> ClientSecurity {
    let capabilities = Capabilities::NONE;
    ClientSecurity { reliable: Some(OURS), capabilities, ..suite(KeyExchange::X25519) }
}

fn server() -> ServerSecurity {
    ServerSecurity { reliable: Some(THEIRS), ..ServerSecurity::default() }
}

fn terms(qos: QosSpec) -> (Name, Terms) {
    let name: Name = "my_vpn".parse().expect("a name");
    let terms = Terms { name: DirectoryHash::Sha3_256.of(&name), qos };
    (name, terms)
}

fn offer(qos: QosSpec, client: ClientSecurity, entropy: &mut dyn Entropy) -> Offer {
    Offer::new(TIME, terms(qos).1, Some(client), Shape::default(), entropy)
}

/// What both ends have agreed.
fn agree(qos: QosSpec, client: ClientSecurity, server: &ServerSecurity) -> [Agreed; 2] {
    let random = &mut Random::new(1);
    let (name, terms) = terms(qos);
    let native = client.offers_native();
    let offer = offer(qos, client, random);
    let (reply, answered) =
        answer(Client::Unchecked, &offer.header, TIME, &terms, server, random).expect("answered");
    if native {
        assert!(reply.len() <= offer.header.len(), "no more goes back than came");
    }
    let agreed = offer.check(&reply, &name, TIME).expect("accepted");
    [agreed, answered].map(|agreed| agreed.expect("encrypted"))
}

#[test]
fn both_ends_know_what_both_take() {
    let [client, server] = agree(QosSpec::DATA, client(), &server());
    assert_eq!(client.reliable, Some(ReliableTerms { local: OURS, remote: THEIRS }));
    assert_eq!(server.reliable, Some(ReliableTerms { local: THEIRS, remote: OURS }));
    assert!(client.keys.is_counterpart(&server.keys));
}

#[test]
fn who_does_not_have_it_or_did_not_ask_for_it_gets_a_flow_without() {
    let without = ServerSecurity { reliable: None, ..server() };
    let old = ServerSecurity { profile: ProfilePolicy::Wire023, ..server() };
    let silent = ClientSecurity { reliable: None, ..client() };
    for (qos, client, server) in [
        (QosSpec::DATA, client(), &without),
        (QosSpec::DATA, client(), &old),
        (QosSpec::DATA, silent, &server()),
        (QosSpec::DATA, ClientSecurity { profile: ProfilePolicy::Wire023, ..client() }, &server()),
        (QosSpec::RAW, client(), &server()),
        (QosSpec::VOICE, client(), &server()),
    ] {
        let [client, server] = agree(qos, client, server);
        assert_eq!((client.reliable, server.reliable), (None, None));
        assert!(client.keys.is_counterpart(&server.keys));
    }
}

#[test]
fn what_is_not_to_be_reliable_does_not_offer_it() {
    let offers = |qos| {
        let header = offer(qos, client(), &mut Random::new(1)).header;
        let header = Allocation::parse(&header, 0).expect("a header");
        Extensions::parse(header.data).expect("extensions").delivery
    };
    assert_eq!(offers(QosSpec::DATA), Some(Delivery::Reliable(OURS)));
    assert_eq!(offers(QosSpec::VIDEO), Some(Delivery::Ordered));
    assert_eq!(offers(QosSpec::RAW), None);
}

#[test]
fn an_offer_or_an_answer_that_is_altered_makes_no_flow_that_works() {
    let (name, terms) = terms(QosSpec::DATA);
    let random = &mut Random::new(2);
    let offer = offer(QosSpec::DATA, client(), random);
    let (reply, answered) =
        answer(Client::Unchecked, &offer.header, TIME, &terms, &server(), random)
            .expect("answered");
    let answered = answered.expect("encrypted");
    let profile = {
        let header = Allocation::parse(&reply, HASH).expect("a header");
        Extensions::parse(header.data).expect("extensions").profile
    };
    let with = |reliable: Option<_>| {
        let delivery = reliable.map(Delivery::Reliable);
        let data = Extensions { profile, delivery, ..Extensions::default() }.encode();
        changed(&reply, HASH, |header| header.data = &data)
    };
    // Taken away, or with more credit than was given: the keys differ.
    for altered in [None, Some(ReliableParameters { window: 1 << 30, ..THEIRS })] {
        let agreed = offer.check(&with(altered), &name, TIME).expect("well-formed");
        assert!(!agreed.expect("encrypted").keys.is_counterpart(&answered.keys));
    }
    // Of a request that was altered the reply has another hash.
    let data = Extensions { profile: Some(0x04), ..Extensions::default() }.encode();
    let altered = changed(&offer.header, 0, |header| header.data = &data);
    let (reply, _) =
        answer(Client::Unchecked, &altered, TIME, &terms, &server(), random).expect("answered");
    assert_eq!(offer.check(&reply, &name, TIME).err(), Some(NegotiationError::Mismatch));
}

#[test]
fn an_answer_that_was_not_asked_for_is_dropped() {
    let (name, terms) = terms(QosSpec::RAW);
    let random = &mut Random::new(3);
    let offer = offer(QosSpec::RAW, client(), random);
    let (reply, _) = answer(Client::Unchecked, &offer.header, TIME, &terms, &server(), random)
        .expect("answered");
    let header = Allocation::parse(&reply, HASH).expect("a header");
    let profile = Extensions::parse(header.data).expect("extensions").profile;
    let delivery = Some(Delivery::Reliable(THEIRS));
    let data = Extensions { profile, delivery, ..Extensions::default() }.encode();
    let altered = changed(&reply, HASH, |header| header.data = &data);
    assert_eq!(offer.check(&altered, &name, TIME).err(), Some(NegotiationError::Mismatch));
}

/// The flow of `reliable.json`, whose random bytes count from 1: both headers, and
/// packets of both contents.
fn flow() -> Vec<(&'static str, String)> {
    let (name, terms) = terms(QosSpec::DATA);
    let entropy = &mut Counting(0);
    let offer = offer(QosSpec::DATA, client(), entropy);
    let (reply, answered) =
        answer(Client::Unchecked, &offer.header, TIME, &terms, &server(), entropy)
            .expect("answered");
    let agreed = offer.check(&reply, &name, TIME).expect("accepted").expect("encrypted");
    let (FlowKeys::Native(client), FlowKeys::Native(server)) =
        (agreed.keys, answered.expect("encrypted").keys)
    else {
        panic!("native keys")
    };
    let ends = (Eid(302), Eid(70_001));
    let limits = KeyLimits::default();
    let sender = Channel::new(client, ends, Default::default(), limits);
    let receiver = Channel::new(server, (ends.1, ends.0), Default::default(), limits);
    let (mut sealer, mut opener) = (sender.sealer(), receiver.opener());
    let mut frames = Vec::new();
    Frame::Credit(70_000).encode(&mut frames);
    Frame::Data { offset: 6, bytes: b"\x02hi" }.encode(&mut frames);
    Frame::Fin(9).encode(&mut frames);
    let data = [&[0, 0, 0, 0][..], b"\x05hello"].concat();
    let mut vector = vec![("request", hex(&offer.header)), ("reply", hex(&reply))];
    for (body_name, frame_name, content, body) in [
        ("data_body", "data", Content::Data, &data),
        ("frames_body", "frames", Content::Frames, &frames),
    ] {
        let mut frame = [&[0; HEAD], &body[..], &[0; TAIL]].concat();
        sealer.reserve(1, true).expect("a number").seal(&mut frame, content);
        vector.push((body_name, hex(body)));
        vector.push((frame_name, hex(&frame)));
        let opened = opener.open(&mut frame).expect("authentic");
        assert_eq!((opened.content, &frame[opened.body]), (content, &body[..]));
    }
    vector
}

#[test]
fn a_flow_is_as_given_to_the_byte() {
    let vector: Value =
        serde_json::from_str(include_str!("../vectors/reliable.json")).expect("JSON");
    for (field, bytes) in flow() {
        assert_eq!(vector[field].as_str(), Some(&*bytes), "{field}");
    }
}
