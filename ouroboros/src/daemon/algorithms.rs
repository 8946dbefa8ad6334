//! Algorithms by name, as applications and the daemon say them. Not here: which
//! ones there are (`crypto`).

use serde::{Deserialize, Serialize};

use crate::crypto::{Algorithms, Suite, UnknownAlgorithm};

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
    type Error = UnknownAlgorithm;

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
    type Error = UnknownAlgorithm;

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
