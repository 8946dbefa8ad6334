//! Files that are there as a whole or not at all. Not here: files that others must not
//! have changed (`ouroboros::trust`).

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Puts a file that everybody may read at `path`, in the place of one that is there. When
/// it returns, its contents are on the disk.
///
/// # Errors
///
/// It cannot be written; what was there still is.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // Of a process that was killed.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
