//! A stream of the reliable profile, given packets, times and an application. The
//! bytes: one for the window, then steps, each a byte for what it is and what that
//! takes. What is read is what the peer's data packets had there.

use std::time::Duration;

use ouroboros::proto::reliable::{
    Body, Config, Packet, Read, Stream, congestion::CongestionControl,
};

use crate::input::Input;

/// Packets that leave at once, at most: the window at first, and more.
const MOST: usize = 4096;
/// Bytes of memory beyond the window: pages at both ends of it, a piece that is written.
const BESIDE: u64 = 256 * 1024;

/// The peer's byte at `offset`.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    let window = 1024 << (first & 7);
    let config = Config { window, max_window: window, ..Config::default() };
    let mut now = Duration::ZERO;
    let mut stream = Stream::new(now, config);
    if first & 8 != 0 {
        stream.set_congestion_control(CongestionControl::Cubic);
    }
    stream.skip_later(first.into());
    let (mut theirs, mut ours, mut read, mut written) = (0, 0, 0u64, 0u64);
    // Nothing came but what is known.
    let mut known = true;
    while !input.is_empty() {
        let choice = input.byte();
        match choice & 7 {
            // Data near to where the reader is.
            0 | 1 => {
                let (offset, size) = (read + u64::from(input.short()), 1 + u64::from(input.byte()));
                let bytes: Vec<u8> = (offset..offset + size).map(byte).collect();
                let bytes = [&(offset as u32).to_be_bytes()[..], &bytes].concat();
                theirs += 1 + u64::from(choice >> 6);
                let packet =
                    Packet { number: theirs, marked: false, body: Body::Data, bytes: &bytes };
                stream.handle(now, packet).expect("well-formed");
            }
            // Any frames.
            2 | 3 => {
                known = false;
                theirs += 1;
                let marked = choice & 8 != 0;
                let bytes = input.bytes();
                let _ = stream
                    .handle(now, Packet { number: theirs, marked, body: Body::Frames, bytes });
            }
            4 => {
                let mut buffer = [0; 700];
                if let Read::Data(count) = stream.read(&mut buffer) {
                    if known {
                        let expected = (read..).map(byte);
                        assert!(buffer[..count].iter().copied().eq(expected.take(count)));
                    }
                    read += count as u64;
                }
            }
            5 => written += stream.write(&vec![2; 1 + usize::from(input.short())]) as u64,
            6 => now += Duration::from_micros(1 << (input.byte() & 31).min(22)),
            _ => match choice >> 3 {
                0 => stream.finish(),
                1 => stream.finish_with(1, b"why"),
                2 => stream.close(),
                3 => stream.abort(2),
                4 => stream.stop(3),
                5 => stream.set_memory_limit(u64::from(input.short())),
                6 => stream.set_largest_body(input.short().into()),
                _ => stream.on_packets_unsent(),
            },
        }
        stream.handle_timeout(now);
        let mut sent = 0;
        while let Some(transmit) = stream.poll_transmit(now) {
            let mut bytes = vec![0; transmit.size];
            stream.write_body(&transmit, &mut bytes);
            if stream.skips() {
                ours += 1;
                stream.on_number_skipped(ours);
                stream.skip_later(ours % 8);
            }
            ours += 1;
            stream.on_packet_sent(now, ours);
            sent += 1;
            assert!(sent <= MOST, "sending does not end");
        }
        let figures = stream.statistics();
        assert!(figures.held <= window + BESIDE, "{figures:?}");
        assert!(figures.unacknowledged <= written);
    }
}
