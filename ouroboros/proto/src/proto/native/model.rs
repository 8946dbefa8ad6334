//! The orders in which threads can share a flow's packet numbers, keys and replay
//! window, by loom's model of the memory. Built with `cfg(loom)` only; how to run it is
//! in CONTRIBUTING.md. Not here: what a single thread sees (`tests`).

use std::sync::Arc;

use loom::{sync::atomic::AtomicBool, thread};

use super::{seal::SealError, *};
use crate::{
    crypto::{FlowKey, Suite},
    proto::packet::OpenError,
    sync::shared::atomic::Ordering::{Acquire, Release},
};

/// Switches of threads, where they need not be, that are tried in one run.
const PREEMPTIONS: usize = 3;

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(run);
}

fn keys(role: Role) -> NativeKeys {
    NativeKeys::new(Suite::default(), role, Capabilities::NONE, FlowKey::new([7; 32]), [9; 32])
}

fn channel(role: Role, limits: KeyLimits) -> Channel {
    Channel::new(keys(role), (Eid(7), Eid(7)), AeadBackend::Ring, limits)
}

/// Gives both ends the keys of the next epoch, the opening one first.
fn change_keys(client: &Channel, server: &Channel) {
    let fresh = FlowKey::new([8; 32]);
    let (_, send, _) = client.epoch.next(&client.keys, &fresh, &[1; 32], AeadBackend::Ring);
    let (_, _, receive) = server.epoch.next(&server.keys, &fresh, &[1; 32], AeadBackend::Ring);
    server.receiving.install(receive);
    client.sending.install(send);
}

fn sealed(sealer: &mut Sealer) -> Result<Vec<u8>, SealError> {
    let mut frame = vec![0; HEAD + 1 + TAIL];
    sealer.reserve(1, true)?.seal(&mut frame, Content::Packet);
    Ok(frame)
}

#[test]
fn packets_that_threads_seal_while_the_key_changes_all_open_once() {
    model(|| {
        let limits = KeyLimits::default();
        let (client, server) = (channel(Role::Client, limits), channel(Role::Server, limits));
        let mut another = client.sealer();
        let other = thread::spawn(move || [sealed(&mut another), sealed(&mut another)]);
        let mut sealer = client.sealer();
        let first = sealed(&mut sealer);
        change_keys(&client, &server);
        let frames = [[first, sealed(&mut sealer)], other.join().expect("sealed")].concat();
        let mut opener = server.opener();
        for frame in frames {
            opener.open(&mut frame.expect("numbers")).expect("new, and of a known key");
        }
    });
}

#[test]
fn threads_take_no_more_numbers_than_the_key_has() {
    model(|| {
        let limits = KeyLimits { data: 3, ..KeyLimits::default() };
        let client = channel(Role::Client, limits);
        let mut another = client.sealer();
        let other = thread::spawn(move || [sealed(&mut another), sealed(&mut another)]);
        let mut sealer = client.sealer();
        let own = [sealed(&mut sealer), sealed(&mut sealer)];
        let taken = [own, other.join().expect("sealed")].concat();
        assert_eq!(taken.iter().filter(|frame| frame.is_ok()).count(), 3);
        let mut numbers: Vec<_> =
            taken.iter().flatten().map(|frame| frame[1..5].to_vec()).collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), 3, "none twice");
    });
}

#[test]
fn a_packet_that_two_threads_have_opens_for_one_of_them() {
    model(|| {
        let limits = KeyLimits::default();
        let (client, server) = (channel(Role::Client, limits), channel(Role::Server, limits));
        let frame = sealed(&mut client.sealer()).expect("numbers");
        let (mut copy, mut another) = (frame.clone(), server.opener());
        let other = thread::spawn(move || another.open(&mut copy).map(drop));
        let own = server.opener().open(&mut frame.clone()).map(drop);
        let outcomes = [own, other.join().expect("opened")];
        assert!(outcomes.contains(&Ok(())) && outcomes.contains(&Err(OpenError::Replayed)));
    });
}

#[test]
fn who_hears_of_new_keys_has_them() {
    model(|| {
        let limits = KeyLimits::default();
        let (client, server) = (channel(Role::Client, limits), channel(Role::Server, limits));
        let (mut opener, mut sealer) = (server.opener(), client.sealer());
        let told = Arc::new(AtomicBool::new(false));
        let known = told.clone();
        let other = thread::spawn(move || {
            change_keys(&client, &server);
            client.sending.allow_data(false);
            known.store(true, Release);
            (client, server)
        });
        if told.load(Acquire) {
            let mut frame = vec![0; HEAD + 1 + TAIL];
            assert_eq!(sealed(&mut sealer), Err(SealError::Paused));
            let mut numbers = sealer.reserve(1, false).expect("for control");
            numbers.seal(&mut frame, Content::Control);
            assert_eq!(frame[0] & EPOCHS, 1, "of the new epoch");
            opener.open(&mut frame).expect("under the new key");
        }
        other.join().expect("changed");
    });
}
