//! Writes the corpora's first files: messages that are valid, by the code that
//! makes them. `cargo run --example seeds`, in the folder of this file.

use std::{fs, io};

use ouroboros::{
    FlowInfo,
    crypto::{Entropy, EphemeralSecret, Hash, KeyExchange, Suite},
    daemon::{
        Failure, control,
        protocol::{Request, Response, TransportSpec},
        security::{Authentication, FlowSecurity, NameDemands, NamePolicy},
    },
    proto::{
        negotiation::{ClientSecurity, ServerSecurity},
        protection::Profile,
    },
    wire::{
        Dialect, DirectoryHash, Eid, MacAddress, Name, PeerAddress, QosSpec,
        extension::{Delivery, Extensions, InvitationProof, Lane, ReliableParameters},
        management::Message,
        oap::Allocation,
    },
};

use crate::input::Counting;

#[allow(dead_code, reason = "each takes of it what it needs")]
#[path = "bodies/input.rs"]
mod input;

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = format!("corpus/{target}");
    fs::create_dir_all(&folder)?;
    fs::write(format!("{folder}/{name}"), bytes)
}

fn main() -> io::Result<()> {
    for (name, header, hash) in headers() {
        let choice = [0, 28, 32, 48, 64].iter().position(|size| *size == hash).expect("a hash");
        write("allocation", name, &[&[choice as u8][..], &header].concat())?;
        management(name, &header)?;
    }
    daemon()
}

/// Allocation headers, with the length of the request hash in them.
fn headers() -> Vec<(&'static str, Vec<u8>, usize)> {
    let mut id = [0; 16];
    let entropy = &mut Counting(1);
    entropy.fill(&mut id);
    let plain = Allocation::plain(id, 1_800_000_000_000_000_000);
    let suite = Suite::default();
    let mut encrypted = |kex: KeyExchange| {
        let key = EphemeralSecret::generate(kex, entropy).public_key().to_vec();
        (key, kex.is_raw())
    };
    let (x25519, _) = encrypted(KeyExchange::X25519);
    let (hybrid, raw_key) = encrypted(KeyExchange::X25519MlKem768);
    let lane = Lane { group: [7; 16], index: 1, lanes: 2 };
    let all = Extensions {
        profile: Some(7),
        padding: Some(28),
        cookie: Some(b"a cookie"),
        lane: Some(lane),
        delivery: Some(Delivery::Reliable(ReliableParameters::default())),
        invitation: Some(InvitationProof { key: [8; 32], signature: [9; 64] }),
    };
    let (all, accepted) =
        (all.encode(), Extensions { profile: Some(3), ..Extensions::default() }.encode());
    let asked = Allocation {
        cipher: suite.cipher.id(),
        kdf: suite.kdf.id(),
        md: Hash::Sha256.id(),
        ..plain
    };
    let hash = Hash::Sha256.digest(b"a request");
    let long_hash = Hash::Sha384.digest(b"a request");
    let headers = [
        ("plain", plain, 0),
        ("x25519", Allocation { key: &x25519, ..asked }, 0),
        ("native", Allocation { key: &x25519, data: &all, ..asked }, 0),
        ("hybrid", Allocation { key: &hybrid, raw_key, data: &all, ..asked }, 0),
        ("reply-plain", Allocation { request_hash: &long_hash, ..plain }, 48),
        (
            "reply-native",
            Allocation { key: &x25519, data: &accepted, request_hash: &hash, ..asked },
            32,
        ),
        (
            "reply-signed",
            Allocation {
                key: &x25519,
                certificate: b"certificate",
                signature: b"signature",
                request_hash: &hash,
                ..asked
            },
            32,
        ),
    ];
    headers
        .into_iter()
        .map(|(name, header, hash)| (name, header.encode().expect("encodes"), hash))
        .collect()
}

fn management(name: &str, allocation: &[u8]) -> io::Result<()> {
    let flow: Name = "my_vpn".parse().expect("a name");
    for (tag, dialect, hash, choice) in [
        ("dix", Dialect::EthDix, DirectoryHash::Sha3_256, 4),
        ("udp", Dialect::Udp, DirectoryHash::Md5, 1u8),
    ] {
        let directory = hash.of(&flow);
        let (requester, responder) = (Eid(302), Eid(64_001));
        let message = if name.starts_with("reply") {
            Message::FlowReply { requester, responder, response: 0, allocation }
        } else {
            let qos = QosSpec::RAW_CRC32;
            Message::FlowRequest { source: requester, qos, name: directory, allocation }
        };
        let write = |name: &str, message: Message<'_>| {
            let bytes = [&[choice][..], &message.encode(dialect)].concat();
            write("management", &format!("{tag}-{name}"), &bytes)
        };
        write(name, message)?;
        let refused =
            Message::FlowReply { requester, responder: Eid(0), response: -1, allocation: &[] };
        write("refused", refused)?;
        if dialect == Dialect::EthDix {
            write("query", Message::NameQuery(directory))?;
            write("query-reply", Message::NameReply(directory))?;
        }
    }
    Ok(())
}

fn daemon() -> io::Result<()> {
    let text = str::to_owned;
    let suite = Suite::default();
    let dix = TransportSpec::EthDix { device: text("lo"), ethertype: Some(0xa000), hash: None };
    let udp =
        TransportSpec::Udp { ip: "fe80::1%eth0".parse().expect("an address"), port: Some(3435) };
    let bootstrap =
        |transport| Request::BootstrapIpcp { name: text("n"), layer: text("l"), transport };
    let flow: Name = "my_vpn".parse().expect("a name");
    let demands = NameDemands::new(&flow, &ServerSecurity::encrypted()).expect("demands");
    let policy = NamePolicy {
        server: Some(Suite::default().into()),
        client: None,
        authentication: Authentication::Keys("/etc/ouroboros/my_vpn.clients".into()),
        native: true,
        key: Some("/etc/ouroboros/key".into()),
        certificate: None,
    };
    let allocate = |security| Request::Allocate {
        name: text("my_vpn"),
        qos: QosSpec::DATA,
        security,
        timeout: 1000,
        server: Some("server.example.org:3435".parse().expect("a host")),
    };
    let encrypted = FlowSecurity { asked: ClientSecurity::default(), manager_identity: true };
    let program = Some(text("/bin/a"));
    let requests = [
        ("create", Request::CreateIpcp { name: text("n"), kind: text("udp") }),
        ("dix", bootstrap(dix)),
        ("udp", bootstrap(udp)),
        ("destroy", Request::DestroyIpcp { name: text("n") }),
        ("register", Request::Register { name: text("my_vpn"), layer: text("l") }),
        ("program", Request::Program { path: text("/bin/a"), name: text("n"), bind: true }),
        ("process", Request::Process { pid: 17, name: text("n"), bind: false }),
        ("accept", Request::Accept { name: Some(text("my_vpn")), program, demands: vec![demands] }),
        ("take", Request::Take),
        ("list", Request::ListFlows),
        ("key", Request::GenerateKey { force: true }),
        ("configuration", Request::ShowConfiguration { from_file: true }),
        ("clients", Request::ListClients { name: None, key: Some(text("o7s:aaaa")) }),
        ("serve", Request::ServeClients { name: text("my_vpn") }),
        ("rename", Request::RenameClient { name: None, client: text("a"), to: text("b") }),
        (
            "invite",
            Request::InviteClient {
                name: Some(text("my_vpn")),
                client: text("alice"),
                key: text("o7s:aaaa"),
                until: 1_800_000_000,
                prefixes: vec![text("10.0.0.8/32"), text("fd00::/64")],
            },
        ),
        ("name", Request::CreateName { name: text("my_vpn"), policy: policy.clone() }),
        ("change", Request::ChangeName { name: text("my_vpn"), policy }),
        ("allocate", allocate(None)),
        ("allocate-encrypted", allocate(Some(encrypted))),
    ];
    for (name, request) in requests {
        let json = serde_json::to_vec(&request)?;
        write("daemon", &format!("request-{name}"), &[&[0][..], &json].concat())?;
    }
    let peer = PeerAddress::Udp(([10, 0, 0, 1], 3435).into());
    let plain = FlowInfo::new(flow, peer, (Eid(7), Eid(70_000)), QosSpec::DATA);
    let encrypted = |profile| plain.clone().encrypted(suite, profile, None);
    for (name, info, keys) in [
        ("plain", plain.clone(), None),
        ("old", encrypted(Profile::Wire023), Some(vec![7; 32])),
        ("native", encrypted(Profile::Native), Some(vec![1; 67])),
    ] {
        // By hand: its fields are the library's own.
        let grant = serde_json::json!({
            "flow": { "info": info, "keys": keys, "largest_frame": 1468, "early": 0, "path": "relay" }
        });
        let grant = serde_json::to_vec(&grant)?;
        let Response::Flow(flow) = serde_json::from_slice(&grant)? else { unreachable!() };
        flow.open().expect("a grant that makes sense");
        write("daemon", &format!("response-{name}"), &[&[1][..], &grant].concat())?;
    }
    let refused = serde_json::to_vec(&Response::Error(Failure::other("no such name")))?;
    write("daemon", "response-error", &[&[1][..], &refused].concat())?;
    let mac = PeerAddress::Mac(MacAddress([2, 0, 0, 0, 0, 7]));
    let v6 = PeerAddress::Udp("[fd66::1]:3435".parse().expect("an address"));
    for (name, message) in [
        ("stray", control::Message::Stray(peer, b"a frame")),
        ("mac", control::Message::Frame(mac, b"a frame")),
        ("v4", control::Message::Frame(peer, b"a frame")),
        ("v6", control::Message::Frame(v6, b"a frame")),
    ] {
        let (head, frame) = message.encode().expect("an address of a layer");
        write("daemon", &format!("control-{name}"), &[&[2][..], &head, frame].concat())?;
    }
    Ok(())
}
