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
    FlowSpec, Irm, Offload, ServerSecurity, Trust, UnknownOffload,
    crypto::identity::Fingerprint,
    proto::{hub::IpNet, negotiation::ProfilePolicy},
    transport::ServerHost,
    trust::{TrustError, authorities},
    tun::InterfaceAddress,
    wire::{Name, QosSpec},
};
use ouroboros_cli::{
    confine::confine,
    eprintln,
    http::Place,
    output,
    ovpn::{
        Accepted, Clients, Invite, Join, Outcome, Settings, Told, client, doctor, keep_serving,
        serve_name, server,
        status::{self, Observed},
    },
    println, service, termination,
};
use rustix::thread::CapabilitySet;
use structopt::{StructOpt, clap::AppSettings};

/// Queues of a server's device that nobody asked for, at most.
const MOST_QUEUES: usize = 8;

/// The longest silence that can be asked for: a day.
const MOST_SECONDS: u32 = 86_400;

const AFTER_HELP: &str = "\
EXAMPLES:
    ovpn --serve office --ip 10.0.0.1/24
        serves the clients that are invited
    ovpn invite alice --server vpn.example.org
        prints the line by which one client joins, once, within a day
    ovpn join LINE
        joins that server, and has the tunnel run
    ovpn clients revoke alice
        ends a client's tunnel, and gives it no other
    ovpn --dev office0 --ip 10.0.0.1/24 --metrics unix:/run/ouroboros/office0
        serves all clients with one device, and its metrics to a scraper
    ovpn -n my_vpn --ip server --accept-routes --identify
        connects to the server of my_vpn, and takes its addresses and routes from it
    ovpn status --watch
        shows every second who is connected, from where, and what has gone through
    ovpn doctor --name my_vpn
        looks why a client finds no server of my_vpn

METRICS:
    Of a tunnel, with the label device: ovpn_info, ovpn_peers, ovpn_sent_packets_total,
    ovpn_sent_bytes_total, ovpn_received_packets_total, ovpn_received_bytes_total,
    ovpn_dropped_packets_total (cause). Of each peer, with the labels device, name and peer
    (the fingerprint of its key, or its address): ovpn_peer_age_seconds,
    ovpn_peer_silence_seconds, ovpn_peer_round_trip_seconds, ovpn_peer_sent_packets_total,
    ovpn_peer_sent_bytes_total, ovpn_peer_received_packets_total,
    ovpn_peer_received_bytes_total, ovpn_peer_missed_packets, ovpn_peer_undelivered_packets,
    ovpn_peer_dropped_packets_total, ovpn_peer_mtu_bytes.

FILES:
    /etc/ouroboros/NAME.clients the clients of --serve NAME: a key, a name, addresses a line
    /etc/ouroboros/ovpn/*.env   the options of tunnels (ovpn@.service), as join writes them
    /run/ouroboros/irmd.sock    where irmd listens
    /run/ouroboros/ovpn/*.sock  where running tunnels tell of themselves (ovpn status)

ENVIRONMENT:
    OUROBOROS_SOCKET      where irmd listens instead
    OUROBOROS_NO_OFFLOAD  offloads to do without, as for --no-offload
    RUST_LOG              what is logged: error, warn, info (by default), debug or trace

EXIT STATUS:
    0 if it was ended by a signal, or has shown what was asked for; 1 if something failed; 2
    if the arguments make no sense";

/// An IP tunnel over an Ouroboros flow
///
/// Without a name, waits for flows to the names that this program is bound to.
#[derive(StructOpt)]
#[structopt(
    name = "ovpn",
    after_help = AFTER_HELP,
    settings = &[
        AppSettings::SubcommandsNegateReqs,
        AppSettings::ArgsNegateSubcommands,
        AppSettings::DisableHelpSubcommand,
        AppSettings::VersionlessSubcommands,
    ]
)]
struct Arguments {
    /// Allocates a flow to this name
    #[structopt(short, long)]
    name: Option<Name>,
    /// Serves this name to the clients that `ovpn invite` lets in; irmd has the name, and a
    /// layer over UDP, from then on
    #[structopt(long, value_name = "NAME", conflicts_with = "name")]
    serve: Option<Name>,
    /// Name of the tunnel's device; tun0, tun1, ... otherwise
    #[structopt(long, value_name = "DEVICE")]
    dev: Option<String>,
    /// Address of the tunnel's device, such as 10.0.0.1/24; once for IPv4, once for IPv6. A
    /// client that says `server` has the address that the server gives it
    #[structopt(short, long, required = true, number_of_values = 1)]
    ip: Vec<String>,
    /// Mask of the tunnel's device, such as 255.255.255.0
    #[structopt(short, long)]
    mask: Option<Ipv4Addr>,
    /// Encrypts the tunnel. A server that shows its key is known by it from then on, and
    /// refused when it has changed. Server: refuses clients whose flows are not encrypted
    #[structopt(short = "C", long)]
    crypt: bool,
    /// Encrypts the tunnel, and tells the server whose it is: this machine's, by the key
    /// that `irm key show` tells. Server: refuses clients that do not say whose they are
    #[structopt(short = "I", long)]
    identify: bool,
    /// Client: looks for the server at this host, instead of under the name's MD5 in the
    /// hosts file and DNS
    #[structopt(long, value_name = "HOST[:PORT]", requires = "name")]
    server: Option<ServerHost>,
    /// Encrypts the tunnel, and takes nobody for the server but who has this key
    #[structopt(long, value_name = "FINGERPRINT", requires = "name")]
    server_key: Option<Fingerprint>,
    /// Encrypts the tunnel, and takes nobody for the server but whom one of the authorities
    /// in this folder vouches for
    #[structopt(
        long,
        parse(from_os_str),
        value_name = "FOLDER",
        conflicts_with = "server-key",
        requires = "name"
    )]
    ca: Option<PathBuf>,
    /// Encrypts the tunnel, in the native profile only. Server: refuses clients of another
    #[structopt(long)]
    native: bool,
    /// Server: tells clients that this network can be reached through the tunnel
    #[structopt(long, value_name = "NETWORK", number_of_values = 1, conflicts_with = "name")]
    route: Vec<IpNet>,
    /// Server: tells clients of this resolver
    #[structopt(long, value_name = "ADDRESS", number_of_values = 1, conflicts_with = "name")]
    dns: Vec<IpAddr>,
    /// Server: tells clients that the resolvers are for this domain
    #[structopt(long, value_name = "DOMAIN", number_of_values = 1, conflicts_with = "name")]
    search: Vec<String>,
    /// Server: moves packets from client to client itself. Without it they go to the kernel,
    /// whose routing and firewall decide
    #[structopt(long, conflicts_with = "name")]
    forward: bool,
    /// Server: remembers in this file which addresses clients with an identity have
    #[structopt(long, parse(from_os_str), value_name = "FILE", conflicts_with = "name")]
    leases: Option<PathBuf>,
    /// Client: has irmd make a layer over UDP, at every address, if it has none
    #[structopt(long, requires = "name")]
    ensure_layer: bool,
    /// Client: routes the networks that the server tells of through the tunnel
    #[structopt(long, requires = "name")]
    accept_routes: bool,
    /// Client: uses the resolvers that the server tells of
    #[structopt(long, requires = "name")]
    accept_dns: bool,
    /// Client: leads everything beyond this machine's own networks through the tunnel. The
    /// way to the server follows the uplink. Undone at the end
    #[structopt(long, requires = "name")]
    full_tunnel: bool,
    /// Client: with --full-tunnel, nothing goes another way before the tunnel is up and
    /// while it is away, also if ovpn is killed: until it is started again and ends
    #[structopt(long, requires = "full-tunnel")]
    kill_switch: bool,
    /// Server: what clients send beyond it leaves with its own address (nftables)
    #[structopt(long, conflicts_with = "name")]
    masquerade: bool,
    /// Spreads an encrypted tunnel's connections over so many flows, for machines with more
    /// cores than one flow keeps busy
    #[structopt(
        long = "lanes",
        alias = "queues",
        value_name = "NUMBER",
        default_value = "1",
        parse(try_from_str = lane_count)
    )]
    queues: NonZeroU8,
    /// Takes the other end for gone after so many seconds without a word
    #[structopt(
        long,
        value_name = "SECONDS",
        default_value = "30",
        parse(try_from_str = seconds)
    )]
    timeout: u32,
    /// Says every second what went through
    #[structopt(long)]
    stats: bool,
    /// Does without offloads: a list of tcp, udp, checksums, segments, coalesces, or all
    #[structopt(long, value_name = "LIST")]
    no_offload: Option<String>,
    /// Serves metrics for Prometheus at this Unix socket or port of this machine, as
    /// /metrics
    #[structopt(long, value_name = "unix:PATH|127.0.0.1:PORT")]
    metrics: Option<Place>,
    #[structopt(subcommand)]
    command: Option<Command>,
}

/// What is asked of others than a tunnel of this process.
#[derive(StructOpt)]
enum Command {
    /// Shows the tunnels that run on this machine, and who is connected
    Status(status::Options),
    /// Looks for what usually is wrong, and says what to do; fails if tunnels cannot work
    Doctor(doctor::Options),
    /// Lists, renames and revokes the clients of this machine's servers
    Clients(Clients),
    /// Invites a client: prints a line that it joins with, once
    Invite(Invite),
    /// Joins a server by an invitation, and has the tunnel run
    Join(Join),
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    if let Some(command) = &arguments.command {
        let done = match command {
            Command::Status(options) => task::block_on(status::status(options)),
            Command::Doctor(options) => match task::block_on(doctor::doctor(options)) {
                Ok(false) => {
                    let _ = output::finish();
                    return ExitCode::FAILURE;
                }
                outcome => outcome.map(drop),
            },
            Command::Clients(command) => task::block_on(command.run()),
            Command::Invite(command) => task::block_on(command.run()),
            Command::Join(command) => task::block_on(command.run()),
        };
        return finished(done);
    }
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
    finished(task::block_on(run(&arguments, &settings)))
}

fn finished(outcome: Outcome) -> ExitCode {
    match outcome {
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
    let from_server = arguments.ip.iter().any(|ip| ip == "server");
    if from_server && arguments.name.is_none() {
        return Err(
            "--ip server is for clients: say which address the server itself has".to_owned()
        );
    }
    if from_server && arguments.ip.len() > 1 {
        return Err("--ip server: the server gives all addresses".to_owned());
    }
    let mut addresses = Vec::new();
    for ip in arguments.ip.iter().filter(|_| !from_server) {
        addresses.push(address(ip, arguments.mask)?);
    }
    let v4 = addresses.iter().filter(|own| own.address().is_ipv4()).count();
    if v4 > 1 || addresses.len() - v4 > 1 {
        return Err("--ip: one address of IPv4 and one of IPv6 at most".to_owned());
    }
    Ok(Settings {
        addresses,
        device: arguments.dev.clone(),
        offload: offload.map_err(|error: UnknownOffload| error.to_string())?,
        statistics: arguments.stats,
        lanes: lanes(arguments),
        forward: arguments.forward,
        leases: arguments.leases.clone(),
        demands: demands(arguments),
        told: Told {
            routes: arguments.route.clone(),
            dns_servers: arguments.dns.clone(),
            search_domains: arguments.search.clone(),
        },
        accepted: Accepted { routes: arguments.accept_routes, dns: arguments.accept_dns },
        full_tunnel: arguments.full_tunnel,
        kill_switch: arguments.kill_switch,
        masquerade: arguments.masquerade,
        ensure_layer: arguments.ensure_layer,
        observed: Observed::default(),
    })
}

fn lane_count(text: &str) -> Result<NonZeroU8, &'static str> {
    text.parse().map_err(|_| "not a number from 1 to 255")
}

fn seconds(text: &str) -> Result<u32, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (1..=MOST_SECONDS).contains(seconds));
    seconds.ok_or("not a number of seconds from 1 to 86400")
}

/// What a server demands of its clients' flows, beyond what their names' policies do.
fn demands(arguments: &Arguments) -> ServerSecurity {
    let least = ServerSecurity::default();
    ServerSecurity {
        require_encryption: arguments.crypt,
        profile: if arguments.native { ProfilePolicy::RequireNative } else { least.profile },
        clients: if arguments.identify { Trust::FirstUse } else { Trust::Anyone },
        ..least
    }
}

/// A client has as many lanes as it is told; a server's device has at least as
/// many queues as there are cores for.
fn lanes(arguments: &Arguments) -> usize {
    let asked = usize::from(arguments.queues.get());
    if arguments.name.is_some() {
        return asked;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    asked.max(cores.min(MOST_QUEUES))
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
        spec = spec.with_manager_identity();
    }
    if arguments.native {
        spec = spec.require_native();
    }
    if let Some(server) = &arguments.server {
        spec = spec.at_server(server.clone());
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
    // It waits for what is missing itself: nobody else has to wait for that.
    service::ready();
    let irm = Irm::connect();
    let tunnels = async {
        match &arguments.name {
            Some(name) => client(&irm, name, spec(arguments)?, settings).await,
            None => match &arguments.serve {
                Some(name) => {
                    serve_name(name).await?;
                    future::or(server(&irm, settings), keep_serving(name)).await
                }
                None => server(&irm, settings).await,
            },
        }
    };
    let watched = service::watchdog(|| ());
    let told = async {
        let served = status::serve(&settings.observed, arguments.metrics.as_ref()).await;
        served.map_err(|error| format!("--metrics: {error}").into())
    };
    let tunnels = future::or(tunnels, told);
    future::or(future::or(tunnels, watched), async {
        signals.next().await;
        service::stopping();
        println!("Ending.");
        Ok(())
    })
    .await
}
