//! Native flows over paths, keys and limits of a test's own.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use ouroboros::{
    Flow, FlowInfo, RawFlow,
    crypto::{AeadBackend, FlowKey, Suite},
    proto::{
        native::{Capabilities, Channel, Content, HEAD, KeyLimits, NativeKeys, Role, TAIL},
        negotiation::Profile,
        protection::FlowKeys,
    },
    transport::{IntoTransport, OffPathHandler, Path, SendBatch, Transport, memory::Network},
    wire::{Eid, PeerAddress, QosSpec},
};

const ENDS: [Eid; 2] = [Eid(7), Eid(70_000)];

/// The path from each of two stations to the other.
fn paths() -> [Arc<dyn Path>; 2] {
    let network = Network::new();
    let [one, two]: [Arc<dyn Transport>; 2] =
        [(); 2].map(|()| network.station().open().expect("a station"));
    let client = one.open_requester(ENDS[0], None).expect("a path");
    let server = two.open_responder(ENDS[1], ENDS[0], PeerAddress::Memory(0)).expect("a path");
    client.connect(ENDS[1], PeerAddress::Memory(1)).expect("connected");
    [client, server]
}

fn keys(role: Role) -> NativeKeys {
    let (suite, key) = (Suite::default(), FlowKey::new([7; 32]));
    NativeKeys::new(suite, role, Capabilities::NONE, key, [9; 32])
}

fn raw(role: Role, path: Arc<dyn Path>) -> RawFlow {
    let (ends, peer) = match role {
        Role::Client => ((ENDS[0], ENDS[1]), PeerAddress::Memory(1)),
        Role::Server => ((ENDS[1], ENDS[0]), PeerAddress::Memory(0)),
    };
    let (suite, name) = (Suite::default(), "my_vpn".parse().expect("a name"));
    let info = FlowInfo::new(name, peer, ends, QosSpec::RAW);
    RawFlow {
        path,
        info: info.encrypted(suite, Profile::Native, None),
        keys: Some(FlowKeys::Native(keys(role))),
        early: Vec::new(),
        strays: None,
        off_path: None,
        closer: None,
        release: None,
    }
}

fn flow(role: Role, path: Arc<dyn Path>, limits: KeyLimits) -> Flow {
    Flow::with_limits(raw(role, path), AeadBackend::default(), limits).expect("a flow")
}

#[test]
fn who_sends_and_never_reads_gets_new_keys_all_the_same() {
    let limits = KeyLimits { due: 16, data: 64, ..KeyLimits::default() };
    let [client, server] = paths();
    let (mut sender, _receiver) = flow(Role::Client, client, limits).split();
    let peer = flow(Role::Server, server, limits);
    let mut buffer = [0; 100];
    let mut received = 0;
    // The background thread alone can do this for the sender.
    while sender.statistics().epoch < 3 {
        sender.push(4).expect("room").copy_from_slice(b"much");
        sender.flush().expect("a flow");
        while peer.try_recv(&mut buffer).expect("a flow").is_some() {
            received += 1;
        }
        thread::yield_now();
    }
    // More than one key seals.
    assert!(received > 64, "{received}");
}

#[test]
fn what_comes_from_elsewhere_first_is_had_once_like_any_other() {
    let [client, server] = paths();
    let handler: Arc<Mutex<Option<OffPathHandler>>> = Arc::default();
    let watches = handler.clone();
    let watch =
        move |take: &OffPathHandler| *watches.lock().expect("no panic") = Some(take.clone());
    let raw = RawFlow { off_path: Some(Box::new(watch)), ..raw(Role::Server, server) };
    let (_sender, mut receiver) = Flow::new(raw).expect("a flow").split();
    let from_elsewhere = |frame: &[u8]| {
        let take = handler.lock().expect("no panic").clone().expect("watched");
        take(PeerAddress::Memory(9), &mut frame.to_vec());
    };
    let mut sealer = Channel::new(
        keys(Role::Client),
        (ENDS[0], ENDS[1]),
        AeadBackend::default(),
        KeyLimits::default(),
    )
    .sealer();
    let mut sealed = |body: &[u8]| {
        let mut frame = [&[0; HEAD], body, &[0; TAIL]].concat();
        sealer.reserve(1, true).expect("a number").seal(&mut frame, Content::Packet);
        frame
    };
    let [moved, copied, last] = [b"moved", b"twice", b"last."].map(|body| sealed(body));
    let along = |frame: &[u8]| {
        let mut batch = SendBatch::new(client.headroom(), 100);
        batch.push(frame.len()).expect("room").copy_from_slice(frame);
        client.send(&mut batch).expect("sent");
    };
    from_elsewhere(&copied);
    from_elsewhere(&copied);
    from_elsewhere(&moved);
    let mut forged = moved.clone();
    forged[HEAD] ^= 1;
    from_elsewhere(&forged);
    along(&copied);
    along(&last);
    let mut had = Vec::new();
    while had.last().is_none_or(|packet| packet != b"last.") {
        let count = receiver.receive().expect("received");
        had.extend((0..count).map(|index| receiver.packet(index).to_vec()));
    }
    assert_eq!(had, [b"twice", b"moved", b"last."]);
    from_elsewhere(&copied);
    along(&moved);
    assert_eq!(receiver.try_receive().expect("a flow"), 0);
}
