//! Native flows over paths, keys and limits of a test's own.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use futures_lite::future;
use ouroboros::{
    Flow, FlowInfo, Packets, RawFlow,
    crypto::{AeadBackend, FlowKey, Suite},
    proto::{
        native::{
            Capabilities, Channel, Content, FRAGMENT_HEAD, HEAD, KeyLimits, NativeKeys, Role,
            Sealer, TAIL, fragments,
        },
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
    NativeKeys::new(suite, role, Capabilities::FRAGMENTS, key, [9; 32])
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

/// What seals the client's packets, for a test that sends them as it likes.
fn client_sealer() -> Sealer {
    let (ends, limits) = ((ENDS[0], ENDS[1]), KeyLimits::default());
    Channel::new(keys(Role::Client), ends, AeadBackend::default(), limits).sealer()
}

fn sealed(sealer: &mut Sealer, body: &[u8], content: Content) -> Vec<u8> {
    let mut frame = [&[0; HEAD], body, &[0; TAIL]].concat();
    sealer.reserve(1, true).expect("a number").seal(&mut frame, content);
    frame
}

/// Sends frames by `path` at once.
fn send(path: &dyn Path, frames: &[&[u8]]) {
    let mut batch = SendBatch::new(path.headroom(), 10_000);
    for frame in frames {
        batch.push(frame.len()).expect("room").copy_from_slice(frame);
    }
    path.send(&mut batch).expect("sent");
}

#[test]
fn who_sends_and_never_reads_gets_new_keys_all_the_same() {
    let limits = KeyLimits { due: 16, data: 64, ..KeyLimits::default() };
    let [client, server] = paths();
    let (mut sender, _receiver) = flow(Role::Client, client, limits).split();
    let peer = flow(Role::Server, server, limits);
    let mut buffer = [0; 100];
    let mut received = 0;
    // The background thread alone can do this for the sender. One key seals 64 packets.
    while sender.statistics().epoch < 3 || received <= 64 {
        sender.push(4).expect("room").copy_from_slice(b"much");
        sender.flush().expect("a flow");
        while peer.try_recv(&mut buffer).expect("a flow").is_some() {
            received += 1;
        }
        thread::yield_now();
    }
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
    let mut sealer = client_sealer();
    let [moved, copied, last] =
        [b"moved", b"twice", b"last."].map(|body| sealed(&mut sealer, body, Content::Packet));
    let along = |frame: &[u8]| send(&*client, &[frame]);
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

/// A way of receiving one packet.
type Receive<'a> = &'a mut dyn FnMut() -> Vec<u8>;

/// Sends packets of an ordered flow by `path`, some late, and checks what is had of them.
fn late_ones_are_dropped(path: &dyn Path, receive: Receive<'_>) {
    let sealer = &mut client_sealer();
    let mut frames: Vec<_> = (0..6u8).map(|n| sealed(sealer, &[n], Content::Packet)).collect();
    let large = [9; 500];
    let parts: Vec<_> = fragments(0, Content::Packet, &large, 300)
        .expect("it can be cut")
        .map(|part| {
            let mut body = vec![0; FRAGMENT_HEAD + part.bytes.len()];
            part.write(&mut body);
            sealed(sealer, &body, Content::Fragment)
        })
        .collect();
    frames.extend((8..11u8).map(|n| sealed(sealer, &[n], Content::Packet)));
    send(path, &[&frames[0]]);
    assert_eq!(receive(), [0]);
    send(path, &[&frames[2]]);
    assert_eq!(receive(), [2]);
    // Late, and with it what comes in time.
    send(path, &[&frames[1], &frames[4]]);
    assert_eq!(receive(), [4]);
    send(path, &[&frames[3]]);
    send(path, &[&parts[1]]);
    send(path, &[&parts[0], &frames[5]]);
    let next = receive();
    // The two came together or one by one: the packet in fragments is the later one.
    assert!(next == [5] || next == large, "{next:?}");
    if next == [5] {
        assert_eq!(receive(), large);
    }
    send(path, &[&frames[7]]);
    assert_eq!(receive(), [9]);
    send(path, &[&frames[6], &frames[8]]);
    assert_eq!(receive(), [10]);
}

#[test]
fn late_packets_of_an_ordered_flow_are_dropped_whoever_receives_how() {
    let ordered = || {
        let [client, server] = paths();
        let mut raw = raw(Role::Server, server);
        (raw.info.ordered, raw.info.qos) = (true, QosSpec::VOICE);
        (client, Flow::new(raw).expect("a flow"))
    };
    let buffer = &mut [0; 1000][..];
    let (client, flow) = ordered();
    late_ones_are_dropped(&*client, &mut || {
        let size = future::block_on(flow.recv(buffer)).expect("a packet");
        buffer[..size].to_vec()
    });
    assert!((3..=4).contains(&flow.statistics().late), "{:?}", flow.statistics());
    let (client, flow) = ordered();
    late_ones_are_dropped(&*client, &mut || {
        let size = flow.recv_blocking(buffer).expect("a packet");
        buffer[..size].to_vec()
    });
    let (client, flow) = ordered();
    let (packets, had) = (&mut Packets::new(), &mut 0);
    late_ones_are_dropped(&*client, &mut || {
        if *had == packets.len() {
            *had = 0;
            future::block_on(flow.recv_many(packets)).expect("packets");
        }
        *had += 1;
        packets[*had - 1].to_vec()
    });
    let (client, flow) = ordered();
    let (_sender, mut receiver) = flow.split();
    let (count, had) = (&mut 0, &mut 0);
    late_ones_are_dropped(&*client, &mut || {
        while *had == *count {
            (*count, *had) = (receiver.receive().expect("packets"), 0);
        }
        *had += 1;
        receiver.packet(*had - 1).to_vec()
    });
}
