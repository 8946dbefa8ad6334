//! A client's tunnel: its device stays while flows come and go. Without a flow
//! packets wait in the device, and are dropped when it is full: none is ever
//! sent another way.

use std::time::{Duration, Instant};

use async_std::task;
use ouroboros::{
    AllocateError, Flow, FlowError, FlowSpec, Irm, TunnelError, crypto::SystemEntropy, wire::Name,
};

use super::{Outcome, Settings, announce, backoff::Backoff};

/// How long one of several attempts may take. Shorter than the first one, so
/// that names are looked up anew soon.
const ATTEMPT: Duration = Duration::from_secs(3);
/// A flow that lived this long was one: when it ends, the next is had at once.
const LIVED: Duration = Duration::from_secs(10);

/// Runs a tunnel to the server of `name`, over one flow after the other. Comes
/// back only with an error: the first flow cannot be had, or none that is as
/// good as the first.
///
/// # Errors
///
/// As said.
pub async fn client(irm: &Irm, name: &Name, spec: FlowSpec, settings: &Settings) -> Outcome {
    println!("Allocating a flow to {name}.");
    let mut flow = irm.allocate(name.as_str(), spec.clone()).await?;
    announce(flow.info());
    let tunnel = settings.build()?;
    let mut backoff = Backoff::default();
    loop {
        let since = Instant::now();
        let ended = match settings.run(&tunnel, flow).await {
            Ok(()) => FlowError::Closed,
            Err(TunnelError::Flow(error)) => error,
            Err(error) => return Err(error.into()),
        };
        println!("The flow has ended: {ended}. Allocating another one.");
        if since.elapsed() >= LIVED {
            backoff = Backoff::default();
        }
        flow = again(irm, name, spec.clone().timeout(ATTEMPT), &mut backoff).await?;
        announce(flow.info());
    }
}

/// Attempts until there is a flow again.
async fn again(
    irm: &Irm,
    name: &Name,
    spec: FlowSpec,
    backoff: &mut Backoff,
) -> Result<Flow, AllocateError> {
    let mut said = String::new();
    loop {
        task::sleep(backoff.next(&mut SystemEntropy)).await;
        match irm.allocate(name.as_str(), spec.clone()).await {
            Ok(flow) => return Ok(flow),
            // Whatever is missing may come back: the network, the peer, irmd.
            Err(error) => {
                let reason = error.to_string();
                if reason != said {
                    println!("No flow yet: {reason}.");
                    said = reason;
                }
            }
        }
    }
}
