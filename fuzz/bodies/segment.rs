//! A virtio-net header and a packet, as the device might give them, are cut.
//! The bytes: 1 for the checksums, 2 for the largest packet, 10 of header, and
//! the packet.

use ouroboros::tun::offload::{
    Checksums, Layout, Segments, Sum, Version, VnetHeader, complete_checksum,
};

pub(crate) fn body(data: &[u8]) {
    let Some(([checksums, largest @ ..], data)) = data.split_first_chunk::<3>() else { return };
    let Some((header, packet)) = data.split_first_chunk() else { return };
    let Ok(vnet) = VnetHeader::parse(header) else { return };
    let checksums = if checksums & 1 == 0 { Checksums::Full } else { Checksums::Partial };
    let largest = usize::from(u16::from_le_bytes(*largest));

    let mut alone = packet.to_vec();
    let completed = complete_checksum(&mut alone, &vnet, checksums);
    let Ok(segments) = Segments::plan(&vnet, packet, packet.len(), largest, checksums) else {
        return;
    };
    let headers = segments.header_length();
    let was_right = vnet.gso.is_some() && is_partial_right(packet);
    let mut payload = packet[..headers].to_vec();
    for index in 0..segments.count() {
        let mut slot = vec![0xaa; segments.size(index)];
        segments.copy(index, packet, &mut slot);
        assert!(slot.len() <= largest, "a packet fits the path");
        payload.extend(&slot[headers..]);
        if vnet.gso.is_none() {
            assert_eq!(completed, Ok(segments.is_partial()));
            assert_eq!(slot, alone, "both ways give the same");
            return;
        }
        let layout = Layout::of(&slot).expect("it is a packet");
        assert_eq!(layout.total, slot.len());
        let (ip, transport) = slot.split_at(layout.transport);
        if layout.version == Version::V4 {
            assert!(Sum::default().bytes(ip).is_intact());
        }
        if was_right && segments.is_partial() {
            assert!(is_partial_right(&slot));
        } else if was_right {
            assert!(pseudo_header(ip, &layout).bytes(transport).is_intact());
        }
    }
    assert_eq!(payload, packet, "all payload, in order");
}

fn pseudo_header(ip: &[u8], layout: &Layout) -> Sum {
    let addresses = if layout.version == Version::V4 { &ip[12..20] } else { &ip[8..40] };
    Sum::pseudo_header(addresses, layout.protocol, layout.total - layout.transport)
}

/// Whether the checksum is the sum of the pseudo-header.
fn is_partial_right(packet: &[u8]) -> bool {
    let Some(layout) = Layout::of(packet) else { return false };
    let (ip, transport) = packet.split_at(layout.transport);
    let field = if layout.protocol == 6 { 16 } else { 6 };
    let Some(&[high, low]) = transport.get(field..field + 2) else { return false };
    pseudo_header(ip, &layout).without(u16::from_be_bytes([high, low])).is_intact()
}
