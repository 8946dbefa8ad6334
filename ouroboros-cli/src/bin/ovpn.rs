//! An IP tunnel over a flow that `irmd` serves.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
};

use futures_lite::{StreamExt, future};
use ouroboros::{Flow, FlowSpec, Irm, Tunnel, TunnelError, tun::InterfaceAddress};
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
    name: Option<String>,
    /// Address of the tunnel's device, such as 10.0.0.1 or 10.0.0.1/24
    #[structopt(short, long)]
    ip: String,
    /// Mask of the tunnel's device, such as 255.255.255.0
    #[structopt(short, long)]
    mask: Option<Ipv4Addr>,
    /// Encrypts the tunnel
    #[structopt(short = "C", long)]
    crypt: bool,
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
    match async_std::task::block_on(run(&arguments, address)) {
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

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn run(arguments: &Arguments, address: InterfaceAddress) -> Outcome {
    let mut signals = signals()?;
    let irm = Irm::connect();
    let tunnels = async {
        match &arguments.name {
            Some(name) => {
                println!("Allocating a flow to {name}.");
                let spec = FlowSpec::raw();
                let spec = if arguments.crypt { spec.encrypted() } else { spec };
                carry(irm.allocate(name, spec).await?, address).await
            }
            None => loop {
                println!("Waiting for a flow.");
                let flow = irm.accept_any().await?;
                match carry(flow, address).await {
                    // A client that went away is no reason to end.
                    Err(error) if error.downcast_ref::<TunnelError>().is_some_and(ended) => {
                        println!("The flow has ended: {error}.");
                    }
                    other => other?,
                }
            },
        }
    };
    future::or(tunnels, async {
        signals.next().await;
        println!("Ending.");
        Ok(())
    })
    .await
}

fn ended(error: &TunnelError) -> bool {
    matches!(error, TunnelError::Flow(_))
}

async fn carry(flow: Flow, address: InterfaceAddress) -> Outcome {
    println!("Flow allocated to {}, with {}.", flow.info().name, flow.info().peer);
    match flow.info().suite {
        Some(suite) => println!("Encrypted: key exchange {}, cipher {}.", suite.kex, suite.cipher),
        None => println!("Warning: this tunnel is NOT encrypted."),
    }
    let tunnel = Tunnel::builder().address(address).build()?;
    println!("Tunnel device {} with {address} is up.", tunnel.interface_name());
    tunnel.run(flow).await?;
    Ok(())
}
