//! What applications and tools say to `irmd`: one JSON object in each datagram
//! of a Unix seqpacket socket, one request a connection. Lists come in as many
//! datagrams as they need, the last of them with an empty list. A flow that is
//! accepted is offered first, and granted when it is taken ([`Request::Take`]).
//! Not here: sockets (`client`), what the daemon does.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    Failure,
    security::{Authentication, FlowSecurity, NameDemands, PeerData},
};
use crate::{
    crypto::{Algorithms, Suite, identity::IdentityKey},
    flow::{FlowInfo, RawFlow},
    proto::{
        negotiation::PeerIdentity,
        protection::{FlowKeys, Profile},
    },
    transport::Handed,
    trust::KeyFile,
    wire::{Eid, Name, PeerAddress, QosSpec, extension::Lane},
};

/// Longest request or response in bytes.
pub const LARGEST_DATAGRAM: usize = 64 * 1024;
/// Bytes of a list that are put into one datagram.
const LARGEST_PART: usize = 32 * 1024;

/// What an IPCP is bootstrapped over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportSpec {
    /// Raw Ethernet.
    EthDix {
        /// The interface.
        device: String,
        /// The ethertype, 0xa000 by default.
        ethertype: Option<u16>,
        /// The directory hash, such as `sha3-256`.
        hash: Option<String>,
    },
    /// UDP.
    Udp {
        /// The local address.
        ip: std::net::IpAddr,
        /// The port, 3435 by default.
        port: Option<u16>,
    },
}

/// The algorithms of a flow, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteNames {
    /// Key exchange.
    pub kex: String,
    /// Key derivation hash.
    pub kdf: String,
    /// Cipher.
    pub cipher: String,
}

impl From<Suite> for SuiteNames {
    fn from(suite: Suite) -> Self {
        Self {
            kex: suite.kex.to_string(),
            kdf: suite.kdf.to_string(),
            cipher: suite.cipher.to_string(),
        }
    }
}

impl TryFrom<&SuiteNames> for Suite {
    type Error = crate::crypto::UnknownAlgorithm;

    fn try_from(names: &SuiteNames) -> Result<Self, Self::Error> {
        Ok(Self { kex: names.kex.parse()?, kdf: names.kdf.parse()?, cipher: names.cipher.parse()? })
    }
}

/// The algorithms that the configuration of a name names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlgorithmNames {
    /// Key exchange.
    #[serde(default)]
    pub kex: Option<String>,
    /// Key derivation hash.
    #[serde(default)]
    pub kdf: Option<String>,
    /// Cipher.
    #[serde(default)]
    pub cipher: Option<String>,
    /// Digest.
    #[serde(default)]
    pub digest: Option<String>,
}

impl From<Algorithms> for AlgorithmNames {
    fn from(named: Algorithms) -> Self {
        Self {
            kex: named.kex.map(|kex| kex.to_string()),
            kdf: named.kdf.map(|kdf| kdf.to_string()),
            cipher: named.cipher.map(|cipher| cipher.to_string()),
            digest: named.digest.map(|digest| digest.to_string()),
        }
    }
}

impl From<Suite> for AlgorithmNames {
    fn from(suite: Suite) -> Self {
        Algorithms::from(suite).into()
    }
}

impl TryFrom<&AlgorithmNames> for Algorithms {
    type Error = crate::crypto::UnknownAlgorithm;

    fn try_from(names: &AlgorithmNames) -> Result<Self, Self::Error> {
        let AlgorithmNames { kex, kdf, cipher, digest } = names;
        Ok(Self {
            kex: kex.as_deref().map(str::parse).transpose()?,
            kdf: kdf.as_deref().map(str::parse).transpose()?,
            cipher: cipher.as_deref().map(str::parse).transpose()?,
            digest: digest.as_deref().map(str::parse).transpose()?,
        })
    }
}

/// The encryption of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// Plain flows.
    None,
    /// Encrypted flows, with at least these algorithms.
    Suite(AlgorithmNames),
}

/// What the daemon is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// Makes an IPCP that is not attached yet.
    CreateIpcp {
        /// Its name.
        name: String,
        /// Its type, such as `udp`.
        kind: String,
    },
    /// Attaches an IPCP, made first if need be, and puts it into a layer.
    BootstrapIpcp {
        /// Its name.
        name: String,
        /// The layer.
        layer: String,
        /// What it is attached to.
        transport: TransportSpec,
    },
    /// Destroys an IPCP.
    DestroyIpcp {
        /// Its name.
        name: String,
    },
    /// Lists the IPCPs.
    ListIpcps,
    /// Makes a name known, with its encryption.
    CreateName {
        /// The name.
        name: String,
        /// For flows that are accepted.
        server: Option<Security>,
        /// For flows that are allocated.
        client: Option<Security>,
        /// Who has to prove who they are. With it flows are encrypted.
        #[serde(default)]
        authentication: Authentication,
        /// Whether flows have to have the native profile. With it they are
        /// encrypted.
        #[serde(default)]
        native: bool,
        /// File with the key that the server has instead of the daemon's.
        #[serde(default)]
        key: Option<String>,
        /// File with the certificate that an authority has given to the key.
        #[serde(default)]
        certificate: Option<String>,
    },
    /// Tells the daemon's key, made first if need be.
    ShowKey,
    /// Makes a key for the daemon.
    GenerateKey {
        /// Whether it takes the place of one that is there.
        force: bool,
    },
    /// Forgets a name and its bindings.
    DestroyName {
        /// The name.
        name: String,
    },
    /// Registers a name in a layer.
    Register {
        /// The name.
        name: String,
        /// The layer.
        layer: String,
    },
    /// Takes a name out of a layer.
    Unregister {
        /// The name.
        name: String,
        /// The layer.
        layer: String,
    },
    /// Lists the names.
    ListNames,
    /// Lists the flows that applications have.
    ListFlows,
    /// Binds a program, or takes the binding back.
    Program {
        /// The executable, as an absolute path.
        path: String,
        /// The name.
        name: String,
        /// Whether to bind.
        bind: bool,
    },
    /// Binds a process, or takes the binding back.
    Process {
        /// The process id.
        pid: u32,
        /// The name.
        name: String,
        /// Whether to bind.
        bind: bool,
    },
    /// Waits for a flow to a name bound to this process or its program.
    Accept {
        /// Only this name.
        name: Option<String>,
        /// Its executable, as an absolute path. Who may ask could also bind, so
        /// it is believed, and the daemon needs no right to look for itself.
        program: Option<String>,
        /// What flows have to be like beyond what the names demand, as long as this
        /// process lives.
        #[serde(default)]
        demands: Vec<NameDemands>,
    },
    /// The answer to [`Response::Offered`], on the same connection: the flow is
    /// wanted. Who does not say so has not got it.
    Take,
    /// Allocates a flow.
    Allocate {
        /// Whom to.
        name: String,
        /// What it should be like.
        qos: QosSpec,
        /// How it must be encrypted, and with whom; `None`: as the daemon has it
        /// for the name.
        security: Option<FlowSecurity>,
        /// How long it may take, in milliseconds.
        timeout: u64,
    },
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Response {
    /// It is done.
    Done,
    /// The IPCPs.
    Ipcps(Vec<IpcpEntry>),
    /// The names.
    Names(Vec<NameEntry>),
    /// The flows.
    Flows(Vec<FlowEntry>),
    /// The daemon's key.
    Key(KeyEntry),
    /// A flow; its data path's descriptor comes with the datagram.
    Flow(Box<FlowGrant>),
    /// A flow has come for who waits: it is the application's if it takes it.
    Offered,
    /// It cannot be done, and why.
    Error(Failure),
}

impl Response {
    /// The response in parts that fit a datagram each: a list is cut, and ended by
    /// an empty one.
    pub fn parts(self) -> Vec<Self> {
        match self {
            Self::Ipcps(list) => cut(list).into_iter().map(Self::Ipcps).collect(),
            Self::Names(list) => cut(list).into_iter().map(Self::Names).collect(),
            Self::Flows(list) => cut(list).into_iter().map(Self::Flows).collect(),
            other => vec![other],
        }
    }

    /// Adds the next part of a list; whether it was the last, or `None` if it is
    /// no part of this list.
    pub(super) fn extend(&mut self, part: Self) -> Option<bool> {
        fn append<T>(list: &mut Vec<T>, part: Vec<T>) -> Option<bool> {
            let last = part.is_empty();
            list.extend(part);
            Some(last)
        }
        match (self, part) {
            (Self::Ipcps(list), Self::Ipcps(part)) => append(list, part),
            (Self::Names(list), Self::Names(part)) => append(list, part),
            (Self::Flows(list), Self::Flows(part)) => append(list, part),
            _ => None,
        }
    }

    /// Whether more parts follow.
    pub(super) fn continues(&self) -> bool {
        match self {
            Self::Ipcps(list) => !list.is_empty(),
            Self::Names(list) => !list.is_empty(),
            Self::Flows(list) => !list.is_empty(),
            _ => false,
        }
    }
}

/// Cuts a list where its encoding would be longer than [`LARGEST_PART`].
fn cut<T: Serialize>(list: Vec<T>) -> Vec<Vec<T>> {
    let (mut parts, mut part, mut length) = (Vec::new(), Vec::new(), 0);
    for entry in list {
        let size = serde_json::to_string(&entry).map_or(0, |text| text.len() + 1);
        if length + size > LARGEST_PART && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            length = 0;
        }
        length += size;
        part.push(entry);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts.push(Vec::new());
    parts
}

/// A key, by its public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// What it is known by.
    pub fingerprint: String,
    /// The file it is in.
    pub path: String,
}

impl KeyEntry {
    /// The key that is in `file`.
    pub fn new(file: &KeyFile, key: &IdentityKey) -> Self {
        let fingerprint = key.public_key().fingerprint().to_string();
        Self { fingerprint, path: file.path().display().to_string() }
    }
}

/// One IPCP in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpcpEntry {
    /// Its name.
    pub name: String,
    /// Its layer; empty if it is not bootstrapped.
    pub layer: String,
    /// What it is attached to.
    pub attachment: String,
    /// How it was bootstrapped; an older daemon does not say.
    #[serde(default)]
    pub transport: Option<TransportSpec>,
}

/// One name in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameEntry {
    /// The name.
    pub name: String,
    /// Layers it is registered in.
    pub layers: Vec<String>,
    /// Programs bound to it.
    pub programs: Vec<String>,
    /// Processes bound to it.
    pub processes: Vec<u32>,
    /// What its server demands.
    pub encryption: String,
}

/// One flow in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// The name it was allocated to.
    pub name: String,
    /// The IPCP at the other end.
    pub peer: String,
    /// This side's endpoint.
    pub local: Eid,
    /// The peer's endpoint.
    pub remote: Eid,
    /// How its packets are encrypted.
    pub encryption: String,
    /// Whether they have the native profile.
    pub native: bool,
    /// Who the peer is; `None`: nobody knows.
    pub identity: Option<PeerData>,
    /// Whether its frames pass through the daemon; otherwise the application
    /// has the flow's own socket.
    pub relayed: bool,
}

/// How a flow's frames reach the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DataPath {
    /// Through the daemon, in batches, as ciphertext: the descriptor is the
    /// application's end of the relay.
    Relay,
    /// By the flow's own socket, which is the descriptor. The connection stays
    /// open as the flow's control channel (`control`).
    Socket(Handed),
}

/// The keys of a flow on their way to the application, as
/// [`FlowKeys::into_bytes`] has them.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct GrantedKeys {
    /// Of the native profile, or of 0.23's.
    native: bool,
    bytes: Vec<u8>,
}

impl GrantedKeys {
    fn new(keys: FlowKeys) -> Self {
        let native = keys.profile() == Profile::Native;
        Self { native, bytes: std::mem::take(&mut *keys.into_bytes()) }
    }

    fn open(&self, suite: Suite) -> Result<FlowKeys, BadGrant> {
        let profile = if self.native { Profile::Native } else { Profile::Wire023 };
        FlowKeys::from_bytes(profile, suite, &self.bytes).ok_or(BadGrant)
    }
}

/// A flow handed to an application. Packets are sealed and opened there.
#[derive(Serialize, Deserialize)]
pub struct FlowGrant {
    name: String,
    pub(super) peer: PeerAddress,
    local: Eid,
    remote: Eid,
    qos: QosSpec,
    suite: Option<SuiteNames>,
    identity: Option<PeerData>,
    lane: Option<Lane>,
    first_use: bool,
    remembered: bool,
    keys: Option<GrantedKeys>,
    /// Largest frame of the path in bytes.
    pub(super) largest_frame: usize,
    /// Frames that came before the grant, and follow it on the control channel.
    pub(super) early: usize,
    /// How frames arrive.
    pub path: DataPath,
}

/// The daemon's grant makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon granted a flow that makes no sense")]
pub struct BadGrant;

impl FlowGrant {
    pub(super) fn new(flow: &mut RawFlow, path: DataPath) -> Self {
        let keys = flow.keys.take().map(GrantedKeys::new);
        let info = &flow.info;
        Self {
            name: info.name.to_string(),
            peer: info.peer,
            local: info.local,
            remote: info.remote,
            qos: info.qos,
            suite: info.suite.map(Into::into),
            identity: info.identity.as_ref().map(Into::into),
            lane: info.lane,
            first_use: info.first_use,
            remembered: info.remembered,
            keys,
            largest_frame: flow.path.largest_frame(),
            early: 0,
            path,
        }
    }

    /// The flow that is granted, and its keys; `None` for a plain flow.
    ///
    /// # Errors
    ///
    /// No name is one, or keys and suite do not go together.
    pub fn open(&self) -> Result<(FlowInfo, Option<FlowKeys>), BadGrant> {
        let name: Name = self.name.parse().map_err(|_| BadGrant)?;
        let suite = self.suite.as_ref().map(Suite::try_from).transpose().map_err(|_| BadGrant)?;
        let identity = self.identity.as_ref().map(PeerIdentity::try_from).transpose();
        let identity = identity.map_err(|_| BadGrant)?;
        let mut info = FlowInfo::new(name, self.peer, (self.local, self.remote), self.qos);
        info.first_use = self.first_use;
        info.remembered = self.remembered;
        info.lane = self.lane;
        match (suite, &self.keys) {
            (None, None) => Ok((info, None)),
            (Some(suite), Some(keys)) => {
                let keys = keys.open(suite)?;
                Ok((info.encrypted(suite, keys.profile(), identity), Some(keys)))
            }
            _ => Err(BadGrant),
        }
    }
}

impl std::fmt::Debug for FlowGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowGrant").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Cipher, Entropy, FlowKey},
        daemon::relay::RelayPath,
        proto::native::{Capabilities, NativeKeys, Role},
    };

    fn peer_identity() -> PeerIdentity {
        let key = IdentityKey::generate(&mut Zeros);
        let fingerprint = key.public_key().fingerprint();
        PeerIdentity { fingerprint, common_name: "my_vpn".to_owned(), certified: false }
    }

    struct Zeros;

    impl Entropy for Zeros {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    fn info(suite: Option<Suite>, keys: Option<&FlowKeys>) -> FlowInfo {
        let peer = PeerAddress::Udp(([10, 0, 0, 1], 3435).into());
        let name = "my_vpn".parse().expect("a name");
        let mut info = FlowInfo::new(name, peer, (Eid(7), Eid(70_000)), QosSpec::RAW_NO_ERRORS);
        match suite {
            None => info,
            Some(suite) => {
                let profile = keys.map_or(Profile::Wire023, FlowKeys::profile);
                info.lane = Some(Lane { group: [7; 16], index: 1, lanes: 2 });
                info.encrypted(suite, profile, Some(peer_identity()))
            }
        }
    }

    fn grant(suite: Option<Suite>, keys: Option<FlowKeys>) -> FlowGrant {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let path = std::sync::Arc::new(RelayPath::new(socket.into(), 1468));
        let info = info(suite, keys.as_ref());
        let (early, strays, elsewhere, release) = (Vec::new(), None, None, None);
        let closer = None;
        let mut flow = RawFlow { path, info, keys, early, strays, elsewhere, closer, release };
        FlowGrant::new(&mut flow, DataPath::Socket(Handed::Udp))
    }

    fn over_the_wire(grant: &FlowGrant) -> FlowGrant {
        let bytes = serde_json::to_vec(grant).expect("encoded");
        serde_json::from_slice(&bytes).expect("decoded")
    }

    fn old(cipher: Cipher) -> FlowKeys {
        FlowKeys::Wire023 { cipher, key: FlowKey::new([0xa5; 32]) }
    }

    fn native(suite: Suite, role: Role) -> FlowKeys {
        let (flags, key) = (Capabilities::PARTIAL_CHECKSUMS, FlowKey::new([0xa5; 32]));
        FlowKeys::Native(NativeKeys::new(suite, role, flags, key, [7; 32]))
    }

    #[test]
    fn a_granted_flow_is_the_same_on_both_sides() {
        let suite = Suite { cipher: Cipher::ChaCha20Poly1305, ..Suite::default() };
        let same = (Some(old(suite.cipher)), Some(old(suite.cipher)));
        let ends = (Some(native(suite, Role::Server)), Some(native(suite, Role::Client)));
        for (suite, (keys, peer)) in
            [(Some(suite), same), (Some(suite), ends), (None, (None, None))]
        {
            let grant = over_the_wire(&grant(suite, keys));
            assert_eq!(grant.path, DataPath::Socket(Handed::Udp));
            assert_eq!(grant.largest_frame, 1468);
            let (opened, opened_keys) = grant.open().expect("a grant that makes sense");
            let told = |i: &FlowInfo| {
                let agreed = (i.suite, i.profile, i.identity.clone(), i.lane);
                (i.name.clone(), i.peer, i.local, i.remote, i.qos, agreed)
            };
            assert_eq!(told(&opened), told(&info(suite, opened_keys.as_ref())));
            match (opened_keys, peer) {
                (Some(keys), Some(peer)) => assert!(keys.is_counterpart(&peer)),
                (keys, peer) => assert!(keys.is_none() && peer.is_none()),
            }
        }
    }

    #[test]
    fn a_suite_without_a_key_is_no_flow_and_no_key_is_ever_printed() {
        let keyless = grant(Some(Suite::default()), None);
        assert_eq!(keyless.open().err(), Some(BadGrant));
        let keys = old(Cipher::Aes256Gcm);
        let grant = grant(Some(Suite::default()), Some(keys));
        let printed = format!("{:?}", Response::Flow(Box::new(grant)));
        assert!(!printed.contains("165") && !printed.contains("a5"), "{printed}");
    }

    #[test]
    fn a_long_list_is_the_same_after_it_was_cut() {
        let entry = |number: usize| IpcpEntry {
            name: format!("{number}").repeat(50),
            layer: "l".to_owned(),
            attachment: "udp".to_owned(),
            transport: None,
        };
        for count in [0, 1, 2000] {
            let list: Vec<_> = (0..count).map(entry).collect();
            let mut parts = Response::Ipcps(list.clone()).parts().into_iter();
            for part in Response::Ipcps(list.clone()).parts() {
                assert!(serde_json::to_vec(&part).expect("encoded").len() < LARGEST_DATAGRAM);
            }
            let mut whole = parts.next().expect("one at least");
            let mut more = whole.continues();
            while more {
                more = !whole.extend(parts.next().expect("not the last")).expect("of the list");
            }
            assert!(parts.next().is_none());
            assert!(matches!(whole, Response::Ipcps(had) if had == list));
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        let transport = TransportSpec::Udp { ip: [10, 0, 0, 1].into(), port: Some(3435) };
        let security = Some(Security::Suite(Suite::default().into()));
        for request in [
            Request::ListIpcps,
            Request::BootstrapIpcp { name: "n".into(), layer: "l".into(), transport },
            Request::CreateName {
                name: "n".into(),
                server: security,
                client: None,
                authentication: Authentication::Keys("/etc/friends".into()),
                native: true,
                key: Some("/etc/key.pem".into()),
                certificate: None,
            },
            Request::Accept { name: None, program: Some("/bin/p".into()), demands: Vec::new() },
            Request::Take,
            Request::Allocate {
                name: "n".into(),
                qos: QosSpec::RAW,
                security: Some(FlowSecurity::new(&Suite::default().into(), true)),
                timeout: u64::MAX,
            },
        ] {
            let bytes = serde_json::to_vec(&request).expect("encoded");
            let decoded: Request = serde_json::from_slice(&bytes).expect("decoded");
            assert_eq!(decoded, request);
        }
    }
}
