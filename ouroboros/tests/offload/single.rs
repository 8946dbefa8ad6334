//! What is changed in, and answered to, single packets.

use ouroboros::tun::offload::{Ecn, Fragment, Layout, Sum, Version, clamp_mss, packet_too_big};
use proptest::prelude::*;

use crate::packets::{ACK, DF, Packet, SYN, any_super_packet, is_right, naive_sum};

const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

proptest! {
    #[test]
    fn the_sum_is_that_of_rfc_1071(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert_eq!(Sum::default().bytes(&bytes).fold(), naive_sum(&bytes));
    }

    #[test]
    fn congestion_marks_keep_a_packet_right((packet, _) in any_super_packet(), mark in 0_u8..4) {
        let mut bytes = packet.build();
        Ecn::from_bits(mark).write(&mut bytes);
        let class = packet.class & !3 | mark;
        prop_assert_eq!(Ecn::of(&bytes), Some(Ecn::from_bits(mark)));
        prop_assert!(is_right(&bytes));
        // RFC 1624 keeps the one of two zeros that a sum anew would not give.
        let mut expected = Packet { class, ..packet.clone() }.build();
        if !packet.v6 {
            expected[10..12].copy_from_slice(&bytes[10..12]);
        }
        prop_assert_eq!(bytes, expected);
    }

    #[test]
    fn a_larger_segment_size_is_lowered_to_what_fits(
        v6: bool,
        before in 0_usize..8,
        offered: u16,
        largest in 100_usize..2000,
        acknowledges: bool,
    ) {
        let mut packet = Packet::tcp(v6, Vec::new());
        packet.tcp_mut().flags = if acknowledges { SYN | ACK } else { SYN };
        let mut options = vec![1; before];
        options.extend([2, 4]);
        options.extend(offered.to_be_bytes());
        options.extend([4, 2]);
        options.resize(options.len().next_multiple_of(4), 0);
        packet.tcp_mut().options = options;
        let fits = (largest - if v6 { 60 } else { 40 }) as u16;
        let place = packet.transport() + 20 + before + 2;
        for partial in [false, true] {
            let original = if partial { packet.build_partial() } else { packet.build() };
            let mut clamped = original.clone();
            prop_assert_eq!(clamp_mss(&mut clamped, largest, partial), offered > fits);
            prop_assert_eq!(&clamped[place..place + 2], &offered.min(fits).to_be_bytes());
            if !partial {
                prop_assert!(is_right(&clamped));
                clamped[packet.field()..packet.field() + 2]
                    .copy_from_slice(&original[packet.field()..packet.field() + 2]);
            }
            clamped[place..place + 2].copy_from_slice(&offered.to_be_bytes());
            prop_assert_eq!(clamped, original);
        }
    }

    #[test]
    fn arbitrary_bytes_are_looked_at_without_harm(
        (packet, _) in any_super_packet(),
        damage in prop::collection::vec((0_usize..120, any::<u8>()), 0..6),
        length in 0_usize..200,
        mtu: usize,
    ) {
        let mut bytes = packet.build();
        bytes.truncate(length);
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(layout) = Layout::of(&bytes) {
            prop_assert!(layout.transport <= bytes.len() && layout.transport <= layout.total);
        }
        Ecn::Ce.write(&mut bytes);
        clamp_mss(&mut bytes, mtu % 2000, false);
        packet_too_big(&bytes, mtu, &mut [0; 1280]);
    }
}

#[test]
fn congestion_is_carried_inwards_as_rfc_6040_says() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    // Figure 4: a row for each inner field, a column for each outer one.
    let columns = [NotEct, Ect0, Ect1, Ce];
    for (inner, row) in [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce); 4]),
    ] {
        assert_eq!(columns.map(|outer| inner.decapsulated(outer)), row);
    }
    assert_eq!(ALL.map(Ecn::bits), [0, 1, 2, 3]);
}

#[test]
fn only_a_syn_with_a_segment_size_is_changed() {
    let mut syn = Packet::tcp(false, Vec::new());
    syn.tcp_mut().flags = SYN;
    syn.tcp_mut().options = vec![2, 4, 5, 180];
    let unchanged = |packet: Vec<u8>| {
        let mut bytes = packet.clone();
        assert!(!clamp_mss(&mut bytes, 576, false));
        assert_eq!(bytes, packet);
    };
    assert!(clamp_mss(&mut syn.build(), 576, false));
    let mut later = syn.clone();
    later.tcp_mut().flags = ACK;
    unchanged(later.build());
    let mut fragment = syn.clone();
    fragment.fragment = 0x2000;
    unchanged(fragment.build());
    for options in [vec![0, 2, 4, 5, 180, 0, 0, 0], vec![3, 0, 2, 4], vec![1, 1, 2, 4], vec![2; 4]]
    {
        let mut other = syn.clone();
        other.tcp_mut().options = options;
        unchanged(other.build());
    }
    unchanged(syn.build()[..43].to_vec());
}

#[test]
fn layouts_follow_extension_headers_and_tell_fragments() {
    let mut packet = Packet::udp(true, vec![1; 24]);
    let fragment = |offset: u16| (44, [&[0, 0][..], &offset.to_be_bytes(), &[0; 4]].concat());
    packet.extensions =
        vec![(0, vec![0; 8]), (43, [vec![0, 1], vec![0; 14]].concat()), fragment(0)];
    let layout = Layout::of(&packet.build()).expect("a packet");
    let total = packet.length();
    let whole = Layout {
        version: Version::V6,
        protocol: 17,
        transport: 72,
        total,
        fragment: Fragment::Whole,
    };
    assert_eq!(layout, whole);
    packet.extensions[2] = fragment(1);
    let first = Layout::of(&packet.build());
    assert_eq!(first, Some(Layout { fragment: Fragment::First, ..whole }));
    packet.extensions[2] = fragment(8);
    let later = Layout::of(&packet.build());
    assert_eq!(later, Some(Layout { fragment: Fragment::Later, ..whole }));
    // Headers without end.
    packet.extensions = vec![(60, vec![0; 8]); 17];
    assert_eq!(Layout::of(&packet.build()), None);
}

#[test]
fn the_sender_of_a_large_ipv4_packet_learns_what_fits() {
    for length in [0, 100, 3000] {
        let packet = Packet::udp(false, vec![9; length]).build();
        let mut answer = [0xaa; 1280];
        let size = packet_too_big(&packet, 1400, &mut answer).expect("an answer");
        let answer = &answer[..size];
        assert!(size <= 576);
        assert_eq!(answer[..4], [0x45, 0, (size >> 8) as u8, size as u8]);
        assert_eq!(answer[9], 1);
        assert_eq!((&answer[12..16], &answer[16..20]), (&packet[16..20], &packet[12..16]));
        assert_eq!((naive_sum(&answer[..20]), naive_sum(&answer[20..])), (0xffff, 0xffff));
        assert_eq!((answer[20], answer[21], &answer[24..28]), (3, 4, &[0, 0, 5, 120][..]));
        assert_eq!(answer[28..], packet[..packet.len().min(548)]);
    }
}

#[test]
fn the_sender_of_a_large_ipv6_packet_learns_what_fits() {
    for length in [0, 100, 3000] {
        let packet = Packet::tcp(true, vec![9; length]).build();
        let mut answer = [0xaa; 1280];
        let size = packet_too_big(&packet, 1400, &mut answer).expect("an answer");
        let answer = &answer[..size];
        assert_eq!(size, 1280.min(48 + packet.len()));
        assert_eq!(answer[4..7], [((size - 40) >> 8) as u8, (size - 40) as u8, 58]);
        assert_eq!((&answer[8..24], &answer[24..40]), (&packet[24..40], &packet[8..24]));
        assert_eq!((answer[40], answer[41], &answer[44..48]), (2, 0, &[0, 0, 5, 120][..]));
        let pseudo = [&answer[8..40], &(size as u32 - 40).to_be_bytes(), &[0, 0, 0, 58]].concat();
        assert_eq!(naive_sum(&[&pseudo, &answer[40..]].concat()), 0xffff);
        assert_eq!(answer[48..], packet[..size - 48]);
    }
}

#[test]
fn no_answer_goes_to_whom_none_may() {
    let large = Packet::udp(false, vec![0; 1500]);
    let answered = |packet: &[u8]| packet_too_big(packet, 1280, &mut [0; 1280]).is_some();
    assert!(answered(&large.build()));
    // It may be fragmented; it is a fragment but the first.
    assert!(!answered(&Packet { fragment: 0, ..large.clone() }.build()));
    assert!(!answered(&Packet { fragment: DF | 1, ..large.clone() }.build()));
    assert!(answered(&Packet { fragment: DF | 0x2000, ..large.clone() }.build()));
    // From or to no single host.
    for (at, value) in [(12, 224), (12, 0), (12, 127), (12, 255), (16, 239), (16, 255)] {
        let mut packet = large.build();
        packet[at] = value;
        assert!(!answered(&packet), "{value} at {at}");
    }
    let large6 = Packet::udp(true, vec![0; 1500]);
    assert!(answered(&large6.build()));
    for at in [8, 24] {
        let mut packet = large6.build();
        packet[at] = 0xff;
        assert!(!answered(&packet));
        packet[at..at + 16].fill(0);
        assert!(!answered(&packet));
    }
    // ICMP: its errors are not answered, its queries are.
    for (kind, is_answered) in
        [(3, false), (5, false), (11, false), (12, false), (8, true), (0, true)]
    {
        let mut packet = large.build();
        (packet[9], packet[20]) = (1, kind);
        assert_eq!(answered(&packet), is_answered, "{kind}");
    }
    for (kind, is_answered) in [(1, false), (2, false), (127, false), (137, false), (128, true)] {
        let mut packet = large6.build();
        (packet[6], packet[40]) = (58, kind);
        assert_eq!(answered(&packet), is_answered, "{kind}");
    }
    assert!(!answered(b"no packet"));
    assert!(!answered(&[]));
}
