//! An IP tunnel over a flow that `irmd` serves.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
    process::ExitCode,
};

use async_std::task::{self, JoinHandle};
use futures_lite::{StreamExt, future};
use ouroboros::{
    Flow, FlowSpec, Irm, LaneAcceptor, Tunnel,
    daemon::{Client, protocol::Request},
    tun::InterfaceAddress,
    wire::{Name, PeerAddress},
};
use ouroboros_cli::signals;
use structopt::StructOpt;

/// An IP tunnel over an Ouroboros flow
///
/// Without a name, waits for flows to the names that this program is bound to.
#[derive(StructOpt)]
#[structopt(name = "ovpn")]
struct Arguments {
    /// Allocates a flow to this name
    #[structopt(short, long)]
    name: Option<Name>,
    /// Address of the tunnel's device, such as 10.0.0.1 or 10.0.0.1/24
    #[structopt(short, long)]
    ip: String,
    /// Mask of the tunnel's device, such as 255.255.255.0
    #[structopt(short, long)]
    mask: Option<Ipv4Addr>,
    /// Encrypts the tunnel
    #[structopt(short = "C", long)]
    crypt: bool,
    /// Spreads an encrypted tunnel's connections over so many flows, for machines with more cores than one flow keeps busy
    #[structopt(long, default_value = "1", value_name = "NUMBER")]
    queues: NonZeroU8,
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    let address = match address(&arguments.ip, arguments.mask) {
        Ok(address) => address,
        Err(error) => {
            eprintln!("ovpn: {error}");
            return ExitCode::from(2);
        }
    };
    match task::block_on(run(&arguments, address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ouroboros_cli::failed("ovpn", error.as_ref()),
    }
}

fn address(ip: &str, mask: Option<Ipv4Addr>) -> Result<InterfaceAddress, String> {
    let parsed: Result<InterfaceAddress, _> = match (ip.parse::<IpAddr>(), mask) {
        (Ok(IpAddr::V4(ip)), Some(mask)) => InterfaceAddress::with_mask(ip, mask),
        (Ok(_), None) => {
            return Err(format!("--ip {ip}: say how large its network is: {ip}/24, or --mask"));
        }
        (_, Some(_)) => return Err(format!("--ip {ip}: a mask goes with a plain IPv4 address")),
        (Err(_), None) => ip.parse(),
    };
    parsed.map_err(|error| format!("--ip {error}"))
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

async fn run(arguments: &Arguments, address: InterfaceAddress) -> Outcome {
    let mut signals = signals()?;
    let irm = Irm::connect();
    let tunnels = async {
        match &arguments.name {
            Some(name) => {
                println!("Allocating a flow to {name}.");
                let spec = FlowSpec::raw();
                let spec = if arguments.crypt { spec.encrypted() } else { spec };
                let queues = arguments.queues.get();
                let flows = irm.allocate_lanes(name.as_str(), spec, queues).await?;
                carry(flows, None, address).await
            }
            None => serve(&irm, address).await,
        }
    };
    future::or(tunnels, async {
        signals.next().await;
        println!("Ending.");
        Ok(())
    })
    .await
}

/// Serves each client with a tunnel of its own. One that comes back takes the
/// place of its former flow: the format has no message that ends one.
async fn serve(irm: &Irm, address: InterfaceAddress) -> Outcome {
    let mut tunnels: Vec<(String, JoinHandle<()>)> = Vec::new();
    // What is missing shows before there is a client: the daemon, or the right
    // to make devices.
    Client::new().ask(&Request::ListNames).await?;
    let mut ready = Some(Tunnel::builder().address(address).build()?);
    let mut acceptor = LaneAcceptor::new(irm, None);
    loop {
        println!("Waiting for a flow.");
        let flows = acceptor.accept().await?;
        let host = host(&flows[0].info().peer);
        while let Some(at) = tunnels.iter().position(|(known, _)| *known == host) {
            tunnels.remove(at).1.cancel().await;
        }
        let ready = ready.take();
        let tunnel = task::spawn(async move {
            if let Err(error) = carry(flows, ready, address).await {
                println!("The flow has ended: {error}.");
            }
        });
        tunnels.push((host, tunnel));
    }
}

/// Which machine a peer is on: a UDP client has a port for each flow.
fn host(peer: &PeerAddress) -> String {
    match peer {
        PeerAddress::Udp(address) => address.ip().to_string(),
        other => other.to_string(),
    }
}

/// Runs a tunnel, with a device that is `ready` or with one of its own.
async fn carry(flows: Vec<Flow>, ready: Option<Tunnel>, address: InterfaceAddress) -> Outcome {
    let info = flows[0].info();
    println!("Flow allocated to {}, with {}.", info.name, info.peer);
    match info.suite {
        Some(suite) => println!("Encrypted: key exchange {}, cipher {}.", suite.kex, suite.cipher),
        None => println!("Warning: this tunnel is NOT encrypted."),
    }
    // One that is ready has one queue. It goes before another takes its name.
    let tunnel = match ready.filter(|_| flows.len() == 1) {
        Some(tunnel) => tunnel,
        None => Tunnel::builder().address(address).queues(flows.len()).build()?,
    };
    if flows.len() > 1 {
        println!("The tunnel has {} queues, a flow each.", flows.len());
    }
    println!("Tunnel device {} with {address} is up.", tunnel.interface_name());
    tunnel.run_lanes(flows).await?;
    Ok(())
}
