//! The keys that this daemon has used. One whose file is gone or damaged is kept: a
//! server that changed its identity in silence would be refused by every client.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use ouroboros::{
    crypto::{SystemEntropy, identity::IdentityKey},
    sync::lock,
    trust::KeyFile,
};

use super::Error;

/// Keys by the files they were read from.
#[derive(Default)]
pub(super) struct Keys(Mutex<Table>);

#[derive(Default)]
struct Table {
    known: HashMap<PathBuf, Arc<IdentityKey>>,
    /// Files that are gone or damaged, as the log says already.
    missing: HashSet<PathBuf>,
}

impl Keys {
    /// The key in `file`, or the one that was there. If there never was one, it is
    /// made if `make` says so.
    ///
    /// # Errors
    ///
    /// The file cannot be used, and no key of it is known.
    pub(super) fn load(&self, file: &KeyFile, make: bool) -> Result<Arc<IdentityKey>, Error> {
        let mut table = lock(&self.0);
        let Table { known, missing } = &mut *table;
        let path = file.path();
        let reason = match file.load() {
            Ok(Some(key)) => {
                missing.remove(path);
                let key = Arc::new(key);
                known.insert(path.to_owned(), key.clone());
                return Ok(key);
            }
            Ok(None) => Error::NoFile(path.to_owned()),
            Err(error) => error.into(),
        };
        if let Some(key) = known.get(path) {
            if missing.insert(path.to_owned()) {
                tracing::error!(
                    %reason,
                    key = %key.public_key().fingerprint(),
                    "a key's file is gone or damaged: the key stays in use until this irmd ends; \
                     restore the file, or make another key with `irm key generate`"
                );
            }
            return Ok(key.clone());
        }
        if !make || !matches!(reason, Error::NoFile(_)) {
            return Err(reason);
        }
        let key = Arc::new(file.load_or_generate(&mut SystemEntropy)?);
        known.insert(path.to_owned(), key.clone());
        Ok(key)
    }

    /// Takes `key` for that of `file` from now on.
    pub(super) fn replace(&self, file: &KeyFile, key: Arc<IdentityKey>) {
        let mut table = lock(&self.0);
        table.missing.remove(file.path());
        table.known.insert(file.path().to_owned(), key);
    }
}
