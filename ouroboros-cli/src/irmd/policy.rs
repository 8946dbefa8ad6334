//! The security of a name, as `irm name create` says it: for flows that are
//! accepted here, and for flows that are allocated from here. Files are read
//! when they are needed and when they have changed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ouroboros::{
    FlowSpec, Identity, PolicyError, ServerSecurity, Trust,
    crypto::{Algorithms, Suite, identity::CaStore},
    daemon::{
        protocol::path_from_text,
        security::{Authentication, FlowSecurity},
    },
    proto::{
        native::Capabilities,
        negotiation::{ClientSecurity, ProfilePolicy},
    },
    trust::{self, KeyFile, TrustFolder},
    wire::Name,
};

use super::{Error, keys::Keys};

/// The security of a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    pub(super) server: Option<Algorithms>,
    pub(super) client: Option<Algorithms>,
    pub(super) authentication: Authentication,
    pub(super) native: bool,
    pub(super) key: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
}

/// What a flow to be allocated is asked for with.
pub(super) struct Allocation {
    pub(super) spec: FlowSpec,
    /// Whether the server is known by its key from then on.
    pub(super) remembered: bool,
}

/// Tells a file from what it is when it has changed.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

/// What the clock of a file system may be behind.
const COARSE: Duration = Duration::from_millis(100);

/// Files in a folder of authorities that are watched, at most.
const FILES: usize = 4096;

impl Policy {
    fn authenticates(&self) -> bool {
        !matches!(self.authentication, Authentication::Offered | Authentication::None)
    }

    /// What is asked of flows that are accepted. `last` is what was before, if
    /// anything was: where a list of clients cannot be read as a whole, its good
    /// lines count, and where it cannot be believed, of those it has now the ones
    /// that it had before.
    ///
    /// # Errors
    ///
    /// A file cannot be used.
    pub(super) fn accepted(
        &self,
        name: &Name,
        (folder, keys): (&TrustFolder, &Keys),
        last: Option<&ServerSecurity>,
    ) -> Result<ServerSecurity, Error> {
        let mut security = self.unauthenticated();
        security = match &self.authentication {
            Authentication::None => return Ok(security),
            // The certificate of an authority is for 0.23 clients as well.
            Authentication::Offered if self.certificate.is_none() => {
                return Ok(security.native_identity(self.identity(name, folder, keys)?));
            }
            _ => security.identity(self.identity(name, folder, keys)?),
        };
        if let Authentication::Keys(path) = &self.authentication {
            security.invited = trust::invitations(&path_from_text(path));
        }
        security.clients = match &self.authentication {
            Authentication::Keys(path) => Trust::Keys(match last.map(|last| &last.clients) {
                Some(Trust::Keys(last)) => {
                    let (clients, flaws) =
                        trust::reread_authorized_keys(&path_from_text(path), last);
                    for flaw in flaws {
                        tracing::error!(%name, %flaw, "a list of clients is not as it should be");
                    }
                    clients
                }
                _ => trust::authorized_keys(&path_from_text(path))?,
            }),
            Authentication::Authorities(own) => {
                Trust::Authorities(authorities(own.as_deref(), folder)?)
            }
            _ => Trust::Anyone,
        };
        Ok(security)
    }

    /// The same while a file cannot be used: nobody gets a flow that is to be
    /// authenticated.
    pub(super) fn without_files(&self) -> ServerSecurity {
        let nobody = Trust::Keys(Vec::new());
        let security = self.unauthenticated();
        if self.authenticates() { security.clients(nobody) } else { security }
    }

    fn unauthenticated(&self) -> ServerSecurity {
        let security = ServerSecurity {
            suite: self.server.map(Algorithms::least),
            require_encryption: self.server.is_some() || self.authenticates() || self.native,
            ..ServerSecurity::default()
        };
        if self.native { security.require_native() } else { security }
    }

    /// What to ask of a flow to `name`: what the application says, and what the
    /// name has here.
    ///
    /// # Errors
    ///
    /// What the application says makes no sense, or a file cannot be used.
    pub(super) fn allocated(
        &self,
        name: &Name,
        spec: FlowSpec,
        asked: Option<&FlowSecurity>,
        (folder, keys): (&TrustFolder, &Keys),
    ) -> Result<Allocation, Error> {
        let encrypted = self.client.is_some() || self.authenticates() || self.native;
        let (mut security, mut identified) = match asked {
            Some(FlowSecurity { asked, identified }) => {
                (self.with_named(name, asked.clone())?, *identified)
            }
            None if encrypted => (self.client.map_or_else(Default::default, Into::into), false),
            None => return Ok(Allocation { spec, remembered: false }),
        };
        if self.native {
            security.profile = ProfilePolicy::RequireNative;
        }
        identified |=
            matches!(self.authentication, Authentication::Keys(_) | Authentication::Authorities(_));
        if identified {
            security.identity = Some(self.identity(&host_name()?, folder, keys)?);
        }
        let remembered = self.know(&mut security, name, folder)?;
        Ok(Allocation { spec: spec.with_security(security), remembered })
    }

    /// Adds whom this machine knows to what the application trusts; whether the
    /// server is to be remembered.
    fn know(
        &self,
        security: &mut ClientSecurity,
        name: &Name,
        folder: &TrustFolder,
    ) -> Result<bool, Error> {
        if !matches!(security.trust, Trust::Anyone | Trust::FirstUse) {
            return Ok(false);
        }
        let vouching = match &self.authentication {
            Authentication::Server(own @ Some(_)) | Authentication::Authorities(own) => {
                authorities(own.as_deref(), folder)?
            }
            _ => CaStore::new(),
        };
        if !vouching.is_empty() {
            security.trust = Trust::Authorities(vouching);
            return Ok(false);
        }
        match folder.known_names().trust(name)? {
            Trust::Anyone if self.authenticates() => security.trust = Trust::FirstUse,
            Trust::Anyone => {}
            known => security.trust = known,
        }
        Ok(true)
    }

    fn key(&self, folder: &TrustFolder) -> KeyFile {
        self.key.as_ref().map_or_else(|| folder.identity(), KeyFile::at)
    }

    /// What an application asks of a flow to `name`, with the algorithms that the
    /// name's policy names: an application that names none has those, and one that
    /// does can only ask for more.
    fn with_named(&self, name: &Name, mut asked: ClientSecurity) -> Result<ClientSecurity, Error> {
        let Some(named) = self.client else { return Ok(asked) };
        let default = ClientSecurity::default();
        let names_none =
            asked.suite == default.suite && asked.capabilities.contains(Capabilities::HYBRID_FIRST);
        if names_none {
            let own = ClientSecurity::from(named);
            if !own.capabilities.contains(Capabilities::HYBRID_FIRST) {
                let bits = asked.capabilities.bits() & !Capabilities::HYBRID_FIRST.bits();
                asked.capabilities = Capabilities::from_bits(bits);
            }
            asked.suite = own.suite;
            if asked.digest == default.digest {
                asked.digest = own.digest;
            }
            return Ok(asked);
        }
        let suite = asked.suite;
        let weaker = named.kex.is_some_and(|kex| suite.kex < kex)
            || named.kdf.is_some_and(|kdf| suite.kdf < kdf)
            || named.cipher.is_some_and(|cipher| suite.cipher < cipher);
        if weaker {
            let (name, named) = (name.to_string(), ClientSecurity::from(named).suite);
            return Err(PolicyError::WeakerAlgorithms { name, asked: suite, named }.into());
        }
        Ok(asked)
    }

    fn identity(&self, name: &Name, folder: &TrustFolder, keys: &Keys) -> Result<Identity, Error> {
        // One that is named has to be there.
        let key = keys.load(&self.key(folder), self.key.is_none())?;
        match &self.certificate {
            None => Ok(Identity::self_signed(key, name)),
            Some(path) => {
                let certificate = trust::certificate(path)?;
                Identity::certified(key, &certificate)
                    .map_err(|error| Error::Certificate(path.clone(), error))
            }
        }
    }

    /// Changes when one of the files that flows are accepted by does.
    pub(super) fn stamps(&self, folder: &TrustFolder) -> Vec<Stamp> {
        let mut paths = vec![self.key(folder).path().to_owned()];
        paths.extend(self.certificate.clone());
        match &self.authentication {
            Authentication::Keys(path) => paths.push(path_from_text(path)),
            Authentication::Authorities(own) => {
                let place = own.as_deref().map_or_else(|| folder.authorities(), path_from_text);
                // A file may be written anew where it is.
                let files = fs::read_dir(&place).into_iter().flatten().flatten();
                let mut files: Vec<_> = files.map(|file| file.path()).take(FILES).collect();
                files.sort();
                paths.push(place);
                paths.extend(files);
            }
            _ => {}
        }
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            // Of its owner and mode, too.
            Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
        };
        paths.iter().map(stamp).collect()
    }

    /// Returns `true` if `stamps` were taken too soon after a change to tell it from
    /// another one that comes right behind: the file system's clock is coarse.
    pub(super) fn are_fresh(stamps: &[Stamp]) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        stamps.iter().flatten().any(|(_, _, seconds, nanoseconds)| {
            let changed = u64::try_from(*seconds).ok().zip(u32::try_from(*nanoseconds).ok());
            let changed = changed.map(|(seconds, nanos)| Duration::new(seconds, nanos));
            changed.is_some_and(|at| now.saturating_sub(at) < COARSE)
        })
    }

    /// What flows that are accepted are like, for people.
    pub(super) fn describe(&self) -> String {
        let mut text = match self.server {
            Some(algorithms) => algorithms.to_string(),
            None if self.authenticates() || self.native => "encrypted".to_owned(),
            None => "as the client asks".to_owned(),
        };
        match &self.authentication {
            Authentication::Offered | Authentication::None => {}
            Authentication::Server(_) => text += ", server authenticated",
            _ => text += ", both authenticated",
        }
        if self.native {
            text += ", native only";
        }
        text
    }
}

/// What both `own`, a name's policy, and what a program demands allow.
///
/// # Errors
///
/// They name different authorities, or one names authorities and the other keys:
/// nobody can tell whom both mean.
pub(super) fn both(
    name: &Name,
    own: &ServerSecurity,
    demands: &ServerSecurity,
) -> Result<ServerSecurity, Error> {
    let mut both = own.clone();
    both.require_encryption |= demands.require_encryption;
    if demands.profile == ProfilePolicy::RequireNative {
        both.profile = ProfilePolicy::RequireNative;
    }
    both.suite = match (own.suite, demands.suite) {
        (Some(a), Some(b)) => Some(Suite {
            kex: a.kex.max(b.kex),
            kdf: a.kdf.max(b.kdf),
            cipher: a.cipher.max(b.cipher),
        }),
        (own, demanded) => own.or(demanded),
    };
    both.clients = match (&own.clients, &demands.clients) {
        (own, Trust::Anyone) => own.clone(),
        (Trust::Anyone, demanded) => demanded.clone(),
        (own, Trust::FirstUse) => own.clone(),
        (Trust::FirstUse, demanded) => demanded.clone(),
        (Trust::Keys(own), Trust::Keys(demanded)) => {
            Trust::Keys(own.iter().filter(|key| demanded.contains(key)).copied().collect())
        }
        _ => return Err(PolicyError::Contradiction(name.to_string()).into()),
    };
    Ok(both)
}

/// Those in the folder of one's own, or else the daemon's, who may have none.
fn authorities(own: Option<&str>, folder: &TrustFolder) -> Result<CaStore, Error> {
    let place = own.map_or_else(|| folder.authorities(), path_from_text);
    if own.is_none() && !place.exists() {
        return Ok(CaStore::new());
    }
    let (store, unused) = trust::authorities(Path::new(&place))?;
    for reason in unused {
        tracing::warn!(%reason, "an authority that is not trusted");
    }
    Ok(store)
}

/// What this machine says its name is when it allocates flows.
fn host_name() -> Result<Name, Error> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").map_err(Error::HostName)?;
    Ok(name.trim().parse()?)
}
