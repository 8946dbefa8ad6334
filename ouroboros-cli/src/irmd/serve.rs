//! Serves applications: a task for each connection, one request each. A
//! connection that fails ends its task, never the daemon.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_lite::future;
use ouroboros::{
    FlowSpec, RawFlow,
    crypto::Suite,
    daemon::{
        Connection, Listener,
        protocol::{Request, Response},
        relay,
    },
    wire::Name,
};

use super::State;

/// Connections served at once.
const LARGEST_CROWD: usize = 1024;
/// A connection that has not asked by then is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves whoever connects, for ever.
pub async fn serve(state: Arc<State>, listener: &Listener) {
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
        let (state, crowd) = (state.clone(), crowd.clone());
        async_std::task::spawn(async move {
            if let Err(error) = answer(&state, &connection).await {
                tracing::debug!(%error, "connection ended");
            }
            crowd.fetch_sub(1, Relaxed);
        });
    }
}

async fn answer(state: &State, connection: &Connection) -> io::Result<()> {
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
    let outcome = match request {
        Request::Accept { name } => accept(state, connection, name).await?,
        Request::Allocate { name, qos, suite, timeout } => {
            let spec = FlowSpec::with_qos(qos).timeout(Duration::from_millis(timeout));
            let suite = suite.as_ref().map(Suite::try_from).transpose();
            match (name.parse::<Name>(), suite) {
                (Ok(name), Ok(suite)) => allocate(state, connection, &name, spec, suite).await?,
                (Err(error), _) => Err(error.to_string()),
                (_, Err(error)) => Err(error.to_string()),
            }
        }
        request => {
            let response = state.handle(request).await.unwrap_or_else(Response::Error);
            return connection.send(&response, None).await;
        }
    };
    match outcome {
        Ok(flow) => hand_over(connection, flow).await,
        Err(reason) => connection.send(&Response::Error(reason), None).await,
    }
}

async fn hand_over(connection: &Connection, flow: RawFlow) -> io::Result<()> {
    tracing::info!(name = %flow.info.name, peer = %flow.info.peer, "flow allocated");
    let (grant, descriptor) = relay(flow)?;
    connection.send(&Response::Flow(Box::new(grant)), Some(&descriptor)).await
}

/// Ends with an error when the application hangs up.
async fn hang_up(connection: &Connection) -> io::Result<Result<RawFlow, String>> {
    connection.hung_up().await?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn accept(
    state: &State,
    connection: &Connection,
    only: Option<String>,
) -> io::Result<Result<RawFlow, String>> {
    let pid = connection.peer_process()?;
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let executable = executable.as_ref().and_then(|path| path.to_str());
    loop {
        let changed = state.bindings_changed();
        let mut names = state.bound(pid, executable);
        names.retain(|name| only.as_ref().is_none_or(|only| name.as_str() == only));
        if names.is_empty() {
            tracing::info!(pid, ?executable, "accepts flows, but no name is bound to it yet");
        }
        let flow = async {
            loop {
                match state.irm.accept_raw(&names).await {
                    Ok(flow) => return Some(Ok(flow)),
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
        let gone = async { hang_up(connection).await.map(Some) };
        let arrived = async { Ok(future::or(flow, changed).await) };
        // Whoever is gone gets no flow: the next one may.
        if let Some(outcome) = future::or(gone, arrived).await? {
            return Ok(outcome);
        }
    }
}

async fn allocate(
    state: &State,
    connection: &Connection,
    name: &Name,
    spec: FlowSpec,
    suite: Option<Suite>,
) -> io::Result<Result<RawFlow, String>> {
    let spec = match suite.or_else(|| state.client_suite(name)) {
        Some(suite) => spec.suite(suite),
        None => spec,
    };
    let allocated =
        async { Ok(state.irm.allocate_raw(name, spec).await.map_err(|error| error.to_string())) };
    future::or(allocated, hang_up(connection)).await
}
