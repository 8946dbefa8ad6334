//! Every vector and capture of the 0.23 format, byte for byte.

use ouroboros::{
    crypto::{
        AeadBackend, Cipher, Entropy, EphemeralSecret, FlowKey, Hash, KeyExchange, Secret,
        identity::{BadSignature, PeerCertificate},
    },
    proto::{
        native::KeyLimits,
        protection::{FlowKeys, Opener, Protection, protection},
    },
    wire::{Dialect, DirectoryHash, Eid, Name, QosSpec, management::Message, oap::Allocation},
};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/wire.json")).expect("JSON")
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
    digits.map(|pair| byte(pair).expect("hexadecimal")).collect()
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    hex(vector[field].as_str().unwrap_or_else(|| panic!("{field} is text")))
}

fn key(bytes: &[u8]) -> FlowKey {
    FlowKey::new(bytes.try_into().expect("32 bytes"))
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a Vec<Value> {
    let list = vectors[name].as_array().expect("a list");
    assert!(!list.is_empty(), "{name} has vectors");
    list
}

struct Zeros;

impl Entropy for Zeros {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// The opener of a flow with a 0.23 peer.
fn opener(key: Option<FlowKey>, backend: AeadBackend) -> Opener {
    let keys = key.map(|key| FlowKeys::Wire023 { cipher: Cipher::Aes256Gcm, key });
    let Protection { opener, .. } =
        protection(keys, (Eid(1), Eid(2)), false, backend, KeyLimits::default(), &mut Zeros);
    opener
}

#[test]
fn names_hash_as_given() {
    for vector in list(&vectors(), "name_hash") {
        let name: Name = vector["name"].as_str().expect("text").parse().expect("a name");
        for (hash, field) in [
            (DirectoryHash::Md5, "md5"),
            (DirectoryHash::Sha3_224, "sha3_224"),
            (DirectoryHash::Sha3_256, "sha3_256"),
            (DirectoryHash::Sha3_384, "sha3_384"),
            (DirectoryHash::Sha3_512, "sha3_512"),
        ] {
            assert_eq!(hash.of(&name).to_string(), vector[field].as_str().expect("text"));
        }
    }
}

#[test]
fn keys_are_agreed_and_rotated_as_given() {
    for vector in list(&vectors(), "key_schedule_x25519_sha256") {
        let secret = |field| {
            let bytes: [u8; 32] = bytes(vector, field).try_into().expect("32 bytes");
            EphemeralSecret::from_bytes(KeyExchange::X25519, &bytes).expect("a secret")
        };
        let (client, server) = (secret("client_private"), secret("server_private"));
        assert_eq!(client.public_key(), bytes(vector, "client_spki_der"));
        assert_eq!(server.public_key(), bytes(vector, "server_spki_der"));
        let agreed = client.agree(server.public_key(), Hash::Sha256).expect("agreed");
        assert_eq!(agreed, server.agree(client.public_key(), Hash::Sha256).expect("agreed"));
        assert_eq!(agreed.as_bytes()[..], bytes(vector, "key_epoch0"));
        let next = agreed.next(&agreed);
        assert_eq!(next.as_bytes()[..], bytes(vector, "key_epoch1"));
        assert_eq!(next.next(&agreed).as_bytes()[..], bytes(vector, "key_epoch2"));
    }
}

#[test]
fn what_openssl_encapsulates_is_agreed_as_the_key_schedule_says() {
    let vectors = include_str!("vectors/x25519mlkem768.json");
    let vectors: Value = serde_json::from_str(vectors).expect("JSON");
    for vector in list(&vectors, "x25519mlkem768") {
        let kex = KeyExchange::X25519MlKem768;
        let client = EphemeralSecret::from_bytes(kex, &bytes(vector, "secret")).expect("a secret");
        let salt = Hash::Sha256.digest(client.public_key());
        for kdf in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let agreed = client.agree(&bytes(vector, "ciphertext"), kdf).expect("agreed");
            let secret = Secret::extract(kdf, &salt, &bytes(vector, "shared_secret"));
            assert_eq!(*agreed.as_bytes(), *secret.expand(b"o7s-ossl-encap"));
        }
    }
}

#[test]
fn packets_are_sealed_and_opened_as_given_by_both_backends() {
    for vector in list(&vectors(), "packet_aes_256_gcm") {
        let wire = bytes(vector, "wire");
        let plaintext = bytes(vector, "plaintext");
        let key_bytes: [u8; 32] = bytes(vector, "key").try_into().expect("32 bytes");
        let iv: [u8; 12] = bytes(vector, "iv").try_into().expect("12 bytes");
        assert_eq!(u64::from(iv[0] >> 7), vector["phase"].as_u64().expect("a bit"));
        for backend in [AeadBackend::Ring, AeadBackend::RustCrypto] {
            let aead = backend.with_key(Cipher::Aes256Gcm, &key_bytes);
            let mut data = plaintext.clone();
            let tag = aead.seal_in_place(&iv, &[], &mut data);
            assert_eq!([&iv[..], &data, &tag].concat(), wire);
            let mut opener = opener(Some(FlowKey::new(key_bytes)), backend);
            let mut frame = wire.clone();
            let opened = opener.open(&mut frame).expect("authentic");
            assert_eq!(frame[opened.body], plaintext);
        }
    }
}

#[test]
fn backends_open_what_the_other_sealed() {
    for cipher in
        [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305]
    {
        for (one, other) in [
            (AeadBackend::Ring, AeadBackend::RustCrypto),
            (AeadBackend::RustCrypto, AeadBackend::Ring),
        ] {
            let mut data = b"held against each other".to_vec();
            let tag = one.with_key(cipher, &[9; 32]).seal_in_place(&[1; 12], b"aad", &mut data);
            let other = other.with_key(cipher, &[9; 32]);
            assert!(other.open_in_place(&[1; 12], b"bad", &mut data.clone(), &tag).is_err());
            other.open_in_place(&[1; 12], b"aad", &mut data, &tag).expect("authentic");
            assert_eq!(data, b"held against each other");
        }
    }
}

#[test]
fn allocation_headers_read_and_write_as_given() {
    for vector in list(&vectors(), "allocation_header") {
        let (request, response) = (bytes(vector, "request"), bytes(vector, "response"));
        let header = Allocation::parse(&request, 0).expect("a request");
        assert_eq!(header.id[..], bytes(vector, "id"));
        assert_eq!(Some(header.timestamp), vector["request_timestamp_ns"].as_u64());
        assert_eq!(u64::from(header.cipher), vector["cipher_nid"].as_u64().expect("an id"));
        assert_eq!(header.data, bytes(vector, "request_data"));
        assert_eq!(header.encode().expect("encodes"), request);
        let (digest, field) = match header.md {
            0 => (Hash::Sha384, "request_hash_sha384"),
            id => (Hash::from_id(id).expect("a known hash"), "request_hash_sha256"),
        };
        let reply = Allocation::parse(&response, digest.size()).expect("a reply");
        assert_eq!(Some(reply.timestamp), vector["response_timestamp_ns"].as_u64());
        assert_eq!(reply.request_hash, digest.digest(&request));
        assert_eq!(reply.request_hash, bytes(vector, field));
        assert_eq!(reply.encode().expect("encodes"), response);
    }
}

#[test]
fn management_messages_read_and_write_as_given() {
    let vectors = vectors();
    let name: Name = "my_vpn".parse().expect("a name");
    let request = |hash: DirectoryHash| Message::FlowRequest {
        source: Eid(64),
        qos: QosSpec::RAW,
        name: hash.of(&name),
        allocation: &[],
    };
    let reply = |response| Message::FlowReply {
        requester: Eid(64),
        responder: Eid(65),
        response,
        allocation: &[],
    };
    let sha3 = DirectoryHash::Sha3_256.of(&name);
    let (eth, udp) =
        ((Dialect::EthDix, DirectoryHash::Sha3_256), (Dialect::Udp, DirectoryHash::Md5));
    for (set, field, (dialect, hash), message) in [
        ("eth_dix_mgmt", "name_query_request", eth, Message::NameQuery(sha3)),
        ("eth_dix_mgmt", "name_query_reply", eth, Message::NameReply(sha3)),
        ("eth_dix_mgmt", "flow_request_raw_qos_seid_64", eth, request(eth.1)),
        ("eth_dix_mgmt", "flow_reply_ok_seid_65_deid_64", eth, reply(0)),
        ("eth_dix_mgmt", "flow_reply_refused_seid_65_deid_64", eth, reply(-1008)),
        ("udp_mgmt", "flow_request_raw_qos_seid_64", udp, request(udp.1)),
        ("udp_mgmt", "flow_reply_ok_requester_64_responder_65", udp, reply(0)),
    ] {
        let mut given = bytes(&vectors[set], field);
        if dialect == Dialect::Udp {
            assert_eq!(given.drain(..4).collect::<Vec<_>>(), [0; 4], "the management EID");
        }
        assert_eq!(Message::parse(dialect, hash, &given), Ok(message), "{field}");
        assert_eq!(message.encode(dialect), given, "{field}");
        for length in 0..given.len() {
            // Cut anywhere: refused, or read as what a shorter message says.
            if let Ok(cut) = Message::parse(dialect, hash, &given[..length]) {
                assert_eq!(cut.encode(dialect), given[..length]);
            }
        }
    }
}

/// The frames of a capture, behind the Ethernet (and IPv4 and UDP) headers:
/// EID and payload.
fn capture(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().expect("4 bytes")) as usize;
        let frame = &tail[..length];
        rest = &tail[length..];
        if frame[12..14] == [0xa0, 0x00] {
            let eid = u16::from_be_bytes([frame[14], frame[15]]);
            let size = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            frames.push((eid.into(), frame[18..18 + size].to_vec()));
        } else {
            let payload = &frame[14 + 20 + 8..];
            let (eid, payload) = payload.split_first_chunk::<4>().expect("an EID");
            frames.push((u32::from_be_bytes(*eid), payload.to_vec()));
        }
    }
    frames
}

/// Replays a capture: management reads and writes back identically, every
/// packet of the flow opens to an IP packet.
fn replay(file: &[u8], dialect: Dialect, key_text: Option<&str>) {
    let hash = match dialect {
        Dialect::EthDix => DirectoryHash::Sha3_256,
        Dialect::Udp => DirectoryHash::Md5,
    };
    let keys = key_text.map(|text| key(&hex(text.trim())));
    let encrypted = keys.is_some();
    let mut opener = opener(keys, AeadBackend::Ring);
    let (mut requests, mut replies, mut echoes) = (0, 0, 0);
    let mut request_header = Vec::new();
    for (eid, payload) in capture(file) {
        if eid == 0 {
            let message = Message::parse(dialect, hash, &payload).expect("management");
            assert_eq!(message.encode(dialect), payload);
            match message {
                Message::FlowRequest { allocation, qos, .. } => {
                    requests += 1;
                    assert_eq!(qos, QosSpec::RAW);
                    let header = Allocation::parse(allocation, 0).expect("a request");
                    assert_eq!(header.encode().expect("encodes"), allocation);
                    request_header = allocation.to_vec();
                }
                Message::FlowReply { allocation, response, .. } => {
                    replies += 1;
                    assert_eq!(response, 0);
                    let digest = if encrypted { Hash::Sha256 } else { Hash::Sha384 };
                    let header = Allocation::parse(allocation, digest.size()).expect("a reply");
                    assert_eq!(header.request_hash, digest.digest(&request_header));
                    assert_eq!(header.encode().expect("encodes"), allocation);
                }
                _ => {}
            }
        } else {
            let mut frame = payload;
            let opened = opener.open(&mut frame).expect("authentic");
            let packet = &frame[opened.body];
            assert!(matches!(packet[0] >> 4, 4 | 6), "an IP packet");
            if packet[0] >> 4 == 4 {
                echoes += 1;
            }
        }
    }
    assert_eq!((requests, replies, echoes), (1, 1, 6));
}

#[test]
fn the_captures_replay() {
    replay(include_bytes!("vectors/eth-dix-plain.pcap"), Dialect::EthDix, None);
    replay(include_bytes!("vectors/udp4-plain.pcap"), Dialect::Udp, None);
    replay(
        include_bytes!("vectors/eth-dix-x25519-aes256gcm.pcap"),
        Dialect::EthDix,
        Some(include_str!("vectors/eth-dix-x25519-aes256gcm.key")),
    );
    replay(
        include_bytes!("vectors/udp4-x25519-aes256gcm.pcap"),
        Dialect::Udp,
        Some(include_str!("vectors/udp4-x25519-aes256gcm.key")),
    );
}

/// Captured from a 0.23 server that has a P-256 certificate and no digest
/// configured, answering one of our requests on eth-dix.
#[test]
fn a_reply_without_a_digest_is_signed_over_sha256_by_an_ec_key() {
    let file = include_bytes!("vectors/eth-dix-p256-certificate-md0.pcap");
    let mut request = Vec::new();
    let mut checked = 0;
    for (_, payload) in capture(file).into_iter().filter(|(eid, _)| *eid == 0) {
        match Message::parse(Dialect::EthDix, DirectoryHash::Sha3_256, &payload) {
            Ok(Message::FlowRequest { allocation, .. }) => request = allocation.to_vec(),
            Ok(Message::FlowReply { allocation, .. }) => {
                // The hash of the request is that of the request's digest all the same.
                let asked = Allocation::parse(&request, 0).expect("a request");
                let digest = Hash::from_id(asked.md).expect("a known hash");
                let reply = Allocation::parse(allocation, digest.size()).expect("a reply");
                assert_eq!(reply.request_hash, digest.digest(&request));
                assert_eq!(reply.md, 0);
                let certificate = PeerCertificate::parse(reply.certificate).expect("P-256");
                assert_eq!(certificate.common_name(), "vpn");
                let signed = &allocation[..allocation.len() - reply.signature.len()];
                let verify =
                    |digest| certificate.public_key().verify(digest, signed, reply.signature);
                assert_eq!(verify(None), Ok(()));
                assert_eq!(verify(Some(Hash::Sha384)), Err(BadSignature));
                checked += 1;
            }
            _ => {}
        }
    }
    assert_eq!(checked, 1);
}
