//! Sealing and opening a packet, per size and AEAD backend: the AEAD alone, as
//! 0.23 has it, and with the native profile's numbers, header and replay window.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ouroboros::{
    crypto::{AeadBackend, Cipher, FlowKey, NONCE, Suite, SystemEntropy},
    proto::{
        native::{Capabilities, KeyLimits, NativeKeys, Role},
        protection::{Content, FlowKeys, Opener, Sealer, protection},
    },
    transport::{ReceiveBatch, SendBatch},
    wire::Eid,
};

const BACKENDS: [(&str, AeadBackend); 2] =
    [("ring", AeadBackend::Ring), ("aes-gcm", AeadBackend::RustCrypto)];
/// Bytes: 1446 is what a tunnel over UDP has room for where the MTU is 1500.
const SIZES: [usize; 4] = [64, 1200, 1446, 8000];
const BATCH: usize = 45;
const ENDS: (Eid, Eid) = (Eid(1), Eid(1));

fn bare(criterion: &mut Criterion) {
    for (name, backend) in BACKENDS {
        let mut group = criterion.benchmark_group(format!("seal and open one, bare, {name}"));
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

/// Both ends of a flow: who seals, and who opens it.
fn ends(keys: [FlowKeys; 2], backend: AeadBackend) -> (Sealer, Opener) {
    // A bench outlives the packets that one key may seal.
    let endless = 1 << 62;
    let limits = KeyLimits { due: endless, data: endless, all: endless, failures: endless };
    let [client, server] =
        keys.map(|keys| protection(Some(keys), ENDS, false, backend, limits, &mut SystemEntropy));
    (client.sealer, server.opener)
}

fn wire_023(backend: AeadBackend) -> (Sealer, Opener) {
    let key = || FlowKey::new([7; 32]);
    ends([(); 2].map(|()| FlowKeys::Wire023 { cipher: Cipher::Aes256Gcm, key: key() }), backend)
}

fn native(backend: AeadBackend) -> (Sealer, Opener) {
    let keys = |role| {
        let (suite, key) = (Suite::default(), FlowKey::new([7; 32]));
        FlowKeys::Native(NativeKeys::new(suite, role, Capabilities::NONE, key, [7; 32]))
    };
    ends([keys(Role::Client), keys(Role::Server)], backend)
}

/// What a super-packet of a tunnel is cut into: sealed, copied as by a network,
/// and opened.
fn batches(criterion: &mut Criterion) {
    type Flow = fn(AeadBackend) -> (Sealer, Opener);
    for (profile, flow) in [("0.23", wire_023 as Flow), ("native", native)] {
        for (name, backend) in BACKENDS {
            let title = format!("seal and open {BATCH}, {profile}, {name}");
            let mut group = criterion.benchmark_group(title);
            for size in SIZES {
                group.throughput(Throughput::Elements(BATCH as u64));
                group.bench_with_input(
                    BenchmarkId::from_parameter(size),
                    &size,
                    |bencher, &size| {
                        let (mut sealer, mut opener) = flow(backend);
                        let frame = sealer.headroom() + size + sealer.tailroom();
                        let mut sent = SendBatch::new(0, BATCH * frame);
                        let mut received = ReceiveBatch::new(BATCH * frame);
                        let mut opened = Vec::new();
                        bencher.iter(|| {
                            sent.clear();
                            for _ in 0..BATCH {
                                black_box(sent.push(frame));
                            }
                            sealer.seal_batch(&mut sent, 0, |_| Content::Packet).expect("numbers");
                            received.clear();
                            received.buffer_mut().copy_from_slice(sent.bytes());
                            for index in 0..BATCH {
                                received.push(sent.range(index));
                            }
                            opened.clear();
                            let tally = opener.open_batch(&mut received, &mut opened);
                            assert_eq!((opened.len(), tally.unopened), (BATCH, 0));
                        });
                    },
                );
            }
            group.finish();
        }
    }
}

criterion_group!(benches, bare, batches);
criterion_main!(benches);
