//! When acknowledgements, repetitions and questions for a window leave, each as a test.

use std::time::Duration;

use ouroboros::{
    proto::frct::{Event, Failure, Frct},
    wire::frct::{Flags, Header},
};

use crate::{data, ms, reliable, sent, transmit};

#[test]
fn acknowledgements_wait_for_5_ms_or_a_second_packet() {
    let mut frct = reliable();
    let mut said = |now, packet: &[u8]| {
        frct.handle(now, packet);
        let at_once = sent(&mut frct, now).len();
        let later = (1..100).map(|after| sent(&mut frct, now + ms(after)).len());
        (at_once, later.take(5).collect::<Vec<_>>())
    };
    assert_eq!(said(ms(0), &data(Flags::DRF, 5)), (0, vec![0, 0, 0, 0, 1]));
    // Again: its acknowledgement was lost. Out of turn. In turn again.
    assert_eq!(said(ms(100), &data(Flags::DRF, 5)).0, 1);
    assert_eq!(said(ms(110), &data(Flags::NONE, 7)).0, 1);
    assert_eq!(said(ms(120), &data(Flags::NONE, 6)).0, 1);
    frct.handle(ms(200), &data(Flags::NONE, 8));
    frct.handle(ms(200), &data(Flags::NONE, 9));
    assert_eq!(sent(&mut frct, ms(200)).len(), 1);
    // Bare packets are answered with nothing, but for a rendezvous.
    for flags in [Flags::ACK, Flags::FC, Flags::ACK | Flags::FC, Flags::DRF, Flags::NONE] {
        let (sequence, window, acknowledgement) = (0, 0, 0);
        let bare = Header { flags, window, sequence, acknowledgement };
        frct.handle(ms(300), &bare.encode());
    }
    // The last window of the burst is said once more by itself.
    let by_itself = (200..2000).map(|now| sent(&mut frct, ms(now)).len()).sum::<usize>();
    assert_eq!(by_itself, 1);
    frct.handle(ms(2000), &Header { flags: Flags::RDVS, ..Header::default() }.encode());
    let [answer] = sent(&mut frct, ms(2000))[..] else { panic!("answered") };
    assert!(answer.flags.contains(Flags::FC) && !answer.flags.contains(Flags::ACK));
}

#[test]
fn a_peer_s_few_buffers_are_not_overrun() {
    let mut frct = reliable();
    let (mut now, mut acknowledged, mut most) = (ms(0), None, 0);
    for round in 0..400 {
        while frct.write(now, b"packet").is_ok() {}
        let data = sent(&mut frct, now);
        let data = data.iter().filter(|header| header.flags.contains(Flags::DATA));
        let last = data.map(|header| header.sequence).next_back();
        let Some(last) = last else { panic!("{round}") };
        let oldest = *acknowledged.get_or_insert(last.wrapping_sub(63));
        let flight = last.wrapping_add(1).wrapping_sub(oldest);
        assert!(round > 0 || flight == 64, "{flight}");
        most = most.max(flight);
        now += ms(10);
        let acknowledgement = last.wrapping_add(1);
        let window = acknowledgement.wrapping_add(256) & 0xff_ffff;
        let flags = Flags::ACK | Flags::FC;
        frct.handle(now, &Header { flags, window, sequence: 0, acknowledgement }.encode());
        acknowledged = Some(acknowledgement);
    }
    assert!(most > 64 && most <= 128, "{most}");
}

#[test]
fn packets_are_repeated_after_1_s_at_first_and_then_by_what_was_measured() {
    let mut frct = reliable();
    let copies = |frct: &mut Frct, from: u64, until: u64| {
        frct.write(ms(from), b"packet").expect("room");
        let mut times = Vec::new();
        for now in from..until {
            frct.handle_timeout(ms(now));
            let data = sent(frct, ms(now)).into_iter().filter(|h| h.flags.contains(Flags::DATA));
            times.extend(data.map(|header| (now - from, header.sequence)));
        }
        times
    };
    let first = copies(&mut frct, 0, 8000);
    assert_eq!(first.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1000, 3000, 7000]);
    let mut number = first[0].1;
    let mut confirm = |frct: &mut Frct, now| {
        number = number.wrapping_add(1);
        let header = Header { flags: Flags::ACK, acknowledgement: number, ..Header::default() };
        frct.handle(ms(now), &header.encode());
    };
    // Not measured: it may be the answer to any of the copies (Karn).
    confirm(&mut frct, 8000);
    assert_eq!(copies(&mut frct, 9000, 9500).len(), 1);
    // Measured now, as half a second; later as less and less.
    confirm(&mut frct, 9500);
    for second in 10..60 {
        assert_eq!(copies(&mut frct, 1000 * second, 1000 * second + 2).len(), 1);
        confirm(&mut frct, 1000 * second + 2);
    }
    let last: Vec<_> = copies(&mut frct, 60_000, 60_200).iter().map(|(at, _)| *at).collect();
    assert!(last[1] >= 20 && last.len() >= 3, "{last:?}");
    assert!(last.windows(3).all(|at| at[2] - at[1] >= 2 * (at[1] - at[0]) - 1), "{last:?}");
}

#[test]
fn a_closed_window_is_asked_for_without_end_and_said_again_when_it_opens() {
    let mut frct = reliable();
    for _ in 0..100 {
        frct.write(ms(0), b"packet").expect("room");
    }
    let first = sent(&mut frct, ms(0))[0].sequence;
    let acknowledgement = first.wrapping_add(64);
    let closed = Header {
        flags: Flags::ACK | Flags::FC,
        window: acknowledgement & 0xff_ffff,
        sequence: 0,
        acknowledgement,
    };
    frct.handle(ms(10), &closed.encode());
    let mut asked = 0;
    for tenth in 0..3000 {
        let now = ms(100 * tenth);
        frct.handle_timeout(now);
        asked += sent(&mut frct, now).iter().filter(|h| h.flags == Flags::RDVS).count();
    }
    assert!(asked > 50, "{asked}");
    // The other side of it: 256 unread packets, then the reader goes on.
    let mut frct = reliable();
    for number in 0..256 {
        let drf = if number == 0 { Flags::DRF } else { Flags::NONE };
        frct.handle(ms(0), &data(drf, number));
    }
    let [.., last] = sent(&mut frct, ms(10))[..] else { panic!("acknowledged") };
    // What has arrived is acknowledged, though nobody has read it.
    assert_eq!((last.acknowledgement, last.window), (256, 256));
    while frct.read(ms(20)).is_some() {}
    let mut said = 0;
    for now in (20..1000).map(ms) {
        said += sent(&mut frct, now).iter().filter(|header| header.window == 512).count();
    }
    assert!(said >= 4, "{said}");
    // Until data comes.
    frct.handle(ms(1000), &data(Flags::NONE, 256));
    let rest: usize = (1001..100_000).map(|now| sent(&mut frct, ms(now)).len()).sum();
    assert_eq!(rest, 2, "an acknowledgement, and once more should it have been overtaken");
}

#[test]
fn an_empty_frame_follows_what_is_not_acknowledged() {
    let mut frct = reliable();
    frct.write(ms(0), b"packet").expect("room");
    let mut frames = Vec::new();
    for now in (0..100).map(ms) {
        while let Some(packet) = transmit(&mut frct, now) {
            frames.push((now.as_millis(), packet.len()));
        }
    }
    assert_eq!(frames, [(0, 18), (2, 0), (8, 0), (32, 0)]);
}

#[test]
fn at_a_gap_one_packet_is_in_flight() {
    let mut frct = reliable();
    for _ in 0..10 {
        frct.write(ms(0), b"packet").expect("room");
    }
    let first = sent(&mut frct, ms(0))[0].sequence;
    frct.handle_timeout(ms(1000));
    frct.write(ms(1000), b"held back").expect("room");
    let again: Vec<_> = sent(&mut frct, ms(1000)).iter().map(|h| h.sequence).collect();
    assert_eq!(again, [first]);
    // A partial acknowledgement: the next one at once, and it alone.
    let flags = Flags::ACK;
    let header = Header { flags, acknowledgement: first.wrapping_add(4), ..Header::default() };
    frct.handle(ms(1010), &header.encode());
    let again: Vec<_> = sent(&mut frct, ms(1010)).iter().map(|h| h.sequence).collect();
    assert_eq!(again, [first.wrapping_add(4)]);
    let header = Header { acknowledgement: first.wrapping_add(10), ..header };
    frct.handle(ms(1020), &header.encode());
    assert_eq!(sent(&mut frct, ms(1020)).len(), 1);
}

#[test]
fn a_dead_peer_is_given_up_after_two_minutes() {
    let mut frct = reliable();
    frct.write(ms(0), b"packet").expect("room");
    let (mut now, mut repeated) = (ms(0), 0);
    let failed = loop {
        repeated += sent(&mut frct, now).len();
        if let Some(Event::Failed(why)) = frct.poll() {
            break why;
        }
        now = frct.poll_timeout().expect("something to wait for");
        frct.handle_timeout(now);
    };
    assert_eq!(failed, Failure::Unacknowledged);
    assert!(now >= Duration::from_secs(120) && now < Duration::from_secs(130), "{now:?}");
    assert!(repeated > 20, "{repeated}");
}
