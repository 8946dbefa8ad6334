//! Security on its way between applications, tools and the daemon: policies as data, files
//! and identities by name. No key leaves the process that holds it. Not here: reading the
//! files (irmd's `policy`), and what negotiation makes of them (`proto::negotiation`).

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::path_text;
use crate::{
    crypto::Algorithms,
    error::PolicyError,
    proto::negotiation::{ClientSecurity, ProfilePolicy, ServerSecurity},
    wire::Name,
};

/// How an allocated flow has to be encrypted, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSecurity {
    /// The security asked for; the identity, if there is to be one, is the daemon's to add.
    pub asked: ClientSecurity,
    /// The daemon shows its identity to the server.
    pub manager_identity: bool,
}

/// The ends that authenticate themselves before there is a flow to a name.
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
    Server(#[serde(with = "path_text::optional")] Option<PathBuf>),
    /// The server, and the client: by one of the keys in this file.
    Keys(#[serde(with = "path_text")] PathBuf),
    /// The server, and the client: by one of the authorities in this folder; the
    /// daemon's own otherwise.
    Authorities(#[serde(with = "path_text::optional")] Option<PathBuf>),
}

/// The security policy of a name: how flows to it are secured that are accepted on this
/// machine, and that are allocated from it. The daemon is told absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NamePolicy {
    /// Flows that are accepted are encrypted, with these algorithms at least.
    pub server: Option<Algorithms>,
    /// Flows that are allocated are encrypted, with these algorithms at least.
    pub client: Option<Algorithms>,
    /// The ends that have to authenticate themselves. With any, flows are encrypted.
    pub authentication: Authentication,
    /// Flows must have the native profile. With it they are encrypted.
    pub native: bool,
    /// File with the key that the server has instead of the daemon's.
    #[serde(with = "path_text::optional")]
    pub key: Option<PathBuf>,
    /// File with the certificate that an authority has given to the key.
    #[serde(with = "path_text::optional")]
    pub certificate: Option<PathBuf>,
}

impl NamePolicy {
    /// Returns `true` if the server at least has to prove who it is.
    pub fn authenticates(&self) -> bool {
        !matches!(self.authentication, Authentication::Offered | Authentication::None)
    }

    /// Returns the security asked of flows that are accepted, without what files say.
    pub fn accepted(&self) -> ServerSecurity {
        let security = ServerSecurity {
            suite: self.server.map(Algorithms::least),
            require_encryption: self.server.is_some() || self.authenticates() || self.native,
            ..ServerSecurity::default()
        };
        if self.native { security.require_native() } else { security }
    }

    /// Returns the security asked of flows that are allocated, without what files say; `None`:
    /// none.
    pub fn allocated(&self) -> Option<ClientSecurity> {
        let mut security = match self.client {
            Some(algorithms) => algorithms.into(),
            None if self.authenticates() || self.native => ClientSecurity::default(),
            None => return None,
        };
        if self.native {
            security.profile = ProfilePolicy::RequireNative;
        }
        Some(security)
    }

    /// The paths of the files and folders that it names.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let trusted = match &mut self.authentication {
            Authentication::Keys(path) => Some(path),
            Authentication::Server(path) | Authentication::Authorities(path) => path.as_mut(),
            Authentication::Offered | Authentication::None => None,
        };
        trusted.into_iter().chain(&mut self.key).chain(&mut self.certificate)
    }
}

/// How flows that are accepted are secured, for people.
impl fmt::Display for NamePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server {
            Some(algorithms) => write!(f, "{algorithms}")?,
            None if self.authenticates() || self.native => f.write_str("encrypted")?,
            None => f.write_str("as the client asks")?,
        }
        match &self.authentication {
            Authentication::Offered | Authentication::None => {}
            Authentication::Server(_) => f.write_str(", server authenticated")?,
            _ => f.write_str(", both authenticated")?,
        }
        f.write_str(if self.native { ", native only" } else { "" })
    }
}

/// The demands of a program on flows to a name that is bound to it, beyond those that the
/// daemon has for the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameDemands {
    /// The name.
    pub name: Name,
    /// The security that flows to it must have.
    pub security: ServerSecurity,
}

impl NameDemands {
    /// Returns the demands that `security` makes on flows to `name`.
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
        Ok(Self { name: name.clone(), security: security.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{
            SystemEntropy,
            identity::{CaStore, IdentityKey},
        },
        proto::{
            native::Capabilities,
            negotiation::{Identity, InvitationSecret, PeerIdentity, Trust},
        },
    };

    fn over_the_wire<T: Serialize + for<'a> Deserialize<'a>>(value: &T) -> T {
        let bytes = serde_json::to_vec(value).expect("encoded");
        serde_json::from_slice(&bytes).expect("decoded")
    }

    #[test]
    fn what_an_application_asks_the_daemon_asks_but_for_its_key() {
        let key = IdentityKey::generate(&mut SystemEntropy);
        let fingerprint = key.public_key().fingerprint();
        let certificate = key.certificate(&"an authority".parse().expect("a name"));
        let mut store = CaStore::new();
        store.add(&certificate).expect("a certificate");
        let identity = Identity::self_signed(key, &"laptop".parse().expect("a name"));
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
                let asked = ClientSecurity {
                    profile,
                    capabilities: Capabilities::PARTIAL_CHECKSUMS,
                    trust: trust.clone(),
                    invitation: Some(InvitationSecret::generate(&mut SystemEntropy)),
                    ..ClientSecurity::default()
                };
                let said = ClientSecurity { identity: Some(identity.clone()), ..asked.clone() };
                let had = over_the_wire(&FlowSecurity { asked: said, manager_identity: true });
                assert_eq!(had, FlowSecurity { asked, manager_identity: true });
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_taken_for_trust_in_anyone() {
        let good = FlowSecurity { asked: ClientSecurity::default(), manager_identity: false };
        let good = serde_json::to_value(&good).expect("encoded");
        for (trust, reads) in [
            (serde_json::json!("anyone"), true),
            (serde_json::json!({ "keys": [] }), true),
            (serde_json::json!({ "keys": ["o7s:aaaa"] }), false),
            (serde_json::json!({ "authorities": ["30"] }), false),
            (serde_json::json!({ "authorities": ["3"] }), false),
            (serde_json::json!({ "authorities": ["zz"] }), false),
            (serde_json::json!("nobody"), false),
            (serde_json::Value::Null, false),
        ] {
            let mut asked = good.clone();
            asked["asked"]["trust"] = trust.clone();
            let read = serde_json::from_str::<FlowSecurity>(&asked.to_string());
            assert_eq!(read.is_ok(), reads, "{trust}");
        }
        let mut silent = good;
        silent["asked"].as_object_mut().expect("an object").remove("trust");
        assert!(serde_json::from_str::<FlowSecurity>(&silent.to_string()).is_err());
    }

    #[test]
    fn a_peer_is_the_same_on_both_sides() {
        let fingerprint = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let peer = PeerIdentity {
            fingerprint,
            common_name: "laptop".to_owned(),
            certified_until: Some(1_900_000_000),
        };
        assert_eq!(over_the_wire(&peer), peer);
    }
}
