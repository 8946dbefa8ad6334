//! A flow on its way from the daemon to an application: what it is like, its
//! keys, and how its frames arrive. Not here: the descriptor (`handed`, `relay`).

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    flow::{FlowInfo, RawFlow},
    proto::protection::FlowKeys,
    transport::Handed,
};

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
struct GrantedKeys(Vec<u8>);

/// A flow handed to an application. Packets are sealed and opened there.
#[derive(Serialize, Deserialize)]
pub struct FlowGrant {
    info: FlowInfo,
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
#[error("irmd granted a flow that cannot be opened")]
pub struct BadGrant;

impl FlowGrant {
    pub(super) fn new(flow: &mut RawFlow, path: DataPath) -> Self {
        let keys = flow.keys.take();
        let keys = keys.map(|keys| GrantedKeys(std::mem::take(&mut *keys.into_bytes())));
        Self {
            info: flow.info.clone(),
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
    /// Keys and suite do not go together.
    pub fn open(&self) -> Result<(FlowInfo, Option<FlowKeys>), BadGrant> {
        let info = self.info.clone();
        match (info.suite, info.profile, &self.keys) {
            (None, None, None) => Ok((info, None)),
            (Some(suite), Some(profile), Some(GrantedKeys(bytes))) => {
                let keys = FlowKeys::from_bytes(profile, suite, bytes).ok_or(BadGrant)?;
                Ok((info, Some(keys)))
            }
            _ => Err(BadGrant),
        }
    }
}

impl std::fmt::Debug for FlowGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowGrant").field("name", &self.info.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Cipher, Entropy, FlowKey, Suite, identity::IdentityKey},
        daemon::{protocol::Response, relay::RelayPath},
        proto::{
            native::{Capabilities, NativeKeys, Role},
            negotiation::{PeerIdentity, ReliableTerms},
            protection::Profile,
        },
        wire::{
            Eid, PeerAddress, QosSpec,
            extension::{Lane, ReliableParameters},
        },
    };

    fn peer_identity() -> PeerIdentity {
        let key = IdentityKey::generate(&mut Zeros);
        let fingerprint = key.public_key().fingerprint();
        PeerIdentity { fingerprint, common_name: "my_vpn".to_owned(), certified_until: None }
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
        let mut info = FlowInfo::new(name, peer, (Eid(7), Eid(70_000)), QosSpec::RAW_CRC32);
        match suite {
            None => info,
            Some(suite) => {
                let profile = keys.map_or(Profile::Wire023, FlowKeys::profile);
                info.lane = Some(Lane { group: [7; 16], index: 1, lanes: 2 });
                let parameters = ReliableParameters::default();
                let remote = ReliableParameters { window: 1, ..parameters };
                info.reliable = Some(ReliableTerms { local: parameters, remote });
                info.encrypted(suite, profile, Some(peer_identity()))
            }
        }
    }

    fn grant(suite: Option<Suite>, keys: Option<FlowKeys>) -> FlowGrant {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let path = std::sync::Arc::new(RelayPath::new(socket.into(), 1468));
        let info = info(suite, keys.as_ref());
        let (early, strays, off_path, release) = (Vec::new(), None, None, None);
        let closer = None;
        let mut flow = RawFlow { path, info, keys, early, strays, off_path, closer, release };
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
            assert_eq!(opened, info(suite, opened_keys.as_ref()));
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
}
