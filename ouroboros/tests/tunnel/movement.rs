//! A client whose address changes, and others who pretend to be one.

use std::{
    net::UdpSocket,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_lite::future::{block_on, poll_once};
use ouroboros::{ClientEvent, FlowSpec, Offload, wire::PeerAddress};

use crate::{
    hosts::{Hosts, address, eventually, udp},
    hub::{Client, hub},
    traffic::{Echo, FIRST, answers, transfer},
    wire::{Datagram, Side, Wire},
};

/// Port of the server.
const SERVER: u16 = 3435;
/// How long an answer may take before it counts as lost.
const SOON: Duration = Duration::from_millis(100);

/// Hosts on a wire, and a layer over UDP.
fn on_a_wire() -> (Wire, Hosts) {
    let hosts = Hosts::apart();
    let wire = Wire::between(&hosts.one, &hosts.two);
    address(&hosts.one, 1);
    address(&hosts.two, 2);
    (wire, hosts.serving(udp("10.66.0.1", "10.66.0.2")))
}

/// A router that gives the client another port than its own.
#[derive(Default)]
struct Translator {
    real: u16,
    /// What the client's port is outside; `None`: what it is inside.
    outside: Option<u16>,
    /// Whether what is sent to the port outside gets in.
    open: bool,
    /// Bytes from and to the port outside while it was not open.
    from_outside: usize,
    to_outside: usize,
}

impl Translator {
    fn translate(&mut self, from: Side, mut frame: Vec<u8>, leave: &mut dyn FnMut(Side, &[u8])) {
        if let Some(mut datagram) = Datagram::of(&mut frame) {
            let size = datagram.payload().len();
            match (from, self.outside) {
                (Side::Two, outside) if datagram.destination() == SERVER => {
                    self.real = datagram.source();
                    if let Some(port) = outside {
                        datagram.set_source(port);
                        self.from_outside += if self.open { 0 } else { size };
                    }
                }
                (Side::One, Some(port)) if datagram.destination() == port => {
                    if !self.open {
                        self.to_outside += size;
                        return;
                    }
                    datagram.set_destination(self.real);
                }
                // The port inside is nobody's outside any more.
                (Side::One, Some(_)) if datagram.destination() == self.real => return,
                _ => {}
            }
        }
        leave(from.other(), &frame);
    }
}

pub(crate) fn a_client_behind_another_address_is_followed_once_it_has_proved_to_be_there() {
    let (wire, hosts) = on_a_wire();
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let echo = Echo::at(&hosts.one, FIRST[0]);
    let asks = echo.client(&hosts.two);
    let router = Arc::new(Mutex::new(Translator::default()));
    let translates = router.clone();
    wire.rule(move |from, frame, leave| {
        translates.lock().expect("no panic").translate(from, frame, leave);
    });
    let state = || router.lock().expect("no panic");
    eventually("an answer", || answers(&asks, 0, SOON));
    // What the server has for the client, all the time.
    let pours = hosts.one.inside(|| UdpSocket::bind("0.0.0.0:0")).expect("bound");
    pours.connect("10.9.0.2:9").expect("a route");
    for (round, port) in [(1, 40_000), (2, 50_000)] {
        let real = state().real;
        *state() = Translator { outside: Some(port), real, ..Translator::default() };
        let mut asked = 0;
        eventually("the server asks at the new address", || {
            asked += 1;
            assert!(!answers(&asks, round * 1000 + asked, SOON), "not before it is proved");
            // Nobody listens there, which is told to the next who sends.
            (0..10).for_each(|_| drop(pours.send(&[0; 1000])));
            asked > 10 && state().to_outside > 0
        });
        {
            let mut state = state();
            let (sent, received) = (state.to_outside, state.from_outside);
            assert!(sent <= 3 * received, "{sent} bytes for {received}");
            assert!(sent < 1000, "nothing but challenges goes there: {sent} bytes");
            state.open = true;
        }
        eventually("the flow goes on", || answers(&asks, round * 10_000, SOON));
        transfer(&ends, FIRST[0], 1 << 20);
    }
    echo.stop(&hosts.one);
}

pub(crate) fn a_hub_tells_that_a_client_has_moved() {
    const OUTSIDE: u16 = 40_000;
    let (wire, hosts) = on_a_wire();
    let hub = hub(&hosts, 1, false);
    let client = Client::start(&hosts, &hub, FlowSpec::raw().encrypted(), 2);
    let router = Arc::new(Mutex::new(Translator { open: true, ..Translator::default() }));
    let translates = router.clone();
    wire.rule(move |from, frame, leave| {
        translates.lock().expect("no panic").translate(from, frame, leave);
    });
    let echo = Echo::at(&hosts.one, FIRST[0]);
    let asks = echo.client(&client.host);
    eventually("an answer", || answers(&asks, 0, SOON));
    router.lock().expect("no panic").outside = Some(OUTSIDE);
    let (mut asked, mut told) = (0, None);
    // Told with what comes after it has moved.
    eventually("the hub tells it", || {
        asked += 1;
        answers(&asks, asked, SOON);
        while let Some(Some(event)) = block_on(poll_once(hub.next_event())) {
            if let ClientEvent::Moved { client, peer } = event {
                told = Some((client, peer));
            }
        }
        told.is_some()
    });
    let (id, peer) = told.expect("told");
    assert_eq!(id, client.id);
    assert!(matches!(peer, PeerAddress::Udp(address) if address.port() == OUTSIDE), "{peer}");
    echo.stop(&hosts.one);
}

pub(crate) fn copies_and_garbage_from_elsewhere_do_not_move_a_flow() {
    const ELSEWHERE: u16 = 50_000;
    let (wire, hosts) = on_a_wire();
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let echo = Echo::at(&hosts.one, FIRST[0]);
    let asks = echo.client(&hosts.two);
    eventually("an answer", || answers(&asks, 0, SOON));
    let bytes = Arc::new(Mutex::new([0usize; 2]));
    let counts = bytes.clone();
    let mut number = 0;
    // Of ten frames, one is overtaken by its copy from elsewhere, the others
    // are followed by theirs and by garbage.
    wire.rule(move |from, mut frame, leave| {
        let Some(mut datagram) = Datagram::of(&mut frame) else {
            return leave(from.other(), &frame);
        };
        let mut counts = counts.lock().expect("no panic");
        let size = datagram.payload().len();
        if from == Side::One {
            if datagram.destination() == ELSEWHERE {
                counts[1] += size;
                return;
            }
            return leave(Side::Two, &frame);
        }
        number += 1;
        let mut copy = frame.clone();
        let mut forged = Datagram::of(&mut copy).expect("a datagram");
        forged.set_source(ELSEWHERE);
        counts[0] += size;
        if number % 10 == 0 {
            leave(Side::One, &copy);
            leave(Side::One, &frame);
        } else {
            leave(Side::One, &frame);
            leave(Side::One, &copy);
            let mut forged = Datagram::of(&mut copy).expect("a datagram");
            forged.payload().iter_mut().skip(9).for_each(|byte| *byte ^= 0x55);
            leave(Side::One, &copy);
        }
    });
    // None is lost to a copy that was faster.
    for number in 1..=100 {
        assert!(answers(&asks, number, Duration::from_secs(5)), "question {number}");
    }
    transfer(&ends, FIRST[0], 1 << 20);
    let [received, sent] = *bytes.lock().expect("no panic");
    assert!(sent <= 3 * received && sent < received, "{sent} bytes for {received}");
    assert!(ends[0].statistics().received_packets > 100);
    // It is where it was: the copies stop, and all goes on as before.
    wire.rule(|from, frame, leave| leave(from.other(), &frame));
    assert!(answers(&asks, 1000, Duration::from_secs(5)));
    echo.stop(&hosts.one);
}
