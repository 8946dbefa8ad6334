//! The Ouroboros daemon.

use std::{process::ExitCode, sync::Arc};

use futures_lite::{StreamExt, future};
use ouroboros::daemon::socket_path;
use ouroboros_cli::{
    confine::confine,
    irmd::{Place, State, group, raise_descriptor_limit, serve},
    output, termination,
};
use rustix::thread::CapabilitySet;
use structopt::StructOpt;

/// Hosts Ouroboros layers, keeps names and bindings, serves applications
#[derive(StructOpt)]
#[structopt(name = "irmd")]
struct Arguments {
    /// Logs to standard output (standard error otherwise)
    #[structopt(long)]
    stdout: bool,
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(arguments.stdout);
    raise_descriptor_limit();
    // Layers over Ethernet, sockets with large buffers, ports below 1024; and
    // the group whose socket it is.
    let kept = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    if let Err(error) = confine(kept, group().as_slice()) {
        return ouroboros_cli::failed("irmd", &error);
    }
    if let Err(error) = output::start() {
        return ouroboros_cli::failed("irmd", &error);
    }
    match async_std::task::block_on(run()) {
        Ok(()) => {
            let _ = output::finish();
            ExitCode::SUCCESS
        }
        Err(error) => ouroboros_cli::failed("irmd", error.as_ref()),
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = termination()?;
    let path = socket_path();
    let place = Place::take(&path)?;
    tracing::info!(socket = %path.display(), "irmd {} serves", env!("CARGO_PKG_VERSION"));
    let state = Arc::new(State::default());
    future::or(serve(state, &place.listener), async {
        signals.next().await;
    })
    .await;
    tracing::info!("irmd ends");
    Ok(())
}
