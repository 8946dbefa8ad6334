//! The Ouroboros daemon.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};
use ouroboros::{daemon::socket_path, trust::TrustFolder};
use ouroboros_cli::{
    confine::confine,
    http::{self, Place},
    irmd::{self, Configured, DaemonSocket, State, group, raise_descriptor_limit, serve},
    output, service,
};
use rustix::thread::CapabilitySet;
use structopt::StructOpt;

/// How often to try again what the configuration has and cannot be had yet.
const RETRY: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
EXAMPLES:
    irmd --metrics 127.0.0.1:9585
        serves applications, and metrics to a scraper of this machine

METRICS:
    irmd_info, irmd_ipcps (layer), irmd_names (layer), irmd_flows (packets: handed over or
    relayed), irmd_management_dropped_total (ipcp, cause).

FILES:
    /etc/ouroboros/irmd.conf  what it begins with
    /run/ouroboros/irmd.sock  where it listens

ENVIRONMENT:
    OUROBOROS_SOCKET  where it listens instead
    OUROBOROS_CONFIG  the folder of its key and of what it knows, instead of /etc/ouroboros
    RUST_LOG          what is logged: error, warn, info (by default), debug or trace

EXIT STATUS:
    0 if it was ended by a signal; 1 if something failed; 2 if the arguments make no sense";

/// Hosts Ouroboros layers, keeps names and bindings, serves applications
///
/// SIGHUP reads the configuration file again, and does what has changed in it; and the files
/// of keys, clients and authorities, which also happens within a second of a change; SIGUSR1 logs what there is; SIGINT and SIGTERM end it.
#[derive(StructOpt)]
#[structopt(name = "irmd", after_help = AFTER_HELP)]
struct Arguments {
    /// Logs to standard output (standard error otherwise)
    #[structopt(long)]
    stdout: bool,
    /// Makes the layers, names and bindings that this file says (TOML); irmd.conf beside
    /// the daemon's key (/etc/ouroboros) if there is one
    #[structopt(long, parse(from_os_str), value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serves metrics for Prometheus at this Unix socket or port of this machine, as
    /// /metrics
    #[structopt(long, value_name = "unix:PATH|127.0.0.1:PORT")]
    metrics: Option<Place>,
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
    match async_std::task::block_on(run(arguments.config, arguments.metrics)) {
        Ok(()) => {
            let _ = output::finish();
            ExitCode::SUCCESS
        }
        Err(error) => ouroboros_cli::failed("irmd", error.as_ref()),
    }
}

async fn run(
    config: Option<PathBuf>,
    metrics: Option<Place>,
) -> Result<(), Box<dyn std::error::Error>> {
    // SIGPIPE is ignored, as in every Rust program: writing says so. The last two
    // would end the process, and mean nothing here.
    let (hup, usr1, usr2) = (Signal::Hup, Signal::Usr1, Signal::Usr2);
    let mut signals = Signals::new([Signal::Int, Signal::Term, hup, usr1, usr2, Signal::Xfsz])?;
    let path = socket_path();
    let place = DaemonSocket::take(&path)?;
    let scraped = match &metrics {
        Some(place) => {
            let failed = |error| format!("--metrics: {error}");
            Some(http::Server::bind(place, 0o660).await.map_err(failed)?)
        }
        None => None,
    };
    let state = Arc::new(State::default());
    let default = TrustFolder::of_user().ok().map(|folder| folder.path().join("irmd.conf"));
    let named = config.is_some();
    let mut configured =
        config.or(default).map(|file| (Configured::new(state.clone(), file.clone()), file));
    if let Some((configured, _)) = configured.as_mut().filter(|(_, file)| named || file.exists()) {
        configured.load().await?;
    }
    tracing::info!(socket = %path.display(), "irmd {} serves", env!("CARGO_PKG_VERSION"));
    let signalled = async {
        loop {
            let signal = async { Some(signals.next().await) };
            let later = async {
                match &configured {
                    Some((configured, _)) if configured.is_waiting() => {
                        async_std::task::sleep(RETRY).await;
                        None
                    }
                    _ => future::pending().await,
                }
            };
            match future::or(signal, later).await {
                Some(Some(Ok(Signal::Hup))) => {
                    tracing::info!("reading the files of keys, clients and authorities again");
                    state.reload();
                    let file = configured.as_mut().filter(|(_, file)| named || file.exists());
                    if let Some((configured, _)) = file
                        && let Err(error) = configured.load().await
                    {
                        tracing::error!("nothing is changed: {error}");
                    }
                }
                Some(Some(Ok(Signal::Usr1))) => state.log(),
                Some(Some(Ok(Signal::Int | Signal::Term)) | None) => return,
                Some(_) => {}
                None => {
                    if let Some((configured, _)) = &mut configured {
                        configured.attempt().await;
                    }
                }
            }
        }
    };
    let metrics = async {
        match &scraped {
            Some(server) => {
                let page =
                    async |path: &str| (path == "/metrics").then(|| irmd::metrics::page(&state));
                server.serve(page).await
            }
            None => future::pending().await,
        }
    };
    service::ready();
    let watched = service::watchdog(|| state.check());
    let serving = future::or(serve(state.clone(), &place.listener), watched);
    let serving = future::or(serving, metrics);
    future::or(serving, signalled).await;
    service::stopping();
    tracing::info!("irmd ends");
    Ok(())
}
