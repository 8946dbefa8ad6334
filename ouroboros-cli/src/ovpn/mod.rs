//! Tunnels of `ovpn`: a client's, which comes back by itself, and a server's hub
//! for all clients. The packets are the library's.

pub mod arguments;
mod attempts;
mod backoff;
mod client;
mod clients;
mod configured;
mod configured_tunnel;
pub mod doctor;
mod full_tunnel;
mod invite;
mod join;
mod layer;
mod leases;
mod masquerade;
mod misuse;
mod network;
mod resolving;
mod server;
pub mod status;
mod subject;
mod tunnels;

use std::path::PathBuf;

use ouroboros::{
    FlowInfo, LayerError, Offload, PeerIdentity, ServerSecurity, Tunnel, TunnelBuilder,
    crypto::identity::Fingerprint,
    daemon::{Client, DaemonError, protocol::KeyEntry},
    proto::{
        hub::{Configuration, IpNet},
        negotiation::Profile,
    },
    tun::InterfaceAddress,
    wire::Name,
};

use async_channel::Receiver;
use attempts::Attempts;
pub use client::client;
pub use clients::Clients;
pub use configured_tunnel::{ConfiguredTunnel, NoTunnel};
use futures_lite::future;
pub use invite::Invite;
pub use join::{Join, remember};
pub use layer::{keep_serving, serve_name};
pub use misuse::Misuse;
pub use server::server;
use status::Observed;
use subject::{Subject, tell};
pub(crate) use tunnels::TUNNELS;
pub use tunnels::Tunnels;

/// The result of a tunnel.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The settings that are the same for all tunnels of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The device's addresses; none: the server's to give.
    pub addresses: Vec<InterfaceAddress>,
    /// The device's name.
    pub device: Option<String>,
    /// The offloads that the kernel may use.
    pub offload: Offload,
    /// Print traffic statistics every second.
    pub statistics: bool,
    /// Queues of a server's device, flows of a client's tunnel.
    pub lanes: usize,
    /// A server moves packets between its clients.
    pub forward: bool,
    /// Where a server remembers the addresses of clients with an identity.
    pub leases: Option<PathBuf>,
    /// The settings that may change while the tunnel runs, as they are at the start.
    pub changing: Changing,
    /// The same, as it is from then on.
    pub changes: Receiver<Changing>,
    /// A client leads everything through its tunnel.
    pub full_tunnel: bool,
    /// With a full tunnel: nothing leaves another way, be there a tunnel or not.
    pub kill_switch: bool,
    /// Whether packets of a server's clients leave with the server's own address.
    pub masquerade: bool,
    /// A client has irmd make a layer over UDP if it has none.
    pub ensure_layer: bool,
    /// A client waits for a server that does not answer yet.
    pub wait: bool,
    /// The tunnel's state, for `ovpn status` and metrics.
    pub observed: Observed,
}

/// The settings of a tunnel that may change while it runs.
#[derive(Clone, Debug)]
pub struct Changing {
    /// The demands of a server on its clients' flows, beyond those of their names' policies.
    pub demands: ServerSecurity,
    /// The configuration that a server sends its clients, without addresses and keys.
    pub configuration: Configuration,
    /// The parts of it that a client accepts.
    pub accepted: Accepted,
}

/// The parts of its server's configuration that a client accepts, besides its addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// Routes.
    pub routes: bool,
    /// Resolvers.
    pub dns: bool,
}

/// Addresses of a device, with the networks that they are in.
fn networks(addresses: &[InterfaceAddress]) -> Vec<IpNet> {
    let network = |own: &InterfaceAddress| IpNet::new(own.address(), own.prefix()).ok();
    addresses.iter().filter_map(network).collect()
}

impl Settings {
    /// Waits for the next change of the settings. Cancel safe.
    async fn next_change(&self) -> Changing {
        match self.changes.recv().await {
            Ok(changing) => changing,
            Err(_) => future::pending().await,
        }
    }

    fn tunnel(&self) -> TunnelBuilder {
        let mut builder = Tunnel::builder().offload(self.offload);
        if let Some(name) = &self.device {
            builder = builder.name(name);
        }
        self.addresses.iter().fold(builder, |builder, address| builder.address(*address))
    }

    /// The device with its addresses, for people.
    fn describe(&self, device: &str) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        format!("Tunnel device {device} with {}", addresses.join(" and "))
    }
}

/// Says what was agreed, and with whom.
fn announce(info: &FlowInfo, subject: &Subject) {
    tell!(subject, "Flow allocated to {}, with {}.", info.name, info.peer);
    match info.suite {
        Some(suite) => {
            let native = info.profile == Some(Profile::Native);
            let profile = if native { "native" } else { "0.23: replayed packets are taken" };
            let (kex, cipher) = (suite.kex, suite.cipher);
            tell!(subject, "Encrypted: key exchange {kex}, cipher {cipher}, profile {profile}.");
        }
        None => tell!(subject, "Warning: this tunnel is NOT encrypted."),
    }
    if let Some(peer) = &info.identity {
        let PeerIdentity { fingerprint, common_name, .. } = peer;
        if peer.is_certified() {
            tell!(subject, "The peer's key is {fingerprint}, certified for {common_name:?}.");
        } else {
            tell!(subject, "The peer's key is {fingerprint}.");
        }
    }
}

/// Says by which key peers know this machine: that of `name`, where it has one of its own
/// here, or else the machine's. Waits for the daemon.
async fn announce_own_key(name: Option<&Name>) -> Result<(), LayerError> {
    let mut attempts = Attempts::default();
    loop {
        attempts.pause().await;
        match own_key(name).await {
            Ok(key) => {
                let subject = name.map(Subject::name).unwrap_or_default();
                tell!(subject, "{key}");
                return Ok(());
            }
            Err(LayerError::Daemon(error)) if daemon_may_come(&error) => {
                attempts.say(&format!("Not yet: {error}."))
            }
            Err(error) => return Err(error),
        }
    }
}

async fn own_key(name: Option<&Name>) -> Result<String, LayerError> {
    let machine = Client::new().key(None).await?;
    Ok(match (name, key_beside(&machine, name).await?) {
        (Some(name), Some(own)) => format!("The key of {name} on this machine is {own}."),
        _ => format!("This machine's key is {}.", machine.fingerprint),
    })
}

/// The key that `name` has of its own on this machine.
async fn name_key(name: &Name) -> Result<Option<String>, LayerError> {
    key_beside(&Client::new().key(None).await?, Some(name)).await
}

/// The key that `name` has beside the machine's.
async fn key_beside(machine: &KeyEntry, name: Option<&Name>) -> Result<Option<String>, LayerError> {
    let Some(name) = name else { return Ok(None) };
    match Client::new().key(Some(name)).await {
        Ok(key) => Ok((key.path != machine.path).then_some(key.fingerprint)),
        // It has the machine's.
        Err(LayerError::NoSuchName(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The key that this name is to have next, if there is one; `None`: the daemon cannot be asked.
async fn next_key(name: &Name) -> Option<Option<Fingerprint>> {
    let key = Client::new().key(Some(name)).await.ok()?;
    Some(key.next.and_then(|next| next.parse().ok()))
}

/// Returns `true` if the daemon does not run or answer now.
fn daemon_may_come(error: &DaemonError) -> bool {
    matches!(
        error,
        DaemonError::NotRunning(_) | DaemonError::NotAnswering(_) | DaemonError::Lost(_)
    )
}
