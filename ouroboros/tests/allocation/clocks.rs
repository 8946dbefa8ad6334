//! Clocks that differ: between two of ours freshness is the server's to say.

use ouroboros::{
    proto::{
        Now,
        allocation::{
            AllocationFailure, Allocator, ClientSecurity, Event, Identity, Limits, ProfilePolicy,
            Refusal, RefusalReason, ServerSecurity, Trust,
        },
    },
    wire::Dialect,
};

use crate::harness::{
    CLIENT, Counting, DIALECTS, REMOTE, SERVER, STRANGER, asked, at, hash_of, name, only, own,
};

/// Seconds that a client's clock is ahead of the server's.
const CLOCKS: [i64; 6] = [1, -21, 3_600, -3_600, 1_000_000_000, -1_700_000_000];

fn server(dialect: Dialect, policy: ServerSecurity) -> Allocator {
    let mut server = Allocator::new(dialect, hash_of(dialect), Limits::default());
    server.set_policy(&name(), policy);
    server.register(&name());
    server
}

fn off(now: Now, seconds: i64) -> Now {
    Now { utc: now.utc.saturating_add_signed(seconds * 1_000_000_000), ..now }
}

/// A client whose clock is `seconds` ahead, and its allocation of a flow.
struct Client {
    allocator: Allocator,
    id: ouroboros::proto::allocation::AllocationId,
    dialect: Dialect,
    seconds: i64,
    entropy: Counting,
}

impl Client {
    fn new(dialect: Dialect, seconds: i64, security: Option<ClientSecurity>) -> Self {
        let mut allocator = Allocator::new(dialect, hash_of(dialect), Limits::default());
        let mut entropy = Counting(seconds as u8);
        let now = off(at(0), seconds);
        let id = allocator.allocate(now, &mut entropy, asked(security)).expect("within limits");
        Self { allocator, id, dialect, seconds, entropy }
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.allocator.poll_transmit().map(|transmit| transmit.message)
    }

    fn receive(&mut self, now: Now, message: &[u8]) {
        let via = (self.dialect == Dialect::Udp).then_some(self.id);
        let now = off(now, self.seconds);
        self.allocator.handle(now, &mut self.entropy, SERVER, via, message);
    }
}

fn accept(server: &mut Allocator, now: Now) -> Vec<u8> {
    let Some(Event::Requested { request, .. }) = server.poll() else { panic!("no request") };
    server.accept(now, &mut Counting(7), request, REMOTE).expect("accepted");
    server.poll_transmit().expect("a reply").message
}

#[test]
fn any_clock_will_do_for_the_price_of_one_round_trip() {
    let friend = own(2, "friend");
    let guarded = ServerSecurity::encrypted().identity(own(1, "my_vpn")).clients(only(&friend));
    let named =
        |identity: Option<Identity>| Some(ClientSecurity { identity, ..ClientSecurity::default() });
    for (policy, identity) in [(ServerSecurity::default(), None), (guarded, Some(friend))] {
        for dialect in DIALECTS {
            for seconds in CLOCKS {
                let mut server = server(dialect, policy.clone());
                let mut client = Client::new(dialect, seconds, named(identity.clone()));
                let entropy = &mut Counting(9);
                let stale = client.sent().expect("a request");
                server.handle(at(1), entropy, CLIENT, None, &stale);
                assert!(server.poll().is_none(), "nothing to accept yet");
                assert_eq!(server.held(), (0, 0));
                let refusal = server.poll_transmit().expect("a cookie").message;
                assert!(refusal.len() <= stale.len());
                client.receive(at(2), &refusal);
                let fresh = client.sent().expect("a second request");
                server.handle(at(3), entropy, CLIENT, None, &fresh);
                let reply = accept(&mut server, at(3));
                client.receive(at(4), &reply);
                let told = client.allocator.poll();
                assert!(matches!(told, Some(Event::Allocated { .. })), "{seconds} s: {told:?}");
                assert_eq!(server.counters().not_fresh, 0);
                assert_eq!(server.counters().clocks, 1);
            }
        }
    }
}

#[test]
fn what_is_repeated_opens_no_second_flow_whatever_the_clock_of_who_asked() {
    for dialect in DIALECTS {
        for seconds in CLOCKS {
            let mut server = server(dialect, ServerSecurity::default());
            let mut client = Client::new(dialect, seconds, Some(ClientSecurity::default()));
            let entropy = &mut Counting(9);
            let stale = client.sent().expect("a request");
            server.handle(at(1), entropy, CLIENT, None, &stale);
            let refusal = server.poll_transmit().expect("a cookie").message;
            client.receive(at(2), &refusal);
            let fresh = client.sent().expect("a second request");
            // The cookie is for who was given it.
            server.handle(at(3), entropy, STRANGER, None, &fresh);
            assert!(!matches!(server.poll(), Some(Event::Requested { .. })));
            while server.poll_transmit().is_some() {}
            // It comes as late as a cookie shows freshness for.
            let latest = 20_001;
            server.handle(at(latest), entropy, CLIENT, None, &fresh);
            accept(&mut server, at(latest));
            for time in (latest..latest + 150_000).step_by(97) {
                // What was ahead of its time becomes fresh once: it was never taken.
                for message in [&stale, &fresh].into_iter().skip(usize::from(seconds == 1)) {
                    server.handle(at(time), entropy, CLIENT, None, message);
                    server.handle_timeout(at(time), &mut Counting(1));
                    while let Some(event) = server.poll() {
                        assert!(!matches!(event, Event::Requested { .. }), "at {time}");
                    }
                    while server.poll_transmit().is_some() {}
                }
            }
        }
    }
}

#[test]
fn a_cookie_shows_freshness_for_20_s() {
    for (after, fresh) in [(0, true), (20_000, true), (20_001, false), (70_000, false)] {
        let mut server = server(Dialect::Udp, ServerSecurity::default());
        let mut client = Client::new(Dialect::Udp, 500, Some(ClientSecurity::default()));
        let entropy = &mut Counting(9);
        let stale = client.sent().expect("a request");
        server.handle(at(1), entropy, CLIENT, None, &stale);
        let refusal = server.poll_transmit().expect("a cookie").message;
        client.receive(at(1), &refusal);
        let request = client.sent().expect("a second request");
        server.handle(at(1 + after), entropy, CLIENT, None, &request);
        let requested = matches!(server.poll(), Some(Event::Requested { .. }));
        assert_eq!(requested, fresh, "after {after} ms");
    }
}

/// Who does not speak the native profile cannot echo a cookie.
#[test]
fn the_clock_of_an_old_peer_is_told_on_both_sides() {
    let old = || ClientSecurity { profile: ProfilePolicy::Wire023, ..ClientSecurity::default() };
    for dialect in DIALECTS {
        for security in [None, Some(old())] {
            for (seconds, said) in [(1, "1.0 s ahead of ours"), (-35, "35.0 s behind ours")] {
                let mut server = server(dialect, ServerSecurity::default());
                let mut client = Client::new(dialect, seconds, security.clone());
                let request = client.sent().expect("a request");
                server.handle(at(0), &mut Counting(9), CLIENT, None, &request);
                let Some(Event::Refused { from: CLIENT, reason, .. }) = server.poll() else {
                    panic!("no refusal")
                };
                assert!(matches!(reason, RefusalReason::Clock(_)));
                assert_eq!(reason.to_string(), format!("its clock is {said}"));
                assert_eq!(server.counters().not_fresh, 1);
                let refusal = server.poll_transmit().expect("a refusal").message;
                client.receive(at(1), &refusal);
                match client.allocator.poll() {
                    Some(Event::Failed { reason: AllocationFailure::Refused(code), .. }) => {
                        assert_eq!(code, Refusal::NotFresh.code());
                        let error =
                            ouroboros::AllocateError::from(AllocationFailure::Refused(code));
                        assert!(error.to_string().contains("clocks"), "{error}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_name_that_is_not_there_is_met_like_a_guarded_one_by_who_has_another_clock() {
    let guarded = ServerSecurity::encrypted().clients(Trust::Keys(Vec::new()));
    let answers = [true, false].map(|registered| {
        let mut server = server(Dialect::Udp, guarded.clone());
        if !registered {
            server.unregister(&name());
            let other = "other".parse().expect("a name");
            server.set_policy(&other, guarded.clone());
            server.register(&other);
        }
        let mut client = Client::new(Dialect::Udp, 500, Some(ClientSecurity::default()));
        let request = client.sent().expect("a request");
        server.handle(at(0), &mut Counting(9), CLIENT, None, &request);
        server.poll_transmit().map(|transmit| transmit.message)
    });
    assert_eq!(answers, [None, None]);
}
