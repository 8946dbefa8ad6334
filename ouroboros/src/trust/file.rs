//! Files that nobody else may have changed, and how they are made.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use zeroize::Zeroizing;

use super::TrustError;
use crate::{
    crypto::{Entropy, SystemEntropy},
    sync::lock,
};

/// How often an edit begins anew because the file has changed meanwhile.
const ATTEMPTS: usize = 8;

/// Others can do to a file what only its owner may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Others can read a secret.
    #[error("others can read it: chmod 600 it, and use another key if they may have done so")]
    Readable,
    /// Others can write to it.
    #[error("others can write to it: chmod go-w it when you have looked what is in it")]
    Writable,
    /// It belongs to another user than this one and root.
    #[error("it belongs to another user")]
    Foreign,
    /// It is no regular file.
    #[error("not a regular file")]
    Special,
}

/// The access to a file that others may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Nothing.
    Secret,
    /// Read it.
    Public,
}

/// The contents of the file at `path`; `None` if there is none. A symbolic link
/// is followed: whoever may write to the folders at both of its ends is asked
/// about.
pub(super) fn read(
    path: &Path,
    guard: Guard,
    largest: u64,
) -> Result<Option<Zeroizing<Vec<u8>>>, TrustError> {
    let failed = |error| TrustError::Io(path.to_owned(), error);
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        real => real.map_err(failed)?,
    };
    for place in [path, &real] {
        check_folder(place)?;
    }
    // Neither a link that has just been put there, nor a FIFO that is waited at.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&real).map_err(failed)?;
    check(&file, path, guard)?;
    contents(&file, path, largest).map(Some)
}

/// The contents of the file at `path`, whoever may have changed it: to see what is
/// not in it any more, and never to believe what is.
pub(super) fn read_unguarded(path: &Path, largest: u64) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    let failed = |error| TrustError::Io(path.to_owned(), error);
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(TrustError::Unsafe(path.to_owned(), Flaw::Special));
    }
    contents(&file, path, largest)
}

/// All that is in `file`, which is at `path`.
pub(super) fn contents(
    file: &File,
    path: &Path,
    largest: u64,
) -> Result<Zeroizing<Vec<u8>>, TrustError> {
    let failed = |error| TrustError::Io(path.to_owned(), error);
    let size = file.metadata().map_err(failed)?.len().min(largest);
    // With room from the start: a buffer that grows leaves its contents behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(largest + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > largest {
        return Err(TrustError::TooLong(path.to_owned(), largest));
    }
    Ok(bytes)
}

/// Returns whether `file`, which was opened at `path`, is as its guard demands.
pub(super) fn check(file: &File, path: &Path, guard: Guard) -> Result<(), TrustError> {
    let metadata = file.metadata().map_err(|error| TrustError::Io(path.to_owned(), error))?;
    let flaw = if metadata.is_file() { flaw(&metadata, guard) } else { Some(Flaw::Special) };
    flaw.map_or(Ok(()), |flaw| Err(TrustError::Unsafe(path.to_owned(), flaw)))
}

/// Returns whether only this user and root can put other files in the place of the one at
/// `path`.
pub(super) fn check_folder(path: &Path) -> Result<(), TrustError> {
    let folder = folder_of(path);
    let metadata = fs::metadata(&folder).map_err(|e| TrustError::Io(folder.clone(), e))?;
    match flaw(&metadata, Guard::Public) {
        Some(flaw) => Err(TrustError::Unsafe(folder, flaw)),
        None => Ok(()),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn flaw(metadata: &Metadata, guard: Guard) -> Option<Flaw> {
    let user = rustix::process::geteuid().as_raw();
    judge((metadata.uid(), metadata.mode()), user, guard)
}

fn judge((owner, mode): (u32, u32), user: u32, guard: Guard) -> Option<Flaw> {
    if owner != user && owner != 0 {
        Some(Flaw::Foreign)
    } else if mode & 0o022 != 0 {
        Some(Flaw::Writable)
    } else if guard == Guard::Secret && mode & 0o077 != 0 {
        Some(Flaw::Readable)
    } else {
        None
    }
}

/// Makes the folder for a file at `path`, where there is none.
pub(super) fn make_folder(path: &Path) -> Result<(), TrustError> {
    let folder = folder_of(path);
    let made = DirBuilder::new().recursive(true).mode(0o755).create(&folder);
    made.map_err(|error| TrustError::Io(folder, error))?;
    check_folder(path)
}

/// Puts a file that only its owner can read at `path`, whole or not at all;
/// whether it is there now. Unless it is to `replace` what is there, it is not
/// if something is.
pub(super) fn create(path: &Path, contents: &[u8], replace: bool) -> Result<bool, TrustError> {
    make_folder(path)?;
    let write = |draft: &Path| {
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, draft, CWD, path, flags)?;
        Ok(true)
    };
    match with_draft(path, contents, Some(0o600), write) {
        Err(error) if !replace && error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        outcome => outcome.map_err(|error| TrustError::Io(path.to_owned(), error)),
    }
}

/// Tells a file from what it is when it has been changed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    real: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

/// The stamp of the file at `path`, at the end of symbolic links.
pub(super) fn stamp(path: &Path) -> Result<Stamp, TrustError> {
    let stamp = || {
        let real = fs::canonicalize(path)?;
        let metadata = fs::metadata(&real)?;
        Ok(Stamp {
            real,
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode() & 0o777,
        })
    };
    stamp().map_err(|error| TrustError::Io(path.to_owned(), error))
}

/// Puts `contents` in the place of the file at `path`, with its mode, whole or not at
/// all, if its stamp is still `before`; whether it was. Then it is on the disk.
pub(super) fn replace(path: &Path, contents: &[u8], before: &Stamp) -> Result<bool, TrustError> {
    let write = |draft: &Path| {
        if stamp(path).ok().as_ref() != Some(before) {
            fs::remove_file(draft)?;
            return Ok(false);
        }
        fs::rename(draft, &before.real)?;
        Ok(true)
    };
    let outcome = with_draft(&before.real, contents, Some(before.mode), write);
    outcome.map_err(|error| TrustError::Io(path.to_owned(), error))
}

/// Has the contents of the file at `path`, of `largest` bytes at most, changed, all or
/// nothing: `change` reads it, and returns what is to be in its place, if anything is. Of two
/// edits of a process at once, one sees what the other has done; an edit by another program
/// meanwhile is read, too.
pub(super) fn edit<T, E: From<TrustError>>(
    path: &Path,
    largest: u64,
    change: impl Fn() -> Result<(Option<Vec<u8>>, T), E>,
) -> Result<T, E> {
    static EDITING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = lock(&EDITING);
    for _ in 0..ATTEMPTS {
        let before = stamp(path)?;
        let (contents, outcome) = change()?;
        let Some(contents) = contents else { return Ok(outcome) };
        if contents.len() as u64 > largest {
            return Err(TrustError::TooLong(path.to_owned(), largest).into());
        }
        if replace(path, &contents, &before)? {
            return Ok(outcome);
        }
    }
    let busy = io::Error::new(io::ErrorKind::ResourceBusy, "another program writes to it");
    Err(TrustError::Io(path.to_owned(), busy).into())
}

/// Puts a file without secrets at `path`, in the place of one that is there, whole or not at
/// all. Others may read it as far as the umask says, or as they could before. When it returns,
/// its contents are on the disk.
///
/// # Errors
///
/// It cannot be written; what was there still is.
pub fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let before = fs::metadata(path).map(|file| file.permissions().mode() & 0o777);
    let write = |draft: &Path| fs::rename(draft, path).map(|()| true);
    with_draft(path, contents, before.ok(), write).map(drop)
}

/// Writes `contents` to a file beside `path` that is to take its place, and has `place`
/// do so. Its mode is `mode`, or else 0644 less the umask.
fn with_draft(
    path: &Path,
    contents: &[u8],
    mode: Option<u32>,
    place: impl FnOnce(&Path) -> io::Result<bool>,
) -> io::Result<bool> {
    let folder = folder_of(path);
    let mut random = [0; 8];
    SystemEntropy.fill(&mut random);
    let draft = folder.join(format!(".draft-{:016x}", u64::from_be_bytes(random)));
    let write = || {
        let at_first = if mode.is_some() { 0o600 } else { 0o644 };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(at_first).open(&draft)?;
        file.write_all(contents)?;
        if let Some(mode) = mode.filter(|mode| *mode != at_first) {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.sync_all()?;
        let placed = place(&draft)?;
        File::open(&folder)?.sync_all()?;
        Ok(placed)
    };
    let outcome = write();
    if outcome.is_err() {
        // It is not there if it could not be made.
        let _ = fs::remove_file(&draft);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_their_owner_s_and_root_s_alone() {
        use Guard::{Public, Secret};
        for (owner, mode, guard, expected) in [
            (7, 0o600, Secret, None),
            (7, 0o400, Secret, None),
            (0, 0o600, Secret, None),
            (8, 0o600, Secret, Some(Flaw::Foreign)),
            (8, 0o600, Public, Some(Flaw::Foreign)),
            (7, 0o640, Secret, Some(Flaw::Readable)),
            (7, 0o604, Secret, Some(Flaw::Readable)),
            (7, 0o601, Secret, Some(Flaw::Readable)),
            (7, 0o644, Public, None),
            (7, 0o620, Secret, Some(Flaw::Writable)),
            (7, 0o664, Public, Some(Flaw::Writable)),
            (7, 0o1777, Public, Some(Flaw::Writable)),
        ] {
            assert_eq!(judge((owner, mode), 7, guard), expected, "{owner} {mode:o} {guard:?}");
        }
    }
}
