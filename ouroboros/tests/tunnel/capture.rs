//! Packets as they are seen on an interface, and what is right about them,
//! summed up without any help of the library.

use std::io::Read;

use ouroboros_testing::Namespace;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// All that a host's interfaces send and receive from now on.
pub(crate) struct Capture(Socket);

impl Capture {
    pub(crate) fn of(host: &Namespace) -> Self {
        const EVERY_ETHERTYPE: u16 = 3;
        host.inside(|| {
            let protocol = Protocol::from(i32::from(EVERY_ETHERTYPE.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root");
            sockopt::set_socket_recv_buffer_size_force(&socket, 128 << 20).expect("root");
            socket.set_nonblocking(true).expect("set");
            Self(socket)
        })
    }

    /// The next frame; `None` if there was no further one so far.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        self.next_from().map(|(frame, _)| frame)
    }

    /// The same, with the address by which frames leave on its interface.
    pub(crate) fn next_from(&self) -> Option<(Vec<u8>, SockAddr)> {
        let mut buffer = vec![0; 1 << 17];
        let interface = self.0.peek_sender().ok()?;
        let size = (&self.0).read(&mut buffer).expect("the same frame");
        buffer.truncate(size);
        Some((buffer, interface))
    }

    /// Sends a frame by an interface that was heard of.
    pub(crate) fn send(&self, frame: &[u8], interface: &SockAddr) {
        self.0.send_to(frame, interface).expect("sent");
    }
}

/// The sum of big-endian words, folded.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for word in part.chunks(2) {
            sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The Internet checksum of all of it.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    !sum(parts)
}

/// A word of a packet.
pub(crate) fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// An IP packet without extension headers.
pub(crate) struct Packet<'a> {
    pub(crate) protocol: u8,
    addresses: &'a [u8],
    pub(crate) transport: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A packet whose header is right in itself and as long as it says.
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{what}: {packet:02x?}"));
        match packet.first().map(|byte| byte >> 4) {
            Some(4) if packet.len() >= 20 => {
                let header = usize::from(packet[0] & 15) * 4;
                if usize::from(word(packet, 2)) != packet.len() {
                    return wrong("length");
                }
                if sum(&[&packet[..header]]) != 0xffff {
                    return wrong("header checksum");
                }
                let (protocol, addresses) = (packet[9], &packet[12..20]);
                Ok(Self { protocol, addresses, transport: &packet[header..] })
            }
            Some(6) if packet.len() >= 40 => {
                if usize::from(word(packet, 4)) + 40 != packet.len() {
                    return wrong("length");
                }
                let (protocol, addresses) = (packet[6], &packet[8..40]);
                Ok(Self { protocol, addresses, transport: &packet[40..] })
            }
            _ => wrong("not IP"),
        }
    }

    /// Where the packet goes.
    pub(crate) fn destination(&self) -> &[u8] {
        &self.addresses[self.addresses.len() / 2..]
    }

    fn pseudo_header(&self) -> Vec<u8> {
        let length = self.transport.len() as u32;
        [self.addresses, &length.to_be_bytes(), &[0, 0, 0, self.protocol]].concat()
    }

    /// Whether the transport checksum is the one of the packet as it is.
    pub(crate) fn is_sound(&self) -> bool {
        match self.protocol {
            1 => sum(&[self.transport]) == 0xffff,
            17 if word(self.transport, 6) == 0 => self.addresses.len() == 8,
            17 if usize::from(word(self.transport, 4)) != self.transport.len() => false,
            6 | 17 | 58 => sum(&[&self.pseudo_header(), self.transport]) == 0xffff,
            _ => true,
        }
    }

    /// Whether the checksum is left to the receiving kernel, as it wants it.
    pub(crate) fn is_left(&self) -> bool {
        let at = if self.protocol == 6 { 16 } else { 6 };
        matches!(self.protocol, 6 | 17) && word(self.transport, at) == sum(&[&self.pseudo_header()])
    }
}
