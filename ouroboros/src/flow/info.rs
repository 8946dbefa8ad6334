//! The agreed terms of a flow, its statistics, and the parts that a flow is made of. Not here:
//! any decision (`proto::connection`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use event_listener::Event;
use serde::{Deserialize, Serialize};

use super::handles::FlowCloser;
use crate::{
    crypto::Suite,
    driver,
    proto::{
        negotiation::{PeerIdentity, ProfilePolicy, ReliableTerms, ServerSecurity, Trust},
        protection::{FlowKeys, Profile},
    },
    transport::{OffPathHandler, Path, PathOffload, Stray},
    wire::{Eid, Name, PeerAddress, QosSpec, extension::Lane},
};

/// The agreed terms of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlowInfo {
    /// The name the flow was allocated to.
    pub name: Name,
    /// The IPCP at the other end, as the transport addresses it.
    pub peer: PeerAddress,
    /// This side's endpoint.
    pub local: Eid,
    /// The peer's endpoint.
    pub remote: Eid,
    /// The quality of service.
    pub qos: QosSpec,
    /// How packets are encrypted; `None`: they are not.
    pub suite: Option<Suite>,
    /// Which format encrypted packets have. Who asked for the native profile
    /// and sees that of 0.23 speaks with a 0.23 peer, or with somebody in
    /// between who took the offer away.
    pub profile: Option<Profile>,
    /// The peer's identity; `None`: it has shown none.
    pub identity: Option<PeerIdentity>,
    /// The flow's place in a tunnel of several, as its client says; native
    /// flows only.
    pub lane: Option<Lane>,
    /// The terms of reliable delivery, if the flow is reliable and both ends have this
    /// library's own protocol for that; `None`: FRCT, or not reliable.
    pub reliable: Option<ReliableTerms>,
    /// Packets keep their order by the numbers that they have in the native profile;
    /// `false`: by FRCT, or not.
    #[serde(default)]
    pub ordered: bool,
    /// The round trip of the allocation, the server's thinking included; `None`: it was
    /// not measured.
    pub allocation_rtt: Option<Duration>,
    /// Whether the peer's key is that of a first use, and known to `irmd` from
    /// this flow on: nobody has compared it yet.
    pub first_use: bool,
    /// `false` if a first use could not be written down: whoever answers
    /// next is taken for the peer again.
    pub remembered: bool,
}

impl FlowInfo {
    /// The terms of a flow whose packets are not encrypted. For those who
    /// carry flows between processes.
    #[must_use]
    pub fn new(name: Name, peer: PeerAddress, (local, remote): (Eid, Eid), qos: QosSpec) -> Self {
        let (suite, profile, identity, lane, reliable) = (None, None, None, None, None);
        let (ordered, allocation_rtt, first_use, remembered) = (false, None, false, true);
        Self {
            name,
            peer,
            local,
            remote,
            qos,
            suite,
            profile,
            identity,
            lane,
            reliable,
            ordered,
            allocation_rtt,
            first_use,
            remembered,
        }
    }

    /// Returns `true` if a flow like this may be had under `policy` now: a certificate
    /// does not count for longer than it is valid.
    #[must_use]
    pub fn meets(&self, policy: &ServerSecurity) -> bool {
        let native = self.profile == Some(Profile::Native);
        let encrypted = policy.require_encryption
            || policy.profile == ProfilePolicy::RequireNative
            || policy.clients.demands_identity();
        let strong = match (self.suite, policy.suite) {
            (Some(has), Some(least)) => {
                has.kex >= least.kex && has.kdf >= least.kdf && has.cipher >= least.cipher
            }
            (has, _) => has.is_some() || !encrypted,
        };
        let known = match (&policy.clients, &self.identity) {
            (Trust::Anyone, _) | (Trust::FirstUse, Some(_)) => true,
            (Trust::Keys(keys), Some(peer)) => keys.contains(&peer.fingerprint),
            (Trust::Authorities(_), Some(peer)) => {
                let seconds = driver::now().utc / 1_000_000_000;
                peer.certified_until.is_some_and(|until| seconds <= until)
            }
            _ => false,
        };
        strong && known && (native || policy.profile != ProfilePolicy::RequireNative)
    }

    /// The same for one whose packets are.
    #[must_use]
    pub fn encrypted(
        mut self,
        suite: Suite,
        profile: Profile,
        identity: Option<PeerIdentity>,
    ) -> Self {
        (self.suite, self.profile, self.identity) = (Some(suite), Some(profile), identity);
        self
    }
}

/// Statistics of a flow. Bytes are those of the application's packets.
///
/// A raw flow loses packets in the network, and in the queue of this machine's own
/// device, without anybody being told; what is lost at an end of it is counted here.
/// A native peer tells how many packets it has got ([`undelivered`](Self::undelivered)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowStatistics {
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received and, if encrypted, authenticated.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames dropped because they could not be opened: forged, corrupted or
    /// under a key that is not the flow's.
    pub unopened: u64,
    /// Packets dropped because the path could not carry their size.
    pub oversize: u64,
    /// Packets dropped because no key may seal them now.
    pub unsealed: u64,
    /// Packets dropped because the application does not receive and more may not
    /// wait.
    pub dropped_unread: u64,
    /// Frames that the flow's socket has dropped because nobody read it in time. The kernel
    /// counts them, from 0 to 2^32 - 1, for as long as the flow has that socket.
    pub socket_drops: u64,
    /// Packets of this end that its peer had not got when it last told of it, control
    /// packets included; 0 in the 0.23 format, which cannot tell. It is asked at most once a
    /// second, while much is sent and when statistics are read: what is read then tells of
    /// the time before. Packets that a queue on the way dropped are among these, be it this
    /// host's own.
    pub undelivered: u64,
    /// Packets sent again, on a reliable flow.
    pub retransmitted: u64,
    /// Packets dropped because later ones had been received before them, on an ordered flow
    /// in the native profile.
    pub late: u64,
    /// System calls that sent.
    pub send_calls: u64,
    /// System calls that received.
    pub receive_calls: u64,
    /// The key epoch that this end seals in, from 0; 0 in the 0.23 format.
    pub epoch: u64,
}

/// A flow as it is now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlowState {
    /// The agreed terms.
    pub info: FlowInfo,
    /// Where the peer is: it may have moved since the flow was allocated.
    pub peer: PeerAddress,
    /// How long this end has had the flow.
    pub age: Duration,
    /// How long the peer has not been heard.
    pub silence: Duration,
    /// The round trip that was [measured](crate::FlowWatcher::measure_round_trip) last, or
    /// seen when the peer was asked whether it is there; `None`: neither was.
    pub round_trip: Option<Duration>,
    /// The peer has been asked, and has not answered yet.
    pub measuring: bool,
    /// How many of the peer's packets were lost on the way, or are late; `None` unless the
    /// flow has the native profile, whose packets have numbers. On a reliable flow the numbers
    /// that the peer left out (PROTOCOL.md, "Packets of a stream") are among them.
    pub missed: Option<u64>,
    /// Largest frame that reaches the peer, as far as is known: a packet with what protects
    /// it, in bytes.
    pub largest_frame: usize,
    /// The offloads in use at the flow's socket.
    pub offload: PathOffload,
}

/// Over several flows.
impl std::iter::Sum for FlowStatistics {
    fn sum<I: Iterator<Item = Self>>(flows: I) -> Self {
        flows.fold(Self::default(), |sum, flow| Self {
            sent_packets: sum.sent_packets + flow.sent_packets,
            sent_bytes: sum.sent_bytes + flow.sent_bytes,
            received_packets: sum.received_packets + flow.received_packets,
            received_bytes: sum.received_bytes + flow.received_bytes,
            unopened: sum.unopened + flow.unopened,
            oversize: sum.oversize + flow.oversize,
            unsealed: sum.unsealed + flow.unsealed,
            dropped_unread: sum.dropped_unread + flow.dropped_unread,
            socket_drops: sum.socket_drops + flow.socket_drops,
            undelivered: sum.undelivered + flow.undelivered,
            retransmitted: sum.retransmitted + flow.retransmitted,
            late: sum.late + flow.late,
            send_calls: sum.send_calls + flow.send_calls,
            receive_calls: sum.receive_calls + flow.receive_calls,
            epoch: sum.epoch.max(flow.epoch),
        })
    }
}

/// An allocated flow before its packets are protected: what the daemon relays
/// and [`Flow::new`](crate::Flow::new) takes.
pub struct RawFlow {
    /// The flow's own data path.
    pub path: Arc<dyn Path>,
    /// The agreed terms.
    pub info: FlowInfo,
    /// The agreed keys; `None` for a plain flow.
    pub keys: Option<FlowKeys>,
    /// Frames that came while the flow was being allocated.
    pub early: Vec<Vec<u8>>,
    /// Where frames go that reach the path and are not the flow's.
    pub strays: Option<Box<dyn Fn(Stray) + Send + Sync>>,
    /// Given what takes frames for the flow that come from elsewhere than its
    /// peer; it lets go of it when the flow has ended.
    pub off_path: Option<Box<WatchOffPath>>,
    /// Given what closes the flow, for who may have to end it.
    pub closer: Option<Box<dyn FnOnce(FlowCloser) + Send + Sync>>,
    /// Dropped when the flow ends.
    pub release: Option<Box<dyn Send + Sync>>,
}

/// Has a [`OffPathHandler`] called with frames from elsewhere.
pub type WatchOffPath = dyn FnOnce(&OffPathHandler) + Send + Sync;

impl std::fmt::Debug for RawFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawFlow").field("info", &self.info).finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) sent_packets: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_packets: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) unopened: AtomicU64,
    pub(super) oversize: AtomicU64,
    pub(super) unsealed: AtomicU64,
    pub(super) dropped_unread: AtomicU64,
    pub(super) undelivered: AtomicU64,
    pub(super) retransmitted: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) send_calls: AtomicU64,
    pub(super) receive_calls: AtomicU64,
    pub(super) epoch: AtomicU64,
    /// How often the peer has moved.
    pub(super) moves: AtomicU64,
    /// Tells watchers that the flow has ended, also when it is there no more.
    pub(super) ended: Event,
}

impl Counters {
    pub(super) fn statistics(&self) -> FlowStatistics {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        FlowStatistics {
            sent_packets: of(&self.sent_packets),
            sent_bytes: of(&self.sent_bytes),
            received_packets: of(&self.received_packets),
            received_bytes: of(&self.received_bytes),
            unopened: of(&self.unopened),
            oversize: of(&self.oversize),
            unsealed: of(&self.unsealed),
            dropped_unread: of(&self.dropped_unread),
            socket_drops: 0,
            undelivered: of(&self.undelivered),
            retransmitted: of(&self.retransmitted),
            late: of(&self.late),
            send_calls: of(&self.send_calls),
            receive_calls: of(&self.receive_calls),
            epoch: of(&self.epoch),
        }
    }
}
