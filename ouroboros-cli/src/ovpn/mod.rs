//! Tunnels of `ovpn`: a client's, which comes back by itself, and a server's hub
//! for all clients. The packets are the library's.

mod attempts;
mod backoff;
mod client;
mod clients;
mod configured;
pub mod doctor;
mod full_tunnel;
mod invite;
mod join;
mod layer;
mod leases;
mod masquerade;
mod network;
mod server;
pub mod status;

use std::{net::IpAddr, path::PathBuf};

use ouroboros::{
    FlowInfo, LayerError, Offload, PeerIdentity, ServerSecurity, Tunnel, TunnelBuilder,
    daemon::{
        Client, DaemonError,
        protocol::{Request, Response},
    },
    proto::{hub::IpNet, negotiation::Profile},
    tun::InterfaceAddress,
};

use attempts::Attempts;
pub use client::client;
pub use clients::Clients;
pub use invite::Invite;
pub use join::Join;
pub use layer::{keep_serving, serve_name};
pub use server::server;
use status::Observed;

/// What a tunnel's end came to.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What is the same for all tunnels of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The device's addresses; none: the server's to give.
    pub addresses: Vec<InterfaceAddress>,
    /// The device's name.
    pub device: Option<String>,
    /// What the kernel may do in super-packets.
    pub offload: Offload,
    /// Print traffic statistics every second.
    pub statistics: bool,
    /// Queues of a server's device, flows of a client's tunnel.
    pub lanes: usize,
    /// A server moves packets between its clients.
    pub forward: bool,
    /// Where a server remembers the addresses of clients with an identity.
    pub leases: Option<PathBuf>,
    /// What a server demands of its clients' flows, beyond what their names' policies
    /// do.
    pub demands: ServerSecurity,
    /// What a server tells its clients.
    pub told: Told,
    /// What a client takes of it.
    pub accepted: Accepted,
    /// A client leads everything through its tunnel.
    pub full_tunnel: bool,
    /// With a full tunnel: nothing leaves another way, be there a tunnel or not.
    pub kill_switch: bool,
    /// What a server's clients send beyond it has the server's own address.
    pub masquerade: bool,
    /// A client has irmd make a layer over UDP if it has none.
    pub ensure_layer: bool,
    /// Who can be asked how the tunnel is.
    pub observed: Observed,
}

/// What a server tells its clients, beside their addresses.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Networks that can be reached through the tunnel.
    pub routes: Vec<IpNet>,
    /// Resolvers.
    pub dns_servers: Vec<IpAddr>,
    /// Domains that they are for.
    pub search_domains: Vec<String>,
}

/// What a client takes of what it is told, beside its addresses.
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
fn announce(info: &FlowInfo) {
    println!("Flow allocated to {}, with {}.", info.name, info.peer);
    match info.suite {
        Some(suite) => {
            let native = info.profile == Some(Profile::Native);
            let profile = if native { "native" } else { "0.23: replayed packets are taken" };
            let (kex, cipher) = (suite.kex, suite.cipher);
            println!("Encrypted: key exchange {kex}, cipher {cipher}, profile {profile}.");
        }
        None => println!("Warning: this tunnel is NOT encrypted."),
    }
    if let Some(peer) = &info.identity {
        let PeerIdentity { fingerprint, common_name, .. } = peer;
        if peer.is_certified() {
            println!("The peer's key is {fingerprint}, certified for {common_name:?}.");
        } else {
            println!("The peer's key is {fingerprint}.");
        }
    }
}

/// This machine's key, which the daemon has. Waits for the daemon.
async fn own_key() -> Result<String, LayerError> {
    let mut attempts = Attempts::default();
    loop {
        attempts.pause().await;
        match Client::new().ask(&Request::ShowKey).await {
            Ok(Response::Key(key)) => return Ok(key.fingerprint),
            Ok(_) => {
                return Err(DaemonError::Refused("irmd does not tell its key".to_owned()).into());
            }
            Err(LayerError::Daemon(error)) if daemon_may_come(&error) => {
                attempts.say(&format!("Not yet: {error}."))
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns `true` if the daemon does not run or answer now.
fn daemon_may_come(error: &DaemonError) -> bool {
    matches!(
        error,
        DaemonError::NotRunning(_) | DaemonError::NotAnswering(_) | DaemonError::Lost(_)
    )
}
