//! Tunnels of `ovpn`: a client's, which comes back by itself, and a server's,
//! one for each client. The packets are the library's.

mod backoff;
mod client;
mod server;

use std::time::Duration;

use async_std::task;
use futures_lite::future;
use ouroboros::{
    Flow, FlowInfo, Offload, PeerIdentity, Tunnel, TunnelError,
    daemon::{
        Client, DaemonError,
        protocol::{Request, Response},
    },
    proto::negotiation::Profile,
    tun::InterfaceAddress,
};

pub use client::client;
pub use server::server;

/// What a tunnel's end came to.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What is the same for all tunnels of a process.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The device's address.
    pub address: InterfaceAddress,
    /// What the kernel may do in super-packets.
    pub offload: Offload,
    /// Whether to say every second what went through.
    pub statistics: bool,
}

impl Settings {
    /// A device with so many queues.
    fn build(&self, queues: usize) -> Result<Tunnel, TunnelError> {
        Tunnel::builder().address(self.address).offload(self.offload).queues(queues).build()
    }

    /// Runs `flows`, as many as `tunnel` has queues, to the first one's end.
    async fn run(&self, tunnel: &Tunnel, flows: Vec<Flow>) -> Result<(), TunnelError> {
        println!("Tunnel device {} with {} is up.", tunnel.interface_name(), self.address);
        let watch = async {
            if !self.statistics {
                return future::pending().await;
            }
            loop {
                task::sleep(Duration::from_secs(1)).await;
                println!("{}: {}", tunnel.interface_name(), tunnel.statistics());
            }
        };
        future::or(tunnel.run_lanes(flows), watch).await
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
        if peer.certified {
            println!("The peer's key is {fingerprint}, certified for {common_name:?}.");
        } else {
            println!("The peer's key is {fingerprint}.");
        }
    }
}

/// This machine's key, which the daemon has.
async fn own_key() -> Result<String, DaemonError> {
    match Client::new().ask(&Request::ShowKey).await? {
        Response::Key(key) => Ok(key.fingerprint),
        _ => Err(DaemonError::Refused("irmd does not tell its key".to_owned())),
    }
}
