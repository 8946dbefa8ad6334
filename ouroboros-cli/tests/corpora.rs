//! Gives the body of the grammar's fuzz target (`fuzz/bodies`) every file of
//! its corpus, as `ouroboros/tests/corpora.rs` does with the library's.

use std::{fs, path::Path};

#[path = "../../fuzz/bodies/grammar.rs"]
mod grammar;

#[test]
fn grammar() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/grammar");
    let mut replayed = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let path = entry.expect("a file").path();
        // Shown if it fails.
        println!("{}", path.display());
        grammar::body(&fs::read(path).expect("a file that can be read"));
        replayed += 1;
    }
    assert!(replayed > 0, "{}: no file", folder.display());
}
