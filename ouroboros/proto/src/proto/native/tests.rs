//! Packets of the native profile, as a peer and an attacker see them.

use std::collections::HashSet;

use super::*;
use crate::{
    crypto::{Cipher, FlowKey, Suite},
    proto::protection::OpenError,
};

const CLIENT: Eid = Eid(70_000);
const SERVER: Eid = Eid(7);

fn keys(role: Role, capabilities: Capabilities) -> NativeKeys {
    NativeKeys::new(Suite::default(), role, capabilities, FlowKey::new([7; 32]), [9; 32])
}

fn pair_with(capabilities: Capabilities, limits: KeyLimits) -> (Channel, Channel) {
    let client = keys(Role::Client, capabilities);
    let server = keys(Role::Server, capabilities);
    (
        Channel::new(client, (CLIENT, SERVER), AeadBackend::Ring, limits),
        Channel::new(server, (SERVER, CLIENT), AeadBackend::RustCrypto, limits),
    )
}

fn pair() -> (Channel, Channel) {
    pair_with(Capabilities::NONE, KeyLimits::default())
}

fn sealed(sealer: &mut Sealer, content: Content, body: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; HEAD], body, &[0; TAIL]].concat();
    let data = content != Content::Control;
    sealer.reserve(1, data).expect("numbers").seal(&mut frame, content);
    frame
}

fn opened(opener: &mut Opener, frame: &[u8]) -> Result<(Content, Vec<u8>), OpenError> {
    let mut frame = frame.to_vec();
    let opened = opener.open(&mut frame)?;
    Ok((opened.content, frame[opened.body].to_vec()))
}

#[test]
fn what_one_end_seals_the_other_opens_once_and_nobody_else() {
    let (client, server) = pair();
    let (mut seal, mut open) = (client.sealer(), server.opener());
    for content in [Content::Control, Content::Packet, Content::PartialChecksum] {
        for body in [&b""[..], b"a packet"] {
            let frame = sealed(&mut seal, content, body);
            assert_eq!(frame.len(), HEAD + body.len() + TAIL);
            // Reflected to its sender, or given to another endpoint.
            assert_eq!(opened(&mut client.opener(), &frame), Err(OpenError::NotAuthentic));
            let other = Channel::new(
                keys(Role::Server, Capabilities::NONE),
                (Eid(SERVER.0 + 1), CLIENT),
                AeadBackend::Ring,
                KeyLimits::default(),
            );
            assert_eq!(opened(&mut other.opener(), &frame), Err(OpenError::NotAuthentic));
            assert_eq!(opened(&mut open, &frame), Ok((content, body.to_vec())));
            assert_eq!(opened(&mut open, &frame), Err(OpenError::Replayed));
            assert_eq!(opened(&mut server.opener(), &frame), Err(OpenError::Replayed));
        }
    }
    let frame = sealed(&mut server.sealer(), Content::Packet, b"back");
    assert_eq!(opened(&mut client.opener(), &frame), Ok((Content::Packet, b"back".to_vec())));
}

#[test]
fn a_flow_that_rested_goes_on_and_forgets_nothing() {
    let limits = KeyLimits { data: 3, failures: 2, ..KeyLimits::default() };
    let (client, server) = pair_with(Capabilities::NONE, limits);
    let (mut seal, mut open) = (client.sealer(), server.opener());
    let first = sealed(&mut seal, Content::Packet, b"before");
    assert!(opened(&mut open, &first).is_ok());
    let mut forged = first.clone();
    forged[HEAD] ^= 1;
    for rests_too in [false, true] {
        client.rest();
        server.rest();
        if rests_too {
            seal.rest();
            open.rest();
        }
        assert_eq!(opened(&mut open, &first), Err(OpenError::Replayed));
        let next = sealed(&mut seal, Content::Packet, b"after");
        assert_ne!(next[1..HEADER], first[1..HEADER], "another number");
        assert!(opened(&mut open, &next).is_ok());
        assert_eq!(opened(&mut open, &forged), Err(OpenError::NotAuthentic));
    }
    client.rest();
    server.rest();
    assert!(seal.reserve(1, true).is_err(), "the key has sealed as much as it may");
    let control = sealed(&mut seal, Content::Control, b"ping");
    let opened = opened(&mut open, &control);
    assert_eq!(opened, Err(OpenError::NotAuthentic), "too much did not open under the key");
}

#[test]
fn what_comes_from_elsewhere_takes_nothing_from_what_comes_along_the_path() {
    let (client, server) = pair();
    let (mut seal, mut open, mut elsewhere) = (client.sealer(), server.opener(), server.opener());
    let mut from_elsewhere = |frame: &[u8]| elsewhere.open_off_path(&mut frame.to_vec());
    let [first, second, third] =
        [0; 3].map(|_| sealed(&mut seal, Content::Packet, b"a packet that is copied"));
    // A copy that is faster says that its sender may have moved, once.
    let copy = from_elsewhere(&second).expect("authentic");
    assert!(copy.leads && copy.content == Content::Packet);
    for frame in [&second, &first] {
        assert!(!from_elsewhere(frame).expect("not seen along the path").leads);
    }
    for frame in [&first, &second] {
        assert!(opened(&mut open, frame).is_ok());
        assert_eq!(from_elsewhere(frame), Err(OpenError::Replayed));
        assert_eq!(opened(&mut open, frame), Err(OpenError::Replayed));
    }
    assert!(opened(&mut open, &third).expect("new").1.ends_with(b"copied"));
    // Control counts where it comes first: what it asks is done then.
    let control = sealed(&mut seal, Content::Control, b"ping");
    assert!(from_elsewhere(&control).expect("authentic").leads);
    assert_eq!(from_elsewhere(&control), Err(OpenError::Replayed));
    assert_eq!(opened(&mut open, &control), Err(OpenError::Replayed));
    let mut forged = first;
    forged[HEAD] ^= 1;
    assert_eq!(from_elsewhere(&forged), Err(OpenError::NotAuthentic));
}

#[test]
fn every_altered_bit_is_noticed_and_does_no_harm() {
    let (client, server) = pair();
    let frame = sealed(&mut client.sealer(), Content::Packet, b"genuine");
    let mut open = server.opener();
    for bit in 0..frame.len() * 8 {
        let mut altered = frame.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(opened(&mut open, &altered), Err(OpenError::NotAuthentic), "bit {bit}");
    }
    for size in 0..frame.len() {
        assert!(opened(&mut open, &frame[..size]).is_err(), "{size} bytes");
    }
    assert!(opened(&mut open, &frame).is_ok());
}

#[test]
fn sealers_and_openers_of_several_threads_share_the_numbers() {
    let (client, server) = pair();
    let frames: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut seal = client.sealer();
                scope.spawn(move || -> Vec<_> {
                    (0..1000).map(|_| sealed(&mut seal, Content::Packet, b"same")).collect()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("sealed")).collect()
    });
    assert_eq!(frames.iter().collect::<HashSet<_>>().len(), 4000, "no frame twice");
    // All to two openers at once: each packet is opened by one of them.
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (mut open, frames) = (server.opener(), &frames);
                scope.spawn(move || frames.iter().filter(|f| opened(&mut open, f).is_ok()).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("opened")).sum()
    });
    assert_eq!(taken, 4000);
}

#[test]
fn numbers_go_on_where_their_low_half_begins_anew() {
    let endless = 1 << 62;
    let limits = KeyLimits { due: endless, data: endless, all: endless, failures: endless };
    let (client, server) = pair_with(Capabilities::NONE, limits);
    let (mut seal, mut open) = (client.sealer(), server.opener());
    let late = sealed(&mut seal, Content::Packet, b"late");
    for number in [(1 << 31) - 1, (1 << 32) - 3, (1 << 32) + 1, 11 << 29, 14 << 29, 17 << 29] {
        client.sending.leap(number);
        let frame = sealed(&mut seal, Content::Packet, b"on");
        assert_eq!(opened(&mut open, &frame), Ok((Content::Packet, b"on".to_vec())), "{number}");
    }
    assert_eq!(opened(&mut open, &late), Err(OpenError::NotAuthentic));
}

#[test]
fn a_key_seals_no_more_than_it_may() {
    let limits = KeyLimits { due: 4, data: 8, all: 10, failures: 1 << 36 };
    let (client, _) = pair_with(Capabilities::NONE, limits);
    let (mut one, mut other) = (client.sealer(), client.sealer());
    assert!(one.reserve(3, true).is_ok());
    assert!(!one.wants_attention());
    assert!(other.reserve(4, true).is_ok());
    assert!(one.wants_attention(), "the next key is due");
    assert!(!other.wants_attention(), "once");
    assert_eq!(one.reserve(2, true).unwrap_err(), SealError::Exhausted);
    assert!(one.reserve(1, true).is_ok());
    assert_eq!(other.reserve(1, true).unwrap_err(), SealError::Exhausted);
    assert!(other.reserve(2, false).is_ok(), "the exchange goes on");
    assert_eq!(one.reserve(1, false).unwrap_err(), SealError::Exhausted);
}

#[test]
fn a_key_is_tried_on_no_more_forgeries_than_it_may() {
    let limits = KeyLimits { failures: 10, ..KeyLimits::default() };
    let (client, server) = pair_with(Capabilities::NONE, limits);
    let (mut seal, mut open) = (client.sealer(), server.opener());
    let forged = [KIND; 40];
    for _ in 0..9 {
        assert_eq!(opened(&mut open, &forged), Err(OpenError::NotAuthentic));
    }
    assert!(open.wants_attention(), "the next key is due");
    assert!(opened(&mut open, &sealed(&mut seal, Content::Packet, b"still")).is_ok());
    assert_eq!(opened(&mut open, &forged), Err(OpenError::NotAuthentic));
    let frame = sealed(&mut seal, Content::Packet, b"no more");
    assert_eq!(opened(&mut server.opener(), &frame), Err(OpenError::NotAuthentic));
}

#[test]
fn where_an_exchange_comes_before_data_there_is_no_data_before_it() {
    let (client, server) = pair_with(Capabilities::HYBRID_FIRST, KeyLimits::default());
    let mut seal = client.sealer();
    assert_eq!(seal.reserve(1, true).unwrap_err(), SealError::Paused);
    let control = sealed(&mut seal, Content::Control, b"exchange");
    assert!(opened(&mut server.opener(), &control).is_ok());
    // A peer that does it all the same.
    client.sending.allow_data(true);
    let data = sealed(&mut seal, Content::Packet, b"data");
    assert_eq!(opened(&mut server.opener(), &data), Err(OpenError::UnknownContent));
}

#[test]
fn contents_that_nobody_knows_are_dropped_and_do_no_harm() {
    let (client, server) = pair();
    let (_, key, _) = Epoch::first(&keys(Role::Client, Capabilities::NONE), AeadBackend::Ring);
    let mut open = server.opener();
    for content in [3].into_iter().chain(7..=u8::MAX) {
        let header = [KIND, 0, 0, 0, content];
        let mut sealed = [&[content][..], b"whatever"].concat();
        let cipher = key.cipher();
        let nonce = nonce(cipher.iv(), content.into());
        let tag = cipher.aead().seal_in_place(&nonce, &associated(SERVER, &header), &mut sealed);
        let frame = [&header[..], &sealed, &tag].concat();
        assert_eq!(opened(&mut open, &frame), Err(OpenError::UnknownContent));
    }
    let frame = sealed(&mut client.sealer(), Content::Packet, b"known");
    assert_eq!(opened(&mut open, &frame), Ok((Content::Packet, b"known".to_vec())));
}

#[test]
#[should_panic(expected = "a number was reserved")]
fn no_number_is_used_twice() {
    let (client, _) = pair();
    let mut seal = client.sealer();
    let mut reserved = seal.reserve(1, true).expect("numbers");
    reserved.seal(&mut [0; 40], Content::Packet);
    reserved.seal(&mut [0; 40], Content::Packet);
}

#[test]
fn equal_packets_look_unequal_and_say_nothing_but_their_length() {
    let (client, server) = pair();
    for cipher in
        [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305]
    {
        let suite = Suite { cipher, ..Suite::default() };
        let keys =
            |role| NativeKeys::new(suite, role, Capabilities::NONE, FlowKey::new([7; 32]), [9; 32]);
        let (backend, limits) = (AeadBackend::Ring, KeyLimits::default());
        let client = Channel::new(keys(Role::Client), (CLIENT, SERVER), backend, limits);
        let server = Channel::new(keys(Role::Server), (SERVER, CLIENT), backend, limits);
        let mut blocks = HashSet::new();
        for mut sealer in [client.sealer(), server.sealer()] {
            for _ in 0..500 {
                let frame = sealed(&mut sealer, Content::Packet, &[0; 64]);
                // Behind the header nothing is seen twice, within a packet,
                // between packets, between directions.
                for block in frame[HEADER..].windows(8) {
                    assert!(blocks.insert(block.to_vec()), "{cipher}: {block:x?} again");
                }
            }
        }
    }
    // Control and data of one length are alike from outside.
    let control = sealed(&mut client.sealer(), Content::Control, &[0; 64]);
    let data = sealed(&mut client.sealer(), Content::Packet, &[0; 64]);
    assert_eq!((control.len(), control[0]), (data.len(), data[0]));
    drop(server);
}
