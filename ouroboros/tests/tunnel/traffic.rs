//! What goes through a tunnel, checked at the other end.

use std::{
    io::{IoSliceMut, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use ouroboros_testing::{Namespace, bind_when_free};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use sha2::{Digest, Sha256};

use crate::hosts::{End, PATIENCE};

pub(crate) const PORT: u16 = 4242;

/// The address of the first end of a tunnel.
pub(crate) const FIRST: [&str; 2] = ["10.9.0.1", "fd09::1"];

/// Sends `size` random bytes each way over one TCP connection, from the second
/// end to the first, and compares the hashes of both ends.
pub(crate) fn transfer(ends: &[End<'_>; 2], to: &str, size: usize) {
    exchange(ends[1].host, ends[0].host, to, size);
}

/// The same, between any hosts.
pub(crate) fn exchange(from: &Namespace, to: &Namespace, address: &str, size: usize) {
    exchange_on(from, to, address, PORT, size);
}

/// The same, to another port.
pub(crate) fn exchange_on(from: &Namespace, to: &Namespace, address: &str, port: u16, size: usize) {
    exchange_while(from, to, address, port, &|sent| size - sent);
}

/// Transfers as much as `left` says: how many bytes, after as many.
pub(crate) fn exchange_while(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    port: u16,
    left: &(dyn Fn(usize) -> usize + Sync),
) {
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let listen = || bind_when_free(|| TcpListener::bind(address));
    let listener = to.inside(listen).expect("listening");
    thread::scope(|scope| {
        let far = scope.spawn(|| {
            let (stream, _) = listener.accept().expect("connected");
            both_ways(&stream, left)
        });
        let connect = || TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
        let (sent, received) = both_ways(&from.inside(connect), left);
        let (answered, arrived) = far.join().expect("no panic");
        assert!(sent == arrived, "what the second sent is not what the first received");
        assert!(answered == received, "what the first sent is not what the second received");
    });
}

type Hash = [u8; 32];

/// Hashes of what was sent and of what came.
fn both_ways(stream: &TcpStream, left: &(dyn Fn(usize) -> usize + Sync)) -> (Hash, Hash) {
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(stream, left));
        let received = receive(stream);
        (sending.join().expect("sent"), received)
    })
}

fn send(mut stream: &TcpStream, left: &(dyn Fn(usize) -> usize + Sync)) -> Hash {
    let mut hash = Sha256::new();
    let mut data = vec![0; 64 * 1024];
    let mut sent = 0;
    loop {
        let size = left(sent).min(data.len());
        if size == 0 {
            break;
        }
        getrandom::fill(&mut data[..size]).expect("random bytes");
        hash.update(&data[..size]);
        stream.write_all(&data[..size]).expect("written");
        sent += size;
    }
    stream.shutdown(Shutdown::Write).expect("shut down");
    hash.finalize().into()
}

fn receive(mut stream: &TcpStream) -> Hash {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer).expect("read") {
            0 => return hash.finalize().into(),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// A program on a host that sends every datagram back.
pub(crate) struct Echo(SocketAddr);

impl Echo {
    /// Starts it; it ends when it is told to by an empty datagram of its own
    /// host, or with the test.
    pub(crate) fn at(host: &Namespace, address: &str) -> Self {
        let address = SocketAddr::new(address.parse().expect("an address"), PORT);
        let bind = || bind_when_free(|| UdpSocket::bind(address));
        let socket = host.inside(bind).expect("bound");
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok((size, from)) = socket.recv_from(&mut buffer) {
                if size == 1 && buffer[0] == STOP {
                    return;
                }
                let _ = socket.send_to(&buffer[..size], from);
            }
        });
        Self(address)
    }

    /// A socket of another host that talks to it.
    pub(crate) fn client(&self, host: &Namespace) -> UdpSocket {
        host.inside(|| {
            let any: IpAddr = if self.0.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).expect("bound");
            socket.connect(self.0).expect("a route");
            socket.set_read_timeout(Some(PATIENCE)).expect("set");
            socket
        })
    }

    pub(crate) fn stop(&self, host: &Namespace) {
        let socket = self.client(host);
        socket.send(&[STOP]).expect("sent");
    }
}

/// No other datagram is one byte of this.
const STOP: u8 = 0xff;

fn datagram(size: usize, number: usize) -> Vec<u8> {
    (0..size).map(|at| (at + number * 7) as u8 & 0x7f).collect()
}

/// Datagrams of many sizes come back as they were, sent one by one and, where
/// they may be, as runs that the kernel hands over in one piece.
pub(crate) fn datagrams(ends: &[End<'_>; 2], to: &str, mtu: usize) {
    let echo = Echo::at(ends[0].host, to);
    let socket = echo.client(ends[1].host);
    let largest = mtu - if to.contains(':') { 48 } else { 28 };
    // Some larger than a packet: the kernel makes fragments of them.
    let sizes = (0..40).chain((largest - 40)..(largest + 3)).chain([3000, 8000, 30_000, 65_000]);
    let mut buffer = vec![0; 1 << 16];
    for (number, size) in sizes.enumerate() {
        let sent = datagram(size, number);
        socket.send(&sent).expect("sent");
        let count = socket.recv(&mut buffer).expect("an answer");
        assert!(buffer[..count] == sent, "a datagram of {size} bytes");
    }
    runs(&socket, largest, &mut buffer);
    echo.stop(ends[0].host);
}

/// Runs of equal datagrams, the last one shorter.
fn runs(socket: &UdpSocket, largest: usize, buffer: &mut [u8]) {
    let state = UdpSocketState::new(socket.into()).expect("a socket");
    socket.set_nonblocking(false).expect("set");
    let destination = socket.peer_addr().expect("connected");
    for (segment, count) in [(1, 10), (2, 20), (100, 40), (999, 30), (1200, 20), (largest, 20)] {
        let contents = datagram(segment * count - segment / 2, count);
        let mut parts = contents.chunks(segment);
        if state.max_gso_segments() >= count {
            let segment_size = Some(segment);
            let transmit = Transmit {
                destination,
                ecn: None,
                contents: &contents,
                segment_size,
                src_ip: None,
            };
            state.try_send(socket.into(), &transmit).expect("sent");
        } else {
            parts.clone().for_each(|part| assert!(socket.send(part).is_ok()));
        }
        while parts.len() > 0 {
            let mut meta = [RecvMeta::default()];
            let mut room = [IoSliceMut::new(buffer)];
            state.recv(socket.into(), &mut room, &mut meta).expect("an answer");
            for answer in buffer[..meta[0].len].chunks(meta[0].stride.max(1)) {
                let part = parts.next().expect("no more answers than questions");
                assert!(answer == part, "in a run of datagrams of {segment} bytes");
            }
        }
    }
}

/// Whether a datagram comes back within `patience`. Answers to earlier ones are
/// passed over.
pub(crate) fn answers(socket: &UdpSocket, number: u64, patience: Duration) -> bool {
    socket.set_read_timeout(Some(patience)).expect("set");
    socket.send(&number.to_be_bytes()).expect("sent");
    let mut buffer = [0; 64];
    while let Ok(size) = socket.recv(&mut buffer) {
        if buffer[..size] == number.to_be_bytes() {
            return true;
        }
    }
    false
}
