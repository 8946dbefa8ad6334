//! The policy of a name with the files of this machine, for flows that are accepted here and
//! for flows that are allocated from here: the files that it names are read when they are
//! needed and when they have changed. Not here: its words (`grammar`, `configuration`).

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ouroboros::{
    FlowSpec, Identity, PolicyError, ServerSecurity, Trust,
    crypto::{Suite, identity::CaStore},
    daemon::security::{Authentication, FlowSecurity, NamePolicy},
    proto::{
        native::Capabilities,
        negotiation::{ClientSecurity, ProfilePolicy},
    },
    trust::{self, KeyFile, TrustFolder},
    wire::Name,
};

use super::{Error, keys::Keys};

/// The files that policies are resolved with, beside those that they name.
pub(super) struct Files<'a> {
    /// The daemon's key, whom it knows, and its authorities.
    pub(super) folder: TrustFolder,
    pub(super) keys: &'a Keys,
}

/// The security and the identity of a flow to be allocated.
pub(super) struct Allocation {
    pub(super) spec: FlowSpec,
    /// Whether the server is known by its key from then on.
    pub(super) remembered: bool,
}

/// Tells a file from what it is when it has changed.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

/// The time by which the clock of a file system may be behind.
const COARSE: Duration = Duration::from_millis(100);

/// Files in a folder of authorities that are watched, at most.
const FILES: usize = 4096;

impl Files<'_> {
    /// Returns the security that `policy` asks of flows that are accepted. `last` is the one
    /// before, if there was any: where a list of clients cannot be read as a whole, its good
    /// lines count, and where it cannot be believed, of those it has now the ones that it had
    /// before. What is wrong with it is in the list behind that then, and logged if it was not.
    ///
    /// # Errors
    ///
    /// A file cannot be used.
    pub(super) fn accepted(
        &self,
        policy: &NamePolicy,
        name: &Name,
        last: Option<(&ServerSecurity, &mut Vec<String>)>,
    ) -> Result<ServerSecurity, Error> {
        let mut security = policy.accepted();
        security = match &policy.authentication {
            Authentication::None => return Ok(security),
            // The certificate of an authority is for 0.23 clients as well.
            Authentication::Offered if policy.certificate.is_none() => {
                return Ok(security.native_identity(self.identity(policy, name)?));
            }
            _ => security.identity(self.identity(policy, name)?),
        };
        if let Authentication::Keys(path) = &policy.authentication {
            security.invited = trust::invitations(path);
        }
        security.clients = match &policy.authentication {
            Authentication::Keys(path) => {
                Trust::Keys(match last.map(|(l, told)| (&l.clients, told)) {
                    Some((Trust::Keys(last), told)) => {
                        let (clients, flaws) = trust::reread_authorized_keys(path, last);
                        let flaws: Vec<_> = flaws.iter().map(ToString::to_string).collect();
                        for flaw in flaws.iter().filter(|flaw| !told.contains(flaw)) {
                            tracing::error!(%name, %flaw, "a list of clients is not as it should be");
                        }
                        *told = flaws;
                        clients
                    }
                    _ => trust::authorized_keys(path)?,
                })
            }
            Authentication::Authorities(own) => Trust::Authorities(self.authorities(own)?),
            _ => Trust::Anyone,
        };
        Ok(security)
    }

    /// Returns the security to ask of a flow to `name`: that of the application, and that of
    /// `policy`, the name's here.
    ///
    /// # Errors
    ///
    /// If the application's demands make no sense, or a file cannot be used.
    pub(super) fn allocated(
        &self,
        policy: &NamePolicy,
        name: &Name,
        spec: FlowSpec,
        asked: Option<&FlowSecurity>,
    ) -> Result<Allocation, Error> {
        let (mut security, mut manager_identity) = match (asked, policy.allocated()) {
            (Some(FlowSecurity { asked, manager_identity }), _) => {
                (with_named(policy, name, asked.clone())?, *manager_identity)
            }
            (None, Some(own)) => (own, false),
            (None, None) => return Ok(Allocation { spec, remembered: false }),
        };
        manager_identity |= matches!(
            policy.authentication,
            Authentication::Keys(_) | Authentication::Authorities(_)
        );
        if manager_identity {
            security.identity = Some(self.identity(policy, &host_name()?)?);
        }
        let remembered = self.know(policy, &mut security, name)?;
        Ok(Allocation { spec: spec.with_security(security), remembered })
    }

    /// Adds whom this machine knows to what the application trusts; whether the
    /// server is to be remembered.
    fn know(
        &self,
        policy: &NamePolicy,
        security: &mut ClientSecurity,
        name: &Name,
    ) -> Result<bool, Error> {
        let next_keys = self.folder.next_keys();
        if let Trust::Keys(keys) = &mut security.trust {
            *keys = next_keys.accepted(name, keys)?;
        }
        if !matches!(security.trust, Trust::Anyone | Trust::FirstUse) {
            return Ok(false);
        }
        let vouching = match &policy.authentication {
            Authentication::Server(own @ Some(_)) | Authentication::Authorities(own) => {
                self.authorities(own)?
            }
            _ => CaStore::new(),
        };
        if !vouching.is_empty() {
            security.trust = Trust::Authorities(vouching);
            return Ok(false);
        }
        match self.folder.known_names().trust(name)? {
            Trust::Anyone if policy.authenticates() => security.trust = Trust::FirstUse,
            Trust::Anyone => {}
            Trust::Keys(keys) => {
                security.trust = Trust::Keys(next_keys.accepted(name, &keys)?);
            }
            known => security.trust = known,
        }
        Ok(true)
    }

    fn key(&self, policy: &NamePolicy) -> KeyFile {
        policy.key.as_ref().map_or_else(|| self.folder.identity(), KeyFile::at)
    }

    fn identity(&self, policy: &NamePolicy, name: &Name) -> Result<Identity, Error> {
        // One that is named has to be there.
        let key = self.keys.load(&self.key(policy), policy.key.is_none())?;
        match &policy.certificate {
            None => Ok(Identity::self_signed(key, name)),
            Some(path) => {
                let certificate = trust::certificate(path)?;
                Identity::certified(key, &certificate)
                    .map_err(|error| Error::Certificate(path.clone(), error))
            }
        }
    }

    /// Changes when one of the files that flows are accepted by does.
    pub(super) fn stamps(&self, policy: &NamePolicy) -> Vec<Stamp> {
        let mut paths = vec![self.key(policy).path().to_owned()];
        paths.extend(policy.certificate.clone());
        match &policy.authentication {
            Authentication::Keys(path) => paths.push(path.clone()),
            Authentication::Authorities(own) => {
                let place = own.clone().unwrap_or_else(|| self.folder.authorities());
                // A file may be written anew where it is.
                let files = fs::read_dir(&place).into_iter().flatten().flatten();
                let mut files: Vec<_> = files.map(|file| file.path()).take(FILES).collect();
                files.sort();
                paths.push(place);
                paths.extend(files);
            }
            _ => {}
        }
        paths.iter().map(|path| stamp(path)).collect()
    }

    /// The authorities in the folder of one's own, or else the daemon's, who may have none.
    fn authorities(&self, own: &Option<PathBuf>) -> Result<CaStore, Error> {
        let place = own.clone().unwrap_or_else(|| self.folder.authorities());
        if own.is_none() && !place.exists() {
            return Ok(CaStore::new());
        }
        let (store, unused) = trust::authorities(&place)?;
        for reason in unused {
            tracing::warn!(%reason, "an authority is ignored");
        }
        Ok(store)
    }
}

/// The stamp of the file at `path`.
pub(super) fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    // Its time changes with its owner and mode, too, and with the time of its contents.
    Some((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
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

/// Returns the security that `policy` asks of flows that are accepted while a file of it cannot
/// be used: nobody gets a flow that is to be authenticated.
pub(super) fn without_files(policy: &NamePolicy) -> ServerSecurity {
    let security = policy.accepted();
    let nobody = Trust::Keys(Vec::new());
    if policy.authenticates() { security.clients(nobody) } else { security }
}

/// Returns the security that an application asks of a flow to `name`, joined with that of the
/// name's policy: an application that names no algorithms has the policy's, and one that does
/// can only ask for more.
fn with_named(
    policy: &NamePolicy,
    name: &Name,
    mut asked: ClientSecurity,
) -> Result<ClientSecurity, Error> {
    if policy.native {
        asked.profile = ProfilePolicy::RequireNative;
    }
    let Some(named) = policy.client else { return Ok(asked) };
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

/// Returns the security that allows what both `own`, a name's policy, and the demands of a
/// program allow.
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

/// Returns the name that this machine gives itself when it allocates flows.
fn host_name() -> Result<Name, Error> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").map_err(Error::HostName)?;
    Ok(name.trim().parse()?)
}
