//! Sealing and opening a packet, per size and AEAD backend.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ouroboros::{
    crypto::{AeadBackend, Cipher, FlowKey, SystemEntropy},
    proto::protection::{FlowKeys, protection},
};

fn packets(criterion: &mut Criterion) {
    let keys = FlowKeys { cipher: Cipher::Aes256Gcm, key: FlowKey::new([7; 32]) };
    for (name, backend) in [("ring", AeadBackend::Ring), ("aes-gcm", AeadBackend::RustCrypto)] {
        let mut group = criterion.benchmark_group(format!("seal and open, {name}"));
        for size in [64, 576, 1400, 8000] {
            group.throughput(Throughput::Bytes(size));
            group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, &size| {
                let (mut sealer, mut opener) =
                    protection(Some(&keys), false, backend, &mut SystemEntropy);
                let overhead = sealer.headroom() + sealer.tailroom();
                let mut frame = vec![0; size as usize + overhead];
                bencher.iter(|| {
                    sealer.seal(&mut frame);
                    black_box(opener.open(&mut frame).expect("authentic"));
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, packets);
criterion_main!(benches);
