//! A bulk transfer, of which every byte is checked where it arrives. `TRANSFER_MB` says
//! of how many megabytes, 32 otherwise:
//! `TRANSFER_MB=1000 cargo test --release -p ouroboros --test transfers arrives_whole`, the
//! same with `--test tunnel` for Ethernet, and with `-p ouroboros-cli` through daemons.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{env, time::Duration};

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, future};
use ouroboros::Flow;
use ouroboros_testing::Random;

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// A multiple of eight.
const PIECE: usize = 32 * 1024;

/// Bytes of a transfer.
pub(crate) fn size() -> u64 {
    let megabytes = env::var("TRANSFER_MB").ok().map(|text| text.parse().expect("a number"));
    megabytes.unwrap_or(32) * 1_000_000
}

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("nothing moves any more");
    };
    work.or(late).await
}

/// The bytes that are transferred, in their order.
pub(crate) struct Pattern {
    random: Random,
    piece: Vec<u8>,
    at: usize,
    count: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), piece: vec![0; PIECE], at: PIECE, count: 0 }
    }

    /// How many there were so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The next ones, at most `most`.
    pub(crate) fn next(&mut self, most: u64) -> &[u8] {
        if self.at == PIECE {
            for word in self.piece.chunks_exact_mut(8) {
                word.copy_from_slice(&self.random.next_u64().to_le_bytes());
            }
            self.at = 0;
        }
        let rest = (PIECE - self.at).min(usize::try_from(most).unwrap_or(PIECE));
        let from = self.at;
        (self.at, self.count) = (from + rest, self.count + rest as u64);
        &self.piece[from..self.at]
    }

    /// Fails if these are not the next ones.
    pub(crate) fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.count;
            let right = self.next(bytes.len() as u64);
            let (found, rest) = bytes.split_at(right.len());
            assert!(found == right, "another byte than was sent, behind byte {at}");
            bytes = rest;
        }
    }
}

/// Writes `size` bytes.
pub(crate) async fn write(writer: &mut (impl AsyncWrite + Unpin), seed: u64, size: u64) {
    let mut pattern = Pattern::new(seed);
    while pattern.count() < size {
        let left = size - pattern.count();
        writer.write_all(pattern.next(left)).await.expect("written");
    }
}

/// Reads to the end, and checks each byte; how many there were.
pub(crate) async fn read(reader: &mut (impl AsyncRead + Unpin), seed: u64) -> u64 {
    let (mut pattern, mut buffer) = (Pattern::new(seed), vec![0; 4 * PIECE]);
    loop {
        match reader.read(&mut buffer).await.expect("no end but that of the stream") {
            0 => return pattern.count(),
            count => pattern.check(&buffer[..count]),
        }
    }
}

/// All of it from one end to the other, to the end of the stream.
pub(crate) async fn transfer(from: Flow, to: Flow, size: u64) {
    let (mut writer, mut reader) = (from.into_stream(), to.into_stream());
    let write = async {
        write(&mut writer, 7, size).await;
        writer.close().await.expect("the peer has all of it");
    };
    let ((), count) = future::zip(write, read(&mut reader, 7)).await;
    assert_eq!(count, size);
}
