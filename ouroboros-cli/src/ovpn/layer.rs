//! Makes what a tunnel needs of irmd where it is missing: a layer over UDP, a name that is
//! served to the clients of a file. Not here: what was made otherwise, which stays as it is.

use std::{process, time::Duration};

use async_std::task;
use ouroboros::{
    LayerError,
    daemon::{
        Client, Connection,
        protocol::{IpcpEntry, Request, TransportSpec},
        socket_path,
    },
    wire::Name,
};

use super::{attempts::Attempts, daemon_may_come};

/// The IPCP and its layer.
const IPCP: &str = "ovpn";
const LAYER: &str = "internet";
/// How long to wait before the daemon is asked whether it still serves the name.
const RETRY: Duration = Duration::from_millis(500);

/// Makes a layer over UDP, at every address, if irmd has none.
///
/// # Errors
///
/// irmd cannot be asked, or another program has the port.
pub(super) async fn ensure_layer() -> Result<(), LayerError> {
    let client = Client::new();
    let ipcps = client.ipcps().await?;
    let is_udp = |ipcp: &IpcpEntry| matches!(ipcp.transport, Some(TransportSpec::Udp { .. }));
    if ipcps.iter().any(is_udp) {
        return Ok(());
    }
    let mut outcome = Ok(());
    // Of both families; without IPv6, of one.
    for ip in ["::", "0.0.0.0"] {
        let Ok(ip) = ip.parse() else { continue };
        let transport = TransportSpec::Udp { ip, port: None };
        let (name, layer) = (IPCP.to_owned(), LAYER.to_owned());
        outcome = client.ask(&Request::BootstrapIpcp { name, layer, transport }).await.map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Has irmd serve `name` to the clients of its file, and to this process.
///
/// # Errors
///
/// irmd does not do it.
pub async fn serve_name(name: &Name) -> Result<(), LayerError> {
    let mut attempts = Attempts::default();
    loop {
        attempts.pause().await;
        match ask_to_serve(name).await {
            Err(LayerError::Daemon(error)) if daemon_may_come(&error) => {
                attempts.say(&format!("Not yet: {error}."));
            }
            outcome => return outcome,
        }
    }
}

async fn ask_to_serve(name: &Name) -> Result<(), LayerError> {
    ensure_layer().await?;
    let client = Client::new();
    client.ask(&Request::ServeClients { name: name.to_string() }).await?;
    let (pid, name) = (process::id(), name.to_string());
    client.ask(&Request::Process { pid, name, bind: true }).await.map(drop)
}

/// Has irmd go on serving `name`: one that was started anew is told again.
pub async fn keep_serving<T>(name: &Name) -> T {
    loop {
        // It ends with the daemon, or after a while since nothing is asked on it.
        if let Ok(connection) = Connection::open(&socket_path()).await {
            let _ = connection.hung_up().await;
        }
        task::sleep(RETRY).await;
        let Ok(names) = Client::new().names().await else { continue };
        let own = names.iter().find(|known| known.name == name.as_str());
        if own.is_none_or(|known| !known.processes.contains(&process::id()))
            && let Err(error) = ask_to_serve(name).await
        {
            tracing::warn!(%name, %error, "irmd does not serve the name");
        }
    }
}
