//! Offers and answers that are stripped or altered on their way: no flow where
//! either side requires the native profile, a flow that says what it is
//! otherwise.

use std::time::Duration;

use ouroboros::{
    crypto::{Hash, KeyExchange, Suite},
    proto::{
        allocation::{
            AllocationFailure, AllocationRequest, Allocator, ClientSecurity, Event, Limits,
            NegotiationError, ProfilePolicy, ServerSecurity,
        },
        native::Capabilities,
        negotiation::{Client, Offer, Shape, Terms, answer},
        protection::{FlowKeys, Profile},
    },
    wire::{
        Dialect, DirectoryHash, QosSpec, extension::Extensions, management::LARGEST_MESSAGE,
        oap::Allocation,
    },
};

use crate::harness::{
    Allocated, CLIENT, CLIENT_EID, Random, SERVER, SERVER_EID, allocate, at, changed, suite,
};

const HASH: usize = 32;

fn client(profile: ProfilePolicy) -> ClientSecurity {
    ClientSecurity { profile, ..suite(KeyExchange::X25519) }
}

fn server(profile: ProfilePolicy) -> ServerSecurity {
    ServerSecurity { profile, ..ServerSecurity::default() }
}

fn unaltered(header: &[u8]) -> Vec<u8> {
    header.to_vec()
}

fn profile(keys: Option<&FlowKeys>) -> Option<Profile> {
    keys.map(FlowKeys::profile)
}

/// Profiles that client and server end up with; `None`: no flow.
fn profiles(allocated: &Allocated) -> [Option<Profile>; 2] {
    let server = allocated.server.as_ref().and_then(Option::as_ref);
    [profile(allocated.client.as_ref()), profile(server)]
}

fn fit(allocated: &Allocated) -> bool {
    match (&allocated.client, &allocated.server) {
        (Some(client), Some(Some(server))) => client.is_counterpart(server),
        _ => false,
    }
}

/// Without extensions, as a 0.23 peer sends it.
fn stripped(header: &[u8], hash: usize) -> Vec<u8> {
    changed(header, hash, |header| header.data = &[])
}

/// A reply that answers the client's own request, whatever the server got.
fn with_hash_of(request: &[u8], reply: &[u8]) -> Vec<u8> {
    let hash = Hash::Sha256.digest(request);
    changed(reply, HASH, |header| header.request_hash = &hash)
}

#[test]
fn what_both_sides_want_is_what_they_get() {
    use ProfilePolicy::{PreferNative, RequireNative, Wire023};
    for (ours, theirs, agreed) in [
        (PreferNative, PreferNative, Some(Profile::Native)),
        (RequireNative, PreferNative, Some(Profile::Native)),
        (PreferNative, RequireNative, Some(Profile::Native)),
        (Wire023, PreferNative, Some(Profile::Wire023)),
        (PreferNative, Wire023, Some(Profile::Wire023)),
        (Wire023, RequireNative, None),
    ] {
        let random = &mut Random::new(1);
        let (client, server) = (client(ours), server(theirs));
        let allocated =
            allocate(random, Some(client), server, unaltered, |_, reply| unaltered(reply));
        assert_eq!(profiles(&allocated), [agreed; 2], "{ours:?}, {theirs:?}");
        assert_eq!(fit(&allocated), agreed.is_some());
    }
    // The server would have 0.23, the client not.
    let random = &mut Random::new(2);
    let allocated =
        allocate(random, Some(client(RequireNative)), server(Wire023), unaltered, |_, reply| {
            unaltered(reply)
        });
    assert_eq!(profiles(&allocated)[0], None);
    // A plain flow is none of the native profile.
    let allocated =
        allocate(random, None, server(RequireNative), unaltered, |_, reply| unaltered(reply));
    assert!(allocated.server.is_none());
}

#[test]
fn a_stripped_offer_makes_no_flow_where_native_is_required() {
    use ProfilePolicy::{PreferNative, RequireNative};
    for (ours, theirs) in
        [(RequireNative, PreferNative), (PreferNative, RequireNative), (PreferNative, PreferNative)]
    {
        let random = &mut Random::new(3);
        let original = std::cell::RefCell::new(Vec::new());
        let allocated = allocate(
            random,
            Some(client(ours)),
            server(theirs),
            |request| {
                original.replace(request.to_vec());
                stripped(request, 0)
            },
            // The attacker makes the reply answer what the client sent.
            |_, reply| with_hash_of(&original.borrow(), reply),
        );
        if ours == PreferNative && theirs == PreferNative {
            // Nobody asked for more: the flow is had, and says what it is.
            assert_eq!(profiles(&allocated), [Some(Profile::Wire023); 2]);
        } else {
            assert!(!fit(&allocated), "{ours:?}, {theirs:?}");
            assert_eq!(profiles(&allocated)[0], None, "{ours:?}, {theirs:?}");
        }
    }
}

#[test]
fn a_stripped_request_is_noticed_unless_the_reply_is_forged_with_it() {
    let random = &mut Random::new(4);
    let (client, server) =
        (client(ProfilePolicy::PreferNative), server(ProfilePolicy::PreferNative));
    let allocated = allocate(
        random,
        Some(client),
        server,
        |request| stripped(request, 0),
        |_, reply| unaltered(reply),
    );
    assert_eq!(profiles(&allocated)[0], None);
}

#[test]
fn a_stripped_answer_makes_no_flow() {
    for ours in [ProfilePolicy::PreferNative, ProfilePolicy::RequireNative] {
        let random = &mut Random::new(5);
        let server = server(ProfilePolicy::PreferNative);
        let allocated = allocate(random, Some(client(ours)), server, unaltered, |_, reply| {
            stripped(reply, HASH)
        });
        // The server has native keys, the client none or others, and knows.
        assert!(!fit(&allocated));
        let expected = (ours == ProfilePolicy::PreferNative).then_some(Profile::Wire023);
        assert_eq!(profiles(&allocated), [expected, Some(Profile::Native)]);
    }
}

#[test]
fn altered_flags_and_headers_make_keys_that_do_not_fit() {
    let offered = Capabilities::PARTIAL_CHECKSUMS.union(Capabilities::HYBRID_FIRST);
    let client = ClientSecurity { capabilities: offered, ..client(ProfilePolicy::RequireNative) };
    let server = ServerSecurity { capabilities: offered, ..server(ProfilePolicy::RequireNative) };
    let random = &mut Random::new(6);
    let original = std::cell::RefCell::new(Vec::new());
    let with_flags = |header: &[u8], hash, flags| {
        let data = Extensions { profile: Some(flags), ..Extensions::default() }.encode();
        changed(header, hash, |header| header.data = &data)
    };
    // Less is offered than was, and the reply's hash is made to fit.
    let allocated = allocate(
        random,
        Some(client.clone()),
        server.clone(),
        |request| {
            original.replace(request.to_vec());
            with_flags(request, 0, 0)
        },
        |_, reply| with_hash_of(&original.borrow(), reply),
    );
    assert_eq!(profiles(&allocated), [Some(Profile::Native); 2]);
    assert!(!fit(&allocated), "the keys are bound to the request");
    // What nobody knows is offered, and left out of the reply.
    allocate(
        random,
        Some(client.clone()),
        server.clone(),
        |request| with_flags(request, 0, 0xff),
        |_, reply| {
            let header = Allocation::parse(reply, HASH).expect("a reply");
            let extensions = Extensions::parse(header.data).expect("extensions");
            assert_eq!(extensions.profile, Some(offered.bits()));
            unaltered(reply)
        },
    );
    // Less is answered than was.
    let allocated =
        allocate(random, Some(client.clone()), server.clone(), unaltered, |_, reply| {
            with_flags(reply, HASH, 0)
        });
    assert_eq!(profiles(&allocated), [Some(Profile::Native); 2]);
    assert!(!fit(&allocated), "the keys are bound to the reply");
    // More is answered than was offered.
    let allocated =
        allocate(random, Some(client), server, unaltered, |_, reply| with_flags(reply, HASH, 0x41));
    assert_eq!(profiles(&allocated)[0], None);
}

#[test]
fn every_bit_of_both_headers_is_bound() {
    let (client, server) =
        (client(ProfilePolicy::RequireNative), server(ProfilePolicy::RequireNative));
    let random = &mut Random::new(7);
    let size = std::cell::Cell::new(0);
    let mut bit = 0;
    loop {
        let original = std::cell::RefCell::new(Vec::new());
        let allocated = allocate(
            random,
            Some(client.clone()),
            server.clone(),
            |request| {
                size.set(request.len() * 8);
                original.replace(request.to_vec());
                let mut altered = request.to_vec();
                if let Some(byte) = altered.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                altered
            },
            |_, reply| {
                let mut altered = reply.to_vec();
                if bit >= size.get() {
                    let bit = bit - size.get();
                    if let Some(byte) = altered.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                    size.set(size.get() + reply.len() * 8);
                }
                altered
            },
        );
        if bit >= size.get() {
            assert!(fit(&allocated), "nothing was altered");
            break;
        }
        assert!(!fit(&allocated), "bit {bit}");
        bit += 1;
    }
    assert!(bit > 200 * 8, "both headers were altered bit by bit");
}

#[test]
fn a_hybrid_that_does_not_fit_is_done_inside_the_flow_or_not_at_all() {
    let hybrid = Suite { kex: KeyExchange::X25519MlKem768, ..Suite::default() };
    let terms = Terms {
        name: DirectoryHash::Md5.of(&"my_vpn".parse().expect("a name")),
        qos: QosSpec::RAW,
    };
    let random = &mut Random::new(8);
    for profile in [ProfilePolicy::PreferNative, ProfilePolicy::RequireNative] {
        let client = ClientSecurity { profile, ..hybrid.into() };
        let server = ServerSecurity { suite: Some(hybrid), ..ServerSecurity::default() };
        // Room for it: in the header.
        let name = &"my_vpn".parse().expect("a name");
        let within = |largest| Shape { largest, ..Shape::default() };
        let offer = Offer::new(0, terms, Some(client.clone()), within(1300), random);
        // Who insists on the profile has it in the flow, whatever there is room for.
        let in_header = profile == ProfilePolicy::PreferNative;
        assert_eq!(offer.header.len() > 1216, in_header);
        // None: smaller, and no weaker where data is concerned.
        let offer = Offer::new(0, terms, Some(client), within(600), random);
        assert!(offer.header.len() <= 600);
        let (reply, agreed) =
            answer(Client::Unchecked, &offer.header, 0, &terms, &server, random).expect("accepted");
        let agreed = agreed.expect("encrypted");
        let own = offer.check(&reply, name, 0).expect("accepted").expect("encrypted");
        assert_eq!([agreed.suite, own.suite], [hybrid; 2]);
        assert!(own.keys.is_counterpart(&agreed.keys));
        assert!(matches!(own.keys, FlowKeys::Native(keys)
            if keys.capabilities().contains(Capabilities::HYBRID_FIRST)));
        // A peer that has no such thing would be weaker than was asked for.
        let old = ServerSecurity { profile: ProfilePolicy::Wire023, ..ServerSecurity::default() };
        let (reply, _) =
            answer(Client::Unchecked, &offer.header, 0, &terms, &old, random).expect("accepted");
        assert!(offer.check(&reply, name, 0).is_err());
    }
}

#[test]
fn who_required_native_is_told_why_there_is_no_flow() {
    let random = &mut Random::new(9);
    let mut client = Allocator::new(Dialect::Udp, DirectoryHash::Md5, Limits::default());
    let request = AllocationRequest {
        name: "my_vpn".parse().expect("a name"),
        qos: QosSpec::RAW,
        security: Some(self::client(ProfilePolicy::RequireNative)),
        local: CLIENT_EID,
        peer: Some(SERVER),
        timeout: Duration::from_secs(5),
        largest_message: LARGEST_MESSAGE,
    };
    let start = at(Duration::ZERO);
    let id = client.allocate(start, random, request).expect("within limits");
    let sent = client.poll_transmit().expect("a request").message;
    let mut server = Allocator::new(Dialect::Udp, DirectoryHash::Md5, Limits::default());
    server.register(&"my_vpn".parse().expect("a name"));
    let old = self::server(ProfilePolicy::Wire023);
    server.set_policy(&"my_vpn".parse().expect("a name"), old);
    server.handle(start, random, CLIENT, None, &sent);
    let Some(Event::Requested { request, .. }) = server.poll() else { panic!("a request") };
    server.accept(start, random, request, SERVER_EID).expect("accepted");
    let reply = server.poll_transmit().expect("a reply").message;
    client.handle(start, random, SERVER, Some(id), &reply);
    assert!(client.poll().is_none(), "a better reply may come");
    client.handle_timeout(at(Duration::from_secs(5)), random);
    let reason = AllocationFailure::Rejected(NegotiationError::NotNative);
    assert!(matches!(client.poll(), Some(Event::Failed { reason: told, .. }) if told == reason));
}
