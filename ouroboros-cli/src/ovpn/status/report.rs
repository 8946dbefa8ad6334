//! A tunnel as it is now, as JSON (`ovpn status --json`) and as metrics. Times are seconds.

use std::{process, time::Duration};

use ouroboros::{
    ClientInfo, FlowInfo, FlowState, FlowStatistics, Hub, Tunnel, TunnelStatistics,
    proto::{hub::IpNet, negotiation::Profile},
};
use serde::{Deserialize, Serialize};

use crate::{
    http::Page,
    metrics::{Kind, Metrics},
    service,
};

/// Which end of tunnels a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Neither yet: it waits for what it needs.
    None,
    /// The server of any number of clients.
    Server,
    /// The client of one server.
    Client,
}

/// The report of a running `ovpn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its process id.
    pub process: u32,
    /// Its version.
    pub version: String,
    /// Which end it is.
    pub role: Role,
    /// What it does or waits for now, in words.
    pub state: String,
    /// The name of its device.
    pub device: Option<String>,
    /// The device's addresses.
    pub addresses: Vec<IpNet>,
    /// The device's MTU, in bytes.
    pub mtu: Option<u16>,
    /// Offloads in use at the device; at the flow's socket, too, if there is one flow.
    pub offload: String,
    /// The traffic of the device.
    pub traffic: Traffic,
    /// Packets dropped at the device, for each cause that there was.
    pub dropped: Vec<(String, u64)>,
    /// A server's clients; a client's server.
    pub peers: Vec<Peer>,
}

/// Packets and bytes each way. Bytes are those of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets to the peer.
    pub sent_packets: u64,
    /// Bytes to the peer.
    pub sent_bytes: u64,
    /// Packets from the peer.
    pub received_packets: u64,
    /// Bytes from the peer.
    pub received_bytes: u64,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// The name that the flow was allocated to.
    pub name: String,
    /// The fingerprint of the peer's key, if it has shown one.
    pub identity: Option<String>,
    /// The name of the client that has the key, by the server's list.
    #[serde(default)]
    pub client: Option<String>,
    /// The name that the peer's certificate or key has.
    pub common_name: Option<String>,
    /// Where it is, in the layer.
    pub outer: String,
    /// Its addresses and networks inside of the tunnel, as a server has them.
    pub inner: Vec<IpNet>,
    /// How long it has been there.
    pub age: f64,
    /// How long it has not been heard.
    pub silence: f64,
    /// The round trip, without what is inside of the tunnel; `None`: unknown.
    pub round_trip: Option<f64>,
    /// The traffic of its flows.
    pub traffic: Traffic,
    /// Packets of the peer that were lost on the way, or are late; `None`: unknown.
    pub missed: Option<u64>,
    /// Packets to the peer that it had not got when it was asked last, if it tells.
    pub undelivered: u64,
    /// Packets of it, and for it, that were dropped at this end.
    pub dropped: u64,
    /// Largest packet to it, in bytes.
    pub mtu: Option<u16>,
    /// The key epoch that this end seals in.
    pub epoch: u64,
    /// `native`, `0.23` or `plain`.
    pub profile: String,
    /// Key exchange and cipher, if its packets are encrypted.
    pub suite: Option<String>,
    /// Offloads in use at its flow's socket.
    pub offload: String,
    /// How many flows it has.
    pub lanes: usize,
}

impl Report {
    pub(super) fn new(role: Role) -> Self {
        Self {
            process: process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role,
            state: service::last_status(),
            device: None,
            addresses: Vec::new(),
            mtu: None,
            offload: "none".to_owned(),
            traffic: Traffic::default(),
            dropped: Vec::new(),
            peers: Vec::new(),
        }
    }

    fn with_device(self, device: &str, mtu: Option<u16>, counted: &TunnelStatistics) -> Self {
        let dropped = counted.device_drops().into_iter().filter(|(count, _)| *count > 0);
        Self {
            device: Some(device.to_owned()),
            mtu,
            offload: counted.offload.to_string(),
            traffic: Traffic {
                sent_packets: counted.sent_packets,
                sent_bytes: counted.sent_bytes,
                received_packets: counted.received_packets,
                received_bytes: counted.received_bytes,
            },
            dropped: dropped.map(|(count, cause)| (cause.to_owned(), count)).collect(),
            ..self
        }
    }

    pub(super) fn of_client(tunnel: &Tunnel, addresses: &[IpNet]) -> Self {
        let (mtu, counted, flows) = (tunnel.mtu().ok(), tunnel.statistics(), tunnel.flows());
        let peer = Peer::of(&flows).map(|peer| Peer {
            traffic: of_flows(&counted.flow),
            dropped: dropped(&counted.flow),
            undelivered: counted.flow.undelivered,
            epoch: counted.flow.epoch,
            mtu,
            ..peer
        });
        Self {
            addresses: addresses.to_vec(),
            peers: peer.into_iter().collect(),
            ..Self::new(Role::Client).with_device(&tunnel.interface_name_now(), mtu, &counted)
        }
    }

    pub(super) fn of_server(hub: &Hub, addresses: &[IpNet]) -> Self {
        let peer = |client: ClientInfo| {
            let counted = &client.statistics;
            let peer = Peer::of(&client.flows)?;
            Some(Peer {
                inner: client.prefixes,
                traffic: of_flows(&counted.flows),
                dropped: dropped(&counted.flows) + counted.foreign_source,
                undelivered: counted.flows.undelivered,
                epoch: counted.flows.epoch,
                mtu: Some(client.mtu),
                ..peer
            })
        };
        Self {
            addresses: addresses.to_vec(),
            peers: hub.clients().into_iter().filter_map(peer).collect(),
            ..Self::new(Role::Server).with_device(
                &hub.interface_name_now(),
                hub.mtu().ok(),
                &hub.statistics(),
            )
        }
    }

    /// The same as metrics.
    #[must_use]
    pub fn metrics(&self) -> Page {
        let mut metrics = Metrics::default();
        let device = self.device.as_deref().unwrap_or_default();
        let role = match self.role {
            Role::None => "none",
            Role::Server => "server",
            Role::Client => "client",
        };
        let info: [_; 3] = [("device", device), ("role", role), ("version", &self.version)];
        let one = [(&info[..], 1)];
        metrics.family("ovpn_info", Kind::Gauge, "The tunnel's device and role.", one);
        let own = [("device", device)];
        let mut of_device = |name: &str, kind, help: &str, value: u64| {
            metrics.family(name, kind, help, [(&own[..], value)]);
        };
        of_device("ovpn_peers", Kind::Gauge, "Peers that are connected.", self.peers.len() as u64);
        let Traffic { sent_packets, sent_bytes, received_packets, received_bytes } = self.traffic;
        for (name, help, value) in [
            ("ovpn_sent_packets_total", "Packets from the device to peers.", sent_packets),
            ("ovpn_sent_bytes_total", "Bytes from the device to peers.", sent_bytes),
            ("ovpn_received_packets_total", "Packets from peers to the device.", received_packets),
            ("ovpn_received_bytes_total", "Bytes from peers to the device.", received_bytes),
        ] {
            of_device(name, Kind::Counter, help, value);
        }
        let labels = |cause| [("device", device), ("cause", cause)];
        let causes: Vec<_> =
            self.dropped.iter().map(|(cause, count)| (labels(cause.as_str()), *count)).collect();
        let causes = causes.iter().map(|(labels, count)| (&labels[..], *count));
        let help = "Packets dropped at the device.";
        metrics.family("ovpn_dropped_packets_total", Kind::Counter, help, causes);
        self.peer_metrics(device, &mut metrics);
        metrics.page()
    }

    fn peer_metrics(&self, device: &str, metrics: &mut Metrics) {
        let keys: Vec<_> = self.peers.iter().map(Peer::key).collect();
        let labels: Vec<_> = keys
            .iter()
            .zip(&self.peers)
            .map(|(key, peer)| [("device", device), ("name", &peer.name), ("peer", key)])
            .collect();
        let mut family = |name: &str, kind, help: &str, of: &dyn Fn(&Peer) -> Option<f64>| {
            let values = labels.iter().zip(&self.peers);
            let samples = values.filter_map(|(labels, peer)| Some((&labels[..], of(peer)?)));
            metrics.family(name, kind, help, samples);
        };
        let (gauge, counter) = (Kind::Gauge, Kind::Counter);
        family("ovpn_peer_age_seconds", gauge, "Time since the peer came.", &|p| Some(p.age));
        let help = "Time since the peer was heard.";
        family("ovpn_peer_silence_seconds", gauge, help, &|peer| Some(peer.silence));
        let help = "Round trip to the peer.";
        family("ovpn_peer_round_trip_seconds", gauge, help, &|peer| peer.round_trip);
        let help = "Packets to the peer.";
        family("ovpn_peer_sent_packets_total", counter, help, &|peer| {
            Some(peer.traffic.sent_packets as f64)
        });
        let help = "Bytes to the peer.";
        family("ovpn_peer_sent_bytes_total", counter, help, &|peer| {
            Some(peer.traffic.sent_bytes as f64)
        });
        let help = "Packets from the peer.";
        family("ovpn_peer_received_packets_total", counter, help, &|peer| {
            Some(peer.traffic.received_packets as f64)
        });
        let help = "Bytes from the peer.";
        family("ovpn_peer_received_bytes_total", counter, help, &|peer| {
            Some(peer.traffic.received_bytes as f64)
        });
        // Late packets are counted until they come.
        let help = "Packets from the peer that were lost on the way.";
        family("ovpn_peer_missed_packets", gauge, help, &|peer| peer.missed.map(|n| n as f64));
        let help = "Packets to the peer that it has not got, if it tells.";
        family("ovpn_peer_undelivered_packets", gauge, help, &|peer| Some(peer.undelivered as f64));
        let help = "Packets from and for the peer that were dropped here.";
        family("ovpn_peer_dropped_packets_total", counter, help, &|peer| Some(peer.dropped as f64));
        let help = "Largest packet to the peer.";
        family("ovpn_peer_mtu_bytes", gauge, help, &|peer| peer.mtu.map(f64::from));
    }
}

impl Peer {
    /// Returns the key that identifies it, or else its address.
    #[must_use]
    pub fn key(&self) -> String {
        self.identity.clone().unwrap_or_else(|| self.outer.clone())
    }

    /// Returns the report of its flows, of which there is one at least.
    fn of(flows: &[FlowState]) -> Option<Self> {
        let first = flows.first()?;
        let seconds = |time: Option<Duration>| time.as_ref().map(Duration::as_secs_f64);
        let identity = first.info.identity.as_ref();
        let missed: Option<Vec<_>> = flows.iter().map(|flow| flow.missed).collect();
        Some(Self {
            name: first.info.name.to_string(),
            identity: identity.map(|peer| peer.fingerprint.to_string()),
            client: None,
            common_name: identity.map(|peer| peer.common_name.clone()),
            outer: first.peer.to_string(),
            inner: Vec::new(),
            age: seconds(flows.iter().map(|flow| flow.age).max()).unwrap_or_default(),
            silence: seconds(flows.iter().map(|flow| flow.silence).min()).unwrap_or_default(),
            round_trip: seconds(flows.iter().filter_map(|flow| flow.round_trip).min()),
            traffic: Traffic::default(),
            missed: missed.map(|missed| missed.into_iter().sum()),
            undelivered: 0,
            dropped: 0,
            mtu: None,
            epoch: 0,
            profile: profile(&first.info).to_owned(),
            suite: first.info.suite.map(|suite| suite.to_string()),
            offload: offload(first),
            lanes: flows.len(),
        })
    }
}

fn profile(info: &FlowInfo) -> &'static str {
    match (info.suite, info.profile) {
        (None, _) => "plain",
        (_, Some(Profile::Native)) => "native",
        _ => "0.23",
    }
}

fn offload(flow: &FlowState) -> String {
    let used = [(flow.offload.segments, "segments"), (flow.offload.coalesces, "coalesces")];
    let used: Vec<_> = used.iter().filter(|(used, _)| *used).map(|(_, name)| *name).collect();
    if used.is_empty() { "none".to_owned() } else { used.join(",") }
}

fn of_flows(counted: &FlowStatistics) -> Traffic {
    Traffic {
        sent_packets: counted.sent_packets,
        sent_bytes: counted.sent_bytes,
        received_packets: counted.received_packets,
        received_bytes: counted.received_bytes,
    }
}

fn dropped(counted: &FlowStatistics) -> u64 {
    let FlowStatistics { unopened, oversize, unsealed, dropped_unread, socket_drops, .. } = counted;
    unopened + oversize + unsealed + dropped_unread + socket_drops
}
