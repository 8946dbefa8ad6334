//! The file of a user's own key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    TrustError,
    file::{self, Guard},
};
use crate::crypto::{
    Entropy,
    identity::{IdentityKey, UnusableKey},
};

/// More bytes than a key has in PEM.
const LARGEST: u64 = 16 * 1024;

/// A file that holds a private key as PKCS#8 PEM, for its owner's eyes only.
///
/// ```no_run
/// use ouroboros::{Identity, crypto::SystemEntropy, trust::TrustFolder};
///
/// // /etc/ouroboros/identity.pem, or below ~/.config for users other than root.
/// let file = TrustFolder::of_user()?.identity();
/// let key = file.load_or_generate(&mut SystemEntropy)?;
/// let identity = Identity::self_signed(key, &"my_vpn".parse()?);
/// println!("clients pin {}", identity.fingerprint());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// The file at `path`, whether or not there is one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The key, if there is a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, holds no usable key, or others can read or
    /// replace it.
    pub fn load(&self) -> Result<Option<IdentityKey>, TrustError> {
        let Some(bytes) = file::read(&self.0, Guard::Secret, LARGEST)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).map_err(|_| UnusableKey);
        let key = text.and_then(IdentityKey::from_pkcs8_pem);
        key.map(Some).map_err(|error| TrustError::Key(self.0.clone(), error))
    }

    /// The key; a fresh one is made where there is none. Of several processes
    /// that make one at once, all have the same.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load), or the file cannot be made.
    pub fn load_or_generate(&self, entropy: &mut dyn Entropy) -> Result<IdentityKey, TrustError> {
        if let Some(key) = self.load()? {
            return Ok(key);
        }
        match self.generate(entropy) {
            // Another process was faster.
            Err(TrustError::Exists(path)) => self.load()?.ok_or(TrustError::Exists(path)),
            made => made,
        }
    }

    /// A fresh Ed25519 key, in a file where there was none.
    ///
    /// # Errors
    ///
    /// [`Exists`](TrustError::Exists), or the file cannot be made.
    pub fn generate(&self, entropy: &mut dyn Entropy) -> Result<IdentityKey, TrustError> {
        self.make(entropy, false)
    }

    /// A fresh Ed25519 key in the place of the one that may be there, which is
    /// lost.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn replace(&self, entropy: &mut dyn Entropy) -> Result<IdentityKey, TrustError> {
        self.make(entropy, true)
    }

    /// The file of the key that is to take this one's place: `office.next.pem` beside
    /// `office.pem`.
    #[must_use]
    pub fn next(&self) -> Self {
        let mut name = self.0.file_stem().unwrap_or_default().to_owned();
        name.push(".next");
        if let Some(extension) = self.0.extension() {
            name.push(".");
            name.push(extension);
        }
        Self(self.0.with_file_name(name))
    }

    /// Puts the key that is in `next` in the place of this one, which stays beside it, as
    /// `.old`.
    ///
    /// # Errors
    ///
    /// There is none in `next`, or it cannot be used; the files cannot be moved.
    pub fn promote(&self, next: &Self) -> Result<IdentityKey, TrustError> {
        let key = next.load()?.ok_or_else(|| TrustError::NoNextKey(next.0.clone()))?;
        let failed = |error| TrustError::Io(self.0.clone(), error);
        let mut old = self.0.clone().into_os_string();
        old.push(".old");
        // At no time is there none.
        for outcome in [fs::remove_file(&old), fs::hard_link(&self.0, &old)] {
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        fs::rename(&next.0, &self.0).map_err(failed)?;
        Ok(key)
    }

    fn make(&self, entropy: &mut dyn Entropy, replace: bool) -> Result<IdentityKey, TrustError> {
        let key = IdentityKey::generate(entropy);
        if file::create(&self.0, key.to_pkcs8_pem().as_bytes(), replace)? {
            Ok(key)
        } else {
            Err(TrustError::Exists(self.0.clone()))
        }
    }
}
