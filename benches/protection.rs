//! Sealing and opening a packet, per size and AEAD backend: the AEAD alone, as
//! 0.23 has it, and with the native profile's numbers, header and replay window.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ouroboros::{
    crypto::{AeadBackend, Cipher, FlowKey, NONCE, Suite, SystemEntropy},
    proto::{
        native::{Capabilities, Channel, HEAD, KeyLimits, NativeKeys, Role, TAIL},
        protection::{Content, FlowKeys, Protection, protection},
    },
    wire::Eid,
};

const BACKENDS: [(&str, AeadBackend); 2] =
    [("ring", AeadBackend::Ring), ("aes-gcm", AeadBackend::RustCrypto)];
const SIZES: [usize; 4] = [64, 1200, 1440, 8000];
const ENDS: (Eid, Eid) = (Eid(1), Eid(1));

fn bare(criterion: &mut Criterion) {
    for (name, backend) in BACKENDS {
        let mut group = criterion.benchmark_group(format!("seal and open, bare, {name}"));
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
                let aead = backend.with_key(Cipher::Aes256Gcm, &[7; 32]);
                let mut packet = vec![0; size];
                let mut number = 0u32;
                bencher.iter(|| {
                    number = number.wrapping_add(1);
                    let mut nonce = [0; NONCE];
                    nonce[NONCE - 4..].copy_from_slice(&number.to_be_bytes());
                    let tag = aead.seal_in_place(&nonce, &[], &mut packet);
                    aead.open_in_place(&nonce, &[], &mut packet, &tag).expect("authentic");
                    black_box(&packet);
                });
            });
        }
        group.finish();
    }
}

fn wire_023(criterion: &mut Criterion) {
    for (name, backend) in BACKENDS {
        let mut group = criterion.benchmark_group(format!("seal and open, 0.23, {name}"));
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
                let key = FlowKey::new([7; 32]);
                let keys = FlowKeys::Wire023 { cipher: Cipher::Aes256Gcm, key };
                let Protection { mut sealer, mut opener, .. } = protection(
                    Some(keys),
                    ENDS,
                    false,
                    backend,
                    KeyLimits::default(),
                    &mut SystemEntropy,
                );
                let mut frame = vec![0; sealer.headroom() + size + sealer.tailroom()];
                bencher.iter(|| {
                    sealer.seal(&mut frame, Content::Packet).expect("0.23 always seals");
                    black_box(opener.open(&mut frame).expect("authentic"));
                });
            });
        }
        group.finish();
    }
}

fn native(criterion: &mut Criterion) {
    // A bench outlives the packets that one key may seal.
    let endless = 1 << 62;
    let limits = KeyLimits { due: endless, data: endless, all: endless, failures: endless };
    for (name, backend) in BACKENDS {
        let mut group = criterion.benchmark_group(format!("seal and open, native, {name}"));
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
                let channel = |role| {
                    let (suite, key) = (Suite::default(), FlowKey::new([7; 32]));
                    let keys = NativeKeys::new(suite, role, Capabilities::NONE, key, [7; 32]);
                    Channel::new(keys, ENDS, backend, limits)
                };
                let mut sealer = channel(Role::Client).sealer();
                let mut opener = channel(Role::Server).opener();
                let mut frame = vec![0; HEAD + size + TAIL];
                bencher.iter(|| {
                    let mut number = sealer.reserve(1, true).expect("numbers");
                    number.seal(&mut frame, Content::Packet);
                    black_box(opener.open(&mut frame).expect("authentic"));
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bare, wire_023, native);
criterion_main!(benches);
