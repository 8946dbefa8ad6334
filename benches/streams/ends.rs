//! The processes that are measured: a server, a client, a daemon.

use std::path::Path;

use ouroboros::proto::reliable::congestion::CongestionControl;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};
use tokio::runtime::Builder;

use crate::{
    ours::{self, InMessages, Streams, Way},
    quic::Quinn,
    tcp::{Tcp, Tls},
    udp::{self, Udp},
    workload::{Outcome, measure},
};

/// What carries the workload.
enum Carrier {
    Streams(Way),
    Messages(Way),
    Quinn { bbr: bool },
    Tcp(Tcp),
    Tls(Tcp),
    Udp,
}

impl Carrier {
    /// By the name that it has in tables.
    fn of(name: &str) -> Outcome<Self> {
        let way = Way::default();
        let (cubic, bbr) = (Tcp { control: "cubic" }, Tcp { control: "bbr" });
        Ok(match name {
            "ours" => Self::Streams(way),
            "ours-x25519" => Self::Streams(Way { x25519: true, ..way }),
            "ours-messages" => Self::Messages(way),
            "ours-irmd" => Self::Streams(Way { irmd: true, ..way }),
            "ours-eth" => Self::Streams(Way { eth_dix: true, ..way }),
            "ours-cubic" => Self::Streams(Way { control: Some(CongestionControl::Cubic), ..way }),
            "ours-bbr" => Self::Streams(Way { control: Some(CongestionControl::Bbr), ..way }),
            "quinn" => Self::Quinn { bbr: false },
            "quinn-bbr" => Self::Quinn { bbr: true },
            "tcp" => Self::Tcp(cubic),
            "tcp-bbr" => Self::Tcp(bbr),
            "tls" => Self::Tls(cubic),
            "udp" => Self::Udp,
            _ => return Err(format!("there is no carrier {name}").into()),
        })
    }
}

/// Returns `true` if it goes through daemons.
pub(crate) fn needs_daemon(name: &str) -> bool {
    name == "ours-irmd"
}

/// Has this process on one processor from now on, if `processor` is a number.
fn pin(processor: &str) -> Outcome<()> {
    let Ok(processor) = processor.parse() else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

/// Does what `words` say, if they are those of such a process.
pub(crate) fn run(words: &[&str]) -> Option<Outcome<()>> {
    let end: Box<dyn Fn() -> Outcome<()>> = match *words {
        ["daemon", host, folder] => {
            return Some(
                host.parse()
                    .map_err(Into::into)
                    .and_then(|host| ours::daemon(host, folder.as_ref())),
            );
        }
        ["server", name, processor, folder] => Box::new(move || {
            pin(processor)?;
            block_on(serve(name, folder.as_ref()))
        }),
        ["client", name, processor, folder, what, value, parallel] => Box::new(move || {
            pin(processor)?;
            let (value, parallel) = (value.parse()?, parallel.parse()?);
            block_on(ask(name, folder.as_ref(), what, value, parallel))
        }),
        _ => return None,
    };
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    Some(raised.map_err(Into::into).and_then(|()| end()))
}

/// In Tokio, on one thread.
fn block_on(work: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn serve(name: &str, folder: &Path) -> Outcome<()> {
    match Carrier::of(name)? {
        Carrier::Streams(way) => ours::serve_streams(way, folder).await,
        Carrier::Messages(way) => ours::serve_messages(way, folder).await,
        Carrier::Quinn { bbr } => Quinn::serve(bbr, folder).await,
        Carrier::Tcp(tcp) => tcp.serve().await,
        Carrier::Tls(tcp) => Tls::serve(tcp, folder).await,
        Carrier::Udp => udp::serve_client().await,
    }
}

async fn ask(name: &str, folder: &Path, what: &str, value: f64, parallel: usize) -> Outcome<()> {
    let figures = match Carrier::of(name)? {
        Carrier::Streams(way) => {
            measure(Streams::new(way, folder).await?, what, value, parallel).await?
        }
        Carrier::Messages(way) => {
            let client = InMessages(Streams::new(way, folder).await?);
            measure(client, what, value, parallel).await?
        }
        Carrier::Quinn { bbr } => measure(Quinn::new(bbr, folder)?, what, value, parallel).await?,
        Carrier::Tcp(tcp) => measure(tcp, what, value, parallel).await?,
        Carrier::Tls(tcp) => measure(Tls::new(tcp, folder)?, what, value, parallel).await?,
        Carrier::Udp => measure(Udp, what, value, parallel).await?,
    };
    println!("{}", figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    Ok(())
}
