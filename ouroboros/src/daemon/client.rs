//! Asks `irmd`: one connection a request. A flow that comes with its own socket
//! keeps its connection as the control channel.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use async_channel::Sender;
use async_io::Timer;
use futures_lite::future;

use super::{
    Connection, DaemonError,
    accept::Acceptor,
    channel::Channel,
    control::{LARGEST_MESSAGE, Message},
    protocol::{DataPath, ReportedFlow, Request, Response},
    relay::RelayPath,
    security::FlowSecurity,
    socket_path,
};
use crate::{
    driver,
    error::{AllocateError, LayerError, NotEmbedded, PolicyError},
    flow::{FlowCloser, FlowSpec, RawFlow},
    proto::negotiation::ServerSecurity,
    transport::{HandOver, OffPathHandler, Stray, TakeFrame},
    wire::Name,
};

/// How long the daemon may take to answer what it can answer at once.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A daemon that can be asked. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    acceptor: Arc<Acceptor>,
}

impl Client {
    /// The daemon at [`socket_path`]; whether it runs shows when it is asked.
    pub fn new() -> Self {
        Self::at(socket_path())
    }

    /// The daemon at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path, acceptor: Arc::default() }
    }

    /// Asks, and waits for the answer, for 10 s at most.
    ///
    /// Cancel safe in that nothing is lost; whether the daemon has done what was
    /// asked is not known then.
    ///
    /// # Errors
    ///
    /// As [`LayerError`] says; what has no type of its own is a
    /// [`DaemonError::Refused`].
    pub async fn ask(&self, request: &Request) -> Result<Response, LayerError> {
        match exchange(&self.path, request, ANSWER_TIMEOUT).await?.0 {
            (Response::Error(failure), _) => Err(failure.into()),
            (response, _) => Ok(response),
        }
    }

    /// Waits for a flow to a name that is bound to this process or its
    /// program; only to `name` if there is one. If the daemon goes away
    /// meanwhile, waits for the next one, too.
    ///
    /// Cancel safe: a flow that was taken from the daemon is kept for the next
    /// call.
    ///
    /// # Errors
    ///
    /// As [`AllocateError`] says.
    pub async fn accept(&self, name: Option<&str>) -> Result<RawFlow, AllocateError> {
        self.acceptor.accept(&self.path, name.map(str::to_owned)).await
    }

    /// Demands `security` of flows to `name` that are accepted by this client and its
    /// clones, beyond what the daemon has for the name. The daemon demands it of
    /// all flows to the name as long as this process lives, from the next
    /// [`accept`](Self::accept) on.
    ///
    /// # Errors
    ///
    /// As [`PolicyError`] says; then nothing is accepted for the name.
    pub fn set_policy(&self, name: Name, security: ServerSecurity) -> Result<(), PolicyError> {
        self.acceptor.set_policy(name, security)
    }

    /// Allocates a flow to `name`. Cancel safe: the daemon gives the allocation up.
    ///
    /// # Errors
    ///
    /// As [`AllocateError`] says. A spec with an identity of its own is refused:
    /// its key would have to leave this process.
    pub async fn allocate(&self, name: &str, spec: FlowSpec) -> Result<RawFlow, AllocateError> {
        let security = spec.security();
        if security.is_some_and(|security| security.identity.is_some()) {
            let operation = "allocate with an identity";
            let instead = "flows have the identity of irmd: ask for it with_manager_identity";
            return Err(NotEmbedded { operation, instead }.into());
        }
        let timeout = spec.allocation_timeout();
        let request = Request::Allocate {
            name: name.to_owned(),
            qos: spec.qos(),
            security: security.map(|asked| FlowSecurity {
                asked: asked.clone(),
                manager_identity: spec.manager_identity,
            }),
            timeout: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            server: spec.server.clone(),
        };
        let patience = timeout.saturating_add(ANSWER_TIMEOUT);
        let (answer, connection) = exchange(&self.path, &request, patience).await?;
        flow_of(answer, connection, &self.path, false).await
    }
}

/// Asks the daemon at `path`; the answer with all its parts, and the connection.
pub(super) async fn exchange(
    path: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<(Answer, Connection), DaemonError> {
    let asked = async {
        let connection = open(path).await?;
        connection.send(request, None).await?;
        let (mut response, descriptor) = connection.receive::<Response>().await?;
        let mut more = response.continues();
        while more {
            let (part, _) = connection.receive::<Response>().await?;
            let last = response.extend(part);
            more = !last.ok_or_else(|| io::Error::other("not the rest of the list"))?;
        }
        Ok(((response, descriptor), connection))
    };
    let late = async {
        Timer::after(timeout).await;
        Err(DaemonError::NotAnswering(path.display().to_string()))
    };
    future::or(asked, late).await
}

/// Connects to the daemon at `path`.
pub(super) async fn open(path: &Path) -> Result<Connection, DaemonError> {
    let at = || path.display().to_string();
    Connection::open(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => DaemonError::NotRunning(at()),
        io::ErrorKind::PermissionDenied => DaemonError::NotPermitted(at()),
        _ => DaemonError::Lost(error),
    })
}

/// A response, and the descriptor that came with it.
pub(super) type Answer = (Response, Option<OwnedFd>);

/// The flow that the daemon at `daemon` grants, on the connection that becomes its control
/// channel.
pub(super) async fn flow_of(
    answer: Answer,
    connection: Connection,
    daemon: &Path,
    accepted: bool,
) -> Result<RawFlow, AllocateError> {
    let (grant, descriptor) = match answer {
        (Response::Flow(grant), Some(descriptor)) => (grant, descriptor),
        (Response::Error(failure), _) => return Err(failure.into()),
        _ => return Err(io::Error::other("not the answer to the question").into()),
    };
    let (info, keys) = grant.open().map_err(io::Error::other)?;
    let since = driver::now().utc / 1_000_000_000;
    let reported = ReportedFlow { info: info.clone(), accepted, since };
    let kind = match &grant.path {
        DataPath::Relay => {
            let connection = Arc::new(connection);
            let channel = Channel::new(daemon, reported, connection.clone());
            let held = Held(Arc::new(channel));
            let path = Arc::new(RelayPath::new(descriptor, grant.largest_frame));
            let closer = move |closer: FlowCloser| {
                driver::spawn(close_when_revoked(connection, closer)).detach();
            };
            let (early, strays, off_path) = (Vec::new(), None, None);
            let (closer, release) = (Some(Box::new(closer) as _), Some(Box::new(held) as _));
            return Ok(RawFlow { path, info, keys, early, strays, off_path, closer, release });
        }
        DataPath::Socket(kind) => kind.clone(),
    };
    let handed = HandOver { socket: descriptor, kind };
    let path = handed.open((info.local, info.remote), info.peer)?;
    let mut early = Vec::new();
    let mut buffer = vec![0; LARGEST_MESSAGE];
    for _ in 0..grant.early {
        // If the daemon has ended, the flow has not.
        let Ok(size) = connection.receive_datagram(&mut buffer).await else { break };
        if let Some(Message::Frame(_, frame)) = buffer.get(..size).and_then(Message::parse) {
            early.push(frame.to_vec());
        }
    }
    let channel = Arc::new(Channel::new(daemon, reported, Arc::new(connection)));
    let held = Held(channel.clone());
    let control = channel.clone();
    let strays = move |stray: Stray| {
        if let Some((head, frame)) = Message::Stray(stray.from, &stray.frame).encode()
            && let Some(connection) = control.connection()
        {
            // Lost if the channel is full or the daemon has ended: nothing
            // here may hold up the flow's own packets.
            let _ = connection.try_send_datagram(&[&head, frame]);
        }
    };
    let (revoke, revoked) = async_channel::bounded(1);
    let off_path = move |take: &OffPathHandler| {
        driver::spawn(frames_from_elsewhere(channel, Arc::downgrade(take), revoke)).detach();
    };
    let closer = move |closer: FlowCloser| {
        let ended = async move {
            if revoked.recv().await.is_ok() {
                tracing::warn!("a flow does not meet its name's policy any more: closed");
                closer.close();
            }
        };
        driver::spawn(ended).detach();
    };
    let closer = Some(Box::new(closer) as _);
    let (strays, release) = (Some(Box::new(strays) as _), Some(Box::new(held) as _));
    let off_path = Some(Box::new(off_path) as _);
    Ok(RawFlow { path, info, keys, early, strays, off_path, closer, release })
}

/// Takes the frames that reach the daemon, this one or the next, until the flow has ended.
async fn frames_from_elsewhere(channel: Arc<Channel>, take: Weak<TakeFrame>, revoke: Sender<()>) {
    let mut buffer = vec![0; LARGEST_MESSAGE];
    let mut next = channel.connection();
    while let Some(connection) = next {
        while let Ok(size @ 1..) = connection.receive_datagram(&mut buffer).await {
            match buffer.get(..size).and_then(Message::parse) {
                Some(Message::Frame(from, frame)) => {
                    let Some(take) = take.upgrade() else { return };
                    take(from, &mut frame.to_vec());
                }
                Some(Message::Revoked) => drop(revoke.try_send(())),
                _ => {}
            }
        }
        next = channel.report().await;
    }
}

/// Closes a relayed flow when the daemon says so.
async fn close_when_revoked(channel: Arc<Connection>, closer: FlowCloser) {
    let mut buffer = [0; 16];
    while let Ok(size @ 1..) = channel.receive_datagram(&mut buffer).await {
        if buffer.get(..size).and_then(Message::parse) == Some(Message::Revoked) {
            tracing::warn!("a flow does not meet its name's policy any more: closed");
            closer.close();
        }
    }
}

/// The flow's place at the daemon: given back when dropped.
struct Held(Arc<Channel>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}
