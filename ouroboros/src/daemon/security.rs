//! Security on its way between applications and the daemon: policies as data,
//! identities by name. No key leaves the process that holds it.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::algorithms::SuiteNames;
use crate::{
    crypto::{
        Suite, UnknownAlgorithm,
        identity::{CaStore, Fingerprint},
    },
    error::PolicyError,
    proto::{
        native::Capabilities,
        negotiation::{
            ClientSecurity, InvitationSecret, PeerIdentity, ProfilePolicy, ServerSecurity, Trust,
        },
    },
    wire::{
        Name,
        extension::{Lane, ReliableParameters},
    },
};

/// What is said of a flow's security makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSecurity(String);

/// How an allocated flow has to be encrypted, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSecurity {
    /// The algorithms.
    pub suite: SuiteNames,
    /// Whether it is to have the native profile.
    pub profile: ProfileChoice,
    /// What the application can do in a native flow.
    pub capabilities: u8,
    /// Whom to believe to be the server.
    pub trust: TrustData,
    /// Whether the daemon says who it is.
    pub identified: bool,
    /// The flow's place in a tunnel of several.
    #[serde(default)]
    pub lane: Option<Lane>,
    /// What the application takes of a reliable flow in the native profile.
    #[serde(default)]
    pub reliable: Option<ReliableParameters>,
    /// The digest that the request names.
    #[serde(default)]
    pub digest: Option<String>,
    /// What proves that the daemon's identity is invited.
    #[serde(default)]
    pub invitation: Option<SecretData>,
}

/// The secret of an invitation, in hexadecimal digits. It has a use once, and goes no
/// further than the daemon.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct SecretData(String);

impl std::fmt::Debug for SecretData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretData(..)")
    }
}

impl SecretData {
    fn new(secret: &InvitationSecret) -> Self {
        Self(hexadecimal(secret.as_bytes()))
    }

    fn open(&self) -> Result<InvitationSecret, BadSecurity> {
        let bytes = bytes(&self.0).map(Zeroizing::new);
        let secret = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        let secret = secret.map(InvitationSecret::new);
        secret.ok_or_else(|| BadSecurity("not the secret of an invitation".to_owned()))
    }
}

/// Whether a flow is to have the native profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileChoice {
    /// The format of 0.23.
    Wire023,
    /// The native profile if the peer has it.
    Prefer,
    /// The native profile or no flow.
    Require,
}

/// Whom to believe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustData {
    /// Whoever has the key that the daemon knows for the name; if it knows
    /// none, anyone, by whose key, if there is one, it is known from then on.
    Anyone,
    /// The same, but nobody without a key.
    FirstUse,
    /// Who has a key with one of these fingerprints.
    Keys(Vec<String>),
    /// Whom one of these authorities vouches for: certificates, DER in
    /// hexadecimal.
    Authorities(Vec<String>),
}

/// Who a flow's peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerData {
    /// The fingerprint of its key.
    pub fingerprint: String,
    /// The common name of its certificate.
    pub common_name: String,
    /// Until when a trusted authority vouches for it, in seconds since 1970.
    pub certified_until: Option<u64>,
}

/// Who proves who they are before there is a flow to a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authentication {
    /// The server, to clients with the native profile: they may know it by its
    /// key from then on. 0.23 clients are shown nothing that they would refuse.
    #[default]
    Offered,
    /// Nobody.
    None,
    /// The server; to this machine, if there is a folder of authorities, by one
    /// of them.
    Server(Option<String>),
    /// The server, and the client: by one of the keys in this file, whose path
    /// is absolute.
    Keys(String),
    /// The server, and the client: by one of the authorities in this folder,
    /// whose path is absolute; the daemon's own otherwise.
    Authorities(Option<String>),
}

impl FlowSecurity {
    /// What is said of `security`. An identity's key stays where it is.
    pub fn new(security: &ClientSecurity, identified: bool) -> Self {
        let trust = TrustData::new(&security.trust);
        let profile = match security.profile {
            ProfilePolicy::Wire023 => ProfileChoice::Wire023,
            ProfilePolicy::PreferNative => ProfileChoice::Prefer,
            ProfilePolicy::RequireNative => ProfileChoice::Require,
        };
        let (suite, capabilities) = (security.suite.into(), security.capabilities.bits());
        let digest = Some(security.digest.to_string());
        let (lane, reliable) = (security.lane, security.reliable);
        let invitation = security.invitation.as_ref().map(SecretData::new);
        Self { suite, profile, capabilities, trust, identified, lane, reliable, digest, invitation }
    }

    /// What the daemon has to ask; the identity, if there is to be one, is its
    /// own to add.
    ///
    /// # Errors
    ///
    /// An algorithm, a fingerprint or a certificate that is none.
    pub fn open(&self) -> Result<ClientSecurity, BadSecurity> {
        let suite = Suite::try_from(&self.suite).map_err(|e| BadSecurity(e.to_string()))?;
        let profile = match self.profile {
            ProfileChoice::Wire023 => ProfilePolicy::Wire023,
            ProfileChoice::Prefer => ProfilePolicy::PreferNative,
            ProfileChoice::Require => ProfilePolicy::RequireNative,
        };
        let trust = self.trust.open()?;
        let capabilities = Capabilities::from_bits(self.capabilities);
        let security = ClientSecurity {
            suite,
            profile,
            capabilities,
            lane: self.lane,
            reliable: self.reliable,
            invitation: self.invitation.as_ref().map(SecretData::open).transpose()?,
            trust,
            ..Default::default()
        };
        let Some(digest) = &self.digest else { return Ok(security) };
        let digest = digest.parse().map_err(|e: UnknownAlgorithm| BadSecurity(e.to_string()))?;
        Ok(ClientSecurity { digest, ..security })
    }
}

impl TrustData {
    fn new(trust: &Trust) -> Self {
        match trust {
            Trust::FirstUse => Self::FirstUse,
            Trust::Keys(keys) => Self::Keys(keys.iter().map(ToString::to_string).collect()),
            Trust::Authorities(store) => {
                Self::Authorities(store.certificates().map(hexadecimal).collect())
            }
            _ => Self::Anyone,
        }
    }

    fn open(&self) -> Result<Trust, BadSecurity> {
        Ok(match self {
            Self::Anyone => Trust::Anyone,
            Self::FirstUse => Trust::FirstUse,
            Self::Keys(texts) => {
                let keys = texts.iter().map(|text| text.parse::<Fingerprint>());
                let keys = keys.collect::<Result<_, _>>();
                Trust::Keys(keys.map_err(|error| BadSecurity(error.to_string()))?)
            }
            Self::Authorities(texts) => {
                let mut store = CaStore::new();
                for text in texts {
                    let der = bytes(text).ok_or(BadSecurity("not a certificate".to_owned()))?;
                    store.add(&der).map_err(|error| BadSecurity(error.to_string()))?;
                }
                Trust::Authorities(store)
            }
        })
    }
}

/// What a program demands of flows to a name that is bound to it, beyond what the
/// daemon has for the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameDemands {
    /// The name.
    pub name: String,
    suite: Option<SuiteNames>,
    encrypted: bool,
    native: bool,
    clients: TrustData,
}

impl NameDemands {
    /// What `security` demands.
    ///
    /// # Errors
    ///
    /// It asks for what a program cannot have through a daemon: an identity, whose
    /// key would have to leave the process, or less than the name has.
    pub fn new(name: &Name, security: &ServerSecurity) -> Result<Self, PolicyError> {
        if security.identity.is_some() {
            return Err(PolicyError::Identity(name.to_string()));
        }
        if security.profile == ProfilePolicy::Wire023 {
            return Err(PolicyError::Weaker(name.to_string()));
        }
        Ok(Self {
            name: name.to_string(),
            suite: security.suite.map(Into::into),
            encrypted: security.require_encryption,
            native: security.profile == ProfilePolicy::RequireNative,
            clients: TrustData::new(&security.clients),
        })
    }

    /// The policy that says no more than this.
    ///
    /// # Errors
    ///
    /// A name, an algorithm, a fingerprint or a certificate that is none.
    pub fn open(&self) -> Result<(Name, ServerSecurity), BadSecurity> {
        let name = self.name.parse().map_err(|_| BadSecurity("not a name".to_owned()))?;
        let suite = self.suite.as_ref().map(Suite::try_from).transpose();
        let security = ServerSecurity {
            suite: suite.map_err(|error| BadSecurity(error.to_string()))?,
            require_encryption: self.encrypted,
            clients: self.clients.open()?,
            ..ServerSecurity::default()
        };
        Ok((name, if self.native { security.require_native() } else { security }))
    }
}

impl From<&PeerIdentity> for PeerData {
    fn from(peer: &PeerIdentity) -> Self {
        Self {
            fingerprint: peer.fingerprint.to_string(),
            common_name: peer.common_name.clone(),
            certified_until: peer.certified_until,
        }
    }
}

impl TryFrom<&PeerData> for PeerIdentity {
    type Error = BadSecurity;

    fn try_from(data: &PeerData) -> Result<Self, BadSecurity> {
        Ok(Self {
            fingerprint: data
                .fingerprint
                .parse()
                .map_err(|_| BadSecurity("a fingerprint that is none".to_owned()))?,
            common_name: data.common_name.clone(),
            certified_until: data.certified_until,
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = pairs.iter().map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8));
    pairs.collect::<Option<Vec<_>>>().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SystemEntropy, identity::IdentityKey};

    fn over_the_wire<T: Serialize + for<'a> Deserialize<'a>>(value: &T) -> T {
        let bytes = serde_json::to_vec(value).expect("encoded");
        serde_json::from_slice(&bytes).expect("decoded")
    }

    #[test]
    fn what_an_application_asks_the_daemon_asks() {
        let key = IdentityKey::generate(&mut SystemEntropy);
        let fingerprint = key.public_key().fingerprint();
        let certificate = key.certificate(&"an authority".parse().expect("a name"));
        let mut store = CaStore::new();
        store.add(&certificate).expect("a certificate");
        let trusts = [
            Trust::Anyone,
            Trust::FirstUse,
            Trust::Keys(vec![fingerprint, fingerprint]),
            Trust::Authorities(store),
        ];
        let profiles =
            [ProfilePolicy::Wire023, ProfilePolicy::PreferNative, ProfilePolicy::RequireNative];
        for trust in trusts {
            for profile in profiles {
                let capabilities = Capabilities::PARTIAL_CHECKSUMS;
                let trust = trust.clone();
                let asked =
                    ClientSecurity { profile, capabilities, trust, ..ClientSecurity::default() };
                let data = over_the_wire(&FlowSecurity::new(&asked, true));
                assert!(data.identified);
                let opened = data.open().expect("makes sense");
                assert_eq!(opened.suite, asked.suite);
                assert_eq!(opened.profile, profile);
                assert_eq!(opened.capabilities, capabilities);
                match (&opened.trust, &asked.trust) {
                    (Trust::Keys(opened), Trust::Keys(asked)) => assert_eq!(opened, asked),
                    (Trust::Authorities(opened), Trust::Authorities(_)) => {
                        assert!(opened.certificates().eq([&*certificate]));
                    }
                    (opened, asked) => {
                        assert_eq!(format!("{opened:?}"), format!("{asked:?}"));
                    }
                }
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_taken_for_trust_in_anyone() {
        let good = FlowSecurity::new(&ClientSecurity::default(), false);
        for trust in [
            TrustData::Keys(vec!["o7s:aaaa".to_owned()]),
            TrustData::Authorities(vec!["30".to_owned()]),
            TrustData::Authorities(vec!["3".to_owned()]),
            TrustData::Authorities(vec!["zz".to_owned()]),
        ] {
            assert!(
                FlowSecurity { trust: trust.clone(), ..good.clone() }.open().is_err(),
                "{trust:?}"
            );
        }
    }

    #[test]
    fn a_peer_is_the_same_on_both_sides() {
        let fingerprint = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let peer = PeerIdentity {
            fingerprint,
            common_name: "laptop".to_owned(),
            certified_until: Some(1_900_000_000),
        };
        let data = over_the_wire(&PeerData::from(&peer));
        assert_eq!(PeerIdentity::try_from(&data), Ok(peer));
    }
}
