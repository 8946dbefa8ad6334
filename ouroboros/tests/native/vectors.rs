//! PROTOCOL.md's flows, from allocation to the packets after a rekeying, byte
//! for byte.

use std::{collections::VecDeque, time::Duration};

use ouroboros::{
    crypto::{AeadBackend, Cipher, Entropy, Hash, KeyExchange, Suite},
    proto::{
        native::{
            Capabilities, Channel, Content, HEAD, KeyLimits, NativeKeys, Session, SessionConfig,
            TAIL,
        },
        negotiation::{
            Client, ClientSecurity, Offer, ProfilePolicy, ServerSecurity, Shape, Terms, answer,
        },
        protection::FlowKeys,
    },
    wire::{DirectoryHash, Eid, Name, QosSpec},
};
use serde_json::Value;

use crate::harness::{at, through_bytes};

/// Gives out bytes that were set, and complains when there are none.
struct Script(VecDeque<u8>);

impl Script {
    fn new<const N: usize>(parts: [Vec<u8>; N]) -> Self {
        Self(parts.concat().into())
    }
}

impl Entropy for Script {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.0.pop_front().expect("as many random bytes as are described"));
    }
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
    text.as_bytes().chunks(2).map(|pair| byte(pair).expect("hexadecimal")).collect()
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    hex(vector[field].as_str().unwrap_or_else(|| panic!("{field} is text")))
}

fn number(vector: &Value, field: &str) -> u64 {
    vector[field].as_u64().unwrap_or_else(|| panic!("{field} is a number"))
}

fn content(id: u64) -> Content {
    [Content::Control, Content::Packet, Content::PartialChecksum][id as usize]
}

struct Ends {
    client: NativeKeys,
    server: NativeKeys,
    eids: (Eid, Eid),
}

/// The allocation: both headers as given, and what is agreed with them.
fn allocated(flow: &Value) -> Ends {
    let name: Name = flow["name"].as_str().expect("text").parse().expect("a name");
    let terms = Terms { name: DirectoryHash::Sha3_256.of(&name), qos: QosSpec::RAW };
    assert_eq!(terms.name.as_bytes(), bytes(flow, "name_hash"));
    let suite = Suite {
        kex: KeyExchange::X25519,
        kdf: Hash::from_id(number(flow, "kdf") as u16).expect("a hash"),
        cipher: Cipher::from_id(number(flow, "cipher") as u16).expect("a cipher"),
    };
    let flags = |field| Capabilities::from_bits(number(flow, field) as u8);
    let client = ClientSecurity {
        profile: ProfilePolicy::RequireNative,
        capabilities: flags("client_flags"),
        ..suite.into()
    };
    let server = ServerSecurity {
        profile: ProfilePolicy::RequireNative,
        capabilities: flags("server_flags"),
        ..ServerSecurity::default()
    };
    let timestamp = number(flow, "timestamp");
    let entropy = &mut Script::new([bytes(flow, "id"), bytes(flow, "client_secret")]);
    let offer = Offer::new(timestamp, terms, Some(client), Shape::default(), entropy);
    assert_eq!(offer.header, bytes(flow, "request"));
    let entropy = &mut Script::new([bytes(flow, "server_secret")]);
    let (reply, agreed) =
        answer(Client::Unchecked, &offer.header, timestamp + 1, &terms, &server, entropy)
            .expect("answered");
    assert_eq!(reply, bytes(flow, "reply"));
    assert!(reply.len() <= offer.header.len(), "no more goes back than came");
    let server = agreed.expect("encrypted").keys;
    let client = offer.check(&reply, &name, timestamp).expect("accepted").expect("encrypted").keys;
    // All parts of the exchange are fresh in the vectors, as where another process has the keys.
    match (client, server) {
        (FlowKeys::Native(client), FlowKeys::Native(server)) => {
            let (client, server) = (through_bytes(client), through_bytes(server));
            let eid = |field| Eid(number(flow, field) as u32);
            Ends { client, server, eids: (eid("client_eid"), eid("server_eid")) }
        }
        _ => panic!("native keys"),
    }
}

#[test]
fn flows_are_as_given_to_the_byte() {
    let vectors: Value =
        serde_json::from_str(include_str!("../vectors/native.json")).expect("JSON");
    let flows = vectors["flows"].as_array().expect("a list");
    assert_eq!(flows.len(), 4, "one for each cipher and hash, and one with the hybrid");
    for flow in flows {
        for backend in [AeadBackend::Ring, AeadBackend::RustCrypto] {
            replay(flow, backend);
        }
    }
}

/// The control message that begins an exchange.
const OFFER: u8 = 6;

/// Both ends say what is given, in its order, and open what the other says.
fn replay(flow: &Value, backend: AeadBackend) {
    let Ends { client, server, eids: (client_eid, server_eid) } = allocated(flow);
    // Jitter: the client begins first. Then what its key is made of. With the
    // hybrid it begins at once.
    let mut random = [
        Script::new([vec![0; 4], bytes(flow, "rekey_client_secret"), vec![0; 4]]),
        Script::new([vec![255; 4], bytes(flow, "rekey_server_secret"), vec![0; 4]]),
    ];
    let limits = KeyLimits::default();
    let channels = [
        Channel::new(client, (client_eid, server_eid), backend, limits),
        Channel::new(server, (server_eid, client_eid), backend, limits),
    ];
    let mut sealers = channels.each_ref().map(Channel::sealer);
    let mut openers = channels.each_ref().map(Channel::opener);
    let mut random_of = random.iter_mut();
    let mut sessions = channels.map(|channel| {
        let entropy = random_of.next().expect("of each");
        Session::new(at(Duration::ZERO), entropy, channel, SessionConfig::default())
    });
    let packets = flow["packets"].as_array().expect("a list");
    assert!(packets.len() >= 8);
    let mut now = Duration::ZERO;
    for packet in packets {
        let from = usize::from(packet["sender"] == "server");
        let content = content(number(packet, "content"));
        let body = bytes(packet, "body");
        let frame = if content == Content::Control {
            if body[0] == OFFER && flow["rekey"] == "X25519" {
                now = Duration::from_secs(100);
                sessions.iter_mut().for_each(|session| session.traffic(now, now));
                sessions[from].handle_timeout(at(now), &mut random[from]);
            }
            let transmit = sessions[from].poll_transmit();
            transmit.unwrap_or_else(|| panic!("a frame before {packet}")).frame
        } else {
            let mut frame = [&[0; HEAD], &body[..], &[0; TAIL]].concat();
            sealers[from].reserve(1, true).expect("a number").seal(&mut frame, content);
            frame
        };
        assert_eq!(frame, bytes(packet, "frame"), "{packet}");
        let mut opened_frame = frame;
        let opened = openers[1 - from].open(&mut opened_frame).expect("authentic");
        assert_eq!(opened.content, content);
        assert_eq!(opened.epoch, number(packet, "epoch"));
        assert_eq!(opened_frame[opened.body.clone()], body);
        if content == Content::Control {
            let to = 1 - from;
            sessions[to].handle(at(now), &mut random[to], &opened, &body);
        }
    }
    for session in &mut sessions {
        assert!(session.poll_transmit().is_none(), "no more than is given");
        assert_eq!(session.epoch(), 1);
    }
}

/// The keys between the steps, too: for who implements the profile by them.
#[test]
fn keys_open_the_packets_that_are_given() {
    let vectors: Value =
        serde_json::from_str(include_str!("../vectors/native.json")).expect("JSON");
    for flow in vectors["flows"].as_array().expect("a list") {
        let cipher = Cipher::from_id(number(flow, "cipher") as u16).expect("a cipher");
        for packet in flow["packets"].as_array().expect("a list") {
            let sender = packet["sender"].as_str().expect("text");
            let epoch = &flow[format!("epoch_{}", number(packet, "epoch"))];
            let key: [u8; 32] = bytes(epoch, &format!("{sender}_key")).try_into().expect("32");
            let mut nonce: [u8; 12] = bytes(epoch, &format!("{sender}_iv")).try_into().expect("12");
            for (byte, bits) in nonce[4..].iter_mut().zip(number(packet, "number").to_be_bytes()) {
                *byte ^= bits;
            }
            let receiver = if sender == "client" { "server_eid" } else { "client_eid" };
            let mut frame = bytes(packet, "frame");
            let (header, rest) = frame.split_at_mut(5);
            let (sealed, tag) = rest.split_last_chunk_mut::<TAIL>().expect("a tag");
            let associated = [&(number(flow, receiver) as u32).to_be_bytes()[..], header].concat();
            AeadBackend::Ring
                .with_key(cipher, &key)
                .open_in_place(&nonce, &associated, sealed, tag)
                .expect("authentic");
            assert_eq!(sealed[0], number(packet, "content") as u8);
            assert_eq!(sealed[1..], bytes(packet, "body"));
        }
    }
}
