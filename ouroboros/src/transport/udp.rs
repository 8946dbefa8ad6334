//! UDP (WIRE.md, "UDP"): a listening socket for management, and for each flow a
//! connected socket, so that the kernel gives a flow its peer's datagrams only.
//!
//! Not here: any meaning of a frame beyond its endpoint id, and anybody's
//! authentication. The IPCP drives it. `path` and `shared` have the data paths.

mod mark;
mod mobility;
mod path;
mod resolver;
mod shared;
mod socket;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, Weak},
};

use path::ConnectedPath;
use resolver::{Resolver, in_zone_of};
use rustix::net::{RecvFlags, SendFlags};
use shared::SharedPath;
use socket::{
    beside, bind, connected, is_of_both_families, listen, local_address, requesting, unusable,
};
use socket2::Socket;

use super::{
    Destination, IntoTransport, LARGEST_MANAGEMENT, Management, OffPathHandler, OpenError, Path,
    ServerHost, Stray, TakeFrame, Transport,
    oversized::Oversized,
    queue::Queue,
    scoped::{canonical, is_link_local, lacks_zone, mapped, with_scope},
};
use crate::{
    sync::lock,
    sys::{link, namespace::NetworkNamespace},
    wire::{Dialect, DirectoryHash, Eid, Name, PeerAddress},
};

/// Bytes of the endpoint id in front of every frame.
const EID: usize = 4;

/// Largest datagram that a 0.23 peer takes, with the endpoint id.
const LARGEST_DATAGRAM: usize = 8980;

/// Datagrams that one call of `receive` looks at, at most.
const LOOKED_AT: usize = 64;

/// A UDP attachment to be opened (WIRE.md, "UDP").
#[derive(Clone, Debug)]
pub struct Udp {
    address: IpAddr,
    zone: Option<String>,
    port: Option<u16>,
    remote_port: Option<u16>,
    resolver: Resolver,
    mark: u32,
}

impl Udp {
    /// The port of a 0.23 peer unless configured otherwise.
    pub const PORT: u16 = 3435;

    /// Listens on `address`, port 3435. Flows are asked for from there, too, and
    /// when this machine has lost that address, from what address it has. `::` serves
    /// IPv4 too, unless somebody has the port for IPv4 already. A link-local address
    /// needs its [`zone`](Self::zone).
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            zone: None,
            port: Some(Self::PORT),
            remote_port: None,
            resolver: Resolver::System,
            mark: 0,
        }
    }

    /// Only connects, from `address` (which may be unspecified, and `::` for servers
    /// of both families): there is no management socket and no fixed port, and nobody
    /// can allocate a flow to here.
    #[must_use]
    pub fn connect_only(address: IpAddr) -> Self {
        Self { port: None, ..Self::at(address) }
    }

    /// The interface of a link-local address, by its name or its index in decimal
    /// (RFC 4007, section 11), in the network namespace of the thread that opens the
    /// transport. Link-local peers that say no zone are looked for there, too.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Listens on `port` instead of 3435, and reaches peers there too unless
    /// [`remote_port`](Self::remote_port) says otherwise. On a transport that
    /// only connects this is the peers' port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        match &mut self.port {
            Some(own) => *own = port,
            None => self.remote_port = Some(port),
        }
        self
    }

    /// Marks what this layer's sockets send (`SO_MARK` of socket(7)), so that rules of
    /// routing can send it another way than what goes through a tunnel over it. Needs
    /// `CAP_NET_ADMIN`, or `CAP_NET_RAW` from Linux 5.17 on.
    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// The port at which peers that the resolver finds listen.
    #[must_use]
    pub fn remote_port(mut self, port: u16) -> Self {
        self.remote_port = Some(port);
        self
    }

    /// Looks for every name at `server`, and asks no resolver: for a program
    /// that knows its server's address. Takes the place of a
    /// [`resolver`](Self::resolver).
    #[must_use]
    pub fn server(mut self, server: SocketAddr) -> Self {
        self.resolver = Resolver::Server(server);
        self
    }

    /// Asks `resolver` instead of the system's where the machines that may serve a
    /// name are: for a program that has a directory of its own. It is asked anew for
    /// each flow, on a thread where it may block, and returns addresses with ports in
    /// the order in which they are to be tried. No address means that there is no such
    /// name here; those that this layer cannot reach (of another family) are skipped. An
    /// error ends the attempt with [`AllocateError::Transport`](crate::AllocateError).
    /// Takes the place of a [`server`](Self::server). A host that is said with
    /// [`FlowSpec::at_server`](crate::FlowSpec::at_server) is the system resolver's
    /// nevertheless.
    ///
    /// ```
    /// use std::net::{IpAddr, Ipv4Addr};
    ///
    /// use ouroboros::transport::Udp;
    ///
    /// let layer = Udp::connect_only(IpAddr::from(Ipv4Addr::UNSPECIFIED))
    ///     .resolver(|name| match name.to_string().as_str() {
    ///         "office" => Ok(vec![([192, 0, 2, 1], 3435).into(), ([192, 0, 2, 2], 3435).into()]),
    ///         _ => Ok(Vec::new()),
    ///     });
    /// ```
    #[must_use]
    pub fn resolver(
        mut self,
        resolver: impl Fn(&Name) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Resolver::Given(Arc::new(resolver));
        self
    }
}

impl IntoTransport for Udp {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        let remote_port = self.remote_port.or(self.port).unwrap_or(Self::PORT);
        let address = self.address.to_canonical();
        let scope = match (self.zone, is_link_local(address)) {
            (Some(zone), true) => {
                link::zone_index(&zone).map_err(|_| OpenError::NoSuchInterface(zone))?
            }
            (None, true) => return Err(OpenError::ZoneRequired(address)),
            (_, false) => 0,
        };
        let own = with_scope(address, self.port.unwrap_or(0), scope);
        let mut resolver = self.resolver;
        if let Resolver::Server(server) = &mut resolver {
            *server = in_zone_of(own, *server);
            if lacks_zone(*server) {
                return Err(OpenError::ZoneRequired(server.ip()));
            }
        }
        let listener = match self.port {
            Some(_) => Some(Arc::new(listen(own, self.mark)?)),
            None => {
                // Says now rather than at the first flow if the address is wrong.
                bind(own, false, self.mark).map_err(|error| unusable(error, own))?;
                None
            }
        };
        let own = listener.as_deref().map_or(Ok(own), local_address)?;
        let both_families = listener.as_deref().is_some_and(|it| is_of_both_families(it, own));
        let shared = Arc::new(Shared {
            listener,
            own,
            both_families,
            mark: self.mark,
            namespace: Arc::new(NetworkNamespace::current()),
            routes: Mutex::default(),
            off_path_handlers: Mutex::default(),
            connected: Arc::default(),
            oversized: Oversized::default(),
        });
        Ok(Arc::new(Attachment { shared, remote_port, resolver }))
    }
}

fn udp_address(peer: PeerAddress) -> io::Result<SocketAddr> {
    match peer {
        PeerAddress::Udp(address) => Ok(canonical(address)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a UDP address")),
    }
}

/// The path over a socket from another process; see [`Path::hand_over`].
pub(super) fn from_handed(
    socket: Socket,
    local: Eid,
    remote: Eid,
    peer: PeerAddress,
) -> io::Result<Arc<dyn Path>> {
    let peer_address = udp_address(peer)?;
    let path = ConnectedPath::requester(connected(socket, peer_address)?, local, peer_address)?;
    path.connect(remote, peer)?;
    Ok(Arc::new(path))
}

fn split_eid(frame: &[u8]) -> Option<(Eid, &[u8])> {
    let (eid, rest) = frame.split_first_chunk::<EID>()?;
    Some((Eid(u32::from_be_bytes(*eid)), rest))
}

fn with_eid(eid: Eid, payload: &[u8]) -> Vec<u8> {
    [&eid.0.to_be_bytes(), payload].concat()
}

/// Frames for a flow whose peer's address has a connected socket already.
type Route = Queue<Vec<u8>>;

/// Flows whose peers may move, by endpoint id.
type OffPathHandlers = Mutex<HashMap<Eid, Weak<TakeFrame>>>;

/// Peers that some responder path's socket is connected to.
type Connected = Mutex<HashSet<SocketAddr>>;

/// The state that the paths of one IPCP share.
struct Shared {
    listener: Option<Arc<Socket>>,
    own: SocketAddr,
    /// Whether the listener serves IPv4 as well as IPv6.
    both_families: bool,
    /// The mark of what the sockets send; 0: none.
    mark: u32,
    /// Where the paths' sockets are.
    namespace: Arc<NetworkNamespace>,
    /// Flows that receive through a queue, by endpoint id and peer.
    routes: Mutex<HashMap<(Eid, SocketAddr), Weak<Route>>>,
    off_path_handlers: OffPathHandlers,
    /// Apart, because paths hold on to it and must not to the listener: it
    /// closes with the IPCP, while flows may go on.
    connected: Arc<Connected>,
    oversized: Oversized,
}

impl Shared {
    /// Returns the address that the listening socket has for a peer.
    fn at_listener(&self, peer: SocketAddr) -> SocketAddr {
        if self.both_families { mapped(peer) } else { peer }
    }

    /// Gives a data frame to the queue of its flow, or drops it.
    fn route(&self, eid: Eid, from: SocketAddr, payload: &mut [u8]) {
        let route = lock(&self.routes).get(&(eid, from)).and_then(Weak::upgrade);
        if let Some(route) = route {
            route.push(payload.to_vec());
            return;
        }
        let handler = lock(&self.off_path_handlers).get(&eid).map(Weak::upgrade);
        match handler {
            Some(Some(take)) => take(PeerAddress::Udp(from), payload),
            Some(None) => {
                lock(&self.off_path_handlers).remove(&eid);
            }
            None => {}
        }
    }
}

struct Attachment {
    shared: Arc<Shared>,
    remote_port: u16,
    resolver: Resolver,
}

impl Transport for Attachment {
    fn dialect(&self) -> Dialect {
        Dialect::Udp
    }

    fn directory_hash(&self) -> DirectoryHash {
        DirectoryHash::Md5
    }

    fn description(&self) -> String {
        match self.shared.listener {
            Some(_) => format!("udp on {}", self.shared.own),
            None => format!("udp from {}", self.shared.own.ip()),
        }
    }

    fn management(&self) -> Option<Arc<dyn Management>> {
        let socket = Arc::clone(self.shared.listener.as_ref()?);
        let buffer = Mutex::new(vec![0; 1 << 16]);
        Some(Arc::new(UdpManagement { shared: Arc::clone(&self.shared), socket, buffer }))
    }

    fn resolve(&self, name: &Name) -> Option<io::Result<Vec<PeerAddress>>> {
        let Shared { own, namespace, .. } = &*self.shared;
        let found = self.resolver.resolve(name, self.remote_port, *own, namespace);
        Some(found.map(|found| found.into_iter().map(PeerAddress::Udp).collect()))
    }

    fn resolves_at_once(&self) -> bool {
        matches!(self.resolver, Resolver::Server(_))
    }

    fn resolve_server(&self, server: &ServerHost) -> Option<io::Result<Vec<PeerAddress>>> {
        let Shared { own, namespace, .. } = &*self.shared;
        let port = server.port().unwrap_or(self.remote_port);
        let found = resolver::resolve_host(server.host(), port, *own, namespace);
        Some(found.map(|found| found.into_iter().map(PeerAddress::Udp).collect()))
    }

    fn open_requester(&self, local: Eid, peer: Option<PeerAddress>) -> io::Result<Arc<dyn Path>> {
        let peer = peer.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a UDP flow needs the peer's address")
        })?;
        let peer = udp_address(peer)?;
        let Shared { own, namespace, mark, .. } = &*self.shared;
        let path = namespace
            .run(|| ConnectedPath::requester(requesting(*own, peer, *mark)?, local, peer))?;
        Ok(Arc::new(path.inside(namespace)))
    }

    fn open_responder(
        &self,
        local: Eid,
        remote: Eid,
        peer: PeerAddress,
    ) -> io::Result<Arc<dyn Path>> {
        let peer = udp_address(peer)?;
        let Some(listener) = &self.shared.listener else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this IPCP only connects"));
        };
        if !lock(&self.shared.connected).insert(peer) {
            let listener = Arc::clone(listener);
            let open = || SharedPath::new(&self.shared, listener, local, remote, peer);
            return Ok(Arc::new(self.shared.namespace.run(open)?));
        }
        let opened = self.shared.namespace.run(|| {
            let socket = bind(beside(self.shared.own, peer), true, self.shared.mark)?;
            ConnectedPath::responder(&self.shared.connected, socket, local, remote, peer)
        });
        match opened {
            Ok(path) => Ok(Arc::new(path)),
            Err(error) => {
                lock(&self.shared.connected).remove(&peer);
                Err(error)
            }
        }
    }

    fn oversized(&self) -> u64 {
        self.shared.oversized.count()
    }

    fn has_shared_socket(&self) -> bool {
        true
    }

    fn watch_off_path(&self, local: Eid, take: &OffPathHandler) {
        let mut off_path_handlers = lock(&self.shared.off_path_handlers);
        if off_path_handlers.len() >= off_path_handlers.capacity() {
            off_path_handlers.retain(|_, take| take.strong_count() > 0);
        }
        off_path_handlers.insert(local, Arc::downgrade(take));
    }

    fn dispatch(&self, stray: Stray) -> Option<(PeerAddress, Vec<u8>)> {
        let from = udp_address(stray.from).ok()?;
        let (eid, payload) = split_eid(&stray.frame)?;
        if eid == Eid::MANAGEMENT {
            if stray.frame.len() > LARGEST_MANAGEMENT {
                self.shared.oversized.add();
                return None;
            }
            return Some((stray.from, payload.to_vec()));
        }
        self.shared.route(eid, from, &mut payload.to_vec());
        None
    }
}

/// The listening socket: management, and the frames of flows that have no
/// socket of their own.
struct UdpManagement {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
    buffer: Mutex<Vec<u8>>,
}

impl Management for UdpManagement {
    fn send(&self, to: Destination, message: &[u8]) -> io::Result<()> {
        let Destination::Peer(peer) = to else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "UDP has no broadcast"));
        };
        let frame = with_eid(Eid::MANAGEMENT, message);
        let to = self.shared.at_listener(udp_address(peer)?);
        rustix::net::sendto(&*self.socket, &frame, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, PeerAddress)> {
        let mut datagram = lock(&self.buffer);
        // A bound on the work of one call; what is left keeps the socket ready.
        for _ in 0..LOOKED_AT {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let (_, length, from) =
                rustix::net::recvfrom(&*self.socket, datagram.as_mut_slice(), flags)?;
            let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else {
                continue;
            };
            let from = canonical(from);
            let Some((eid, payload)) = datagram.get(..length).and_then(split_eid) else {
                continue;
            };
            if eid != Eid::MANAGEMENT {
                self.shared.route(eid, from, &mut datagram[EID..length]);
            } else if length > LARGEST_MANAGEMENT {
                self.shared.oversized.add();
            } else if let Some(size) = self.shared.oversized.take(payload, buffer) {
                return Ok((size, PeerAddress::Udp(from)));
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
