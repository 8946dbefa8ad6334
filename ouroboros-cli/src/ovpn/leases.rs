//! The addresses that a server has given, in a file: a client that is known by
//! its key has the same ones after a restart, also when the server was killed or lost its
//! power. An address is on the disk before its client is told of it, one write for all that
//! asked meanwhile; when it was last used is written within a second, since that only decides
//! who loses an address once all are given.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ouroboros::{proto::hub::Assignment, trust::write_whole};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Leases(PathBuf);

impl Leases {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Returns the remembered assignments; none if there is no file yet.
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
    pub(super) fn write(&self, leases: &[(&str, &Assignment)]) -> io::Result<()> {
        write_whole(&self.0, &serde_json::to_vec(leases)?)
    }
}
