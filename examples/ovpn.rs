//! The product's first minute: without arguments, two hosts in network
//! namespaces and an encrypted tunnel between them, with the library alone.
//! With arguments, an `ovpn` that needs no daemon.

use std::{error::Error, num::NonZeroU8, process::ExitCode, str::FromStr, time::Duration};

use futures_lite::future;
use ouroboros::{
    Flow, FlowSpec, Identity, Irm, LaneAcceptor, Offload, ServerSecurity, Tunnel,
    crypto::SystemEntropy,
    transport::{EthDix, ScopedAddress, Udp},
    trust::{KnownNames, Pin, TrustFolder},
    tun::InterfaceAddress,
    wire::Name,
};
use ouroboros_examples::demonstration;
use structopt::StructOpt;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

enum LayerChoice {
    EthDix(String),
    Udp(ScopedAddress),
}

impl FromStr for LayerChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: expected eth-dix:INTERFACE or udp:ADDRESS");
        match text.split_once(':').ok_or_else(bad)? {
            ("eth-dix", interface) => Ok(Self::EthDix(interface.to_owned())),
            ("udp", address) => match address.parse() {
                Ok(address) => Ok(Self::Udp(address)),
                Err(error) => Err(format!("{address}: {error}")),
            },
            _ => Err(bad()),
        }
    }
}

fn in_zone(udp: Udp, address: &ScopedAddress) -> Udp {
    address.zone().map_or(udp.clone(), |zone| udp.zone(zone))
}

/// An encrypted IP tunnel without a daemon; a demonstration without arguments
#[derive(StructOpt)]
#[structopt(name = "ovpn")]
struct Arguments {
    /// eth-dix:INTERFACE or udp:ADDRESS, such as udp:10.0.0.1 or udp:fe80::1%eth0
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
    /// Encrypts the tunnel, with the server that is known by its key
    #[structopt(long)]
    crypt: bool,
    /// Spreads an encrypted tunnel's connections over so many flows, for machines with more cores
    /// than one flow keeps busy
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
        (LayerChoice::Udp(ip), Some(_)) => {
            irm.bootstrap("layer", in_zone(Udp::at(ip.address()), ip)).await
        }
        (LayerChoice::Udp(ip), None) => {
            irm.bootstrap("layer", in_zone(Udp::connect_only(ip.address()), ip)).await
        }
    }?;
    let trust = TrustFolder::of_user()?;
    if let Some(name) = &arguments.connect {
        println!("Allocating a flow to {name}.");
        let flows = if arguments.crypt {
            known(&irm, name, arguments.queues.get(), &trust.known_names()).await?
        } else {
            vec![irm.allocate(name, FlowSpec::raw()).await?]
        };
        return carry(flows, settings).await;
    }
    let name = arguments.serve.unwrap_or_default();
    let key = trust.identity().load_or_generate(&mut SystemEntropy)?;
    println!("The key of {name} is {}.", key.public_key().fingerprint());
    let identity = Identity::self_signed(key, &name.parse()?);
    irm.set_policy(name.parse()?, ServerSecurity::default().native_identity(identity))?;
    layer.register(&name).await?;
    let mut acceptor = LaneAcceptor::new(&irm, Some(&name));
    loop {
        println!("Waiting for a flow to {name}.");
        if let Err(error) = carry(acceptor.accept().await?, settings).await {
            println!("The flow has ended: {error}.");
        }
    }
}

/// The flows of an encrypted tunnel to the server that is known by its key, or
/// will be.
async fn known(irm: &Irm, name: &str, queues: u8, known: &KnownNames) -> Outcome<Vec<Flow>> {
    let parsed: Name = name.parse()?;
    let spec = FlowSpec::raw().encrypted().trust(known.trust(&parsed)?);
    let flows = match irm.allocate_lanes(name, spec, queues).await {
        Ok(flows) => flows,
        Err(error) => {
            let changed = error.untrusted_key().and_then(|key| known.check(&parsed, key).err());
            return Err(changed.map_or_else(|| error.into(), Into::into));
        }
    };
    match &flows[0].info().identity {
        Some(peer) => {
            println!("The server's key is {}.", peer.fingerprint);
            if known.verify_or_pin(&parsed, peer.fingerprint)? == Pin::New {
                println!("{name} is known by it from now on, in {}.", known.path().display());
            }
        }
        None => println!("Warning: the server shows no key."),
    }
    Ok(flows)
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
    let builder = Tunnel::builder().address(address).offload(offload);
    let tunnel = builder.queues(flows.len()).build()?;
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
