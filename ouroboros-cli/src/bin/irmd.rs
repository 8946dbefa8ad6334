//! The Ouroboros daemon.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};
use ouroboros::{daemon::socket_path, trust::TrustFolder};
use ouroboros_cli::{
    confine::confine,
    http::{self, ListenAddress},
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
    /etc/ouroboros/irmd.conf     its configuration, if there is one
    /etc/ouroboros/identity.pem  this machine's key; beside it identity.next.pem, the next
                                 one, and identity.pem.old, the former one
    /etc/ouroboros/known_names   servers known by their keys
    /etc/ouroboros/next_keys     next keys that servers have announced
    /etc/ouroboros/authorities/  certificates of authorities
    /run/ouroboros/irmd.sock     its socket

ENVIRONMENT:
    OUROBOROS_SOCKET   its socket, if it is to be another one
    OUROBOROS_CONFIG   directory of its key, configuration and trust, instead of /etc/ouroboros
    OUROBOROS_JOURNAL  socket of the journal, instead of /run/systemd/journal/socket
    RUST_LOG           log level: error, warn, info (by default), debug or trace

JOURNAL:
    Where its log goes to the journal of systemd, events have their fields there, such as
    OUROBOROS_NAME, OUROBOROS_PEER and OUROBOROS_IPCP: journalctl OUROBOROS_NAME=my_vpn.

EXIT STATUS:
    0 if it was ended by a signal; 1 on failure; 2 on wrong usage";

/// Runs the layers, names and keys of a machine, and allocates flows for its programs
///
/// SIGHUP loads the configuration file again and applies what has changed in it, and loads the
/// files of keys, clients and authorities (which also happens within a second of a change).
/// SIGUSR1 logs a summary. SIGINT and SIGTERM end it.
#[derive(StructOpt)]
#[structopt(name = "irmd", after_help = AFTER_HELP)]
struct Arguments {
    /// Logs to standard output (standard error otherwise)
    #[structopt(long)]
    stdout: bool,
    /// Configuration file (TOML) with layers, names and bindings. Default: irmd.conf in the
    /// directory of the daemon's key (/etc/ouroboros), if there is one
    #[structopt(long, parse(from_os_str), value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serves metrics for Prometheus at /metrics, on this Unix socket (its owner and group can read them)
    /// or loopback port (every user of this machine can)
    #[structopt(long, value_name = "unix:PATH|127.0.0.1:PORT")]
    metrics: Option<ListenAddress>,
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
    // Boxed: what a stack has been used for stays with the process.
    match async_std::task::block_on(Box::pin(run(arguments.config, arguments.metrics))) {
        Ok(()) => {
            let _ = output::finish();
            ExitCode::SUCCESS
        }
        Err(error) => ouroboros_cli::failed("irmd", error.as_ref()),
    }
}

async fn run(
    config: Option<PathBuf>,
    metrics: Option<ListenAddress>,
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
