//! The responder: what it answers, repeats, refuses and keeps.

use std::net::SocketAddr;

use ouroboros::{
    crypto::{Cipher, Hash, KeyExchange, Suite},
    proto::allocation::{AcceptError, AllocationFailure, Event, Limits, Refusal, ServerSecurity},
    wire::management::LARGEST_MESSAGE,
    wire::oap::Allocation,
    wire::{Dialect, PeerAddress},
};

use crate::harness::{
    CLIENT, Counting, DIALECTS, PLAIN, Pair, SERVER, STRANGER, at, header_of, name, request_with,
};

#[test]
fn a_copy_of_a_request_opens_no_second_flow() {
    for dialect in DIALECTS {
        let mut pair = Pair::new(dialect, Some(Suite::default()));
        let message = pair.sent_by_client();
        pair.give_server(at(1), CLIENT, &message);
        // While it waits: ignored.
        pair.give_server(at(2), CLIENT, &message);
        pair.give_server(at(2), STRANGER, &message);
        let request = pair.requested();
        assert!(pair.server.poll().is_none());
        assert!(pair.server.poll_transmit().is_none());
        pair.accept(at(3), request, &PLAIN).expect("accepted");
        let reply = pair.sent_by_server();
        // Once accepted: the same answer for who asked, none for others.
        pair.give_server(at(4), CLIENT, &message);
        assert_eq!(pair.sent_by_server(), reply);
        pair.give_server(at(4), STRANGER, &message);
        let refusal = pair.sent_by_server();
        assert_eq!(pair.response(&refusal), Refusal::NotFresh.code());
        // Once the flow has ended, and for as long as the request is fresh.
        pair.server.released(request);
        for time in [5, 19_000, 20_000] {
            pair.server.handle_timeout(at(time), &mut Counting(1));
            pair.give_server(at(time), CLIENT, &message);
            let refusal = pair.sent_by_server();
            assert_eq!(pair.response(&refusal), Refusal::NotFresh.code());
        }
        assert!(pair.server.poll().is_none());
        assert!(matches!(pair.accept(at(6), request, &PLAIN), Err(AcceptError::Gone)));
    }
}

#[test]
fn requests_are_fresh_from_100_ms_ahead_to_20_s_behind() {
    for dialect in DIALECTS {
        let now = at(60_000);
        for (offset, fresh) in [
            (100_000_000, true),
            (100_000_001, false),
            (-20_000_000_000, true),
            (-20_000_000_001, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            let mut pair = Pair::new(dialect, None);
            let header = Allocation::plain([9; 16], now.utc.saturating_add_signed(offset));
            pair.give_server(now, CLIENT, &request_with(dialect, &header));
            if fresh {
                pair.requested();
            } else {
                // The log is told whose clock it is, and how far it is off.
                let Some(Event::Refused { name: Some(_), from: CLIENT, reason }) =
                    pair.server.poll()
                else {
                    panic!("no refusal to log")
                };
                let said = reason.to_string();
                let expected = match offset {
                    100_000_001 => "its clock is 0.1 s ahead of ours",
                    -20_000_000_001 => "its clock is 20.0 s behind ours",
                    _ => "its clock is ",
                };
                assert!(said.starts_with(expected), "{said}");
                let refusal = pair.sent_by_server();
                assert_eq!(pair.response(&refusal), Refusal::NotFresh.code());
            }
        }
    }
}

#[test]
fn requests_remembered_are_forgotten_when_they_are_stale() {
    let mut pair = Pair::new(Dialect::Udp, None);
    let message = pair.sent_by_client();
    pair.give_server(at(1), CLIENT, &message);
    assert_eq!(pair.server.held(), (1, 1));
    // The next message is enough: nobody has to call for it.
    pair.give_server(at(60_000), CLIENT, &message);
    assert_eq!(pair.server.held().1, 0);
}

#[test]
fn a_request_that_nobody_accepts_is_refused() {
    let mut pair = Pair::new(Dialect::Udp, None);
    let message = pair.sent_by_client();
    pair.give_server(at(0), CLIENT, &message);
    let request = pair.requested();
    let hold = Limits::default().hold;
    assert_eq!(pair.server.poll_timeout(), Some(hold));
    pair.server.handle_timeout(at(4_999), &mut Counting(1));
    assert!(pair.server.poll().is_none());
    pair.server.handle_timeout(at(5_000), &mut Counting(1));
    assert!(matches!(pair.server.poll(), Some(Event::Withdrawn { request: r }) if r == request));
    let refusal = pair.sent_by_server();
    assert_eq!(pair.response(&refusal), Refusal::NotAvailable.code());
    assert!(matches!(pair.accept(at(5_001), request, &PLAIN), Err(AcceptError::Gone)));
    assert_eq!(pair.server.poll_timeout(), None);
}

#[test]
fn what_cannot_be_negotiated_is_refused_before_anybody_is_asked() {
    let client = Pair::new(Dialect::EthDix, Some(Suite::default())).sent_by_client();
    let client = header_of(Dialect::EthDix, &client);
    let good = Allocation::parse(client, 0).expect("a header");
    let bad = [
        // AES-CTR, an unknown cipher, none at all, unknown hashes.
        Allocation { cipher: 906, ..good },
        Allocation { cipher: 7, ..good },
        Allocation { cipher: 0, ..good },
        Allocation { kdf: 7, ..good },
        Allocation { kdf: 0, ..good },
        Allocation { md: 7, ..good },
        // A raw (hybrid) key, the KEM role, no key, half a key.
        Allocation { raw_key: true, ..good },
        Allocation { kem_role: true, ..good },
        Allocation { key: &[], ..good },
        Allocation { key: &good.key[..20], ..good },
    ];
    for (number, header) in bad.into_iter().enumerate() {
        let mut pair = Pair::new(Dialect::EthDix, None);
        pair.give_server(at(1), CLIENT, &request_with(Dialect::EthDix, &header));
        let Some(Event::Refused { from: CLIENT, name: Some(_), reason }) = pair.server.poll()
        else {
            panic!("header {number}")
        };
        assert!(reason.to_string().contains("not supported"), "header {number}: {reason}");
        assert_eq!((pair.server.counters().unsupported, pair.server.counters().malformed), (1, 0));
        let refusal = pair.sent_by_server();
        assert_eq!(pair.response(&refusal), Refusal::Security.code(), "header {number}");
        assert_eq!(pair.server.held(), (0, 0));
    }
}

#[test]
fn a_server_asks_for_its_least_and_takes_the_stronger() {
    let weak = Suite { kex: KeyExchange::P256, kdf: Hash::Sha256, cipher: Cipher::Aes128Gcm };
    let strong =
        Suite { kex: KeyExchange::X25519, kdf: Hash::Sha512, cipher: Cipher::ChaCha20Poly1305 };
    let hybrid = Suite { kex: KeyExchange::X25519MlKem768, ..strong };
    let mixed = Suite { kex: KeyExchange::X25519, ..weak };
    let agreed = |asked: Option<Suite>, own: Option<Suite>, require_encryption: bool| {
        let mut pair = Pair::new(Dialect::Udp, asked);
        let message = pair.sent_by_client();
        pair.give_server(at(1), CLIENT, &message);
        let request = pair.requested();
        let policy = ServerSecurity { suite: own, require_encryption, ..PLAIN };
        let accepted = pair.accept(at(1), request, &policy);
        let reply = pair.sent_by_server();
        pair.give_client(at(2), SERVER, &reply);
        match (accepted, pair.client.poll()) {
            (Ok(accepted), Some(Event::Allocated { agreed, .. })) => {
                let suite = agreed.as_ref().map(|agreed| agreed.suite);
                match (accepted.agreed, agreed) {
                    (Some(one), Some(other)) => {
                        assert_eq!(one.suite, other.suite);
                        assert!(one.keys.is_counterpart(&other.keys));
                    }
                    (one, other) => assert!(one.is_none() && other.is_none()),
                }
                Some(suite)
            }
            (Err(AcceptError::Refused(_)), Some(Event::Failed { reason, .. })) => {
                assert_eq!(reason, AllocationFailure::Refused(Refusal::Security.code()));
                None
            }
            other => panic!("both sides should agree: {other:?}"),
        }
    };
    assert_eq!(agreed(Some(strong), Some(weak), true), Some(Some(strong)));
    assert_eq!(agreed(Some(mixed), Some(strong), false), Some(Some(strong)));
    assert_eq!(agreed(Some(weak), None, true), Some(Some(weak)));
    assert_eq!(agreed(Some(weak), Some(strong), false), None, "a weaker key exchange");
    assert_eq!(agreed(Some(hybrid), Some(strong), false), Some(Some(hybrid)));
    assert_eq!(agreed(Some(strong), Some(hybrid), false), None, "no post-quantum exchange");
    assert_eq!(agreed(None, Some(strong), false), Some(None));
    assert_eq!(agreed(None, None, true), None, "plain where encryption is required");
}

#[test]
fn a_degenerate_key_is_refused() {
    let mut pair = Pair::new(Dialect::Udp, Some(Suite::default()));
    let message = pair.sent_by_client();
    let mut header = Allocation::parse(header_of(Dialect::Udp, &message), 0).expect("a header");
    let mut key = header.key.to_vec();
    key[12..].fill(0);
    header.key = &key;
    pair.give_server(at(1), CLIENT, &request_with(Dialect::Udp, &header));
    let request = pair.requested();
    assert!(matches!(pair.accept(at(1), request, &PLAIN), Err(AcceptError::Refused(_))));
    let refusal = pair.sent_by_server();
    assert_eq!(pair.response(&refusal), Refusal::Security.code());
}

#[test]
fn an_unknown_name_is_refused_where_the_port_is_ours_alone() {
    let mut pair = Pair::new(Dialect::Udp, None);
    pair.server.unregister(&name());
    let message = pair.sent_by_client();
    pair.give_server(at(1), CLIENT, &message);
    let refusal = pair.sent_by_server();
    assert_eq!(pair.response(&refusal), Refusal::NotAvailable.code());
    pair.give_client(at(2), SERVER, &refusal);
    assert!(matches!(
        pair.client.poll(),
        Some(Event::Failed { reason: AllocationFailure::Refused(-1), .. })
    ));
}

#[test]
fn a_host_has_one_share_of_the_pending_requests_whatever_its_ports() {
    let mut pair = Pair::new(Dialect::Udp, None);
    let limit = Limits::default().unvalidated_of.host;
    let from = |host: &str, port: u16| {
        PeerAddress::Udp(SocketAddr::new(host.parse().expect("an address"), port))
    };
    for number in 0..limit as u16 + 20 {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let message = request_with(Dialect::Udp, &Allocation::plain(id, at(0).utc));
        pair.give_server(at(1), from("192.0.2.1", 1024 + number), &message);
    }
    assert_eq!(pair.server.held().0, limit);
    let message = request_with(Dialect::Udp, &Allocation::plain([255; 16], at(0).utc));
    pair.give_server(at(1), from("192.0.2.2", 1024), &message);
    assert_eq!(pair.server.held().0, limit + 1, "others are not kept out");
}

#[test]
fn messages_beyond_the_largest_are_not_taken() {
    for dialect in DIALECTS {
        let mut header = Allocation::plain([1; 16], at(0).utc);
        let rest = LARGEST_MESSAGE - request_with(dialect, &header).len();
        let data = vec![0; rest + 1];
        let mut pair = Pair::new(dialect, None);
        header.data = &data;
        pair.give_server(at(1), CLIENT, &request_with(dialect, &header));
        assert!(pair.server.poll().is_none());
        assert_eq!(pair.server.counters().malformed, 1);
        header.data = &data[1..];
        pair.give_server(at(1), CLIENT, &request_with(dialect, &header));
        pair.requested();
    }
}
