//! Gives the bodies of the fuzz targets (`fuzz/bodies`) every file of their
//! corpora (`fuzz/corpus`). A file that broke something stays there.

use std::{fs, path::Path};

#[path = "../../fuzz/bodies/allocation.rs"]
mod allocation;
#[path = "../../fuzz/bodies/client.rs"]
mod client;
#[path = "../../fuzz/bodies/coalesce.rs"]
mod coalesce;
#[path = "../../fuzz/bodies/daemon.rs"]
mod daemon;
#[path = "../../fuzz/bodies/input.rs"]
mod input;
#[path = "../../fuzz/bodies/management.rs"]
mod management;
#[path = "../../fuzz/bodies/opening.rs"]
mod opening;
#[path = "../../fuzz/bodies/segment.rs"]
mod segment;
#[path = "../../fuzz/bodies/server.rs"]
mod server;
#[path = "../../fuzz/bodies/session.rs"]
mod session;

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
fn allocation() {
    replay("allocation", allocation::body);
}

#[test]
fn client() {
    replay("client", client::body);
}

#[test]
fn coalesce() {
    replay("coalesce", coalesce::body);
}

#[test]
fn daemon() {
    replay("daemon", daemon::body);
}

#[test]
fn management() {
    replay("management", management::body);
}

#[test]
fn opening() {
    replay("opening", opening::body);
}

#[test]
fn segment() {
    replay("segment", segment::body);
}

#[test]
fn server() {
    replay("server", server::body);
}

#[test]
fn session() {
    replay("session", session::body);
}
