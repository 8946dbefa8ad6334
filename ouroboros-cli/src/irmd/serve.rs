//! Serves applications: a task for each connection, one request each. A
//! connection that fails ends its task, never the daemon. That of a flow whose
//! socket the application has lasts as long as the flow.

use std::{
    fs, io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_lite::future;
use ouroboros::{
    FlowSpec, RawFlow,
    daemon::{
        Connection, Listener, attend, hand_over,
        protocol::{FlowEntry, FlowGrant, Request, Response},
        relay,
        security::{FlowSecurity, PeerData},
    },
    proto::negotiation::Profile,
    wire::Name,
};

use super::State;

/// Connections served at once, without those of flows.
const LARGEST_CROWD: usize = 1024;
/// A connection that has not asked by then is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether files of trust have changed.
const REFRESH: Duration = Duration::from_secs(1);

/// A place in the crowd.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Serves whoever connects, for ever.
pub async fn serve(state: Arc<State>, listener: &Listener) {
    let watch = async {
        loop {
            async_io::Timer::after(REFRESH).await;
            state.refresh();
        }
    };
    future::or(connections(state.clone(), listener), watch).await
}

async fn connections(state: Arc<State>, listener: &Listener) {
    let crowd = Arc::new(AtomicUsize::new(0));
    loop {
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                // Out of descriptors, most likely: let some end.
                async_io::Timer::after(Duration::from_millis(100)).await;
                continue;
            }
        };
        if crowd.load(Relaxed) >= LARGEST_CROWD {
            tracing::warn!("too many connections: one turned away");
            continue;
        }
        crowd.fetch_add(1, Relaxed);
        let (state, place) = (state.clone(), Place(crowd.clone()));
        async_std::task::spawn(async move {
            if let Err(error) = answer(&state, &connection, place).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

async fn answer(state: &State, connection: &Connection, place: Place) -> io::Result<()> {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let request = match future::or(connection.receive::<Request>(), late).await {
        Ok((request, _)) => request,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return connection.send(&Response::Error("not a request".to_owned()), None).await;
        }
        Err(error) => return Err(error),
    };
    tracing::debug!(?request);
    let flow = match request {
        Request::Accept { name, program } => loop {
            let flow = accept(state, connection, name.as_deref(), program.as_deref()).await?;
            match Given::admit(state, connection, flow) {
                // Its peer learns of it by silence; whoever waits goes on.
                Err(reason) => tracing::warn!(reason, "a flow that was accepted is dropped"),
                Ok(given) => break Ok(given),
            }
        },
        Request::Allocate { name, qos, security, timeout } => {
            let spec = FlowSpec::with_qos(qos).timeout(Duration::from_millis(timeout));
            let security = security.as_ref();
            let flow = match name.parse::<Name>() {
                Ok(name) => allocate(state, connection, &name, spec, security).await?,
                Err(error) => Err(error.to_string()),
            };
            flow.and_then(|flow| Given::admit(state, connection, flow))
        }
        request => {
            let response = state.handle(request).await.unwrap_or_else(Response::Error);
            return connection.send(&response, None).await;
        }
    };
    match flow {
        Ok(given) => given.send(connection, place).await,
        Err(reason) => connection.send(&Response::Error(reason), None).await,
    }
}

/// A flow that an application gets.
struct Given {
    flow: RawFlow,
    /// The grant and the flow's own socket; `None` if it is relayed.
    handed: Option<(FlowGrant, OwnedFd)>,
}

impl Given {
    /// Decides how the application gets the flow, if it may have one more; why
    /// not otherwise.
    fn admit(state: &State, connection: &Connection, mut flow: RawFlow) -> Result<Self, String> {
        let handed = hand_over(&mut flow, may_have_packet_socket(connection))
            .map_err(|error| format!("the flow's socket cannot be handed over: {error}"))?;
        let info = &flow.info;
        let entry = FlowEntry {
            name: info.name.to_string(),
            peer: info.peer.to_string(),
            local: info.local,
            remote: info.remote,
            encryption: info.suite.map_or_else(|| "none".to_owned(), |suite| suite.to_string()),
            native: info.profile == Some(Profile::Native),
            identity: info.identity.as_ref().map(PeerData::from),
            relayed: handed.is_none(),
        };
        let FlowEntry { name, peer, relayed, .. } = &entry;
        tracing::info!(name, peer, relayed, "flow allocated");
        let admitted = state.flows.admit(entry).map_err(|error| error.to_string())?;
        flow.release = Some(Box::new((flow.release.take(), admitted)));
        Ok(Self { flow, handed })
    }

    /// Sends the flow to the application, and attends to it if its packets do
    /// not pass here.
    async fn send(self, connection: &Connection, place: Place) -> io::Result<()> {
        match self.handed {
            Some((grant, socket)) => {
                connection.send(&Response::Flow(Box::new(grant)), Some(&socket)).await?;
                drop((socket, place));
                attend(self.flow, connection).await
            }
            None => {
                let (grant, end) = relay(self.flow)?;
                connection.send(&Response::Flow(Box::new(grant)), Some(&end)).await
            }
        }
    }
}

/// Whether the application may have a packet socket: root's may, unless it has
/// been denied CAP_NET_RAW. The capability alone does not count: a process can
/// pass its connection on and then run a program that has it, but who it was
/// when it connected the kernel has kept.
fn may_have_packet_socket(connection: &Connection) -> bool {
    const NET_RAW: u64 = 1 << 13;
    let capabilities = || {
        let status = fs::read_to_string(format!("/proc/{}/status", connection.peer_process()?))?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        u64::from_str_radix(effective.unwrap_or_default().trim(), 16).map_err(io::Error::other)
    };
    let root = connection.peer_user().is_ok_and(|user| user == 0);
    root && capabilities().is_ok_and(|set| set & NET_RAW != 0)
}

/// Ends with an error when the application hangs up.
async fn hang_up<T>(connection: &Connection) -> io::Result<T> {
    connection.hung_up().await?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn accept(
    state: &State,
    connection: &Connection,
    only: Option<&str>,
    program: Option<&str>,
) -> io::Result<RawFlow> {
    let pid = connection.peer_process()?;
    loop {
        let changed = state.bindings_changed();
        let mut names = state.bound(pid, program);
        names.retain(|name| only.is_none_or(|only| name.as_str() == only));
        if names.is_empty() {
            tracing::info!(pid, ?program, "accepts flows, but no name is bound to it yet");
        }
        let flow = async {
            loop {
                match state.irm.accept_raw(&names).await {
                    Ok(flow) => return Some(flow),
                    // One request is lost, such as one from an address without
                    // a way back. It must not end whoever waits for others.
                    Err(error) => tracing::debug!(%error, "flow request not accepted"),
                }
            }
        };
        let changed = async {
            changed.await;
            None
        };
        let arrived = async { Ok(future::or(flow, changed).await) };
        // Whoever is gone gets no flow: the next one may.
        if let Some(flow) = future::or(hang_up(connection), arrived).await? {
            return Ok(flow);
        }
    }
}

async fn allocate(
    state: &State,
    connection: &Connection,
    name: &Name,
    spec: FlowSpec,
    security: Option<&FlowSecurity>,
) -> io::Result<Result<RawFlow, String>> {
    let allocated = async { Ok(state.allocate(name, spec, security).await) };
    future::or(allocated, hang_up(connection)).await
}
