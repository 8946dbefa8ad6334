//! Offers and answers that are stripped or altered on their way: no flow where
//! either side requires the native profile, a flow that says what it is
//! otherwise.

use ouroboros::{
    crypto::{Hash, KeyExchange},
    proto::{
        endpoint::{ClientSecurity, ProfilePolicy, ServerSecurity},
        native::Capabilities,
        protection::{FlowKeys, Profile},
    },
    wire::extension::Extensions,
};

use crate::harness::{Allocated, Random, allocate, changed, suite};

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
    let offered = Capabilities::BUNDLES.and(Capabilities::HYBRID_FIRST);
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
