//! Transports: they carry frames between IPCPs, in batches.
//!
//! A [`Transport`] belongs to one IPCP. It gives one [`Management`] socket for
//! endpoint 0 and a [`Path`] for each flow: the flow's own data socket, so that
//! a flow's packets reach the thread that opens them without a detour. Not
//! here: any meaning of a frame beyond the endpoint it is for.

mod errno;
mod eth_dix;
pub mod fault;
mod handed;
pub mod memory;
mod oversized;
#[cfg(feature = "pcap")]
pub mod pcap;
mod queue;
mod scoped;
mod server;
mod udp;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    sync::Arc,
    time::Duration,
};

pub use eth_dix::EthDix;
pub use handed::{HandOver, Handed};
pub use ouroboros_proto::{
    packet::{ReceiveBatch, SendBatch, Stray},
    wire::Destination,
};
pub use scoped::{InvalidScopedAddress, ScopedAddress};
pub use server::{InvalidServerHost, ServerHost};
pub use udp::Udp;

use crate::wire::{Dialect, DirectoryHash, Eid, Name, PeerAddress, management::LARGEST_MESSAGE};

/// Largest management message that is taken, in bytes; larger ones are dropped
/// (WIRE.md, "UDP").
pub const LARGEST_MANAGEMENT: usize = LARGEST_MESSAGE;

/// The transport that a layer is bootstrapped over: a description that can be opened.
pub trait IntoTransport: Send + 'static {
    /// Opens the sockets. Does not block for longer than system calls take.
    fn open(self) -> Result<Arc<dyn Transport>, OpenError>;
}

/// A transport that is open already.
impl IntoTransport for Arc<dyn Transport> {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        Ok(self)
    }
}

/// Why a transport could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no network interface of that name.
    #[error("there is no network interface '{0}' (`ip link` lists them)")]
    NoSuchInterface(String),
    /// The interface carries no Ethernet frames (a TUN device, for example).
    #[error("the interface '{0}' carries no Ethernet frames")]
    NotEthernet(String),
    /// Raw Ethernet needs a privilege that this process has not got.
    #[error("eth-dix on '{0}' needs root or the capability CAP_NET_RAW")]
    NotPermitted(String),
    /// Another program listens there.
    #[error("another program listens on UDP {0}; stop it, or choose another port")]
    AddressInUse(SocketAddr),
    /// The address is none of this machine's.
    #[error("{0} is no address of this machine (`ip address` lists them)")]
    AddressNotAvailable(IpAddr),
    /// Misuse: a link-local address means nothing without its interface.
    #[error("{0} is link-local and needs its zone: add % and the interface, as in {0}%eth0")]
    ZoneRequired(IpAddr),
    /// The system refused for another reason.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One attachment to a network: an Ethernet interface, a UDP address.
///
/// All methods may be called from several threads. Blocking work is marked.
pub trait Transport: Send + Sync + 'static {
    /// Which management layout is spoken here.
    fn dialect(&self) -> Dialect;

    /// The hash that the directory here knows names by.
    fn directory_hash(&self) -> DirectoryHash;

    /// A short description for lists and logs, such as `eth-dix on lo`.
    fn description(&self) -> String;

    /// The socket for endpoint 0; `None` if this IPCP only connects.
    fn management(&self) -> Option<Arc<dyn Management>>;

    /// Returns where the machines that may serve `name` are, by the transport's own directory
    /// (UDP: the system resolver, in its order). **Blocks.** A transport that finds names by
    /// query frames returns `None`.
    fn resolve(&self, name: &Name) -> Option<io::Result<Vec<PeerAddress>>>;

    /// Returns `true` if [`resolve`](Self::resolve) answers without waiting for anything, so
    /// that it need not be asked on a thread of its own.
    fn resolves_at_once(&self) -> bool {
        false
    }

    /// Returns where `server` is, as [`resolve`](Self::resolve) says for a name. **Blocks.** A
    /// transport whose peers have no host names returns `None`.
    fn resolve_server(&self, server: &ServerHost) -> Option<io::Result<Vec<PeerAddress>>> {
        let _ = server;
        None
    }

    /// Opens the data path of a flow that this side requests, before the
    /// request leaves, so that no early packet is missed. `peer` is where the
    /// request will go, if it is known yet. The path takes frames for `local`
    /// from then on, in the network namespace in which the transport was opened,
    /// whichever the calling thread's is.
    fn open_requester(&self, local: Eid, peer: Option<PeerAddress>) -> io::Result<Arc<dyn Path>>;

    /// Opens the data path of a flow that the peer requested, before the reply
    /// leaves.
    fn open_responder(
        &self,
        local: Eid,
        remote: Eid,
        peer: PeerAddress,
    ) -> io::Result<Arc<dyn Path>>;

    /// Returns how many management messages came that were too large to be one, and were
    /// dropped.
    fn oversized(&self) -> u64;

    /// Returns `true` if frames for an endpoint without a path of its own reach
    /// the management socket, and with it what
    /// [`watch_off_path`](Self::watch_off_path) names for that endpoint. Half-open
    /// flows need no path then.
    fn has_shared_socket(&self) -> bool {
        false
    }

    /// Has `take` called with frames for the endpoint `local` that come from
    /// others than its peer, until nobody else holds `take`. The latest call for
    /// an endpoint counts.
    fn watch_off_path(&self, local: Eid, take: &OffPathHandler) {
        let _ = (local, take);
    }

    /// Takes a frame that came to the wrong socket: hands it to the flow it is
    /// for if this transport knows that flow, returns it if it is a management
    /// message (without the endpoint id), and drops it otherwise.
    fn dispatch(&self, stray: Stray) -> Option<(PeerAddress, Vec<u8>)> {
        let _ = stray;
        None
    }
}

/// The management socket of an IPCP: whole management messages, without the
/// endpoint id that precedes them on the wire (WIRE.md: the header at offset 0
/// for eth-dix, at offset 4 for UDP), so that both dialects hand over the bytes
/// that `wire::management` parses.
pub trait Management: Send + Sync {
    /// Sends one message; never blocks.
    fn send(&self, to: Destination, message: &[u8]) -> io::Result<()>;

    /// Receives one message into `buffer`; never blocks. A message larger than
    /// the buffer is dropped and counted ([`Transport::oversized`]), not cut.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)>;

    /// Returns the descriptor to poll for reading.
    fn readiness(&self) -> BorrowedFd<'_>;
}

/// The data path of one flow: frames from and to one endpoint of one peer.
///
/// One thread may send while another receives. Nothing here blocks:
/// [`io::ErrorKind::WouldBlock`] says to poll [`readiness`](Self::readiness).
pub trait Path: Send + Sync {
    /// Tells a requester's path who answered. Frames from others, or for
    /// another endpoint, are no longer taken.
    fn connect(&self, remote: Eid, peer: PeerAddress) -> io::Result<()>;

    /// Sends the frames of `batch` from `batch.sent()` on, in order, and
    /// advances `batch.sent()` past what the kernel took. `Ok(())` when the
    /// batch is done. An error of one frame (too large for the path:
    /// `EMSGSIZE`) skips that frame, counts it in the batch, and goes on.
    fn send(&self, batch: &mut SendBatch) -> io::Result<()>;

    /// Receives as many frames as are there and fit: at least one frame or
    /// stray, or `WouldBlock`. A frame's bytes start behind the transport's
    /// header. Adds to the batch from its buffer's start: clear it before.
    /// `UnexpectedEof`: nothing will come or leave on this path any more.
    fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<()>;

    /// Sends a management message to the peer this path was opened for, from
    /// the path's own address; `None` where management has a socket of its own.
    fn send_management(&self, message: &[u8]) -> Option<io::Result<()>>;

    /// Returns how this path follows peers and networks that move; `None` where neither does.
    fn mobility(&self) -> Option<&dyn Mobility> {
        None
    }

    /// Returns the descriptor to poll for reading and writing: the same, open one for as long
    /// as the path lives.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Bytes of transport header that precede each frame in a batch.
    fn headroom(&self) -> usize;

    /// Largest frame (flow payload with IV, tag and CRC) that the path carries
    /// now, in bytes. May change as the path's MTU is discovered.
    fn largest_frame(&self) -> usize;

    /// Switches the kernel's segmenting of what is sent and its coalescing of
    /// what is received off, where there is such a thing; whichever the kernel
    /// hasn't got falls back by itself.
    fn limit_offload(&self, offload: PathOffload) {
        let _ = offload;
    }

    /// Returns the offloads in use now.
    fn offload(&self) -> PathOffload {
        PathOffload::NONE
    }

    /// Returns how large the socket's buffers for sending and receiving are, in bytes as the
    /// kernel counts them; nothing where there is no socket.
    fn buffers(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Returns how many frames the socket has dropped because nobody read it in time; 0 where
    /// there is no socket of the path's own.
    fn dropped(&self) -> u64 {
        0
    }

    /// Returns how long the frame received last had waited for that, where that can be told.
    fn waited(&self) -> Option<Duration> {
        None
    }

    /// Returns `true` if there may be routers on the way that carry less than this end knows.
    fn is_routed(&self) -> bool {
        false
    }

    /// A short description for logs, such as `udp 10.0.0.1:3435`.
    fn description(&self) -> String;

    /// The path's socket for another process, which knows the flow's endpoints
    /// and peer; to be asked once the path is connected. `None`: the path
    /// cannot leave this process.
    fn hand_over(&self) -> Option<io::Result<HandOver>> {
        None
    }
}

/// A path whose peer, or whose own end, may get another address.
pub trait Mobility {
    /// Sends one frame to another address than the peer's, which is to prove
    /// that it is the peer's now. The frame may be lost.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    fn send_off_path(&self, to: PeerAddress, frame: &[u8]) -> io::Result<()>;

    /// Takes `peer` for the peer's address from now on.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    fn follow(&self, peer: PeerAddress) -> io::Result<()>;

    /// Nothing has come for a while though something left: finds out whether
    /// this end's address is lost, and goes on from another one then.
    fn revalidate_local_address(&self);

    /// Returns `true` if this host has no network: the frame that was sent last did not leave it.
    /// That the peer is silent says nothing of the peer then.
    fn is_cut_off(&self) -> bool;
}

/// Takes frames for a flow that come from another address than its peer's. The
/// frame, without its endpoint id, is opened in place.
pub type OffPathHandler = Arc<TakeFrame>;

/// Takes a frame and where it came from.
pub type TakeFrame = dyn Fn(PeerAddress, &mut [u8]) + Send + Sync;

/// The offloads in use for a path: what the kernel does in super-packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathOffload {
    /// It cuts what is sent into frames (UDP GSO).
    pub segments: bool,
    /// It joins frames that were received (UDP GRO).
    pub coalesces: bool,
}

impl PathOffload {
    /// Frame by frame.
    pub const NONE: Self = Self { segments: false, coalesces: false };
}

impl HandOver {
    /// The path of a flow over a socket that another process opened.
    ///
    /// # Errors
    ///
    /// The socket, the endpoints and the peer do not go together.
    pub fn open(self, (local, remote): (Eid, Eid), peer: PeerAddress) -> io::Result<Arc<dyn Path>> {
        let socket = self.socket.into();
        match self.kind {
            Handed::Udp => udp::from_handed(socket, local, remote, peer),
            Handed::EthDix(interface) => {
                eth_dix::from_handed(socket, &interface, local, remote, peer)
            }
        }
    }
}
