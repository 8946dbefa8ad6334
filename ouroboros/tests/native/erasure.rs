//! What is left of keys in this process's memory when they are over.

use std::{fs, os::unix::fs::FileExt, sync::Mutex, time::Duration};

use ouroboros::{
    crypto::{AeadBackend, Cipher, Entropy, Hash, KeyExchange, Secret, Suite, SystemEntropy},
    proto::{
        native::{Channel, KeyLimits, SealError, Session, SessionConfig},
        protection::{FlowKeys, Profile},
    },
};

use crate::harness::{self, CLIENT_EID, End, Random, SERVER_EID, allocate, at};

const BACKENDS: [AeadBackend; 2] = [AeadBackend::Ring, AeadBackend::RustCrypto];

/// Who looks through the memory has copies of it meanwhile.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

/// How often the inverse of `pattern`, which is so not found itself, is in the
/// memory that this process can write to.
fn copies(pattern: &[u8]) -> usize {
    overwrite_stack();
    let mut needle = inverted(pattern);
    let here = needle.as_ptr() as u64;
    let memory = fs::File::open("/proc/self/mem").expect("this process's memory");
    let maps = fs::read_to_string("/proc/self/maps").expect("a list of it");
    let mut page = vec![0; 1 << 20];
    let own = page.as_ptr() as u64;
    let own = own..own + page.len() as u64;
    let mut found = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().expect("a range"), fields.next().expect("rights"));
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (mut from, to) = (address(from), address(to));
        while from < to {
            let size = page.len().min((to - from) as usize);
            // Other threads give memory back meanwhile.
            if memory.read_at(&mut page[..size], from).is_ok_and(|read| read == size) {
                let places = memchr::memmem::find_iter(&page[..size], &needle);
                let places = places.map(|place| from + place as u64);
                found += places.filter(|at| *at != here && !own.contains(at)).count();
            }
            page.fill(0);
            from += size as u64;
        }
    }
    needle.fill(0);
    std::hint::black_box(&mut needle);
    found
}

/// What a cipher leaves on the stack while it works is gone with the next deep
/// call (SECURITY.md).
#[inline(never)]
fn overwrite_stack() {
    std::hint::black_box(&mut [0u8; 256 * 1024]);
}

#[test]
fn the_memory_of_a_cipher_holds_nothing_of_its_key_once_it_is_dropped() {
    let _alone = ONE_AT_A_TIME.lock();
    for backend in BACKENDS {
        for cipher in
            [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305]
        {
            let mut key = [0; 32];
            SystemEntropy.fill(&mut key);
            let pattern = inverted(&key[..16]);
            let aead = backend.with_key(cipher, &key);
            key.fill(0);
            std::hint::black_box(&mut key);
            let tag = aead.seal_in_place(&[1; 12], &[], &mut [0; 100]);
            std::hint::black_box(tag);
            drop(aead);
            assert_eq!(copies(&pattern), 0, "{backend:?}, {cipher}");
        }
    }
}

/// Also where sealers and openers are idle from before the epoch's end.
#[test]
fn keys_are_erased_when_their_epoch_is_over() {
    let _alone = ONE_AT_A_TIME.lock();
    for backend in BACKENDS {
        let mut seed = [0; 8];
        SystemEntropy.fill(&mut seed);
        let random = &mut Random::new(u64::from_ne_bytes(seed));
        // Its key schedule has the key in it as it is.
        let cipher = Cipher::ChaCha20Poly1305;
        let suite = Suite { kex: KeyExchange::X25519, kdf: Hash::Sha256, cipher };
        let allocated =
            allocate(random, Some(suite.into()), Default::default(), <[u8]>::to_vec, |_, reply| {
                reply.to_vec()
            });
        let keys = [allocated.client, allocated.server.expect("accepted")];
        let mut patterns = Vec::new();
        let ends = [(CLIENT_EID, SERVER_EID), (SERVER_EID, CLIENT_EID)];
        let mut sides = keys.into_iter().zip(ends).map(|(keys, ends)| {
            let bytes = keys.expect("encrypted").into_bytes();
            if patterns.is_empty() {
                let secret = Secret::extract(suite.kdf, &bytes[34..66], &bytes[2..34]);
                for label in [&b"o7s native client key"[..], b"o7s native server key"] {
                    patterns.push(inverted(&secret.expand::<32>(label)[16..]));
                }
            }
            let keys = FlowKeys::from_bytes(Profile::Native, suite, &bytes);
            let Some(FlowKeys::Native(keys)) = keys else { panic!("native keys") };
            let channel = Channel::new(keys, ends, backend, KeyLimits::default());
            let (sealer, opener) = (channel.sealer(), channel.opener());
            let now = Duration::ZERO;
            let session = Session::new(at(now), random, channel, SessionConfig::default());
            End { session, sealer, opener, sent: now, heard: now }
        });
        let mut ends = [(); 2].map(|()| sides.next().expect("two sides"));
        drop(sides);
        harness::exchange(&mut ends, random, Duration::ZERO);
        let mut idle: Vec<_> =
            ends.iter_mut().map(|end| (end.sealer.another(), end.opener.another())).collect();
        for (sealer, _) in &mut idle {
            assert_eq!(sealer.reserve(1, true).err(), None::<SealError>);
        }
        // The client's sealer and the server's opener, and the other way round.
        assert!(patterns.iter().all(|pattern| copies(pattern) >= 2), "{backend:?}");
        for second in 1..=125 {
            harness::exchange(&mut ends, random, Duration::from_secs(second));
        }
        assert_eq!(ends.each_ref().map(|end| end.session.epoch()), [1, 1]);
        for pattern in &patterns {
            assert_eq!(copies(pattern), 0, "{backend:?}");
        }
        drop(idle);
    }
}
