//! The state of a running `ovpn`: a page for programs, metrics, and from the page a table for
//! people. Not here: counting, which is the library's.

mod observed;
mod report;
mod show;

use std::{fs, io, os::unix::fs::DirBuilderExt, path::PathBuf, process, time::Duration};

use async_std::task;
use futures_lite::future;
use ouroboros::daemon::socket_path;

pub use observed::{Observed, Observing};
pub use report::{Peer, Report, Role, Traffic};
pub use show::{Options, status};

use crate::http::{ListenAddress, Page, Server};

/// Where a running `ovpn` tells of itself.
const PAGE: &str = "/status";
const METRICS: &str = "/metrics";
/// How long to wait for peers to answer, so that their round trip is that of now.
const ANSWERS: Duration = Duration::from_secs(1);
/// How often to look whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// The folder of the sockets at which running tunnels tell of themselves: beside the
/// daemon's socket.
#[must_use]
pub fn folder() -> PathBuf {
    socket_path().with_file_name("ovpn")
}

/// Tells of this process's tunnel to `ovpn status` of the same user and of root, and
/// metrics at `metrics` if that is wanted, for ever.
///
/// # Errors
///
/// Metrics cannot be served there. (A tunnel that nobody can ask for its status runs
/// nevertheless.)
pub async fn serve<T>(observed: &Observed, metrics: Option<&ListenAddress>) -> io::Result<T> {
    let scraped = async {
        let Some(place) = metrics else { return future::pending().await };
        let server = Server::bind(place, 0o660).await?;
        server.serve(async |path: &str| (path == METRICS).then(|| observed.metrics())).await
    };
    let asked = async {
        match bind().await {
            Ok(server) => server.serve(async |path: &str| page(observed, path).await).await,
            Err(error) => {
                tracing::info!(%error, folder = %folder().display(), "no socket for `ovpn status`");
                future::pending().await
            }
        }
    };
    future::or(scraped, asked).await
}

async fn bind() -> io::Result<Server> {
    let folder = folder();
    // It may be before the daemon makes the folder around it.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
    let path = folder.join(format!("{}.sock", process::id()));
    Server::bind(&ListenAddress::Unix(path), 0o600).await
}

async fn page(observed: &Observed, path: &str) -> Option<Page> {
    match path {
        METRICS => Some(observed.metrics()),
        PAGE => {
            observed.measure_round_trips();
            let mut waited = Duration::ZERO;
            while waited < ANSWERS && observed.is_measuring() {
                task::sleep(LOOK).await;
                waited += LOOK;
            }
            let body = serde_json::to_string(&observed.report()).ok()?;
            Some(Page { content_type: "application/json", body })
        }
        _ => None,
    }
}
