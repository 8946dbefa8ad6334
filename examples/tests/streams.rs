//! The examples of reliable flows run to their ends and show what they promise.

use std::{
    env,
    process::{Command, Output},
};

/// cargo builds a package's examples before its tests, beside them.
fn run(example: &str) -> String {
    let test = env::current_exe().expect("this test has a path");
    let built = test.ancestors().nth(2).expect("a build folder").join("examples").join(example);
    let Output { status, stdout, stderr } = Command::new(built).output().expect("it is built");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

#[test]
fn an_echo_over_a_stream_comes_back() {
    assert_eq!(run("stream_echo"), "hello, again, goodbye\n");
}

#[test]
fn a_file_is_the_same_at_the_other_end_and_its_progress_is_shown() {
    let said = run("transfer");
    assert!(said.contains("50 % of 10000000 bytes"), "{said}");
    assert!(said.ends_with("the copy is the same\n"), "{said}");
}

/// Takes seconds where it is not optimized: a thousand exchanges of X25519MLKEM768.
#[test]
fn a_thousand_clients_are_answered() {
    let said = run("requests");
    assert_eq!(said, "1000 clients have voted:\napple: 3340\nbanana: 3330\ncherry: 3330\n");
}
