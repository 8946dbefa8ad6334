//! Serves applications: a task for each connection, one request each. A
//! connection that fails ends its task, never the daemon. That of a flow whose
//! socket the application has lasts as long as the flow.

use std::{
    fs, io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_channel::Receiver;
use futures_lite::future;
use ouroboros::{
    FlowSpec, RawFlow,
    daemon::{
        Connection, DaemonError, Failure, Listener, attend, attend_reported, hand_over,
        protocol::{FlowEntry, FlowGrant, ReportedFlow, Request, Response},
        relay, revoke,
        security::FlowSecurity,
    },
    error::TooManyFlows,
    log::Limited,
    proto::negotiation::Profile,
    transport::{HandOver, Handed},
    wire::Name,
};

use super::{
    Error, State,
    connections::{ConnectionSlot, Connections},
    flows::Admitted,
    untaken::close,
};

/// A connection that has not asked by then is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a program may take to take a flow that it is offered.
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to look whether files of trust have changed.
const REFRESH: Duration = Duration::from_secs(1);
/// How long an application may take to end a relayed flow that it may not have any
/// more.
const REVOKED: Duration = Duration::from_secs(1);
/// How long to wait when there are no descriptors for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves whoever connects, for ever.
pub async fn serve(state: Arc<State>, listener: &Listener) {
    State::admit_invited(&state);
    let watch = async {
        loop {
            async_io::Timer::after(REFRESH).await;
            state.refresh();
        }
    };
    future::or(connections(state.clone(), listener), watch).await
}

async fn connections(state: Arc<State>, listener: &Listener) {
    let connections = Connections::default();
    let (exhausted, turned_away) = (Limited::new(), Limited::new());
    loop {
        let connection = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                if let Some(times) = exhausted.report() {
                    tracing::warn!(%error, times, "cannot take a connection");
                }
                // Out of descriptors, most likely: let some end.
                async_io::Timer::after(EXHAUSTED).await;
                continue;
            }
        };
        let user = connection.peer_user().unwrap_or(u32::MAX);
        let Some(slot) = connections.enter(user) else {
            if let Some(times) = turned_away.report() {
                tracing::warn!(user, times, "too many connections: refused");
            }
            // If there is no room for it, the end of the connection says enough.
            drop(future::poll_once(refuse(&connection, DaemonError::Busy.into())).await);
            continue;
        };
        let state = state.clone();
        async_std::task::spawn(async move {
            if let Err(error) = answer(&state, &connection, slot).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

async fn answer(state: &State, connection: &Connection, slot: ConnectionSlot) -> io::Result<()> {
    let evicted = async {
        slot.evicted().await;
        Err(io::ErrorKind::ConnectionAborted.into())
    };
    let late = async {
        async_io::Timer::after(REQUEST_TIMEOUT).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let asked = future::or(connection.receive::<Request>(), future::or(evicted, late));
    let request = match asked.await {
        Ok((request, _)) => request,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return refuse(connection, Failure::other(format!("not a request: {error}"))).await;
        }
        Err(error) => return Err(error),
    };
    slot.has_asked();
    tracing::debug!(?request);
    match request {
        Request::Accept { name, program, demands } => loop {
            if let Err(error) = state.demand(connection.peer_process()?, &demands) {
                return refuse(connection, error.into()).await;
            }
            let flow = accept(state, connection, name.as_deref(), program.as_deref()).await?;
            if state.flows.are_full(is_relayed(&flow, connection)) {
                tracing::debug!(peer = %flow.info.peer, "too many flows: one that was accepted is closed");
                close(flow);
                continue;
            }
            // The flow is this program's only when it says so. Until then it may be
            // anybody's who waits.
            if let Err(error) = offer(connection).await {
                state.give_back(flow);
                return Err(error);
            }
            match Given::admit(state, connection, flow, true) {
                Err(failure) => {
                    tracing::warn!(%failure, "a flow that was accepted is closed");
                    return refuse(connection, failure.into()).await;
                }
                Ok(given) => return given.send(connection, slot).await,
            }
        },
        Request::Allocate { name, qos, security, timeout, server } => {
            let mut spec = FlowSpec::with_qos(qos).timeout(Duration::from_millis(timeout));
            if let Some(server) = server {
                spec = spec.at_server(server);
            }
            let security = security.as_ref();
            let flow = match name.parse::<Name>() {
                Ok(name) => allocate(state, connection, &name, spec, security).await?,
                Err(error) => Err(error.into()),
            };
            match flow.and_then(|flow| Given::admit(state, connection, flow, false)) {
                Ok(given) => given.send(connection, slot).await,
                Err(failure) => refuse(connection, failure.into()).await,
            }
        }
        Request::ReportFlow(flow) => keep(state, connection, *flow, slot).await,
        request => {
            let response = state.handle(request).await;
            let response = response.unwrap_or_else(|error| Response::Error(error.into()));
            for part in response.parts() {
                connection.send(&part, None).await?;
            }
            Ok(())
        }
    }
}

async fn refuse(connection: &Connection, failure: Failure) -> io::Result<()> {
    connection.send(&Response::Error(failure), None).await
}

/// Offers a flow to a program that waits, until it says that it takes it.
async fn offer(connection: &Connection) -> io::Result<()> {
    connection.send(&Response::Offered, None).await?;
    let late = async {
        async_io::Timer::after(TAKE_TIMEOUT).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    match future::or(connection.receive::<Request>(), late).await?.0 {
        Request::Take => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Returns `true` if the frames of the flow would have to pass through the daemon.
fn is_relayed(flow: &RawFlow, connection: &Connection) -> bool {
    match flow.path.hand_over() {
        Some(Ok(HandOver { kind: Handed::EthDix(_), .. })) => !may_have_packet_socket(connection),
        Some(Ok(_)) => false,
        _ => true,
    }
}

/// A flow that an application gets.
struct Given {
    flow: RawFlow,
    /// The grant and the flow's own socket; `None` if it is relayed.
    handed: Option<(FlowGrant, OwnedFd)>,
    /// Says something when the name's policy does not allow the flow any more.
    revoked: Receiver<()>,
}

impl Given {
    /// Decides how the application gets the flow, if it may have one more.
    ///
    /// # Errors
    ///
    /// It may not, or the flow's socket cannot leave the daemon.
    fn admit(
        state: &State,
        connection: &Connection,
        mut flow: RawFlow,
        accepted: bool,
    ) -> Result<Self, Error> {
        let handed =
            hand_over(&mut flow, may_have_packet_socket(connection)).map_err(Error::HandOver)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let reported = ReportedFlow { info: flow.info.clone(), accepted, since };
        let (admitted, revoked) = admit(state, connection, reported, handed.is_none())?;
        flow.release = Some(Box::new((flow.release.take(), admitted)));
        Ok(Self { flow, handed, revoked })
    }

    /// Sends the flow to the application, and attends to it if its packets do
    /// not pass here.
    async fn send(self, connection: &Connection, slot: ConnectionSlot) -> io::Result<()> {
        match self.handed {
            Some((grant, socket)) => {
                connection.send(&Response::Flow(Box::new(grant)), Some(&socket)).await?;
                drop((socket, slot));
                until_ended(connection, &self.revoked, attend(self.flow, connection)).await
            }
            None => {
                let (grant, end, closer) = relay(self.flow)?;
                connection.send(&Response::Flow(Box::new(grant)), Some(&end)).await?;
                drop((end, slot));
                // An error says that the flow has been let go.
                if self.revoked.recv().await.is_ok() {
                    // An application that ends the flow itself tells its peer.
                    revoke(connection);
                    async_io::Timer::after(REVOKED).await;
                    closer.close();
                }
                Ok(())
            }
        }
    }
}

/// Lists a flow that the application has, and ends it if its name's policy does not allow it.
///
/// # Errors
///
/// Applications have as many flows of its kind as they may.
fn admit(
    state: &State,
    connection: &Connection,
    flow: ReportedFlow,
    relayed: bool,
) -> Result<(Admitted, Receiver<()>), TooManyFlows> {
    let ReportedFlow { info, accepted, since } = flow;
    let entry = FlowEntry {
        name: info.name.to_string(),
        peer: info.peer.to_string(),
        local: info.local,
        remote: info.remote,
        encryption: info.suite.map_or_else(|| "none".to_owned(), |suite| suite.to_string()),
        native: info.profile == Some(Profile::Native),
        identity: info.identity.clone(),
        relayed,
        process: connection.peer_process().ok(),
        since: Some(since),
    };
    let FlowEntry { name, peer, .. } = &entry;
    tracing::info!(name, peer, relayed, "flow allocated");
    let (admitted, revoked) = state.flows.admit(entry, accepted.then(|| info.clone()))?;
    // From here on a stricter policy finds it; one that came before does not.
    if accepted && !state.irm.permits(&info) {
        admitted.revoke();
    }
    Ok((admitted, revoked))
}

/// Keeps a flow that has outlived an earlier daemon in the list, until its application ends
/// it, and revokes it when its name's policy does not allow it.
async fn keep(
    state: &State,
    connection: &Connection,
    flow: ReportedFlow,
    slot: ConnectionSlot,
) -> io::Result<()> {
    let (_admitted, revoked) = match admit(state, connection, flow, false) {
        Ok(admitted) => admitted,
        Err(error) => return refuse(connection, DaemonError::from(error).into()).await,
    };
    connection.send(&Response::Done, None).await?;
    drop(slot);
    until_ended(connection, &revoked, attend_reported(connection)).await
}

/// Attends to a flow that an application has, and tells it of a revocation.
async fn until_ended(
    connection: &Connection,
    revoked: &Receiver<()>,
    attend: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let revoked = async {
        if revoked.recv().await.is_ok() {
            revoke(connection);
        }
        // The application ends the flow, and with it the connection.
        future::pending().await
    };
    future::or(attend, revoked).await
}

/// Returns `true` if the application may have a packet socket: root's may, unless it has been
/// denied CAP_NET_RAW. The capability alone does not count: a process can pass its connection on
/// and then run a program that has it, but who it was when it connected the kernel has kept.
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
        let changed = state.accepting_changed();
        let mut names = state.bound(pid, program);
        names.retain(|name| only.is_none_or(|only| name.as_str() == only));
        if names.is_empty() {
            tracing::info!(pid, ?program, "accepts flows, but no name is bound to it yet");
        }
        if let Some(flow) = state.take_back(&names) {
            return Ok(flow);
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
) -> io::Result<Result<RawFlow, Error>> {
    let allocated = async { Ok(state.allocate(name, spec, security).await) };
    future::or(allocated, hang_up(connection)).await
}
