//! Cutting a super-packet of 64 KiB into packets for a path of 1440 bytes, and
//! joining these again; with checksums complete and partial.

use std::{hint::black_box, ops::Range};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ouroboros::tun::offload::{
    ChecksumPlace, Checksums, Coalescer, Gso, GsoKind, Segments, Sum, VnetHeader,
};

const PATH: usize = 1440;
const BOTH: [(&str, Checksums); 2] =
    [("checksums complete", Checksums::Full), ("checksums partial", Checksums::Partial)];

/// TCP over IPv4 with timestamps, or UDP, as large as a run can be.
fn super_packet(udp: bool) -> (VnetHeader, Vec<u8>) {
    let headers = if udp { 28 } else { 52 };
    let total = headers + (PATH - headers) * (65535 / PATH);
    let mut packet: Vec<u8> = (0..total).map(|at| (at * 7) as u8).collect();
    packet[..headers].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    packet[6..10].copy_from_slice(&[0x40, 0, 64, if udp { 17 } else { 6 }]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[20..24].copy_from_slice(&[0x14, 0x51, 0x9c, 0x40]);
    let (kind, offset) = if udp { (GsoKind::Udp, 6) } else { (GsoKind::Tcp4, 16) };
    if udp {
        packet[24..26].copy_from_slice(&(total as u16 - 20).to_be_bytes());
    } else {
        packet[32..36].copy_from_slice(&[0x80, 0x10, 1, 245]);
        packet[40..44].copy_from_slice(&[1, 1, 8, 10]);
    }
    let pseudo = Sum::pseudo_header(&packet[12..20], packet[9], total - 20).fold();
    packet[20 + offset..22 + offset].copy_from_slice(&pseudo.to_be_bytes());
    let vnet = VnetHeader {
        checksum: Some(ChecksumPlace { start: 20, offset: offset as u16 }),
        data_valid: false,
        gso: Some(Gso { kind, ecn: false, size: (PATH - headers) as u16 }),
        header_length: headers as u16,
    };
    (vnet, packet)
}

fn segment(criterion: &mut Criterion) {
    for (protocol, udp) in [("TCP", false), ("UDP", true)] {
        let (vnet, packet) = super_packet(udp);
        let mut group = criterion.benchmark_group(format!("cut {protocol}"));
        group.throughput(Throughput::Bytes(packet.len() as u64));
        for (name, checksums) in BOTH {
            let mut frames = vec![0; 2 * packet.len()];
            group.bench_function(name, |bencher| {
                bencher.iter(|| cut(&vnet, black_box(&packet), checksums, &mut frames).len());
            });
        }
        group.finish();
    }
}

/// Cuts a super-packet into one buffer and says where the packets are.
fn cut(vnet: &VnetHeader, packet: &[u8], checksums: Checksums, frames: &mut [u8]) -> Range<usize> {
    let segments = Segments::plan(vnet, packet, packet.len(), PATH, checksums).expect("it fits");
    let mut at = 0;
    for index in 0..segments.count() {
        let end = at + segments.size(index);
        segments.copy(index, packet, &mut frames[at..end]);
        at = end;
    }
    0..at
}

fn coalesce(criterion: &mut Criterion) {
    for (protocol, udp) in [("TCP", false), ("UDP", true)] {
        let (vnet, packet) = super_packet(udp);
        let mut group = criterion.benchmark_group(format!("join {protocol}"));
        group.throughput(Throughput::Bytes(packet.len() as u64));
        for (name, checksums) in BOTH {
            let mut buffer = vec![0; 2 * packet.len()];
            let all = cut(&vnet, &packet, checksums, &mut buffer);
            let starts = all.clone().step_by(PATH);
            let packets: Vec<_> = starts.map(|start| start..start + PATH).collect();
            let mut coalescer = Coalescer::new(true, true);
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    coalescer.clear();
                    for packet in &packets {
                        let partial = checksums == Checksums::Partial;
                        coalescer.add(&buffer, packet.clone(), partial);
                    }
                    coalescer.finish(&mut buffer);
                    let run = coalescer.runs().next().expect("a run");
                    assert_eq!(run.packets(), packets.len());
                    let parts = run.parts().map(|part| part.len()).sum::<usize>();
                    // The next round begins with the packets as they were.
                    run.take_apart(&mut buffer);
                    black_box(parts)
                });
            });
        }
        group.finish();
    }
}

fn sum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for size in [20, 1400, 65536] {
        let bytes = vec![0x5a; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(size.to_string(), |bencher| {
            bencher.iter(|| Sum::default().bytes(black_box(&bytes)).fold());
        });
    }
    group.finish();
}

criterion_group!(benches, segment, coalesce, sum);
criterion_main!(benches);
