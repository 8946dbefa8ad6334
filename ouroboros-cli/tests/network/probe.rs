//! What goes through a tunnel, and what can be seen and sent on a cable.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use ouroboros_testing::bind_when_free;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::host::{Host, PATIENCE};

pub(crate) const MARK: &[u8] = b"a text that nobody on the wire should read";

/// The server's end of a tunnel.
pub(crate) const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));

/// The same, where it has an IPv6 address.
pub(crate) const INSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1));

pub(crate) fn contains(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|window| window == text)
}

fn checksum(packet: &[u8]) -> u16 {
    let word = |word: &[u8]| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    let mut sum: u32 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends an echo request with the mark in it, and another each few seconds, until one is
/// answered: as with any link, a packet may be lost.
pub(crate) fn ping(from: &Host, to: IpAddr) {
    ping_each(Duration::from_secs(3), from, to);
}

/// Sends echo requests quickly, each sequence number once, until one is answered.
pub(crate) fn ping_until_answered(from: &Host, to: IpAddr) {
    ping_each(Duration::from_millis(50), from, to);
}

fn ping_each(interval: Duration, from: &Host, to: IpAddr) {
    let (start, mut sequence) = (Instant::now(), 1);
    while !answered(from, to, interval, sequence) {
        assert!(start.elapsed() < PATIENCE, "never: an echo reply");
        sequence += 1;
    }
}

/// Whether an echo request is answered in time.
fn answered(from: &Host, to: IpAddr, patience: Duration, sequence: u16) -> bool {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let [high, low] = sequence.to_be_bytes();
    let mut message = vec![request, 0, 0, 0, 0x6f, 0x37, high, low];
    message.extend_from_slice(MARK);
    if to.is_ipv4() {
        // The kernel sums ICMPv6 itself.
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    from.namespace.inside(|| {
        let mut socket = &Socket::new(domain, Type::RAW, Some(protocol)).expect("root");
        socket.set_read_timeout(Some(patience)).expect("set");
        socket.connect(&SocketAddr::from((to, 0)).into()).expect("a route");
        socket.send(&message).expect("sent");
        let mut packet = [0; 2048];
        while let Ok(size) = socket.read(&mut packet) {
            // An ICMPv4 socket gives the IP header too, an ICMPv6 one does not.
            let answer = if to.is_ipv4() { &packet[20..size] } else { &packet[..size] };
            if answer.first() == Some(&reply) && answer.ends_with(MARK) {
                return true;
            }
        }
        false
    })
}

/// Sends the mark as a datagram.
pub(crate) fn send_datagram(from: &Host, to: &str) {
    from.namespace.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(MARK, to).expect("sent");
    });
}

/// `size` bytes over TCP from one host to the other, checked as they arrive.
pub(crate) fn transfer(from: &Host, to: &Host, address: &str, size: usize) {
    fn byte(at: usize) -> u8 {
        (at % 251) as u8
    }
    let listen = || bind_when_free(|| TcpListener::bind(address));
    let listener = to.namespace.inside(listen).expect("listening");
    let receiving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connected");
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match stream.read(&mut buffer).expect("read") {
                0 => return total,
                count => {
                    for (at, found) in buffer[..count].iter().enumerate() {
                        assert_eq!(*found, byte(total + at), "byte {}", total + at);
                    }
                    total += count;
                }
            }
        }
    });
    from.namespace.inside(|| {
        let mut stream = TcpStream::connect(address).expect("connected");
        let data: Vec<u8> = (0..251 * 4096).map(byte).collect();
        let mut left = size;
        while left > 0 {
            let count = left.min(data.len());
            stream.write_all(&data[..count]).expect("written");
            left -= count;
        }
    });
    assert_eq!(receiving.join().expect("intact"), size);
}

/// A socket that keeps every frame that a host sends or receives from now on.
pub(crate) fn watch(host: &Host) -> Socket {
    const EVERY_ETHERTYPE: u16 = 3;
    host.namespace.inside(|| {
        let protocol = Protocol::from(i32::from(EVERY_ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket
    })
}

/// The first frame seen that `wanted` wants.
pub(crate) fn seen(socket: &Socket, wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    seen_from(socket, wanted).0
}

/// The same, with the address by which frames leave on its interface.
pub(crate) fn seen_from(
    mut socket: &Socket,
    mut wanted: impl FnMut(&[u8]) -> bool,
) -> (Vec<u8>, SockAddr) {
    let mut frame = [0; 16_384];
    loop {
        let interface = socket.peek_sender().expect("a frame that was wanted");
        let size = socket.read(&mut frame).expect("the same frame");
        if wanted(&frame[..size]) {
            return (frame[..size].to_vec(), interface);
        }
    }
}

/// Whether the mark could be read so far on the host's TUN, and on its cable.
pub(crate) fn readable(mut socket: &Socket) -> (bool, bool) {
    socket.set_nonblocking(true).expect("set");
    let (mut tun, mut cable) = (false, false);
    let mut frame = [0; 16_384];
    while let Ok(size) = socket.read(&mut frame) {
        if contains(&frame[..size], MARK) {
            // A TUN's frames begin with the IPv4 header. No Ethernet frame here
            // does: its receiver's address would be a multicast one.
            let seen = if frame[0] == 0x45 { &mut tun } else { &mut cable };
            *seen = true;
        }
    }
    (tun, cable)
}
