//! Accepting through the daemon without losing a flow.
//!
//! For each name that is waited for, one task asks the daemon. What it is offered
//! it takes while somebody waits, and what it has taken is kept until an `accept`
//! has it: a future that is dropped loses nothing. When nobody waits any more, the
//! task hangs up, and the daemon offers the flow to the next program.
//!
//! Not here: what is said on the connection (`protocol`), the flow's path
//! (`client`).

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_io::Timer;
use event_listener::{Event, EventListener};
use futures_lite::future;

use super::{
    channel::RETRY,
    client::{flow_of, open},
    path_text::text_of_path,
    protocol::{Request, Response},
    security::NameDemands,
};
use crate::{
    driver,
    error::{AllocateError, DaemonError, PolicyError},
    flow::RawFlow,
    proto::negotiation::ServerSecurity,
    sync::lock,
    wire::Name,
};

/// How long the daemon may take to grant a flow that it has offered.
const GRANT_TIMEOUT: Duration = Duration::from_secs(10);

type Outcome = Result<RawFlow, AllocateError>;

/// Accepts flows from one daemon.
#[derive(Default)]
pub(super) struct Acceptor {
    names: Mutex<HashMap<Option<String>, Waiting>>,
    policies: Mutex<Policies>,
    changed: Event,
}

/// The demands of this program on flows to names.
#[derive(Default)]
struct Policies {
    of: HashMap<Name, Policy>,
    /// Changes with each policy.
    version: u64,
}

enum Policy {
    Set(Box<ServerSecurity>, NameDemands),
    /// It cannot be had through a daemon, and so nothing is accepted.
    Failed(PolicyError),
}

/// The tasks that wait for flows to a name, and the flows that wait for them.
#[derive(Default)]
struct Waiting {
    waiters: usize,
    /// A task asks the daemon.
    asking: bool,
    outcomes: Vec<Outcome>,
}

/// Somebody who waits.
struct Waiter<'a> {
    acceptor: &'a Acceptor,
    name: &'a Option<String>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.acceptor.names).get_mut(self.name) {
            waiting.waiters -= 1;
        }
        self.acceptor.changed.notify(usize::MAX);
    }
}

impl Acceptor {
    /// Demands `security` of flows to `name` from now on.
    pub(super) fn set_policy(
        &self,
        name: Name,
        security: ServerSecurity,
    ) -> Result<(), PolicyError> {
        let demands = NameDemands::new(&name, &security);
        let outcome = demands.as_ref().map(drop).map_err(Clone::clone);
        let policy = match demands {
            Ok(demands) => Policy::Set(Box::new(security), demands),
            Err(error) => Policy::Failed(error),
        };
        {
            let mut policies = lock(&self.policies);
            policies.of.insert(name, policy);
            policies.version += 1;
        }
        self.changed.notify(usize::MAX);
        outcome
    }

    /// Returns the demands on flows to `name` (`None`: to any), and which version of them that
    /// is.
    fn demands(&self, name: Option<&str>) -> Result<(Vec<NameDemands>, u64), PolicyError> {
        let policies = lock(&self.policies);
        let of_name =
            policies.of.iter().filter(|(known, _)| name.is_none_or(|n| n == known.as_str()));
        let demands = of_name.map(|(_, policy)| match policy {
            Policy::Set(_, demands) => Ok(demands.clone()),
            Policy::Failed(error) => Err(error.clone()),
        });
        Ok((demands.collect::<Result<_, _>>()?, policies.version))
    }

    /// Returns `true` if the flow is as this program demands. The daemon sees to it;
    /// but a flow may be older than the demand.
    fn allows(&self, flow: &RawFlow) -> bool {
        match lock(&self.policies).of.get(&flow.info.name) {
            None => true,
            Some(Policy::Set(security, _)) => flow.info.meets(security),
            Some(Policy::Failed(_)) => false,
        }
    }

    /// Waits for a flow to `name` (`None`: to any that is bound to this process or
    /// its program) from the daemon at `path`. Cancel safe.
    pub(super) async fn accept(self: &Arc<Self>, path: &Path, name: Option<String>) -> Outcome {
        lock(&self.names).entry(name.clone()).or_default().waiters += 1;
        let _waiter = Waiter { acceptor: self, name: &name };
        loop {
            let changed = self.changed.listen();
            {
                let mut names = lock(&self.names);
                let waiting = names.entry(name.clone()).or_default();
                // In the order in which they came.
                while !waiting.outcomes.is_empty() {
                    match waiting.outcomes.remove(0) {
                        Ok(flow) if !self.allows(&flow) => drop(flow),
                        outcome => return outcome,
                    }
                }
                if !std::mem::replace(&mut waiting.asking, true) {
                    let (acceptor, path, name) = (self.clone(), path.to_owned(), name.clone());
                    driver::spawn(async move { acceptor.ask(path, name).await }).detach();
                }
            }
            changed.await;
        }
    }

    /// Asks for flows as long as somebody waits.
    async fn ask(&self, path: PathBuf, name: Option<String>) {
        let program = std::env::current_exe().ok().map(text_of_path);
        let mut had_daemon = false;
        while self.goes_on(&name) {
            let outcome = match self.ask_once(&path, &name, &program, &mut had_daemon).await {
                Ok(None) => continue,
                Ok(Some(flow)) => Ok(flow),
                Err(AllocateError::Daemon(DaemonError::Lost(error))) if is_hang_up(&error) => {
                    tracing::info!("irmd has ended: waiting for it to come back");
                    Timer::after(RETRY).await;
                    continue;
                }
                Err(AllocateError::Daemon(DaemonError::NotRunning(_))) if had_daemon => {
                    Timer::after(RETRY).await;
                    continue;
                }
                Err(error) => Err(error),
            };
            lock(&self.names).entry(name.clone()).or_default().outcomes.push(outcome);
            self.changed.notify(usize::MAX);
        }
    }

    /// Returns `true` if more flows are waited for than there are; otherwise the
    /// task that asks ends.
    fn goes_on(&self, name: &Option<String>) -> bool {
        let mut names = lock(&self.names);
        let Some(waiting) = names.get_mut(name) else { return false };
        waiting.asking = waiting.waiters > waiting.outcomes.len();
        let over = !waiting.asking && waiting.waiters == 0 && waiting.outcomes.is_empty();
        let goes_on = waiting.asking;
        if over {
            names.remove(name);
        }
        goes_on
    }

    fn is_waited_for(&self, name: &Option<String>) -> bool {
        lock(&self.names).get(name).is_some_and(|waiting| waiting.waiters > waiting.outcomes.len())
    }

    /// Waits until nobody waits for a flow to `name`, or more is demanded of it than
    /// `version` says.
    async fn abandoned(&self, name: &Option<String>, version: u64) {
        loop {
            let changed: EventListener = self.changed.listen();
            if !self.is_waited_for(name) || lock(&self.policies).version != version {
                return;
            }
            changed.await;
        }
    }

    async fn ask_once(
        &self,
        path: &Path,
        name: &Option<String>,
        program: &Option<String>,
        had_daemon: &mut bool,
    ) -> Result<Option<RawFlow>, AllocateError> {
        let (demands, version) = self.demands(name.as_deref())?;
        let request = Request::Accept { name: name.clone(), program: program.clone(), demands };
        let connection = open(path).await?;
        *had_daemon = true;
        connection.send(&request, None).await.map_err(DaemonError::from)?;
        let offered = async { Some(connection.receive::<Response>().await) };
        let abandoned = async {
            self.abandoned(name, version).await;
            None
        };
        match future::or(offered, abandoned).await.transpose().map_err(DaemonError::from)? {
            None => return Ok(None),
            Some((Response::Offered, _)) if !self.is_waited_for(name) => return Ok(None),
            Some((Response::Offered, _)) => {}
            Some((Response::Error(failure), _)) => return Err(failure.into()),
            Some(_) => return Err(DaemonError::from(out_of_turn()).into()),
        }
        // From here on the flow is this process's.
        let granted = async {
            connection.send(&Request::Take, None).await?;
            connection.receive::<Response>().await
        };
        let late = async {
            Timer::after(GRANT_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let granted = future::or(granted, late).await.map_err(DaemonError::from)?;
        flow_of(granted, connection, path, true).await.map(Some)
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

fn out_of_turn() -> io::Error {
    io::Error::other("not the answer to the question")
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
