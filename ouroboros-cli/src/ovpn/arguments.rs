//! The command line of `ovpn`, which is that of its configuration file, too: what a tunnel
//! is to be. Not here: files (`tunnels`), and anything that is done.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU8,
    path::PathBuf,
};

use ouroboros::{
    FlowSpec, Offload, ServerSecurity, Trust,
    crypto::identity::Fingerprint,
    proto::{
        hub::{Configuration, IpNet},
        negotiation::ProfilePolicy,
    },
    transport::ServerHost,
    trust::{TrustError, authorities},
    wire::{Name, QosSpec},
};
use structopt::{StructOpt, clap::AppSettings};

use super::{
    Accepted, Changing, Clients, Invite, Join, Misuse, Settings, doctor,
    status::{self, Observed},
};
use crate::http::ListenAddress;

/// Queues of a server's device that nobody asked for, at most.
const MOST_QUEUES: usize = 8;

/// The longest silence that can be asked for: a day.
const MOST_SECONDS: u32 = 86_400;
/// The default of `--timeout`.
const TIMEOUT: u32 = 30;

const AFTER_HELP: &str = "\
EXAMPLES:
    ovpn --serve office --ip 10.0.0.1/24
        runs a server for the clients that are invited
    ovpn --serve office --ip 10.0.0.1/24 --save
        the same, now and after every restart
    ovpn --config /etc/ouroboros/ovpn.toml office
        runs the tunnel [tunnel.office] of that file; SIGHUP has it read again
    ovpn invite alice --server vpn.example.org
        prints the line by which one client joins, once, within a day; several names, such as
        alice bob carol, get a line each
    ovpn join LINE
        joins that server, and runs the tunnel
    ovpn clients revoke alice
        ends a client's tunnel and removes its access
    ovpn --dev office0 --ip 10.0.0.1/24 --metrics unix:/run/ouroboros/office0
        runs a server with the device office0 and metrics for Prometheus
    ovpn -n my_vpn --ip server --accept-routes --identify
        connects to the server of my_vpn, with the addresses and routes that it pushes
    ovpn status --watch
        prints every second who is connected, from where, and traffic statistics
    ovpn doctor --name my_vpn
        diagnoses why a client does not reach the server of my_vpn

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
    /etc/ouroboros/NAME.clients the clients of --serve NAME, one a line: key, name, addresses
    /etc/ouroboros/ovpn.toml    tunnels (ovpn@.service), as join and --save write them
    /run/ouroboros/irmd.sock    irmd's socket
    /run/ouroboros/ovpn/*.sock  status of running tunnels (ovpn status)

ENVIRONMENT:
    OUROBOROS_SOCKET      irmd's socket, if it is another one
    OUROBOROS_CONFIG      directory of ovpn.toml, instead of /etc/ouroboros
    OUROBOROS_NO_OFFLOAD  disabled offloads, as for --no-offload
    OUROBOROS_JOURNAL     socket of the journal, instead of /run/systemd/journal/socket
    RUST_LOG              log level: error, warn, info (by default), debug or trace

EXIT STATUS:
    0 on success, or if it was ended by a signal; 1 on failure; 2 on wrong usage";

/// An IP tunnel over an Ouroboros flow
///
/// With --name, a client; otherwise a server, of --serve or of the names that this program is
/// bound to.
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
pub struct Arguments {
    /// Client: connects to the server of this name
    #[structopt(short, long)]
    pub name: Option<Name>,
    /// Server: serves this name to the clients that `ovpn invite` invites; has irmd create the
    /// name, and a layer over UDP, if there is none
    #[structopt(long, value_name = "NAME")]
    pub serve: Option<Name>,
    /// Name of the TUN device. Default: tun0, tun1, ...
    #[structopt(long, value_name = "DEVICE")]
    pub(super) dev: Option<String>,
    /// Address of the TUN device, such as 10.0.0.1/24; once for IPv4, once for IPv6. Client:
    /// `server` for the address that the server assigns
    #[structopt(short, long, number_of_values = 1)]
    pub(super) ip: Vec<String>,
    /// Netmask of the TUN device, such as 255.255.255.0
    #[structopt(short, long)]
    pub(super) mask: Option<Ipv4Addr>,
    /// Encrypts the tunnel. Client: pins the server's key on first use, and refuses another one
    /// later. Server: refuses clients whose flows are not encrypted
    #[structopt(short = "C", long)]
    pub(super) crypt: bool,
    /// Encrypts the tunnel. Client: authenticates to the server with this machine's key (`irm
    /// key show`). Server: refuses clients that do not authenticate
    #[structopt(short = "I", long)]
    pub(super) identify: bool,
    /// Client: host of the server, instead of looking up the MD5 of the name in the hosts file
    /// and DNS
    #[structopt(long, value_name = "HOST[:PORT]")]
    pub(super) server: Option<ServerHost>,
    /// Client: encrypts the tunnel, and accepts only a server with this key
    #[structopt(long, value_name = "FINGERPRINT")]
    pub(super) server_key: Option<Fingerprint>,
    /// Client: encrypts the tunnel, and accepts only a server that an authority in this folder
    /// has certified
    #[structopt(long, parse(from_os_str), value_name = "FOLDER", conflicts_with = "server-key")]
    pub(super) ca: Option<PathBuf>,
    /// Encrypts the tunnel, and requires the native profile
    #[structopt(long)]
    pub(super) native: bool,
    /// Server: pushes a route to this network to clients
    #[structopt(long, value_name = "NETWORK", number_of_values = 1)]
    pub(super) route: Vec<IpNet>,
    /// Server: pushes this DNS resolver to clients
    #[structopt(long, value_name = "ADDRESS", number_of_values = 1)]
    pub(super) dns: Vec<IpAddr>,
    /// Server: pushes this domain to clients, as one that the resolvers are for
    #[structopt(long, value_name = "DOMAIN", number_of_values = 1)]
    pub(super) search: Vec<String>,
    /// Server: forwards packets between clients itself. Otherwise they go through the kernel's
    /// routing and firewall
    #[structopt(long)]
    pub(super) forward: bool,
    /// Server: keeps the addresses of authenticated clients in this file
    #[structopt(long, parse(from_os_str), value_name = "FILE")]
    pub(super) leases: Option<PathBuf>,
    /// Client: has irmd create a layer over UDP, on all addresses, if it has none
    #[structopt(long)]
    pub(super) ensure_layer: bool,
    /// Client: waits for a server that does not answer, also for its first flow; so does
    /// --kill-switch
    #[structopt(long)]
    pub(super) wait: bool,
    /// Client: accepts the routes that the server pushes
    #[structopt(long)]
    pub(super) accept_routes: bool,
    /// Client: accepts the DNS resolvers that the server pushes
    #[structopt(long)]
    pub(super) accept_dns: bool,
    /// Client: routes all traffic beyond this machine's own networks through the tunnel. The
    /// route to the server follows the uplink. Undone at exit
    #[structopt(long)]
    pub(super) full_tunnel: bool,
    /// Client: with --full-tunnel, blocks that traffic while the tunnel is down, even if ovpn
    /// is killed: until it is started again and exits
    #[structopt(long)]
    pub(super) kill_switch: bool,
    /// Server: masquerades what clients send to other networks (NAT, by nftables)
    #[structopt(long)]
    pub(super) masquerade: bool,
    /// Spreads an encrypted tunnel's connections over this number of flows, for machines with
    /// more cores than one flow can use
    #[structopt(
        long,
        alias = "queues",
        value_name = "NUMBER",
        default_value = "1",
        parse(try_from_str = lane_count)
    )]
    pub(super) lanes: NonZeroU8,
    /// Declares the peer dead after this number of seconds of silence
    #[structopt(
        long,
        value_name = "SECONDS",
        default_value = "30",
        parse(try_from_str = seconds)
    )]
    pub(super) timeout: u32,
    /// Prints traffic statistics every second
    #[structopt(long)]
    pub(super) stats: bool,
    /// Disables offloads: a list of tcp, udp, checksums, segments, coalesces, or all
    #[structopt(long, value_name = "LIST")]
    pub(super) no_offload: Option<String>,
    /// Serves metrics for Prometheus at /metrics, on this Unix socket (its owner and group can read them)
    /// or loopback port (every user of this machine can)
    #[structopt(long, value_name = "unix:PATH|127.0.0.1:PORT")]
    pub metrics: Option<ListenAddress>,
    /// Runs a tunnel of this configuration file (TOML)
    #[structopt(long, parse(from_os_str), value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Saves these options in ovpn.toml as the tunnel of the name, and with systemd enables
    /// and starts it
    #[structopt(long)]
    pub save: bool,
    /// With --config, the tunnel, if the file has several
    #[structopt(value_name = "TUNNEL")]
    pub tunnel: Option<String>,
    /// Another command, instead of a tunnel.
    #[structopt(subcommand)]
    pub command: Option<Command>,
}

/// A command that runs no tunnel in this process.
#[derive(StructOpt)]
pub enum Command {
    /// Prints the running tunnels of this machine, and their peers
    Status(status::Options),
    /// Diagnoses usual problems, and says what to do; fails if tunnels cannot work
    Doctor(doctor::Options),
    /// Lists, renames and revokes the clients of this machine's servers
    Clients(Clients),
    /// Invites clients: prints the line that each joins with, once
    Invite(Invite),
    /// Joins a server by an invitation, and runs the tunnel
    Join(Join),
}

fn lane_count(text: &str) -> Result<NonZeroU8, &'static str> {
    text.parse().map_err(|_| "not a number from 1 to 255")
}

fn seconds(text: &str) -> Result<u32, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (1..=MOST_SECONDS).contains(seconds));
    seconds.ok_or("not a number of seconds from 1 to 86400")
}

impl Arguments {
    /// The tunnel that is to be.
    ///
    /// # Errors
    ///
    /// All that makes no sense; one at least.
    pub fn settings(&self) -> Result<Settings, Vec<Misuse>> {
        let mut wrong = self.misplaced();
        let mut addresses = Vec::new();
        match self.addresses() {
            Ok(found) => addresses = found,
            Err(misuse) => wrong.push(misuse),
        }
        let unused = self.no_offload.as_deref().unwrap_or_default();
        let offload = Offload::from_environment().and_then(|offload| offload.without(unused));
        let offload = match offload {
            Ok(offload) if wrong.is_empty() => offload,
            Ok(_) => return Err(wrong),
            Err(error) => {
                wrong.push(Misuse { option: "no-offload", reason: error.to_string() });
                return Err(wrong);
            }
        };
        Ok(Settings {
            addresses,
            device: self.dev.clone(),
            offload,
            statistics: self.stats,
            lanes: self.lanes(),
            forward: self.forward,
            leases: self.leases.clone(),
            changing: self.changing(),
            full_tunnel: self.full_tunnel,
            kill_switch: self.kill_switch,
            masquerade: self.masquerade,
            ensure_layer: self.ensure_layer,
            wait: self.wait || self.kill_switch,
            changes: async_channel::bounded(1).1,
            observed: Observed::default(),
        })
    }

    /// Returns the settings that a running tunnel can follow.
    #[must_use]
    pub fn changing(&self) -> Changing {
        let mut configuration = Configuration::default();
        configuration.routes.clone_from(&self.route);
        configuration.dns_servers.clone_from(&self.dns);
        configuration.search_domains.clone_from(&self.search);
        Changing {
            demands: self.demands(),
            configuration,
            accepted: Accepted { routes: self.accept_routes, dns: self.accept_dns },
        }
    }

    /// Returns the demands of a server on its clients' flows, beyond those of their names'
    /// policies.
    pub(super) fn demands(&self) -> ServerSecurity {
        let least = ServerSecurity::default();
        ServerSecurity {
            require_encryption: self.crypt,
            profile: if self.native { ProfilePolicy::RequireNative } else { least.profile },
            clients: if self.identify { Trust::FirstUse } else { Trust::Anyone },
            ..least
        }
    }

    /// A client has as many lanes as it is told; a server's device has at least as
    /// many queues as there are cores for.
    fn lanes(&self) -> usize {
        let asked = usize::from(self.lanes.get());
        if self.name.is_some() {
            return asked;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        asked.max(cores.min(MOST_QUEUES))
    }

    /// The flow that is asked for.
    pub fn spec(&self) -> Result<FlowSpec, TrustError> {
        let timeout = self.timeout.saturating_mul(1000);
        let mut spec = FlowSpec::with_qos(QosSpec { timeout, ..QosSpec::RAW });
        if self.crypt {
            spec = spec.encrypted();
        }
        if self.identify {
            spec = spec.with_manager_identity();
        }
        if self.native {
            spec = spec.require_native();
        }
        if let Some(server) = &self.server {
            spec = spec.at_server(server.clone());
        }
        if let Some(key) = self.server_key {
            spec = spec.trust(Trust::Keys(vec![key]));
        }
        if let Some(folder) = &self.ca {
            let (store, unused) = authorities(folder)?;
            for reason in unused {
                println!("Not an authority: {reason}.");
            }
            spec = spec.trust(Trust::Authorities(store));
        }
        Ok(spec)
    }

    /// The options that are given, by their names, with their values; a flag has none.
    pub(super) fn options(&self) -> Vec<(&'static str, Vec<String>)> {
        fn one(value: &Option<impl ToString>) -> Option<Vec<String>> {
            value.as_ref().map(|value| vec![value.to_string()])
        }
        fn many(values: &[impl ToString]) -> Option<Vec<String>> {
            (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect())
        }
        let path = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Some(vec![path.to_string_lossy().into_owned()])
        };
        let flag = |given: bool| given.then(Vec::new);
        let all = [
            ("name", one(&self.name)),
            ("serve", one(&self.serve)),
            ("dev", one(&self.dev)),
            ("ip", many(&self.ip)),
            ("mask", one(&self.mask)),
            ("crypt", flag(self.crypt)),
            ("identify", flag(self.identify)),
            ("server", one(&self.server)),
            ("server-key", one(&self.server_key)),
            ("ca", path(&self.ca)),
            ("native", flag(self.native)),
            ("route", many(&self.route)),
            ("dns", many(&self.dns)),
            ("search", many(&self.search)),
            ("forward", flag(self.forward)),
            ("leases", path(&self.leases)),
            ("ensure-layer", flag(self.ensure_layer)),
            ("wait", flag(self.wait)),
            ("accept-routes", flag(self.accept_routes)),
            ("accept-dns", flag(self.accept_dns)),
            ("full-tunnel", flag(self.full_tunnel)),
            ("kill-switch", flag(self.kill_switch)),
            ("masquerade", flag(self.masquerade)),
            ("lanes", (self.lanes != NonZeroU8::MIN).then(|| vec![self.lanes.to_string()])),
            ("timeout", (self.timeout != TIMEOUT).then(|| vec![self.timeout.to_string()])),
            ("stats", flag(self.stats)),
            ("no-offload", one(&self.no_offload)),
            ("metrics", one(&self.metrics)),
        ];
        all.into_iter().filter_map(|(option, values)| Some((option, values?))).collect()
    }
}
