//! The addresses that a server has given, in a file: a client that is known by
//! its key has the same ones after a restart.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ouroboros::proto::hub::Assignment;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Leases(PathBuf);

impl Leases {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// What is remembered; nothing if there is no file yet.
    ///
    /// # Errors
    ///
    /// It cannot be read, or makes no sense.
    pub(super) fn read(&self) -> io::Result<Vec<(String, Assignment)>> {
        let mut text = String::new();
        match fs::File::open(&self.0) {
            Ok(file) => file.take(LARGEST).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_str(&text)?)
    }

    /// Replaces what is remembered, all or nothing.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn write(&self, leases: &[(&String, &Assignment)]) -> io::Result<()> {
        let mut new = self.0.clone().into_os_string();
        new.push(".new");
        fs::write(&new, serde_json::to_vec(leases)?)?;
        fs::rename(&new, &self.0)
    }
}
