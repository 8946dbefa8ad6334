//! The demonstration runs to its end and shows what it promises. Needs network
//! namespaces, as the demonstration itself does, and fails loudly without.

use std::{env, process::Command};

#[test]
fn the_demonstration_shows_a_tunnel_from_both_sides() {
    // cargo builds a package's examples before its tests, beside them.
    let test = env::current_exe().expect("this test has a path");
    let built = test.ancestors().nth(2).expect("a build folder").join("examples/ovpn");
    let output = Command::new(built).output().expect("the example is built");
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    let (before, wire) = said.split_once("on the wire").expect("it shows the wire");
    assert!(before.contains("inet 10.9.0.1/24") && before.contains("inet 10.9.0.2/24"));
    // The text of the echo request, as the hex dump breaks it.
    assert!(before.contains("cho.request.that"), "the packet in the tunnel:\n{before}");
    assert!(!wire.contains("request.that"), "the packet on the wire:\n{wire}");
    assert!(wire.contains("20 replies") && wire.contains("Gbit/s"), "{wire}");
}
