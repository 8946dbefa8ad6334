//! What anyone on the wire can send to a daemon and to a live, encrypted flow:
//! both go on, as do new flows.

use std::{net::UdpSocket, time::Instant};

use rustix::process::Signal;
use socket2::{SockAddr, Socket};

use crate::{
    host::{ETH, Layer, Pair, Running, UDP4, eventually},
    probe::{INSIDE, ping, seen_from, transfer, watch},
};

/// A few frames fit into any socket's buffer, so that none of them is lost
/// before the flow has dealt with it.
const BURST: usize = 50;
/// In the prototype a number of packets was enough to rotate the keys.
const GARBAGE: usize = 100_000;

/// Bytes that differ each time, the same in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0 as u8;
        }
    }
}

/// One who sends frames from the second host's cable in the name of a tunnel's
/// client.
struct Forger {
    socket: Socket,
    cable: SockAddr,
    /// A frame of the flow, from the client to the server.
    frame: Vec<u8>,
    /// Where its endpoint id begins; it has 2 bytes on eth-dix, 4 over UDP.
    eid: usize,
    payload: usize,
    first: u8,
    noise: Noise,
}

impl Forger {
    /// Learns how the flow's frames look from a ping.
    fn watching(pair: &Pair) -> Self {
        let socket = watch(&pair.two);
        ping(&pair.two, INSIDE);
        let link = pair.one.ip("-o link show eth0");
        let server = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        let server: Vec<u8> = (server.expect("an address").split(':'))
            .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
            .collect();
        // Larger than any management message here is, and a keepalive.
        let wanted = |frame: &[u8]| frame.starts_with(&server) && frame.len() > 100;
        let (mut frame, cable) = seen_from(&socket, wanted);
        let (eid, payload) = if frame[12..14] == [0xa0, 0] { (14, 18) } else { (42, 46) };
        if eid == 42 {
            // No UDP checksum: it is not looked at then.
            frame[40..42].fill(0);
        }
        let first = frame[payload];
        Self { socket, cable, frame, eid, payload, first, noise: Noise(0x6f37) }
    }

    /// Sends garbage in place of the payload: with the 0.23 phase bit set, and
    /// every other time with the first byte that the flow's own packets have.
    fn send(&mut self) {
        self.noise.fill(&mut self.frame[self.payload..]);
        let first = &mut self.frame[self.payload];
        *first = if *first & 1 == 0 { *first | 0x80 } else { self.first };
        self.socket.send_to(&self.frame, &self.cable).expect("sent");
    }

    fn send_to_eid(&mut self, eid: u32) {
        let (bytes, room) =
            (eid.to_be_bytes(), self.eid..self.eid + if self.eid == 14 { 2 } else { 4 });
        self.frame[room.clone()].copy_from_slice(&bytes[4 - room.len()..]);
        self.send();
    }
}

/// How many frames the first host has had from the cable.
fn received(pair: &Pair) -> u64 {
    let counted: serde_json::Value =
        serde_json::from_str(&pair.one.ip("-s -j link show eth0")).expect("JSON");
    counted[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
}

/// All of it still works: the flow, the daemon, and new flows.
fn goes_on(pair: &Pair, (server, client): (Running, Running)) {
    transfer(&pair.two, &pair.one, "10.9.0.1:4242", 1 << 20);
    pair.must_obey();
    assert_eq!(client.end(Signal::INT), Some(0));
    assert_eq!(server.end(Signal::INT), Some(0));
    let _ends = pair.tunnel("--crypt");
    ping(&pair.two, INSIDE);
}

fn forged(layer: Layer, count: usize, mut send: impl FnMut(&mut Forger, usize)) {
    let pair = Pair::new(layer);
    let ends = pair.tunnel("--crypt");
    let mut forger = Forger::watching(&pair);
    let before = received(&pair);
    for number in 0..count {
        send(&mut forger, number);
        if number % BURST == 0 {
            ping(&pair.two, INSIDE);
        }
    }
    assert!(received(&pair) - before >= count as u64, "the garbage reaches the server");
    goes_on(&pair, ends);
}

pub(crate) fn garbage_in_the_peer_s_name_does_not_disturb_a_live_flow() {
    for layer in [ETH, UDP4] {
        forged(layer, GARBAGE, |forger, _| forger.send());
    }
}

pub(crate) fn garbage_under_every_eid_does_not_disturb_a_live_flow() {
    forged(ETH, 1 << 16, |forger, number| forger.send_to_eid(number as u32));
    // The first ids and the last ones of each width.
    let ends = [0, 1 << 16, 1 << 31, u32::MAX - 2000];
    let ids = ends
        .map(|start: u32| (0..2000).map(move |more| start.wrapping_sub(1000).wrapping_add(more)));
    let ids: Vec<_> = ids.into_iter().flatten().collect();
    forged(UDP4, ids.len(), |forger, number| forger.send_to_eid(ids[number]));
}

/// Lengths around those that the format knows, and the longest of all: it was
/// the end of the C prototype.
const LENGTHS: [usize; 13] = [0, 1, 4, 46, 47, 100, 2047, 2048, 2049, 2052, 9000, 60_000, 65_507];

pub(crate) fn malformed_and_oversized_management_does_not_disturb_a_daemon() {
    let start = Instant::now();
    let pair = Pair::new(UDP4);
    let ends = pair.tunnel("--crypt");
    pair.two.namespace.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect("10.66.0.1:3435").expect("connected");
        let mut noise = Noise(1);
        for length in LENGTHS {
            // Endpoint 0 is management; replies for endpoints nobody asked for,
            // which the prototype took as an index, are among them.
            for requester in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                for code in [0, 1, 2, 255] {
                    let mut datagram = vec![0; length];
                    noise.fill(&mut datagram);
                    for (at, bytes) in [(0, [0; 4]), (4, requester.to_be_bytes()), (12, [0; 4])] {
                        if let Some(room) = datagram.get_mut(at..at + 4) {
                            room.copy_from_slice(&bytes);
                        }
                    }
                    if let Some(at) = datagram.get_mut(44) {
                        *at = code;
                    }
                    socket.send(&datagram).expect("sent");
                }
            }
        }
    });
    goes_on(&pair, ends);
    // It is told of, in one line for many.
    let daemon = pair.daemons[0].as_ref().expect("it runs");
    let lines = || daemon.lines_with("management messages dropped");
    eventually("a line about it", || lines() > 0);
    assert!(lines() as u64 <= 1 + start.elapsed().as_secs() / 10, "one line in ten seconds");
}
