//! The tools in a folder of their own, and a daemon for them.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use ouroboros_testing::Folder;
use rustix::process::{Pid, Signal, kill_process};

/// Where a daemon's socket comes to be, in a folder that does not exist yet.
pub(crate) fn socket_in(folder: &Folder) -> PathBuf {
    folder.path().join("run/irmd.sock")
}

/// Where the tools' files of trust come to be.
pub(crate) fn trust_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("trust")
}

pub(crate) fn tool(path: &str, socket: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("OUROBOROS_SOCKET", socket).env("OUROBOROS_CONFIG", trust_beside(socket));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

pub(crate) fn irm(socket: &Path, line: &str) -> Output {
    let words = line.split_whitespace();
    tool(env!("CARGO_BIN_EXE_irm"), socket).args(words).output().expect("irm runs")
}

/// Standard output of a command that has to work.
pub(crate) fn told(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {text}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The one line that a command which has to fail says.
pub(crate) fn complaint(output: Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

pub(crate) struct Daemon {
    child: Child,
    log: BufReader<std::process::ChildStdout>,
}

impl Daemon {
    /// Starts one and waits until it serves.
    pub(crate) fn start(socket: &Path) -> Self {
        Self::run(&mut tool(env!("CARGO_BIN_EXE_irmd"), socket))
    }

    /// The same, as `command` says.
    pub(crate) fn run(command: &mut Command) -> Self {
        let command = command.arg("--stdout").stdout(Stdio::piped());
        let mut child = command.spawn().expect("irmd starts");
        let mut log = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("serves") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("a log"), 0, "irmd ended");
        }
        Self { child, log }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    /// Reads its log until there is a line with `sign` in it, and returns that line.
    pub(crate) fn logs(&mut self, sign: &str) -> String {
        let mut line = String::new();
        while !line.contains(sign) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).expect("a log"), 0, "never: {sign}");
        }
        line
    }

    pub(crate) fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        self.signal(signal);
        let mut log = String::new();
        self.log.read_to_string(&mut log).expect("a log");
        (self.child.wait().expect("ended").code(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
