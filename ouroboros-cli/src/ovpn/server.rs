//! A server's tunnels, one for each client.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_std::task::{self, JoinHandle};
use ouroboros::{
    AllocateError, Flow, FlowInfo, Irm, LaneAcceptor, Tunnel, crypto::identity::Fingerprint,
    daemon::DaemonError,
};

use super::{Outcome, Settings, announce, own_key};

/// How often to look whether the daemon is back.
const RETRY: Duration = Duration::from_millis(500);

/// Who a client is: whose key it has shown. One that has shown none is its flow
/// and nobody else: an address is shared by all behind one NAT, and can be forged.
fn identity(info: &FlowInfo) -> Option<Fingerprint> {
    info.identity.as_ref().map(|peer| peer.fingerprint)
}

struct Served {
    identity: Option<Fingerprint>,
    /// As long as it runs.
    tunnel: Weak<Tunnel>,
    running: JoinHandle<()>,
}

/// Serves each client with a tunnel of its own, for ever. One that comes back and
/// shows the same key takes the place of its former flow, and its device: no
/// message may have told that the flow has ended. The former flow of another ends
/// when it is silent.
///
/// # Errors
///
/// The daemon cannot be asked, or devices cannot be made.
pub async fn server(irm: &Irm, settings: &Settings) -> Outcome {
    let mut clients: Vec<Served> = Vec::new();
    // What is missing shows before there is a client: the daemon, or the right
    // to make devices.
    match own_key().await {
        Ok(key) => println!("This machine's key is {key}."),
        Err(DaemonError::Refused(reason)) => println!("Warning: no client can know it: {reason}."),
        Err(error) => return Err(error.into()),
    }
    let mut ready = Some(settings.build(1)?);
    let mut acceptor = LaneAcceptor::new(irm, None);
    loop {
        println!("Waiting for a flow.");
        let flows = accept(&mut acceptor).await?;
        announce(flows[0].info());
        let identity = identity(flows[0].info());
        // A device with another number of queues goes before its successor comes.
        let fits = |queues| queues == flows.len();
        let back = take_back(&mut clients, identity).await;
        let tunnel = match back.filter(|tunnel| fits(tunnel.queues())) {
            Some(tunnel) => tunnel,
            None => match (ready.take().filter(|tunnel| fits(tunnel.queues())))
                .map_or_else(|| settings.build(flows.len()), Ok)
            {
                Ok(tunnel) => Arc::new(tunnel),
                Err(error) => {
                    println!("The flow is dropped: {error}.");
                    continue;
                }
            },
        };
        let running = task::spawn(carry(flows, tunnel.clone(), *settings));
        clients.push(Served { identity, tunnel: Arc::downgrade(&tunnel), running });
    }
}

/// The next client's flows, from the next daemon if this one has ended: that there is one
/// has been seen.
async fn accept(acceptor: &mut LaneAcceptor) -> Result<Vec<Flow>, AllocateError> {
    loop {
        match acceptor.accept().await {
            Err(AllocateError::Daemon(DaemonError::NotRunning(_))) => task::sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

/// The tunnel of a client that comes back, if its former flow runs still: no
/// longer then.
async fn take_back(
    clients: &mut Vec<Served>,
    identity: Option<Fingerprint>,
) -> Option<Arc<Tunnel>> {
    clients.retain(|client| client.tunnel.strong_count() > 0);
    identity?;
    let at = clients.iter().position(|client| client.identity == identity)?;
    let Served { tunnel, running, .. } = clients.swap_remove(at);
    let tunnel = tunnel.upgrade();
    running.cancel().await;
    tunnel
}

async fn carry(flows: Vec<Flow>, tunnel: Arc<Tunnel>, settings: Settings) {
    match settings.run(&tunnel, flows).await {
        Ok(()) => println!("The flow has ended."),
        Err(error) => println!("The flow has ended: {error}."),
    }
}
