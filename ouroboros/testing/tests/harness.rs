//! The harness itself: what its tests and the people who run them get to see.

use std::process::{Command, ExitCode, Output};

use ouroboros_testing::{Namespace, Needs};

fn main() -> ExitCode {
    ouroboros_testing::tests![
        Needs::Namespaces: where_nothing_can_be_had_tests_are_ignored_and_say_so_once,
            users_run_them_in_a_user_namespace,
            namespaces_have_a_loopback_interface_and_a_cable_of_their_own
    ]
    .run()
}

const INNOCENT: &str = "namespaces_have_a_loopback_interface_and_a_cable_of_their_own";

/// This binary's innocent test, run by the user that `words` of `unshare` make.
fn run_again(words: &[&str]) -> Output {
    let mut again = Command::new("unshare");
    again.arg("--user").args(words).arg(std::env::current_exe().expect("a path")).arg(INNOCENT);
    again.env_remove("OUROBOROS_TESTS_INSIDE").output().expect("unshare")
}

fn where_nothing_can_be_had_tests_are_ignored_and_say_so_once() {
    let without_rights = "echo 0 > /proc/sys/user/max_user_namespaces && \
                          exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"";
    let output = run_again(&["--map-root-user", "sh", "-c", without_rights]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("test result: ok. 0 passed; 0 failed; 1 ignored"), "{said}");
    let loud = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = loud.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 1, "{loud}");
    assert!(lines[0].contains("TESTS IGNORED: 1 (") && lines[0].contains("run as root"), "{loud}");
}

fn users_run_them_in_a_user_namespace() {
    let output = run_again(&["--map-user=1000", "--map-group=1000"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("test result: ok. 1 passed; 0 failed; 0 ignored"), "{said}{error}");
    assert_eq!(error, "");
}

fn namespaces_have_a_loopback_interface_and_a_cable_of_their_own() {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.connect(&two);
    for namespace in [&one, &two] {
        let links = namespace.shell("ip -o link");
        assert!(links.contains(" lo: <LOOPBACK,UP") && links.contains(" eth0@"), "{links}");
        assert_eq!(links.lines().count(), 2, "{links}");
    }
}
