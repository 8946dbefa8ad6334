//! Network namespaces: interfaces, ports and frames that nobody else has. One
//! lives as long as its value; nothing of it is left behind, even by a test
//! that is killed.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::{AsFd, AsRawFd},
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes one, whose `lo` is up.
    ///
    /// # Panics
    ///
    /// If that is not possible; see [`Needs::Namespaces`](crate::Needs).
    #[allow(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        // A thread of this process could make one only by an unsafe call.
        let mut maker = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this needs the `unshare` command");
        let mut said = String::new();
        let output = maker.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut said).expect("text");
        assert_eq!(said, "up\n", "this needs network namespaces and the `ip` command");
        let namespace = File::open(format!("/proc/{}/ns/net", maker.id())).expect("a namespace");
        // Its input ends and so does it; the namespace is held by the file.
        drop(maker.stdin.take());
        let _ = maker.wait();
        Self(namespace)
    }

    /// Runs `work` on a thread inside. Commands that it starts are inside, too.
    ///
    /// # Panics
    ///
    /// If `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("who made a namespace may enter it");
            work()
        };
        let ended = thread::scope(|scope| scope.spawn(enter).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a shell command inside, which has to succeed; what it printed.
    ///
    /// # Panics
    ///
    /// If the command fails.
    pub fn shell(&self, command: &str) -> String {
        let output = self.inside(|| Command::new("sh").args(["-c", command]).output());
        let output = output.expect("a shell");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A cable between this namespace and another: `eth0` in both, not up yet.
    ///
    /// # Panics
    ///
    /// If either has one already.
    pub fn connect(&self, other: &Self) {
        self.cable("eth0", other, "eth0");
    }

    /// A cable between interfaces of those names, here and in another namespace.
    ///
    /// # Panics
    ///
    /// If either is there already.
    pub fn cable(&self, here: &str, other: &Self, there: &str) {
        let place = other.path();
        self.shell(&format!("ip link add {here} type veth peer name {there} netns {place}"));
    }

    /// A path that ip(8) takes for this namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `test` in a network namespace of its own.
///
/// # Panics
///
/// If `test` does, or there is none to be had.
pub fn isolated(test: impl FnOnce() + Send) {
    Namespace::new().inside(test);
}
