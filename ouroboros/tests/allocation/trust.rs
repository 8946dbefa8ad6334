//! Who is believed: every policy against every peer, and what is forged.

use ouroboros::{
    crypto::{
        Algorithms, Cipher, Hash, KeyExchange, Suite,
        identity::{CertificateError, IdentityKey},
    },
    proto::{
        Now,
        allocation::{
            AcceptError, AllocationFailure, ClientSecurity, Event, Identity, NegotiationError,
            ProfilePolicy, ServerSecurity, Trust,
        },
        native::Capabilities,
        negotiation::Agreed,
        protection::{FlowKeys, Profile},
    },
    wire::{Dialect, oap::Allocation},
};

use crate::harness::{
    Alter, Counting, DIALECTS, Met, at, authority, certified, header_of, meet, only, own, unaltered,
};

const UNALTERED: (Alter<'static>, Alter<'static>) = (&unaltered, &unaltered);

fn encrypted() -> ClientSecurity {
    ClientSecurity::default()
}

fn trusting(trust: Trust) -> ClientSecurity {
    ClientSecurity { trust, ..encrypted() }
}

fn named(identity: Identity, trust: Trust) -> ClientSecurity {
    ClientSecurity { identity: Some(identity), ..trusting(trust) }
}

/// As a 0.23 peer asks.
fn old(security: ClientSecurity) -> ClientSecurity {
    ClientSecurity { profile: ProfilePolicy::Wire023, ..security }
}

/// What came of a flow, in one letter: a native flow (n), one as with a 0.23
/// peer (o), in capitals if the server is known; a plain one (p); none, since
/// the server refused (-) or said nothing (.), or the client would not: for the
/// server's key (K), its certificate (C), no signature (A), the profile (X).
fn letter(met: &Met) -> char {
    match &met.told {
        Event::Allocated { agreed: None, .. } => 'p',
        Event::Allocated { agreed: Some(Agreed { keys, identity, .. }), .. } => {
            let letter = if keys.profile() == Profile::Native { 'n' } else { 'o' };
            if identity.is_some() { letter.to_ascii_uppercase() } else { letter }
        }
        Event::Failed { reason, .. } => match reason {
            AllocationFailure::Refused(_) => '-',
            AllocationFailure::TimedOut if met.replies.is_empty() => '.',
            AllocationFailure::Rejected(reason) => match reason {
                NegotiationError::WrongKey { .. } => 'K',
                NegotiationError::Certificate(_) => 'C',
                NegotiationError::NotAuthenticated => 'A',
                NegotiationError::NotNative => 'X',
                other => panic!("{other}"),
            },
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What was agreed for a flow that came about; `None` if it is plain.
fn agreed(told: Event) -> Option<Agreed> {
    match told {
        Event::Allocated { agreed, .. } => agreed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_policy_meets_every_client_as_it_says() {
    let [ed25519, p256, _] = certified();
    let (server, friend, stranger) = (own(1, "my_vpn"), own(2, "friend"), own(3, "stranger"));
    let signed = ServerSecurity::encrypted().identity(server.clone());
    let policies = [
        ServerSecurity::default(),
        ServerSecurity::encrypted(),
        signed.clone(),
        signed.clone().clients(only(&friend)),
        ServerSecurity::encrypted().identity(ed25519).clients(authority()),
        ServerSecurity::encrypted().require_native(),
        // As a 0.23 server with a certificate.
        ServerSecurity { profile: ProfilePolicy::Wire023, ..signed },
        ServerSecurity::encrypted().native_identity(server.clone()),
    ];
    let pinned = || only(&server);
    let native =
        ClientSecurity { profile: ProfilePolicy::RequireNative, ..trusting(Trust::Anyone) };
    let clients = [
        ("p--..---", None),
        ("nnN..nON", Some(encrypted())),
        ("AAN..AON", Some(trusting(pinned()))),
        ("AAK..AKK", Some(trusting(only(&stranger)))),
        ("AAN..AON", Some(trusting(Trust::FirstUse))),
        ("AAC..ACC", Some(trusting(authority()))),
        ("nnNN.nON", Some(named(friend.clone(), Trust::Anyone))),
        ("AANN.AON", Some(named(friend.clone(), pinned()))),
        ("nnN..nON", Some(named(stranger, Trust::Anyone))),
        ("nnN..nXN", Some(native)),
        ("ooO..-Oo", Some(old(encrypted()))),
        ("AAOO.-OA", Some(old(named(friend, pinned())))),
        ("AAC.NACC", Some(named(p256, authority()))),
    ];
    for dialect in DIALECTS {
        for (number, (expected, client)) in clients.iter().enumerate() {
            let met: Vec<_> = policies
                .iter()
                .map(|policy| meet(dialect, at(0), client.clone(), policy, UNALTERED))
                .collect();
            let letters: String = met.iter().map(letter).collect();
            assert_eq!(letters, *expected, "client {number}, {dialect:?}");
            let identity = client.as_ref().and_then(|client| client.identity.as_ref());
            for met in met {
                let Some(Ok(accepted)) = met.accepted else { continue };
                let client = accepted.agreed.as_ref().and_then(|agreed| agreed.identity.as_ref());
                let known = client.map(|client| client.fingerprint);
                assert_eq!(known, identity.map(Identity::fingerprint), "client {number}");
                if let Event::Allocated { agreed: Some(agreed), .. } = met.told {
                    let server = accepted.agreed.expect("encrypted");
                    assert!(agreed.keys.is_counterpart(&server.keys));
                }
            }
        }
    }
}

#[test]
fn every_kind_of_key_signs_in_both_directions() {
    for server in certified() {
        for client in certified() {
            for profile in [ProfilePolicy::Wire023, ProfilePolicy::RequireNative] {
                for trust in [only(&server), authority(), Trust::FirstUse] {
                    let policy =
                        ServerSecurity::encrypted().identity(server.clone()).clients(authority());
                    let certified = matches!(trust, Trust::Authorities(_));
                    let asked = ClientSecurity { profile, ..named(client.clone(), trust) };
                    let met = meet(Dialect::Udp, at(0), Some(asked), &policy, UNALTERED);
                    let identity = agreed(met.told).and_then(|agreed| agreed.identity);
                    let identity = identity.expect("who the server is");
                    assert_eq!(identity.fingerprint, server.fingerprint());
                    assert_eq!(identity.common_name, "my_vpn");
                    assert_eq!(identity.is_certified(), certified);
                    let accepted = met.accepted.expect("requested").expect("accepted");
                    let identity = accepted.agreed.and_then(|agreed| agreed.identity);
                    let identity = identity.expect("who the client is");
                    assert_eq!(identity.fingerprint, client.fingerprint());
                    assert!(identity.is_certified());
                }
            }
        }
    }
}

/// As a 0.23 server with an EC certificate and no digest configured was seen to
/// answer (WIRE.md, "Allocation header"), to plain requests too.
#[test]
fn a_reply_that_an_ec_key_signed_without_naming_a_digest_is_accepted() {
    let pem = include_str!("../vectors/certificates/p256.key");
    let key = IdentityKey::from_pkcs8_pem(pem).expect("a key");
    let [_, server, _] = certified();
    let policy = ServerSecurity::default();
    for dialect in DIALECTS {
        for (client, hash) in
            [(None, 48), (Some(old(encrypted())), 32), (Some(old(trusting(authority()))), 32)]
        {
            let resigned = |header: &mut Vec<u8>| {
                let reply = Allocation::parse(header, hash).expect("a reply");
                let mut signed = Allocation { md: 0, certificate: server.certificate(), ..reply }
                    .encode()
                    .expect("encodes");
                let signature = key.sign(&signed);
                signed.extend_from_slice(&signature);
                *header = signed;
            };
            let encrypted = client.is_some();
            let met = meet(dialect, at(0), client, &policy, (&unaltered, &resigned));
            let agreed = agreed(met.told);
            assert_eq!(agreed.is_some(), encrypted);
            let known = agreed.and_then(|agreed| agreed.identity).map(|server| server.fingerprint);
            assert_eq!(known, encrypted.then(|| server.fingerprint()));
        }
    }
}

#[test]
fn a_wrong_key_is_told_from_the_right_one() {
    let (server, expected) = (own(1, "my_vpn"), own(2, "my_vpn"));
    let policy = ServerSecurity::default().identity(server.clone());
    let met = meet(Dialect::Udp, at(0), Some(trusting(only(&expected))), &policy, UNALTERED);
    let Event::Failed { reason, .. } = met.told else { panic!("{:?}", met.told) };
    let wrong = NegotiationError::WrongKey {
        expected: vec![expected.fingerprint()],
        found: server.fingerprint(),
    };
    assert_eq!(reason, AllocationFailure::Rejected(wrong));
}

fn rejected(now: Now, client: ClientSecurity, policy: &ServerSecurity) -> NegotiationError {
    let met = meet(Dialect::EthDix, now, Some(client), policy, UNALTERED);
    match met.told {
        Event::Failed { reason: AllocationFailure::Rejected(reason), .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_certificate_is_for_the_name_and_for_now() {
    let policy = |identity| ServerSecurity::default().identity(identity);
    // Whoever is trusted: a server of another name is not the one asked for.
    let other = own(1, "other");
    for trust in [Trust::Anyone, Trust::FirstUse, only(&other), authority()] {
        assert_eq!(
            rejected(at(0), trusting(trust), &policy(other.clone())),
            CertificateError::WrongName("other".to_owned()).into()
        );
    }
    let [server, ..] = certified();
    let clock = |years: i64| {
        let year = 31_536_000_000_000_000;
        Now { utc: at(0).utc.saturating_add_signed(years * year), ..at(0) }
    };
    for (years, expected) in
        [(-30, CertificateError::NotYetValid), (120, CertificateError::Expired)]
    {
        let refused = rejected(clock(years), trusting(authority()), &policy(server.clone()));
        assert_eq!(refused, expected.clone().into());
        // Who knows the key needs no calendar.
        let known = Some(trusting(only(&server)));
        let met = meet(Dialect::Udp, clock(years), known, &policy(server.clone()), UNALTERED);
        assert_eq!(letter(&met), 'N');
        // The same for a client.
        let clients = ServerSecurity::default().clients(authority());
        let client = Some(named(server.clone(), Trust::Anyone));
        let met = meet(Dialect::Udp, clock(years), client, &clients, UNALTERED);
        assert_eq!(letter(&met), '.');
    }
}

#[test]
fn a_signed_reply_altered_anywhere_is_not_believed() {
    // Those whose signatures take their time here and there only.
    for (server, step) in certified().into_iter().zip([1, 23, 47]) {
        let policy = ServerSecurity::default().identity(server.clone());
        for profile in [ProfilePolicy::Wire023, ProfilePolicy::PreferNative] {
            let client = ClientSecurity { profile, ..trusting(only(&server)) };
            let good = meet(Dialect::EthDix, at(0), Some(client.clone()), &policy, UNALTERED);
            // Its management header is not signed.
            let size = good.replies[0].len() - 39;
            for byte in (0..size).step_by(step) {
                let alter = |header: &mut Vec<u8>| header[byte] ^= 1 << (byte % 8);
                let altered = meet(
                    Dialect::EthDix,
                    at(0),
                    Some(client.clone()),
                    &policy,
                    (&unaltered, &alter),
                );
                assert!(matches!(altered.told, Event::Failed { .. }), "byte {byte} of {size}");
            }
            for length in (0..size).step_by(step * 5) {
                let cut = |header: &mut Vec<u8>| header.truncate(length);
                let cut =
                    meet(Dialect::EthDix, at(0), Some(client.clone()), &policy, (&unaltered, &cut));
                assert!(matches!(cut.told, Event::Failed { .. }), "{length} of {size}");
            }
        }
    }
}

#[test]
fn a_signed_request_altered_anywhere_is_met_with_silence() {
    for (friend, step) in certified().into_iter().zip([1, 23, 47]) {
        let policy = ServerSecurity::default().clients(only(&friend));
        let client = named(friend, Trust::Anyone);
        let good = meet(Dialect::EthDix, at(0), Some(client.clone()), &policy, UNALTERED);
        let size = good.request.len() - 39 - 32;
        for byte in (0..size).step_by(step) {
            let alter = |header: &mut Vec<u8>| header[byte] ^= 1 << (byte % 8);
            let altered =
                meet(Dialect::EthDix, at(0), Some(client.clone()), &policy, (&alter, &unaltered));
            assert!(altered.accepted.is_none(), "byte {byte} of {size}");
            assert!(altered.replies.is_empty(), "byte {byte} of {size}");
        }
    }
}

/// The header signed anew, by the key of `own` with `seed`, under the
/// certificate of `shown`.
fn signed_by(header: &[u8], hash: usize, seed: u8, shown: &Identity) -> Vec<u8> {
    let key = IdentityKey::generate(&mut Counting(seed));
    let parsed = Allocation::parse(header, hash).expect("a header");
    let unsigned = Allocation { certificate: shown.certificate(), signature: &[], ..parsed };
    let mut bytes = unsigned.encode().expect("encodes");
    let signature = key.sign(&bytes);
    bytes.extend_from_slice(&signature);
    bytes
}

#[test]
fn a_signature_of_another_or_of_another_header_proves_nothing() {
    let (server, attacker) = (own(1, "my_vpn"), own(2, "my_vpn"));
    let policy = ServerSecurity::default().identity(server.clone());
    let client = || Some(trusting(only(&server)));
    let mut results = Vec::new();
    let signers = [(2, &attacker), (2, &server)];
    for (signer, shown) in signers {
        let sign = |header: &mut Vec<u8>| *header = signed_by(header, 32, signer, shown);
        let met = meet(Dialect::Udp, at(0), client(), &policy, (&unaltered, &sign));
        let Event::Failed { reason: AllocationFailure::Rejected(reason), .. } = met.told else {
            panic!("{:?}", met.told);
        };
        results.push(reason);
    }
    let (expected, found) = (vec![server.fingerprint()], attacker.fingerprint());
    let wrong = NegotiationError::WrongKey { expected, found };
    assert_eq!(results, [wrong, NegotiationError::BadSignature]);
    // Without certificate and signature: what somebody in between can make of
    // it, to be taken for a server that has none.
    let strip = |header: &mut Vec<u8>| {
        let parsed = Allocation::parse(header, 32).expect("a header");
        *header =
            Allocation { certificate: &[], signature: &[], ..parsed }.encode().expect("encodes");
    };
    let met = meet(Dialect::Udp, at(0), client(), &policy, (&unaltered, &strip));
    assert_eq!(letter(&met), 'A');

    // The friend's signature of another request, and of another key's.
    let friend = own(3, "friend");
    let policy = ServerSecurity::default().clients(only(&friend));
    let asked = || Some(named(friend.clone(), Trust::Anyone));
    let earlier = meet(Dialect::Udp, at(0), asked(), &policy, UNALTERED).request;
    let earlier = header_of(Dialect::Udp, &earlier);
    let earlier = Allocation::parse(earlier, 0).expect("a header");
    let (certificate, signature) = (earlier.certificate, earlier.signature);
    let transplant = |header: &mut Vec<u8>| {
        let mut parsed = Allocation::parse(header, 0).expect("a header");
        parsed.timestamp += 1;
        *header = Allocation { certificate, signature, ..parsed }.encode().expect("encodes");
    };
    let forge = |header: &mut Vec<u8>| *header = signed_by(header, 0, 2, &friend);
    for alter in [&transplant as Alter<'_>, &forge] {
        let met = meet(Dialect::Udp, at(0), asked(), &policy, (alter, &unaltered));
        assert!(met.accepted.is_none() && met.replies.is_empty());
    }
    // The forger can sign: with the right key it would have been heard.
    let honest = |header: &mut Vec<u8>| *header = signed_by(header, 0, 3, &friend);
    let met = meet(Dialect::Udp, at(0), asked(), &policy, (&honest, &unaltered));
    assert!(met.accepted.is_some());
}

/// Who takes the offer of the native profile, or the hybrid exchange, out of a
/// request or a reply.
#[test]
fn what_is_taken_away_on_the_way_makes_no_weaker_flow_with_who_is_authenticated() {
    let (server, friend) = (own(1, "my_vpn"), own(2, "friend"));
    let capabilities = Capabilities::HYBRID_FIRST;
    let policy = ServerSecurity { capabilities, ..ServerSecurity::default() };
    let policy = policy.identity(server.clone());
    let strip_request = |header: &mut Vec<u8>| {
        let parsed = Allocation::parse(header, 0).expect("a header");
        *header = Allocation { data: &[], ..parsed }.encode().expect("encodes");
    };
    let strip_reply = |header: &mut Vec<u8>| {
        let parsed = Allocation::parse(header, 32).expect("a header");
        *header = Allocation { data: &[], ..parsed }.encode().expect("encodes");
    };
    let asked = ClientSecurity { capabilities, ..trusting(only(&server)) };
    for alter in [(&strip_request as _, &unaltered as _), (&unaltered as _, &strip_reply as _)] {
        let met = meet(Dialect::EthDix, at(0), Some(asked.clone()), &policy, alter);
        assert!(matches!(met.told, Event::Failed { .. }), "{:?}", met.told);
    }
    let met = meet(Dialect::EthDix, at(0), Some(asked.clone()), &policy, UNALTERED);
    let Some(Agreed { keys: FlowKeys::Native(keys), .. }) = agreed(met.told) else {
        panic!("not a native flow");
    };
    assert!(keys.capabilities().contains(capabilities));
    // A server that demands its clients' identities does not take part in it.
    let policy = policy.clients(only(&friend));
    let asked = ClientSecurity { identity: Some(friend), ..asked };
    let met = meet(Dialect::EthDix, at(0), Some(asked), &policy, (&strip_request, &unaltered));
    assert_eq!(letter(&met), '.');
}

/// As an empty enc.conf says at the server, and the defaults at a 0.23 client.
#[test]
fn what_a_policy_does_not_name_is_no_demand_and_the_best_is_answered() {
    let weakest =
        Suite { kex: KeyExchange::P256, kdf: Hash::Blake2s256, cipher: Cipher::Aes128Gcm };
    let default = Suite { kex: KeyExchange::P256, ..Suite::default() };
    let with = |named: Algorithms| ServerSecurity {
        suite: Some(named.least()),
        ..ServerSecurity::encrypted()
    };
    let policy = with(Algorithms::default());
    for dialect in DIALECTS {
        for asked in [weakest, default] {
            let met = meet(dialect, at(0), Some(old(asked.into())), &policy, UNALTERED);
            let agreed = agreed(met.told).expect("encrypted");
            assert_eq!(agreed.suite, default, "asked for {asked}");
        }
        let met = meet(dialect, at(0), Some(encrypted()), &policy, UNALTERED);
        let agreed = agreed(met.told).expect("encrypted");
        assert_eq!(agreed.suite.kex, KeyExchange::X25519MlKem768);
        // What is named is a demand, and a refusal says what both sides have.
        let strict = with(Algorithms { kex: Some(KeyExchange::X25519), ..Algorithms::default() });
        let met = meet(dialect, at(0), Some(old(default.into())), &strict, UNALTERED);
        let refused = match met.accepted.expect("requested").expect_err("too weak") {
            AcceptError::Refused(refused) => refused.to_string(),
            other => panic!("{other}"),
        };
        for text in [default, Suite::default()].map(|suite| suite.to_string()) {
            assert!(refused.contains(&text), "{refused}");
        }
    }
}

#[test]
fn every_algorithm_makes_a_flow_in_either_format() {
    let kexes = [
        KeyExchange::P256,
        KeyExchange::X25519,
        KeyExchange::P384,
        KeyExchange::P521,
        KeyExchange::X25519MlKem768,
    ];
    let ciphers =
        [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    let suites = kexes.map(|kex| Suite { kex, ..Suite::default() }).into_iter();
    let suites = suites.chain(Hash::ALL.map(|kdf| Suite { kdf, ..Suite::default() }));
    let suites = suites.chain(ciphers.map(|cipher| Suite { cipher, ..Suite::default() }));
    for suite in suites {
        for profile in [ProfilePolicy::Wire023, ProfilePolicy::PreferNative] {
            let digest = suite.kdf;
            let asked = ClientSecurity { profile, digest, ..suite.into() };
            let policy = ServerSecurity::default();
            let met = meet(Dialect::EthDix, at(0), Some(asked), &policy, UNALTERED);
            let agreed = agreed(met.told).expect("encrypted");
            assert_eq!(agreed.suite, suite);
            let accepted = met.accepted.expect("requested").expect("accepted");
            let server = accepted.agreed.expect("encrypted");
            assert!(agreed.keys.is_counterpart(&server.keys), "{suite}");
        }
    }
}

#[test]
fn a_server_that_wants_the_hybrid_takes_it_inside_the_flow() {
    let hybrid = Suite { kex: KeyExchange::X25519MlKem768, ..Suite::default() };
    let capabilities = Capabilities::HYBRID_FIRST;
    let policy = ServerSecurity { suite: Some(hybrid), capabilities, ..ServerSecurity::default() };
    for (client, expected) in [
        (ClientSecurity { capabilities, ..encrypted() }, 'n'),
        (ClientSecurity { capabilities: Capabilities::NONE, ..encrypted() }, '-'),
        (old(ClientSecurity { capabilities, ..encrypted() }), '-'),
        (hybrid.into(), 'n'),
    ] {
        let met = meet(Dialect::EthDix, at(0), Some(client), &policy, UNALTERED);
        assert_eq!(letter(&met), expected);
    }
}
