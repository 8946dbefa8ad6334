//! An IP tunnel over a flow that `irmd` serves.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
    path::PathBuf,
    process::ExitCode,
};

use async_std::task;
use futures_lite::{StreamExt, future};
use ouroboros::{
    FlowSpec, Irm, Offload, Trust, UnknownOffload,
    crypto::identity::Fingerprint,
    trust::{TrustError, authorities},
    tun::InterfaceAddress,
    wire::{Name, QosSpec},
};
use ouroboros_cli::{
    confine::confine,
    eprintln, output,
    ovpn::{Outcome, Settings, client, server},
    println, termination,
};
use rustix::thread::CapabilitySet;
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
    /// Encrypts the tunnel. A server that shows its key is known by it from then on, and
    /// refused when it has changed
    #[structopt(short = "C", long)]
    crypt: bool,
    /// Encrypts the tunnel, and tells the server whose it is: this machine's, by the key
    /// that `irm key show` tells
    #[structopt(short = "I", long)]
    identify: bool,
    /// Encrypts the tunnel, and takes nobody for the server but who has this key
    #[structopt(long, value_name = "FINGERPRINT")]
    server_key: Option<Fingerprint>,
    /// Encrypts the tunnel, and takes nobody for the server but whom one of the authorities
    /// in this folder vouches for
    #[structopt(long, parse(from_os_str), value_name = "FOLDER", conflicts_with = "server-key")]
    ca: Option<PathBuf>,
    /// Encrypts the tunnel, in the native profile only
    #[structopt(long)]
    native: bool,
    /// Spreads an encrypted tunnel's connections over so many flows, for machines with more
    /// cores than one flow keeps busy
    #[structopt(long = "lanes", alias = "queues", value_name = "NUMBER", default_value = "1")]
    queues: NonZeroU8,
    /// Takes the other end for gone after so many seconds without a word
    #[structopt(long, value_name = "SECONDS", default_value = "30")]
    timeout: u32,
    /// Says every second what went through
    #[structopt(long)]
    stats: bool,
    /// Does without offloads: a list of tcp, udp, checksums, segments, coalesces, or all
    #[structopt(long, value_name = "LIST")]
    no_offload: Option<String>,
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    let settings = match settings(&arguments) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("ovpn: {error}");
            return ExitCode::from(2);
        }
    };
    // Devices are made, and given other MTUs, as long as it runs. With the right
    // to packet sockets it has its flows' own ones from the daemon.
    if let Err(error) = confine(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, &[]) {
        return ouroboros_cli::failed("ovpn", &error);
    }
    if let Err(error) = output::start() {
        return ouroboros_cli::failed("ovpn", &error);
    }
    match task::block_on(run(&arguments, &settings)) {
        Ok(()) => {
            // What cannot be written is no failure of the tunnel.
            let _ = output::finish();
            ExitCode::SUCCESS
        }
        Err(error) => ouroboros_cli::failed("ovpn", error.as_ref()),
    }
}

fn settings(arguments: &Arguments) -> Result<Settings, String> {
    let unused = arguments.no_offload.as_deref().unwrap_or_default();
    let offload = Offload::from_environment().and_then(|offload| offload.without(unused));
    Ok(Settings {
        address: address(&arguments.ip, arguments.mask)?,
        offload: offload.map_err(|error: UnknownOffload| error.to_string())?,
        statistics: arguments.stats,
    })
}

fn address(ip: &str, mask: Option<Ipv4Addr>) -> Result<InterfaceAddress, String> {
    let parsed: Result<InterfaceAddress, _> = match (ip.parse::<IpAddr>(), mask) {
        (Ok(IpAddr::V4(ip)), Some(mask)) => {
            return InterfaceAddress::with_mask(ip, mask).map_err(|_| {
                format!("--mask {mask}: its ones are not all in front, as in 255.255.255.0")
            });
        }
        (Ok(_), None) => {
            return Err(format!("--ip {ip}: say how large its network is: {ip}/24, or --mask"));
        }
        (_, Some(_)) => return Err(format!("--ip {ip}: a mask goes with a plain IPv4 address")),
        (Err(_), None) => ip.parse(),
    };
    parsed.map_err(|error| format!("--ip {error}"))
}

/// The flow that is asked for.
fn spec(arguments: &Arguments) -> Result<FlowSpec, TrustError> {
    let timeout = arguments.timeout.saturating_mul(1000);
    let mut spec = FlowSpec::with_qos(QosSpec { timeout, ..QosSpec::RAW });
    if arguments.crypt {
        spec = spec.encrypted();
    }
    if arguments.identify {
        spec = spec.identified();
    }
    if arguments.native {
        spec = spec.require_native();
    }
    if let Some(key) = arguments.server_key {
        spec = spec.trust(Trust::Keys(vec![key]));
    }
    if let Some(folder) = &arguments.ca {
        let (store, unused) = authorities(folder)?;
        for reason in unused {
            println!("Not an authority: {reason}.");
        }
        spec = spec.trust(Trust::Authorities(store));
    }
    Ok(spec)
}

async fn run(arguments: &Arguments, settings: &Settings) -> Outcome {
    let mut signals = termination()?;
    let irm = Irm::connect();
    let tunnels = async {
        match &arguments.name {
            Some(name) => {
                let queues = arguments.queues.get();
                client(&irm, name, spec(arguments)?, queues, settings).await
            }
            None => server(&irm, settings).await,
        }
    };
    future::or(tunnels, async {
        signals.next().await;
        println!("Ending.");
        Ok(())
    })
    .await
}
