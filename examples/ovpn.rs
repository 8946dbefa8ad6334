//! The product's first minute: without arguments, two hosts in network
//! namespaces and an encrypted tunnel between them, with the library alone.
//! With arguments, an `ovpn` that needs no daemon.

use std::{
    error::Error, net::IpAddr, num::NonZeroU8, process::ExitCode, str::FromStr, time::Duration,
};

use futures_lite::future;
use ouroboros::{
    Flow, FlowSpec, Irm, LaneAcceptor, Offload, Tunnel,
    transport::{EthDix, Udp},
    tun::InterfaceAddress,
};
use ouroboros_examples::demonstration;
use structopt::StructOpt;

type Outcome = Result<(), Box<dyn Error>>;

enum LayerChoice {
    EthDix(String),
    Udp(IpAddr),
}

impl FromStr for LayerChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: expected eth-dix:INTERFACE or udp:ADDRESS");
        match text.split_once(':').ok_or_else(bad)? {
            ("eth-dix", interface) => Ok(Self::EthDix(interface.to_owned())),
            ("udp", address) => Ok(Self::Udp(address.parse().map_err(|_| bad())?)),
            _ => Err(bad()),
        }
    }
}

/// An encrypted IP tunnel without a daemon; a demonstration without arguments
#[derive(StructOpt)]
#[structopt(name = "ovpn")]
struct Arguments {
    /// eth-dix:INTERFACE or udp:ADDRESS
    #[structopt(long)]
    layer: LayerChoice,
    /// Serves this name
    #[structopt(long, conflicts_with = "connect", required_unless = "connect")]
    serve: Option<String>,
    /// Connects to this name
    #[structopt(long)]
    connect: Option<String>,
    /// Address of the tunnel's device, such as 10.0.0.1/24
    #[structopt(long)]
    ip: InterfaceAddress,
    /// Encrypts the tunnel
    #[structopt(long)]
    crypt: bool,
    /// Spreads an encrypted tunnel's connections over so many flows, for machines with more cores than one flow keeps busy
    #[structopt(long, default_value = "1", value_name = "NUMBER")]
    queues: NonZeroU8,
    /// Says every second what went through
    #[structopt(long)]
    stats: bool,
    /// Does without offloads: a list of tcp, udp, checksums, segments, coalesces, or all
    #[structopt(long, value_name = "LIST")]
    no_offload: Option<String>,
}

fn main() -> ExitCode {
    let result = if std::env::args_os().len() == 1 {
        demonstration::run()
    } else {
        async_std::task::block_on(tunnel(Arguments::from_args()))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ovpn: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn tunnel(arguments: Arguments) -> Outcome {
    let offload = Offload::from_environment()?;
    let offload = offload.without(arguments.no_offload.as_deref().unwrap_or_default())?;
    let settings = Settings { address: arguments.ip, offload, stats: arguments.stats };
    let irm = Irm::new();
    let layer = match (&arguments.layer, &arguments.serve) {
        (LayerChoice::EthDix(interface), _) => irm.bootstrap("layer", EthDix::on(interface)).await,
        (LayerChoice::Udp(ip), Some(_)) => irm.bootstrap("layer", Udp::at(*ip)).await,
        (LayerChoice::Udp(ip), None) => irm.bootstrap("layer", Udp::connect_only(*ip)).await,
    }?;
    if let Some(name) = &arguments.connect {
        println!("Allocating a flow to {name}.");
        let spec = FlowSpec::raw();
        let spec = if arguments.crypt { spec.encrypted() } else { spec };
        let flows = irm.allocate_lanes(name, spec, arguments.queues.get()).await?;
        return carry(flows, settings).await;
    }
    let name = arguments.serve.unwrap_or_default();
    layer.register(&name).await?;
    let mut acceptor = LaneAcceptor::new(&irm, Some(&name));
    loop {
        println!("Waiting for a flow to {name}.");
        if let Err(error) = carry(acceptor.accept().await?, settings).await {
            println!("The flow has ended: {error}.");
        }
    }
}

#[derive(Clone, Copy)]
struct Settings {
    address: InterfaceAddress,
    offload: Offload,
    stats: bool,
}

async fn carry(flows: Vec<Flow>, settings: Settings) -> Outcome {
    match flows[0].info().suite {
        Some(suite) => println!("Flow allocated, encrypted: {suite}."),
        None => println!("Flow allocated. Warning: this tunnel is NOT encrypted."),
    }
    let Settings { address, offload, stats } = settings;
    let tunnel = Tunnel::builder().address(address).offload(offload).queues(flows.len()).build()?;
    println!("Tunnel device {} with {address} is up.", tunnel.interface_name());
    let watch = async {
        loop {
            async_std::task::sleep(Duration::from_secs(1)).await;
            println!("{}", tunnel.statistics());
        }
    };
    let run = tunnel.run_lanes(flows);
    if stats {
        future::or(run, watch).await?;
    } else {
        run.await?;
    }
    Ok(())
}
