//! The Ouroboros daemon.

use std::{process::ExitCode, sync::Arc};

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};
use ouroboros::daemon::socket_path;
use ouroboros_cli::{
    confine::confine,
    irmd::{DaemonSocket, State, group, raise_descriptor_limit, serve},
    output, service,
};
use rustix::thread::CapabilitySet;
use structopt::StructOpt;

/// Hosts Ouroboros layers, keeps names and bindings, serves applications
///
/// SIGHUP reads the files of keys, clients and authorities again, which also happens
/// within a second of a change; SIGUSR1 logs what there is; SIGINT and SIGTERM end it.
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
    // SIGPIPE is ignored, as in every Rust program: writing says so. The last two
    // would end the process, and mean nothing here.
    let (hup, usr1, usr2) = (Signal::Hup, Signal::Usr1, Signal::Usr2);
    let mut signals = Signals::new([Signal::Int, Signal::Term, hup, usr1, usr2, Signal::Xfsz])?;
    let path = socket_path();
    let place = DaemonSocket::take(&path)?;
    tracing::info!(socket = %path.display(), "irmd {} serves", env!("CARGO_PKG_VERSION"));
    let state = Arc::new(State::default());
    let signalled = async {
        while let Some(signal) = signals.next().await {
            match signal {
                Ok(Signal::Hup) => {
                    tracing::info!("reading the files of keys, clients and authorities again");
                    state.reload();
                }
                Ok(Signal::Usr1) => state.log(),
                Ok(Signal::Int | Signal::Term) => return,
                _ => {}
            }
        }
    };
    service::ready();
    let watched = service::watchdog(|| state.check());
    let serving = future::or(serve(state.clone(), &place.listener), watched);
    future::or(serving, signalled).await;
    service::stopping();
    tracing::info!("irmd ends");
    Ok(())
}
