//! The corpora of the fuzz targets.

use std::{fs, path::Path};

/// Gives `body`, that of a fuzz target, every file of the target's corpus
/// (`fuzz/corpus`). A file that broke something stays there.
///
/// # Panics
///
/// If there is none, or where `body` does.
pub fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("a file").path();
        // Shown if it fails.
        println!("{}", path.display());
        body(&fs::read(path).expect("a file that can be read"));
        replayed += 1;
    }
    assert!(replayed > 0, "{}: no file", folder.display());
}
