//! Fragments of packets on their way to their reassembly, in any order, some lost or
//! twice; and what a peer says that has the keys and is not well. The bytes: steps, each
//! a byte for what it is and what that takes.

use std::time::Duration;

use ouroboros::{
    proto::native::{Content, FRAGMENT_HEAD, LARGEST_FRAGMENTED, Reassembly, fragments},
    tun::offload::Ecn,
};

use crate::input::Input;

/// Bodies on their way at a time; the oldest are lost.
const MOST_BODIES: usize = 256;
/// In the ids of packets that are cut as they should be.
const HONEST: u32 = 1 << 31;

/// The packet with this id: nothing else makes its bytes.
fn packet(id: u32, size: usize) -> Vec<u8> {
    (0..size).map(|at| (id as usize * 31 + at * 7) as u8).collect()
}

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let mut reassembly = Reassembly::new();
    let (mut now, mut next) = (Duration::ZERO, HONEST);
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    while !input.is_empty() {
        let choice = input.byte();
        match choice & 7 {
            // Another packet.
            0 | 1 => {
                let size = usize::from(input.short()) % (LARGEST_FRAGMENTED + 2);
                let room = usize::from(input.short()) % 1500;
                let packet = packet(next, size);
                let mut all = Vec::new();
                let cut = fragments(next, Content::Packet, &packet, room);
                for fragment in cut.into_iter().flatten() {
                    let mut body = vec![0; FRAGMENT_HEAD + fragment.bytes.len()];
                    assert!(body.len() <= room, "a fragment has no room");
                    fragment.write(&mut body);
                    assert!(all.len() == usize::from(fragment.offset), "a gap between fragments");
                    all.extend_from_slice(fragment.bytes);
                    bodies.push(body);
                }
                assert!(all.is_empty() || all == packet, "the fragments are not the packet");
                next += 1;
                let more = bodies.len().saturating_sub(MOST_BODIES);
                bodies.drain(..more);
            }
            // One of the fragments arrives, or arrives and will again.
            2..=5 if !bodies.is_empty() => {
                let at = usize::from(input.byte()) % bodies.len();
                let body = if choice & 8 == 0 { bodies.remove(at) } else { bodies[at].clone() };
                handle(&mut reassembly, now, &body);
            }
            6 => {
                let mut body = input.bytes().to_vec();
                if let Some(first) = body.first_mut() {
                    *first &= 0x7f;
                }
                handle(&mut reassembly, now, &body);
            }
            _ => now += Duration::from_millis(1 << (input.byte() & 15)),
        }
        if choice & 16 != 0 {
            reassembly.handle_timeout(now);
            let due = reassembly.poll_timeout();
            assert!(due.is_none_or(|due| due > now), "due at {due:?}, and it is {now:?}");
        }
        assert!(reassembly.size() <= Reassembly::LARGEST, "more is kept than may be");
    }
    now += Duration::from_secs(60);
    reassembly.handle_timeout(now);
    assert!(reassembly.size() == 0, "something is kept for ever");
}

fn handle(reassembly: &mut Reassembly, now: Duration, body: &[u8]) {
    let Ok(Some(whole)) = reassembly.handle(now, Ecn::NotEct, body) else { return };
    assert!((2..=LARGEST_FRAGMENTED).contains(&whole.bytes.len()));
    let id = body.first_chunk().map_or(0, |id| u32::from_be_bytes(*id));
    if id & HONEST != 0 {
        assert!(*whole.bytes == packet(id, whole.bytes.len()), "the packet is another");
    }
}
