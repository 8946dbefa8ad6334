//! The daemon: hosts layers, keeps names and bindings, serves applications.
//! The layers themselves are the library's.

mod attachment;
mod configured;
mod connections;
mod error;
mod flows;
mod keys;
pub mod metrics;
mod policy;
mod process;
mod serve;
mod state;
mod untaken;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ouroboros::daemon::Listener;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Gid, Resource, Rlimit, getrlimit, setrlimit},
};

pub use configured::Configured;
pub use error::Error;
pub use flows::Flows;
pub use serve::serve;
pub use state::State;

/// The daemon cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another one holds the lock.
    #[error("{0}: another irmd is running: end it first, or set OUROBOROS_SOCKET")]
    Running(String),
    /// The socket's place cannot be used.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// The daemon's place: its lock and its socket. The socket goes away with it.
#[derive(Debug)]
pub struct DaemonSocket {
    /// Where applications connect.
    pub listener: Listener,
    path: PathBuf,
    _lock: File,
}

impl DaemonSocket {
    /// Takes the place at `path`.
    ///
    /// # Errors
    ///
    /// Another daemon runs there, or the place cannot be used.
    pub fn take(path: &Path) -> Result<Self, StartError> {
        let at = |path: &Path, error| StartError::Io(path.display().to_string(), error);
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
        }
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| at(&lock_path, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StartError::Running(path.display().to_string()))?;
        // The lock is ours: a socket that is there has no daemon any more.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path, error)),
            _ => {}
        }
        let listener = Listener::bind(path).map_err(|error| at(path, error))?;
        // The group first: not for a moment may another one connect.
        let group = match group() {
            Some(group) => std::os::unix::fs::chown(path, None, Some(group.as_raw())),
            None => Ok(()),
        };
        group
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)))
            .map_err(|error| at(path, error))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }
}

impl Drop for DaemonSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Lets this process have as many descriptors as it may: flows that are handed
/// over take two each.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A lower limit means fewer flows, which are refused then; no more.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The group `ouroboros`, whose members may use the daemon, if there is one.
pub fn group() -> Option<Gid> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some("ouroboros"))
            .then(|| fields.nth(1)?.parse().ok().map(Gid::from_raw))?
    })
}
