//! Invitations at a server: who may become a client, and who hears nothing.

use ouroboros::{
    crypto::identity::{Fingerprint, IdentityKey},
    proto::{
        allocation::{
            AcceptError, AllocationId, Allocator, ClientSecurity, Event, Identity, Limits,
            NegotiationError, ProfilePolicy, ServerSecurity, Trust,
        },
        negotiation::{InvitationSecret, Invited, Joining},
    },
    wire::{Dialect, oap::Allocation},
};

use crate::harness::{
    CLIENT, Counting, DIALECTS, REMOTE, SERVER, asked, at, hash_of, header_of, name, only, own,
    request_with,
};

/// Seconds since 1970 at `at(0)`.
const START: u64 = 1_800_000_000;

fn secret(seed: u8) -> InvitationSecret {
    InvitationSecret::new([seed; 16])
}

fn invited(seed: u8, until: u64) -> Invited {
    Invited { key: secret(seed).key().public_key().fingerprint(), until }
}

/// A server of some clients that has invited others.
fn policy(clients: Vec<Fingerprint>, invited: Vec<Invited>) -> ServerSecurity {
    let signed = ServerSecurity::encrypted().identity(own(1, "my_vpn"));
    ServerSecurity { invited, ..signed.clients(Trust::Keys(clients)) }
}

fn joining(client: &Identity, secret: InvitationSecret) -> ClientSecurity {
    ClientSecurity {
        identity: Some(client.clone()),
        trust: only(&own(1, "my_vpn")),
        invitation: Some(secret),
        ..ClientSecurity::default()
    }
}

fn server(dialect: Dialect, policy: &ServerSecurity) -> Allocator {
    let mut server = Allocator::new(dialect, hash_of(dialect), Limits::default());
    server.set_policy(&name(), policy.clone());
    server.register(&name());
    server
}

/// The request of a client.
fn request(dialect: Dialect, security: ClientSecurity) -> (Allocator, AllocationId, Vec<u8>) {
    let mut client = Allocator::new(dialect, hash_of(dialect), Limits::default());
    let id = client.allocate(at(0), &mut Counting(9), asked(Some(security)));
    let message = client.poll_transmit().expect("a request").message;
    (client, id.expect("within limits"), message)
}

/// The server tells nobody of the request, and says nothing to it.
fn is_silent(server: &mut Allocator, message: &[u8], milliseconds: u64) -> bool {
    server.handle(at(milliseconds), &mut Counting(3), CLIENT, None, message);
    let told = std::iter::from_fn(|| server.poll());
    let told: Vec<_> = told.filter(|event| matches!(event, Event::Requested { .. })).collect();
    told.is_empty() && server.poll_transmit().is_none()
}

#[test]
fn an_invited_client_gets_its_flow_when_the_policy_has_its_key_and_not_before() {
    let alice = own(2, "alice");
    for dialect in DIALECTS {
        for taken_up in [false, true] {
            let only_invited = policy(Vec::new(), vec![invited(7, START + 60)]);
            let mut server = server(dialect, &only_invited);
            let (mut client, id, message) = request(dialect, joining(&alice, secret(7)));
            server.handle(at(1), &mut Counting(3), CLIENT, None, &message);
            let Some(Event::Requested { request, joining, .. }) = server.poll() else {
                panic!("nobody is told")
            };
            let invitation = only_invited.invited[0].key;
            assert_eq!(joining, Some(Joining { invitation, client: alice.fingerprint() }));
            if taken_up {
                server.set_policy(&name(), policy(vec![alice.fingerprint()], Vec::new()));
            }
            let accepted = server.accept(at(2), &mut Counting(3), request, REMOTE);
            if !taken_up {
                let refused = NegotiationError::NotAuthorized(alice.fingerprint());
                assert_eq!(accepted, Err(AcceptError::Refused(refused)));
                assert!(server.poll_transmit().is_none(), "it hears nothing");
                continue;
            }
            accepted.expect("it is a client");
            let reply = server.poll_transmit().expect("a reply").message;
            let accepted = server.confirm(request).expect("half-open");
            let agreed = accepted.agreed.expect("encrypted");
            let peer = agreed.identity.expect("who it is");
            assert_eq!(peer.fingerprint, alice.fingerprint());
            let via = (dialect == Dialect::Udp).then_some(id);
            client.handle(at(3), &mut Counting(9), SERVER, via, &reply);
            let told = client.poll();
            assert!(matches!(told, Some(Event::Allocated { .. })), "{told:?}");
        }
    }
}

#[test]
fn a_client_that_is_known_needs_no_invitation_and_uses_none() {
    let alice = own(2, "alice");
    let policy = policy(vec![alice.fingerprint()], vec![invited(7, START + 60)]);
    let mut server = server(Dialect::Udp, &policy);
    let (_, _, message) = request(Dialect::Udp, joining(&alice, secret(7)));
    server.handle(at(1), &mut Counting(3), CLIENT, None, &message);
    let told = server.poll();
    assert!(matches!(told, Some(Event::Requested { joining: None, .. })), "{told:?}");
}

#[test]
fn whatever_is_wrong_with_an_invitation_its_sender_hears_nothing() {
    let alice = own(2, "alice");
    let right = || joining(&alice, secret(7));
    let nobody = ClientSecurity { identity: None, ..right() };
    let old = ClientSecurity { profile: ProfilePolicy::Wire023, ..right() };
    let without = ClientSecurity { invitation: None, ..right() };
    for dialect in DIALECTS {
        let open = policy(Vec::new(), vec![invited(8, START + 60), invited(7, START + 60)]);
        for (what, security, policy) in [
            ("right", right(), open.clone()),
            ("another secret", joining(&alice, secret(9)), open.clone()),
            ("no identity", nobody.clone(), open.clone()),
            ("the 0.23 format", old.clone(), open.clone()),
            ("no invitation", without.clone(), open.clone()),
            ("none is open", right(), policy(Vec::new(), Vec::new())),
            ("it is over", right(), policy(Vec::new(), vec![invited(7, START)])),
            ("anyone may come in", right(), open.clone().clients(Trust::FirstUse)),
        ] {
            let mut server = server(dialect, &policy);
            let (_, _, message) = request(dialect, security);
            let heard = matches!(what, "right" | "anyone may come in");
            assert_eq!(is_silent(&mut server, &message, 1), !heard, "{what}");
        }
        // To the second: it is over when its time has come, whenever it was sent.
        for (until, silent) in [(START + 1, false), (START, true)] {
            let mut server = server(dialect, &policy(Vec::new(), vec![invited(7, until)]));
            let (_, _, message) = request(dialect, right());
            assert_eq!(is_silent(&mut server, &message, 999), silent, "{until}");
        }
    }
}

#[test]
fn an_invitation_that_was_seen_on_the_way_is_of_no_use_to_others() {
    let (alice, mallory) = (own(2, "alice"), own(3, "mallory"));
    let open = policy(Vec::new(), vec![invited(7, START + 60)]);
    for dialect in DIALECTS {
        let (_, _, message) = request(dialect, joining(&alice, secret(7)));
        let header = header_of(dialect, &message).to_vec();
        let seen = Allocation::parse(&header, 0).expect("a header");
        let key = IdentityKey::generate(&mut Counting(3));
        assert_eq!(key.public_key().fingerprint(), mallory.fingerprint());
        // With all that the invitation's key has signed but for the client.
        let mine = Allocation { certificate: mallory.certificate(), signature: &[], ..seen };
        let signature = key.sign(&mine.encode().expect("encodes"));
        let stolen = request_with(dialect, &Allocation { signature: &signature, ..mine });
        assert!(is_silent(&mut server(dialect, &open), &stolen, 1));
        // With all that it has signed, and a key exchange of one's own.
        let mut other_key = seen.key.to_vec();
        *other_key.last_mut().expect("a key") ^= 1;
        let altered = Allocation { key: &other_key, ..seen };
        assert!(is_silent(&mut server(dialect, &open), &request_with(dialect, &altered), 1));
        // Every bit of the extension counts.
        let at = header.windows(4).position(|bytes| bytes == [0, 6, 0, 97]).expect("there") + 5;
        for bit in (at * 8..(at + 96) * 8).step_by(31) {
            let mut header = header.clone();
            header[bit / 8] ^= 1 << (bit % 8);
            let header = Allocation::parse(&header, 0).expect("a header");
            let unsigned = Allocation { signature: &[], ..header };
            let alices = IdentityKey::generate(&mut Counting(2));
            let signature = alices.sign(&unsigned.encode().expect("encodes"));
            let message = request_with(dialect, &Allocation { signature: &signature, ..header });
            assert!(is_silent(&mut server(dialect, &open), &message, 1), "bit {bit}");
        }
        assert!(!is_silent(&mut server(dialect, &open), &message, 1), "as it was");
    }
}
