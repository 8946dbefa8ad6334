//! Gives the bodies of the fuzz targets (`fuzz/bodies`) every file of their
//! corpora (`fuzz/corpus`). A file that broke something stays there.

use std::{fs, path::Path};

#[path = "../../fuzz/bodies/coalesce.rs"]
mod coalesce;
#[path = "../../fuzz/bodies/segment.rs"]
mod segment;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("a corpus");
    let mut replayed = 0;
    for entry in entries {
        let path = entry.expect("a file").path();
        // Shown if it fails.
        println!("{}", path.display());
        body(&fs::read(path).expect("a file that can be read"));
        replayed += 1;
    }
    assert!(replayed > 0, "{}: no file", folder.display());
}

#[test]
fn coalesce() {
    replay("coalesce", coalesce::body);
}

#[test]
fn segment() {
    replay("segment", segment::body);
}
