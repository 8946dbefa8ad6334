//! Packets by their fields, and what makes one right: written for reading, not
//! for speed.

use ouroboros::tun::offload::{ChecksumPlace, Gso, GsoKind, VnetHeader};
use proptest::prelude::*;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// The four bits behind the data offset.
    pub(crate) reserved: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
}

/// An IP packet with TCP in it, or UDP.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) v6: bool,
    pub(crate) source: u8,
    pub(crate) destination: u8,
    /// Type of service or traffic class.
    pub(crate) class: u8,
    pub(crate) hops: u8,
    pub(crate) label: u32,
    pub(crate) id: u16,
    /// Flags and fragment offset.
    pub(crate) fragment: u16,
    pub(crate) ip_options: Vec<u8>,
    /// IPv6 extension headers, each as its number and its bytes, of which the
    /// first is for the next one's number.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) ports: (u16, u16),
    pub(crate) tcp: Option<Tcp>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DF: u16 = 0x4000;

impl Packet {
    pub(crate) fn tcp(v6: bool, payload: Vec<u8>) -> Self {
        let tcp = Tcp {
            sequence: 0xffff_fe00,
            acknowledgement: 77,
            reserved: 0,
            flags: ACK,
            window: 501,
            urgent: 0,
            // Timestamps, as every Linux sends them.
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        };
        Self { tcp: Some(tcp), ..Self::udp(v6, payload) }
    }

    pub(crate) fn udp(v6: bool, payload: Vec<u8>) -> Self {
        Self {
            v6,
            source: 1,
            destination: 2,
            class: 0,
            hops: 64,
            label: 0xabcde,
            id: 0xfffe,
            fragment: DF,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            ports: (5201, 40000),
            tcp: None,
            payload,
        }
    }

    pub(crate) fn tcp_mut(&mut self) -> &mut Tcp {
        self.tcp.as_mut().expect("a TCP packet")
    }

    fn protocol(&self) -> u8 {
        if self.tcp.is_some() { 6 } else { 17 }
    }

    /// Where the transport header begins.
    pub(crate) fn transport(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        if self.v6 { 40 + extensions } else { 20 + self.ip_options.len() }
    }

    pub(crate) fn header_length(&self) -> usize {
        self.transport() + self.tcp.as_ref().map_or(8, |tcp| 20 + tcp.options.len())
    }

    pub(crate) fn length(&self) -> usize {
        self.header_length() + self.payload.len()
    }

    pub(crate) fn addresses(&self) -> Vec<u8> {
        let address = |host: u8| match self.v6 {
            true => vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host],
            false => vec![10, 0, 0, host],
        };
        [address(self.source), address(self.destination)].concat()
    }

    /// The field of the checksum, from the packet's start.
    pub(crate) fn field(&self) -> usize {
        self.transport() + if self.tcp.is_some() { 16 } else { 6 }
    }

    /// The packet with complete checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.build_partial();
        let checksum = !naive_sum(&packet[self.transport()..]);
        let checksum = if checksum == 0 && self.tcp.is_none() { 0xffff } else { checksum };
        packet[self.field()..self.field() + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The packet with the sum of the pseudo-header in place of the checksum.
    pub(crate) fn build_partial(&self) -> Vec<u8> {
        let mut transport = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        if let Some(tcp) = &self.tcp {
            transport.extend(tcp.sequence.to_be_bytes());
            transport.extend(tcp.acknowledgement.to_be_bytes());
            transport.push(((20 + tcp.options.len()) as u8 / 4) << 4 | tcp.reserved);
            transport.push(tcp.flags);
            transport.extend(tcp.window.to_be_bytes());
            transport.extend([0, 0]);
            transport.extend(tcp.urgent.to_be_bytes());
            transport.extend(&tcp.options);
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let pseudo = naive_pseudo_sum(&self.addresses(), self.protocol(), transport.len());
        let field = if self.tcp.is_some() { 16 } else { 6 };
        transport[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = if self.v6 { self.v6_header(transport.len()) } else { self.v4_header() };
        [header, transport].concat()
    }

    fn v4_header(&self) -> Vec<u8> {
        let mut header = vec![0x45 + (self.ip_options.len() / 4) as u8, self.class];
        header.extend((self.length() as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.hops, self.protocol(), 0, 0]);
        header.extend(self.addresses());
        header.extend(&self.ip_options);
        let checksum = !naive_sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn v6_header(&self, transport: usize) -> Vec<u8> {
        let first = 6 << 28 | u32::from(self.class) << 20 | self.label;
        let mut header = first.to_be_bytes().to_vec();
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        header.extend(((extensions + transport) as u16).to_be_bytes());
        header.extend([0, self.hops]);
        header.extend(self.addresses());
        let mut next = 6;
        for (number, bytes) in &self.extensions {
            header[next] = *number;
            next = header.len();
            header.extend(bytes);
        }
        header[next] = self.protocol();
        header
    }

    /// What the kernel says of a packet of which it wants `size` bytes of
    /// payload in each, or only the checksum.
    pub(crate) fn vnet(&self, size: Option<u16>) -> VnetHeader {
        let kind = match (self.tcp.is_some(), self.v6) {
            (true, false) => GsoKind::Tcp4,
            (true, true) => GsoKind::Tcp6,
            (false, _) => GsoKind::Udp,
        };
        VnetHeader {
            checksum: Some(ChecksumPlace {
                start: self.transport() as u16,
                offset: (self.field() - self.transport()) as u16,
            }),
            data_valid: false,
            gso: size.map(|size| Gso { kind, ecn: false, size }),
            header_length: if size.is_some() { self.header_length() as u16 } else { 0 },
        }
    }
}

/// RFC 1071, word by word.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn naive_pseudo_sum(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let mut header = addresses.to_vec();
    header.extend((length as u32).to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    naive_sum(&header)
}

/// Whether the checksums of a TCP or UDP packet, built as above, are right.
pub(crate) fn is_right(packet: &[u8]) -> bool {
    let v4 = packet[0] >> 4 == 4;
    let (mut transport, mut protocol) = (40, packet[6]);
    if v4 {
        (transport, protocol) = (usize::from(packet[0] & 15) * 4, packet[9]);
    }
    while !matches!(protocol, 6 | 17) {
        protocol = packet[transport];
        transport += 8 + 8 * usize::from(packet[transport + 1]);
    }
    let addresses = if v4 { &packet[12..20] } else { &packet[8..40] };
    let length = packet.len() - transport;
    let pseudo = naive_pseudo_sum(addresses, protocol, length).to_be_bytes();
    let ip = !v4 || naive_sum(&packet[..transport]) == 0xffff;
    ip && naive_sum(&[&pseudo, &packet[transport..]].concat()) == 0xffff
}

/// TCP options, padded.
fn options() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| words.concat())
}

/// Extension headers that may stand before a transport header: hop-by-hop and
/// destination options.
fn extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let one = (prop::sample::select(vec![0_u8, 60]), 0_u8..3).prop_map(|(number, length)| {
        let mut bytes = vec![1; 8 + 8 * usize::from(length)];
        bytes[1] = length;
        (number, bytes)
    });
    prop::collection::vec(one, 0..3)
}

prop_compose! {
    fn header()(
        v6: bool,
        hosts in (1_u8..=254, 1_u8..=254),
        class: u8,
        hops: u8,
        label in 0..1_u32 << 20,
        id: u16,
        fragment in prop::sample::select(vec![0, DF]),
        ports: (u16, u16),
    ) -> Packet {
        Packet {
            source: hosts.0, destination: hosts.1, class, hops, label, id, fragment, ports,
            ..Packet::udp(v6, Vec::new())
        }
    }
}

prop_compose! {
    fn transport()(
        udp: bool,
        sequence: u32,
        acknowledgement: u32,
        reserved in 0_u8..16,
        flags in prop::sample::select(vec![0, ECE, PSH, FIN, FIN | PSH, FIN | ECE]),
        window: u16,
        urgent: u16,
        options in options(),
    ) -> Option<Tcp> {
        let flags = flags | ACK;
        (!udp).then_some(
            Tcp { sequence, acknowledgement, reserved, flags, window, urgent, options }
        )
    }
}

/// What the kernel may hand out as one: a packet and the size of its parts. Of
/// at most 64 parts, without IP options, extensions or CWR.
pub(crate) fn super_packet() -> impl Strategy<Value = (Packet, u16)> {
    (header(), transport(), 1_u16..2000, 0_usize..64, any::<prop::sample::Index>(), any::<u8>())
        .prop_map(|(header, tcp, size, whole, rest, seed)| {
            let mut packet = Packet { tcp, ..header };
            let most = 65535 - packet.header_length();
            let length = usize::from(size) * whole + 1 + rest.index(size.into());
            packet.payload = (0..length.min(most)).map(|at| (at * 31) as u8 ^ seed).collect();
            (packet, size)
        })
}

/// The same, also with what is not joined again.
pub(crate) fn any_super_packet() -> impl Strategy<Value = (Packet, u16)> {
    (super_packet(), extensions(), options(), any::<bool>()).prop_map(
        |((mut packet, size), extensions, ip_options, cwr)| {
            if packet.v6 {
                packet.extensions = extensions;
            } else {
                packet.ip_options = ip_options;
            }
            if let (Some(tcp), true) = (&mut packet.tcp, cwr) {
                tcp.flags |= CWR;
            }
            let most = 65535 - packet.header_length();
            packet.payload.truncate(most);
            (packet, size)
        },
    )
}
