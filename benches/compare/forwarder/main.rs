//! `forwarder [--seal] DEVICE LOCAL PEER`: a TUN device's packets over UDP,
//! with every offload that the kernel has and nothing else: the practical limit
//! that `benches/compare` measures tunnels against.
//!
//! It is **not** a tunnel to use: no handshake, no replay protection, and with
//! `--seal` (AES-256-GCM of each packet, by ring) a key that is the same
//! everywhere. A thread each way, no queue between them.

use std::{
    fs::File,
    io::{self, IoSliceMut, Read, Write},
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    process::ExitCode,
    thread,
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::sockopt,
};

mod device;
mod packet;

/// Largest run of datagrams that one call sends, in bytes, and in datagrams.
const RUN: usize = 65_507;
const DATAGRAMS: usize = 64;
/// Runs that one call receives.
const RUNS: usize = 8;
const COUNTER: usize = 8;
const BUFFER: usize = 8 << 20;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let before = words.len();
    words.retain(|word| word != "--seal");
    let seal = words.len() < before;
    let addresses = |local: &String, peer: &String| Some((local.parse().ok()?, peer.parse().ok()?));
    let [name, local, peer] = &words[..] else { return usage() };
    let Some((local, peer)) = addresses(local, peer) else { return usage() };
    match run(name, local, peer, seal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forwarder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: forwarder [--seal] DEVICE LOCAL-ADDRESS:PORT PEER-ADDRESS:PORT");
    ExitCode::from(2)
}

fn run(name: &str, local: SocketAddr, peer: SocketAddr, seal: bool) -> io::Result<()> {
    let (device, udp) = device::open(name)?;
    let socket = UdpSocket::bind(local)?;
    // As root; the default will do otherwise.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
    let offload = UdpSocketState::new((&socket).into())?;
    let (from, to) = (u8::from(local > peer), u8::from(peer > local));
    let wire = Wire { socket, offload, peer };
    thread::scope(|scope| {
        let inbound = scope.spawn(|| inbound(&device, &wire, seal.then(|| Cipher::new(to)), udp));
        outbound(&device, &wire, seal.then(|| Cipher::new(from)))?;
        inbound.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

struct Wire {
    socket: UdpSocket,
    offload: UdpSocketState,
    peer: SocketAddr,
}

/// Seals what one side sends, or opens it on the other.
struct Cipher {
    key: LessSafeKey,
    side: u8,
    counter: u64,
}

impl Cipher {
    fn new(side: u8) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("the length of its keys");
        Self { key: LessSafeKey::new(key), side, counter: 0 }
    }

    fn nonce(&self, counter: [u8; COUNTER]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[0] = self.side;
        nonce[NONCE_LEN - COUNTER..].copy_from_slice(&counter);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals what follows the counter, at `start`, to the end.
    fn seal(&mut self, bytes: &mut Vec<u8>, start: usize) {
        self.counter += 1;
        let counter = self.counter.to_be_bytes();
        let (head, contents) = bytes[start..].split_at_mut(COUNTER);
        head.copy_from_slice(&counter);
        let nonce = self.nonce(counter);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), contents);
        bytes.extend_from_slice(sealed.expect("a packet is no larger than a seal").as_ref());
    }

    fn open<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        let (&mut counter, contents) = datagram.split_first_chunk_mut()?;
        let opened = self.key.open_in_place(self.nonce(counter), Aad::empty(), contents);
        opened.ok().map(|contents| &*contents)
    }
}

fn wait(what: impl AsFd, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(&what, flags)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Equal datagrams, the last possibly shorter, that leave in one call.
struct Run<'a> {
    wire: &'a Wire,
    bytes: Vec<u8>,
    size: usize,
    count: usize,
}

impl Run<'_> {
    fn add(&mut self, prefix: [u8; 2], parts: [&[u8]; 2], cipher: Option<&mut Cipher>) {
        let start = self.bytes.len();
        if cipher.is_some() {
            self.bytes.extend_from_slice(&[0; COUNTER]);
        }
        self.bytes.extend_from_slice(&prefix);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        if let Some(cipher) = cipher {
            cipher.seal(&mut self.bytes, start);
        }
        let length = self.bytes.len() - start;
        if self.count > 0 && (length > self.size || self.bytes.len() > RUN) {
            // It does not fit the run, so it begins the next.
            self.send(start);
        }
        if self.count == 0 {
            self.size = length;
        }
        self.count += 1;
        if length < self.size || self.count == DATAGRAMS {
            self.send(self.bytes.len());
        }
    }

    /// Sends the first `length` bytes, and keeps the rest.
    fn send(&mut self, length: usize) {
        let Wire { socket, offload, peer } = self.wire;
        if length > 0 {
            let contents = &self.bytes[..length];
            let segment_size = (self.count > 1).then_some(self.size);
            let run =
                Transmit { destination: *peer, ecn: None, contents, segment_size, src_ip: None };
            while let Err(error) = offload.try_send(socket.into(), &run) {
                // Others are the network's, and cost the run.
                if error.kind() != io::ErrorKind::WouldBlock
                    || wait(socket, PollFlags::OUT).is_err()
                {
                    break;
                }
            }
        }
        self.bytes.drain(..length);
        self.count = 0;
    }
}

fn outbound(mut device: &File, wire: &Wire, mut cipher: Option<Cipher>) -> io::Result<()> {
    let mut read = vec![0; device::HEADER + (1 << 16)];
    let mut run = Run { wire, bytes: Vec::with_capacity(2 * RUN), size: 0, count: 0 };
    loop {
        match device.read(&mut read) {
            Ok(size) => packet::cut(&mut read[..size], |prefix, headers, payload| {
                run.add(prefix, [headers, payload], cipher.as_mut());
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                run.send(run.bytes.len());
                wait(device, PollFlags::IN)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn inbound(mut device: &File, wire: &Wire, cipher: Option<Cipher>, udp: bool) -> io::Result<()> {
    let mut buffers: [_; RUNS] = std::array::from_fn(|_| vec![0; 1 << 16]);
    let mut join = packet::Join::new(udp);
    // A packet that the kernel does not take is lost, as on any wire.
    let mut write = |bytes: &[u8]| drop(device.write(bytes));
    loop {
        let mut received = [RecvMeta::default(); RUNS];
        let mut pieces = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
        let count = match wire.offload.recv((&wire.socket).into(), &mut pieces, &mut received) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(&wire.socket, PollFlags::IN)?;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        for (meta, buffer) in received.iter().zip(&mut buffers).take(count) {
            for datagram in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                match &cipher {
                    None => join.push(datagram, &mut write),
                    Some(cipher) => {
                        if let Some(opened) = cipher.open(datagram) {
                            join.push(opened, &mut write);
                        }
                    }
                }
            }
        }
        join.flush(&mut write);
    }
}
