//! The machine of a flow in order, given packets, times and an application. The
//! bytes: one for the service and whether the first data was sent, then steps, each
//! a byte for what it is and what that takes.

use std::time::Duration;

use ouroboros::{
    proto::frct::{Config, Event, Frct, Service},
    wire::frct::{Flags, Header},
};

use crate::input::{Counting, Input};

/// Packets that wait to be read, or to be acknowledged, at most.
const MOST: usize = 256;

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    let service = if first & 1 == 0 { Service::Reliable } else { Service::Ordered };
    let config = Config { service, packet_lifetime: Duration::from_millis(100) };
    let mut now = Duration::ZERO;
    let mut frct = Frct::new(now, &mut Counting(u64::from(first)), config);
    let (mut ours, mut written, mut unread) = (0u32, 0u32, 0usize);
    // The peer's run begins here, near the end of the numbers.
    let theirs = u32::MAX - 20;
    let mut failed = false;
    while !input.is_empty() {
        let choice = input.byte();
        match choice & 7 {
            // A packet near to where both are.
            0 | 1 => {
                let flags = Flags::from_bits(input.byte());
                let header = Header {
                    flags,
                    window: ours.wrapping_add(u32::from(input.short())) & 0xff_ffff,
                    sequence: theirs.wrapping_add(u32::from(input.short())),
                    acknowledgement: ours.wrapping_add(u32::from(input.byte())),
                };
                let payload: &[u8] = if flags.contains(Flags::DATA) { &[1] } else { &[] };
                frct.handle(now, &[&header.encode()[..], payload].concat());
            }
            // Anything.
            2 => frct.handle(now, input.bytes()),
            3 => frct.handle_garbled(now),
            4 => {
                let before = unread;
                while frct.read(now).is_some() {
                    unread += 1;
                    assert!(unread - before <= MOST, "more than the window was kept");
                }
            }
            5 => written += u32::from(frct.write(now, &[2; 3]).is_ok()),
            6 => now += Duration::from_millis(1 << (input.byte() & 15)),
            _ if choice & 8 != 0 => frct.close(now),
            _ => frct.handle_timeout(now),
        }
        frct.handle_timeout(now);
        let mut sent = 0;
        while let Some(transmit) = frct.poll_transmit(now) {
            let mut packet = vec![0; transmit.size()];
            transmit.write(&mut packet);
            if let Ok((header, _)) = Header::parse(&packet)
                && header.flags.contains(Flags::DATA)
            {
                ours = header.sequence.wrapping_add(1);
            }
            sent += 1;
            assert!(sent <= MOST + 8, "sending does not end");
        }
        failed |= std::iter::from_fn(|| frct.poll()).any(|e| matches!(e, Event::Failed(_)));
        assert!(!failed || frct.is_drained());
        let due = frct.poll_timeout();
        assert!(due.is_none_or(|due| due > now), "due at {due:?}, and it is {now:?}");
    }
    let _ = written;
}
