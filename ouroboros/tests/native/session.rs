//! The session by itself: who does what, and when.

use std::time::Duration;

use ouroboros::{
    crypto::{Entropy, KeyExchange},
    proto::native::{
        Capabilities, Content, Event, HEAD, KeyLimits, SealError, SessionConfig, TAIL, Transmit,
    },
    proto::protection::OpenError,
    wire::PeerAddress,
};

use crate::harness::{End, Random, at, ends, exchange, native_keys, pair, suite, through_bytes};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settled(random: &mut Random, kex: KeyExchange) -> [End; 2] {
    let mut ends = pair(random, suite(kex), KeyLimits::default(), SessionConfig::default());
    exchange(&mut ends, random, Duration::ZERO);
    ends
}

fn events(end: &mut End) -> Vec<Event> {
    std::iter::from_fn(|| end.session.poll()).collect()
}

#[test]
fn both_ends_show_that_they_have_the_keys_before_any_data() {
    let random = &mut Random::new(1);
    let mut ends = settled(random, KeyExchange::X25519);
    for end in &mut ends {
        assert_eq!(events(end), [Event::Confirmed]);
    }
}

#[test]
fn keys_are_fresh_every_two_minutes_and_old_ones_go() {
    let random = &mut Random::new(2);
    for kex in [KeyExchange::X25519, KeyExchange::P256, KeyExchange::X25519MlKem768] {
        let mut ends = settled(random, kex);
        ends.iter_mut().for_each(|end| drop(events(end)));
        let (mut rekeyed, mut last) = (Vec::new(), Duration::ZERO);
        for second in 1..=500 {
            let now = seconds(second);
            let late = ends[0].seal(now, b"late").expect("a key");
            exchange(&mut ends, random, now);
            if ends[0].session.epoch() as usize > rekeyed.len() {
                rekeyed.push(now - last);
                last = now;
                // Under the key before, and still opened.
                let opened = ends[1].take(now, random, &late, None);
                assert_eq!(opened, Ok(Some(b"late".to_vec())));
                assert_eq!(ends.each_ref().map(|end| end.session.held().0), [2, 2]);
            } else {
                ends[1].take(now, random, &late, None).expect("authentic");
            }
        }
        assert!(rekeyed.len() >= 4, "{kex}: {rekeyed:?}");
        for life in rekeyed {
            assert!((seconds(100)..=seconds(120)).contains(&life), "{kex}: {life:?}");
        }
        assert_eq!(ends[0].session.epoch(), ends[1].session.epoch());
        exchange(&mut ends, random, seconds(504));
        assert_eq!(ends.each_ref().map(|end| end.session.held().0), [1, 1]);
    }
}

#[test]
fn when_both_begin_at_once_the_clients_exchange_counts() {
    let random = &mut Random::new(3);
    let limits = KeyLimits { due: 10, ..KeyLimits::default() };
    let mut ends = pair(random, suite(KeyExchange::X25519), limits, SessionConfig::default());
    exchange(&mut ends, random, Duration::ZERO);
    let now = seconds(1);
    for end in &mut ends {
        for _ in 0..20 {
            end.seal(now, b"load").expect("a key");
        }
        end.tick(now, random);
    }
    // Both offers are under way before either arrives.
    let offers = ends.each_mut().map(|end| end.session.poll_transmit().expect("an offer").frame);
    ends[1].take(now, random, &offers[0], None).expect("authentic");
    ends[0].take(now, random, &offers[1], None).expect("authentic");
    let messages = exchange(&mut ends, random, now);
    assert_eq!(messages, 3, "an answer, a confirmation, and its own");
    assert_eq!(ends.each_ref().map(|end| end.session.epoch()), [1, 1]);
}

#[test]
fn no_data_is_sealed_when_the_exchange_cannot_be_done() {
    let random = &mut Random::new(4);
    let mut ends = settled(random, KeyExchange::X25519);
    let mut repeats = Vec::new();
    for tick in 0..=1_800 {
        let now = Duration::from_millis(tick * 100);
        // Heard, but its offers are lost.
        ends[0].heard = now;
        ends[0].tick(now, random);
        while let Some(Transmit { frame, .. }) = ends[0].session.poll_transmit() {
            // An offer, which has a public key in it.
            repeats.extend((frame.len() > HEAD + 32 + TAIL).then_some(now));
        }
        let sealed = ends[0].seal(now, b"data");
        assert_eq!(sealed.is_ok(), now < seconds(180), "{now:?}");
    }
    repeats.retain(|at| *at > seconds(99));
    let waits: Vec<_> = repeats.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!(waits.starts_with(&[300, 500, 1000, 2000, 4000, 4000]), "{waits:?}");
    // Once it can be done, data goes on.
    let now = seconds(185);
    ends[1].heard = now;
    ends[1].session.traffic(now, now);
    exchange(&mut ends, random, now);
    assert_eq!(ends.each_ref().map(|end| end.session.epoch()), [1, 1]);
    assert!(ends[0].seal(now, b"data").is_ok());
}

#[test]
fn a_hybrid_exchange_that_did_not_fit_comes_before_data() {
    let random = &mut Random::new(5);
    let mut security = suite(KeyExchange::X25519);
    security.capabilities = Capabilities::HYBRID_FIRST;
    let config = SessionConfig { largest_frame: 300, ..SessionConfig::default() };
    let mut ends = pair(random, security, KeyLimits::default(), config);
    for end in &mut ends {
        assert_eq!(end.seal(Duration::ZERO, b"early"), Err(SealError::Paused));
    }
    let mut largest = 0;
    let offers: Vec<_> = std::iter::from_fn(|| ends[0].session.poll_transmit()).collect();
    assert!(offers.len() > 4, "the key is in several parts");
    for Transmit { frame, .. } in offers {
        largest = largest.max(frame.len());
        ends[1].take(Duration::ZERO, random, &frame, None).expect("authentic");
    }
    assert!(largest <= 300);
    exchange(&mut ends, random, Duration::ZERO);
    for end in &mut ends {
        assert!(events(end).contains(&Event::Rekeyed { epoch: 1 }));
        assert!(end.seal(Duration::ZERO, b"data").is_ok());
        let (keys, _) = end.session.held();
        assert_eq!(keys, 1, "nothing opens what was sealed before the exchange");
    }
}

#[test]
fn the_hybrid_is_agreed_whichever_end_has_kept_what_the_headers_agreed() {
    let random = &mut Random::new(22);
    let mut security = suite(KeyExchange::X25519);
    security.capabilities = Capabilities::HYBRID_FIRST;
    for keeps in [[true, true], [true, false], [false, true], [false, false]] {
        let [client, server] = native_keys(random, security.clone());
        let of = |keys, keeps| if keeps { keys } else { through_bytes(keys) };
        let keys = [of(client, keeps[0]), of(server, keeps[1])];
        let mut ends = ends(random, keys, KeyLimits::default(), SessionConfig::default());
        exchange(&mut ends, random, Duration::ZERO);
        let [client, server] = &mut ends;
        let sealed = client.seal(Duration::ZERO, b"data").expect("a key");
        let opened = server.take(Duration::ZERO, random, &sealed, None);
        assert_eq!(opened, Ok(Some(b"data".to_vec())), "{keeps:?}");
        assert_eq!([client.session.epoch(), server.session.epoch()], [1, 1]);
    }
}

#[test]
fn a_path_is_not_probed_by_a_flow_that_is_over_at_once() {
    const CEILING: usize = 1400;
    let random = &mut Random::new(21);
    let mut ends = settled(random, KeyExchange::X25519);
    let [client, _] = &mut ends;
    client.session.search(at(Duration::ZERO), CEILING);
    for (milliseconds, probed) in [(0, false), (99, false), (100, true)] {
        let now = Duration::from_millis(milliseconds);
        client.session.handle_timeout(at(now), random);
        let mut frames = std::iter::from_fn(|| client.session.poll_transmit());
        assert_eq!(frames.any(|sent| sent.frame.len() == CEILING), probed, "{now:?}");
    }
}

#[test]
fn a_silent_peer_is_pinged_and_then_taken_for_gone() {
    let random = &mut Random::new(6);
    let config = SessionConfig { timeout: seconds(8), ..SessionConfig::default() };
    let mut ends = pair(random, suite(KeyExchange::X25519), KeyLimits::default(), config);
    // While both are there, pings hold the flow up.
    let mut now = Duration::ZERO;
    while now < seconds(60) {
        exchange(&mut ends, random, now);
        now = ends.iter().filter_map(|end| end.session.poll_timeout()).min().expect("a timer");
    }
    let [client, _] = &mut ends;
    assert_eq!(events(client), [Event::Confirmed]);
    // Then the server is gone.
    let (since, mut pings) = (now, 0);
    while let Some(due) = client.session.poll_timeout() {
        now = due;
        client.tick(now, random);
        pings += std::iter::from_fn(|| client.session.poll_transmit()).count();
    }
    assert_eq!(events(client), [Event::Down]);
    assert!(now - since <= seconds(8) && pings >= 3, "{pings} pings in {:?}", now - since);
}

#[test]
fn a_probe_tells_soon_whether_the_peer_is_there() {
    let random = &mut Random::new(7);
    let mut ends = settled(random, KeyExchange::X25519);
    events(&mut ends[0]);
    ends[0].session.probe(at(seconds(1)), seconds(2));
    let ping = ends[0].session.poll_transmit().expect("a ping").frame;
    ends[1].take(seconds(1), random, &ping, None).expect("authentic");
    let pong = ends[1].session.poll_transmit().expect("a pong").frame;
    let later = seconds(1) + Duration::from_millis(70);
    ends[0].take(later, random, &pong, None).expect("authentic");
    let round_trip = Some(Duration::from_millis(70));
    assert_eq!(events(&mut ends[0]), [Event::Responded { round_trip }]);

    let mut pings = 0;
    ends[0].session.probe(at(seconds(10)), seconds(2));
    loop {
        pings += std::iter::from_fn(|| ends[0].session.poll_transmit()).count();
        let due = ends[0].session.poll_timeout().expect("a timer");
        if due > seconds(12) {
            break;
        }
        ends[0].tick(due, random);
    }
    assert_eq!(events(&mut ends[0]), [Event::Unresponsive]);
    assert!(pings >= 3, "{pings}");
}

#[test]
fn round_trips_are_measured_and_lost_packets_counted_without_an_end_to_the_flow() {
    let random = &mut Random::new(17);
    let mut ends = settled(random, KeyExchange::X25519);
    let ping = |end: &mut End, now| {
        end.session.measure_round_trip(at(now));
        assert!(end.session.awaits_pong());
        end.session.poll_transmit().expect("a ping").frame
    };
    let mut measure = |sent: Duration, round_trip: Duration| {
        let ping = ping(&mut ends[0], sent);
        ends[1].take(sent, random, &ping, None).expect("authentic");
        let pong = ends[1].session.poll_transmit().expect("a pong").frame;
        ends[0].take(sent + round_trip, random, &pong, None).expect("authentic");
        ends[0].session.round_trip()
    };
    let milliseconds = Duration::from_millis;
    assert_eq!(measure(seconds(1), milliseconds(70)), Some(milliseconds(70)));
    assert_eq!(measure(seconds(2), milliseconds(30)), Some(milliseconds(30)));
    assert!(!ends[0].session.awaits_pong());
    assert_eq!(ends[0].session.missed(), 0);
    events(&mut ends[0]);
    // The peer's next two packets are lost, and come late.
    let now = seconds(3);
    let lost = [b"one", b"two"].map(|data| ends[1].seal(now, data).expect("a key"));
    let arrives = ends[1].seal(now, b"three").expect("a key");
    ends[0].take(now, random, &arrives, None).expect("authentic");
    assert_eq!(ends[0].session.missed(), 2);
    ends[0].take(now, random, &lost[1], None).expect("authentic");
    assert_eq!(ends[0].session.missed(), 1);
    // A ping that is not answered changes nothing.
    ping(&mut ends[0], now);
    ends[0].tick(seconds(9), random);
    assert_eq!(events(&mut ends[0]), []);
    assert_eq!(ends[0].session.round_trip(), Some(milliseconds(30)));
}

#[test]
fn a_peer_tells_how_many_packets_it_did_not_get() {
    let random = &mut Random::new(11);
    let mut ends = settled(random, KeyExchange::X25519);
    events(&mut ends[0]);
    let mut lost = 0;
    for asked in 1..=3 {
        for number in 0..100 {
            if number % 25 == 0 {
                // Was never sent, and is not missing.
                ends[0].sealer.skip().expect("a number");
            }
            let frame = ends[0].seal(seconds(asked), b"data").expect("a key");
            if number % 10 == asked {
                lost += 1;
                continue;
            }
            ends[1].take(seconds(asked), random, &frame, None).expect("authentic");
            // A copy is no packet.
            assert!(ends[1].take(seconds(asked), random, &frame, None).is_err());
        }
        // Once a second, however often one wants to know.
        for _ in 0..3 {
            ends[0].session.ask_delivery(at(seconds(asked)));
        }
        let question = ends[0].session.poll_transmit().expect("a question").frame;
        assert!(ends[0].session.poll_transmit().is_none());
        ends[1].take(seconds(asked), random, &question, None).expect("authentic");
        let answer = ends[1].session.poll_transmit().expect("an answer").frame;
        ends[0].take(seconds(asked), random, &answer, None).expect("authentic");
        assert_eq!(events(&mut ends[0]), [Event::Delivery { undelivered: lost }]);
    }
    // Nothing has left since.
    ends[0].session.ask_delivery(at(seconds(9)));
    assert!(ends[0].session.poll_transmit().is_none());
}

#[test]
fn closing_is_told_and_ends_both_sessions() {
    let random = &mut Random::new(8);
    let mut ends = settled(random, KeyExchange::X25519);
    events(&mut ends[1]);
    ends[0].session.close(at(seconds(1)));
    let close = ends[0].session.poll_transmit().expect("a message").frame;
    assert_eq!(ends[0].session.poll_timeout(), None);
    ends[1].take(seconds(1), random, &close, None).expect("authentic");
    assert_eq!(events(&mut ends[1]), [Event::Closed]);
    assert_eq!(ends[1].session.poll_timeout(), None);
}

#[test]
fn a_client_is_followed_to_the_address_that_answers() {
    let random = &mut Random::new(9);
    let mut ends = settled(random, KeyExchange::X25519);
    events(&mut ends[1]);
    let [client, server] = &mut ends;
    let new = PeerAddress::Memory(77);
    let frame = client.seal(seconds(1), b"from elsewhere").expect("a key");
    server.take(seconds(1), random, &frame, Some(new)).expect("authentic");
    let Transmit { to, frame } = server.session.poll_transmit().expect("a challenge");
    assert_eq!(to, Some(new));
    assert_eq!(events(server), []);
    client.take(seconds(1), random, &frame, None).expect("authentic");
    let Transmit { frame, .. } = client.session.poll_transmit().expect("a response");
    server.take(seconds(1), random, &frame, Some(new)).expect("authentic");
    assert_eq!(events(server), [Event::Moved(new)]);
    // A replayed or late packet from elsewhere moves nobody.
    let late = client.seal(seconds(2), b"late").expect("a key");
    let frame = client.seal(seconds(2), b"on time").expect("a key");
    server.take(seconds(2), random, &frame, None).expect("authentic");
    server.take(seconds(2), random, &late, Some(PeerAddress::Memory(78))).expect("authentic");
    assert!(server.session.poll_transmit().is_none());
    // And a client follows nobody.
    let frame = server.seal(seconds(2), b"from elsewhere").expect("a key");
    client.take(seconds(2), random, &frame, Some(new)).expect("authentic");
    assert!(client.session.poll_transmit().is_none());
}

#[test]
fn an_address_that_does_not_answer_gets_no_more_than_three_times_what_it_gave() {
    let random = &mut Random::new(10);
    let mut ends = settled(random, KeyExchange::X25519);
    let [client, server] = &mut ends;
    let stranger = PeerAddress::Memory(66);
    let frame = client.seal(seconds(1), b"x").expect("a key");
    server.take(seconds(1), random, &frame, Some(stranger)).expect("authentic");
    let (mut given, mut now) = (0, seconds(1));
    while now < seconds(10) {
        for Transmit { to, frame } in std::iter::from_fn(|| server.session.poll_transmit()) {
            assert!(to.is_none() || to == Some(stranger));
            given += if to.is_some() { frame.len() } else { 0 };
        }
        now += Duration::from_millis(50);
        server.tick(now, random);
    }
    assert!(given > 0 && given <= 3 * frame.len(), "{given} bytes for {}", frame.len());
}

#[test]
fn a_peer_with_the_keys_that_talks_nonsense_changes_and_keeps_little() {
    let random = &mut Random::new(11);
    let mut ends = settled(random, KeyExchange::X25519);
    let [client, server] = &mut ends;
    let mut now = seconds(1);
    for _ in 0..100_000 {
        now += Duration::from_millis(random.below(5));
        let mut body = vec![0; 1 + random.below(40) as usize];
        random.fill(&mut body);
        // Mostly of the kinds there are, and mostly about the epoch to come.
        body[0] = [body[0], body[0] % 12, 6, 7][random.below(4) as usize];
        if body[0] == 3 {
            continue;
        }
        if body.len() > 7 && random.one_in(2) {
            body[1..5].copy_from_slice(&(server.session.epoch() as u32 + 1).to_be_bytes());
        }
        let mut frame = [&[0; HEAD], &body[..], &[0; TAIL]].concat();
        client.sealer.reserve(1, false).expect("a number").seal(&mut frame, Content::Control);
        server.take(now, random, &frame, None).expect("authentic");
        server.tick(now, random);
        let (keys, queued) = server.session.held();
        assert!(keys <= 2 && queued <= 64);
        if random.one_in(100) {
            while server.session.poll_transmit().is_some() {}
        }
        let told = events(server);
        assert!(told.iter().all(|event| matches!(event, Event::Confirmed | Event::Announced(_))));
    }
}

/// Secrets are fresh: what was learned of an epoch is of no use in the next.
#[test]
fn who_knows_the_keys_of_an_epoch_and_listens_does_not_know_the_next() {
    for kex in [KeyExchange::X25519, KeyExchange::X25519MlKem768] {
        // All the same as the server, until there is something to be random in.
        let [_, mut listener] = settled(&mut Random::new(12), kex);
        let mut ends = settled(&mut Random::new(12), kex);
        let (random, others) = (&mut Random::new(13), &mut Random::new(14));
        let frame = ends[0].seal(seconds(1), b"in epoch 0").expect("a key");
        let heard = listener.take(seconds(1), others, &frame, None);
        assert_eq!(heard, Ok(Some(b"in epoch 0".to_vec())));
        let mut now = seconds(2);
        while ends[0].session.epoch() == 0 {
            now += Duration::from_millis(100);
            for index in 0..2 {
                ends[index].tick(now, random);
                while let Some(Transmit { frame, .. }) = ends[index].session.poll_transmit() {
                    ends[1 - index].take(now, random, &frame, None).expect("authentic");
                    if index == 0 {
                        // Whatever it opens, the exchange, too.
                        let _ = listener.take(now, others, &frame, None);
                    }
                }
            }
        }
        let frame = ends[0].seal(now, b"in epoch 1").expect("a key");
        let heard = listener.take(now, others, &frame, None);
        assert_eq!(heard, Err(OpenError::NotAuthentic), "{kex}");
        let opened = ends[1].take(now, random, &frame, None);
        assert_eq!(opened, Ok(Some(b"in epoch 1".to_vec())));
    }
}

#[test]
fn what_is_forged_or_replayed_is_no_sign_of_life() {
    let random = &mut Random::new(15);
    let config = SessionConfig { timeout: seconds(8), ..SessionConfig::default() };
    let mut ends = pair(random, suite(KeyExchange::X25519), KeyLimits::default(), config);
    exchange(&mut ends, random, Duration::ZERO);
    let [client, server] = &mut ends;
    events(client);
    let heard = server.seal(seconds(1), b"the last").expect("a key");
    client.take(seconds(1), random, &heard, None).expect("authentic");
    let never = server.seal(seconds(1), b"never came").expect("a key");
    let mut now = seconds(1);
    while client.session.poll_timeout().is_some() {
        now += Duration::from_millis(100);
        let mut forged = never.clone();
        forged[HEAD] ^= 1;
        assert_eq!(client.take(now, random, &forged, None), Err(OpenError::NotAuthentic));
        assert_eq!(client.take(now, random, &heard, None), Err(OpenError::Replayed));
        client.tick(now, random);
    }
    assert_eq!(events(client), [Event::Down]);
    assert_eq!(now, seconds(9));
}

/// Of AES-GCM, as in QUIC (RFC 9001, section 6.6).
#[test]
fn a_key_seals_8_million_packets_and_the_next_one_is_due_after_4_million() {
    let mut ends = settled(&mut Random::new(16), KeyExchange::X25519);
    events(&mut ends[0]);
    let sealer = &mut ends[0].sealer;
    assert!(sealer.reserve(1 << 21, true).is_ok() && !sealer.wants_attention());
    assert!(sealer.reserve(1 << 21, true).is_ok() && sealer.wants_attention());
    assert!(sealer.reserve(1 << 22, true).is_err(), "data stops before control");
    assert!(sealer.reserve(1 << 22, false).is_err(), "2^23 are all");
    while sealer.reserve(1000, false).is_ok() {}
    while sealer.reserve(1, false).is_ok() {}
    // The exchange that was due has not been done, and cannot be any more.
    ends[0].tick(seconds(1), &mut Random::new(17));
    assert!(ends[0].session.poll_transmit().is_none());
    assert_eq!(events(&mut ends[0]), [Event::Down]);
}
