//! Asks `irmd`: one connection a request. A flow that comes with its own socket
//! keeps its connection as the control channel.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use async_io::Timer;

use super::{
    Connection, DaemonError,
    control::{LARGEST_MESSAGE, Message},
    protocol::{DataPath, Request, Response},
    relay::RelayPath,
    security::FlowSecurity,
    socket_path,
};
use crate::{
    driver,
    flow::{FlowSpec, RawFlow},
    transport::{HandOver, Stray, TakeFrame, Wanderer},
};

/// How often to look whether the daemon is back.
const RETRY: Duration = Duration::from_millis(500);

/// A daemon that can be asked.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The daemon at [`socket_path`]; whether it runs shows when it is asked.
    pub fn new() -> Self {
        Self::at(socket_path())
    }

    /// The daemon at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`DaemonError`] says; [`Response::Error`] becomes
    /// [`DaemonError::Refused`].
    pub async fn ask(&self, request: &Request) -> Result<Response, DaemonError> {
        self.exchange(request).await.map(|(response, ..)| response)
    }

    async fn exchange(
        &self,
        request: &Request,
    ) -> Result<(Response, Option<OwnedFd>, Connection), DaemonError> {
        let at = || self.path.display().to_string();
        let connection = Connection::open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                DaemonError::NotRunning(at())
            }
            io::ErrorKind::PermissionDenied => DaemonError::NotPermitted(at()),
            _ => DaemonError::Lost(error),
        })?;
        connection.send(request, None).await?;
        match connection.receive().await? {
            (Response::Error(reason), _) => Err(DaemonError::Refused(reason)),
            (response, descriptor) => Ok((response, descriptor, connection)),
        }
    }

    /// Waits for a flow to a name that is bound to this process or its
    /// program; only to `name` if there is one. If the daemon goes away
    /// meanwhile, waits for the next one, too.
    ///
    /// # Errors
    ///
    /// As [`DaemonError`] says.
    pub async fn accept(&self, name: Option<&str>) -> Result<RawFlow, DaemonError> {
        let program = std::env::current_exe().ok().and_then(|path| Some(path.to_str()?.to_owned()));
        let request = Request::Accept { name: name.map(str::to_owned), program };
        let mut waited = false;
        loop {
            match self.flow(&request).await {
                Err(DaemonError::Lost(error)) if is_hang_up(&error) => {
                    tracing::info!("irmd has ended: waiting for it to come back");
                    waited = true;
                }
                Err(DaemonError::NotRunning(_)) if waited => {}
                outcome => return outcome,
            }
            Timer::after(RETRY).await;
        }
    }

    /// Allocates a flow to `name`.
    ///
    /// # Errors
    ///
    /// As [`DaemonError`] says. A spec with an identity of its own is refused:
    /// its key would have to leave this process.
    pub async fn allocate(&self, name: &str, spec: FlowSpec) -> Result<RawFlow, DaemonError> {
        let security = spec.security();
        if security.is_some_and(|security| security.identity.is_some()) {
            let reason = "flows through irmd have irmd's identity: ask for it with `identified`";
            return Err(DaemonError::Refused(reason.to_owned()));
        }
        self.flow(&Request::Allocate {
            name: name.to_owned(),
            qos: spec.qos(),
            security: security.map(|security| FlowSecurity::new(security, spec.identified)),
            timeout: u64::try_from(spec.allocation_timeout().as_millis()).unwrap_or(u64::MAX),
        })
        .await
    }

    async fn flow(&self, request: &Request) -> Result<RawFlow, DaemonError> {
        let (Response::Flow(grant), Some(descriptor), connection) = self.exchange(request).await?
        else {
            return Err(io::Error::other("not the answer to the question").into());
        };
        let (info, keys) = grant.open().map_err(io::Error::other)?;
        let kind = match &grant.path {
            DataPath::Relay => {
                let path = Arc::new(RelayPath::new(descriptor, grant.largest_frame));
                let (early, strays, elsewhere, release) = (Vec::new(), None, None, None);
                return Ok(RawFlow { path, info, keys, early, strays, elsewhere, release });
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
        let control = Arc::new(connection);
        let held = Held(control.clone());
        let strays = move |stray: Stray| {
            if let Some((head, frame)) = Message::Stray(&stray.frame).encode() {
                // Lost if the channel is full or the daemon has ended: nothing
                // here may hold up the flow's own packets.
                let _ = control.try_send_datagram(&[&head, frame]);
            }
        };
        let channel = held.0.clone();
        let elsewhere = move |take: &Wanderer| {
            driver::spawn(frames_from_elsewhere(channel, Arc::downgrade(take))).detach();
        };
        let (strays, release) = (Some(Box::new(strays) as _), Some(Box::new(held) as _));
        let elsewhere = Some(Box::new(elsewhere) as _);
        Ok(RawFlow { path, info, keys, early, strays, elsewhere, release })
    }
}

/// Takes the frames that reached the daemon, until it or the flow has ended.
async fn frames_from_elsewhere(channel: Arc<Connection>, take: Weak<TakeFrame>) {
    let mut buffer = vec![0; LARGEST_MESSAGE];
    while let Ok(size @ 1..) = channel.receive_datagram(&mut buffer).await {
        if let Some(Message::Frame(from, frame)) = buffer.get(..size).and_then(Message::parse) {
            let Some(take) = take.upgrade() else { return };
            take(from, &mut frame.to_vec());
        }
    }
}

/// The flow's place at the daemon: given back when dropped.
struct Held(Arc<Connection>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}
