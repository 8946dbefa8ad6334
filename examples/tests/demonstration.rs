//! The demonstration runs to its end and shows what it promises, to root and to
//! anyone else.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode, Output},
};

use ouroboros_testing::{Folder, Needs};

fn main() -> ExitCode {
    ouroboros_testing::tests![
        Needs::Tunnels: the_demonstration_shows_a_tunnel_from_both_sides;
        Needs::Root: it_needs_no_root_where_users_may_open_tunnels,
            where_users_may_not_open_tunnels_it_says_so
    ]
    .run()
}

/// cargo builds a package's examples before its tests, beside them.
fn built() -> PathBuf {
    let test = env::current_exe().expect("this test has a path");
    test.ancestors().nth(2).expect("a build folder").join("examples/ovpn")
}

fn must_show(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    assert_eq!(error, "");
    let (before, wire) = said.split_once("on the wire").expect("it shows the wire");
    assert!(before.contains("inet 10.9.0.1/24") && before.contains("inet 10.9.0.2/24"));
    // The text of the echo request, as the hex dump breaks it.
    assert!(before.contains("cho.request.that"), "the packet in the tunnel:\n{before}");
    assert!(!wire.contains("request.that"), "the packet on the wire:\n{wire}");
    assert!(wire.contains("20 replies") && wire.contains("Gbit/s"), "{wire}");
}

fn the_demonstration_shows_a_tunnel_from_both_sides() {
    must_show(&Command::new(built()).output().expect("the example is built"));
}

/// The demonstration as user 1234, who sees a /dev/net/tun of this mode.
fn as_user(mode: &str) -> Output {
    let folder = Folder::new();
    let program = folder.path().join("ovpn");
    fs::copy(built(), &program).expect("the example is built");
    let (tun, program) = (folder.path().join("tun"), program.display());
    let (place, tun) = (folder.path().display(), tun.display());
    let script = format!(
        "chmod 755 {place} {program} && mknod -m {mode} {tun} c 10 200 && \
         mount --bind {tun} /dev/net/tun && \
         exec setpriv --reuid 1234 --regid 1234 --clear-groups {program}"
    );
    Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().expect("unshare")
}

fn it_needs_no_root_where_users_may_open_tunnels() {
    must_show(&as_user("666"));
}

fn where_users_may_not_open_tunnels_it_says_so() {
    let output = as_user("600");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("/dev/net/tun") && error.lines().count() == 1, "{error}");
}
