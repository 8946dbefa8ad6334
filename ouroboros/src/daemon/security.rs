//! Security on its way between applications and the daemon: policies as data,
//! identities by name. No key leaves the process that holds it.

use serde::{Deserialize, Serialize};

use crate::{
    error::PolicyError,
    proto::negotiation::{ClientSecurity, ProfilePolicy, ServerSecurity},
    wire::Name,
};

/// How an allocated flow has to be encrypted, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSecurity {
    /// What is asked of it; the identity, if there is to be one, is the daemon's to add.
    pub asked: ClientSecurity,
    /// Whether the daemon says who it is.
    pub identified: bool,
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

/// What a program demands of flows to a name that is bound to it, beyond what the
/// daemon has for the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameDemands {
    /// The name.
    pub name: Name,
    /// What flows to it have to be like.
    pub security: ServerSecurity,
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
                let had = over_the_wire(&FlowSecurity { asked: said, identified: true });
                assert_eq!(had, FlowSecurity { asked, identified: true });
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_taken_for_trust_in_anyone() {
        let good = FlowSecurity { asked: ClientSecurity::default(), identified: false };
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
