//! Rounds of processes: a server, a client, and what the client says.

use std::{
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use ouroboros_benches::Hosts;

use crate::{ends, workload::Outcome};

/// A process that ends when it is dropped.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn line(&mut self) -> Outcome<String> {
        Ok(self.lines.next().ok_or("the process has failed")??)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where each end runs: on which processor, if on one.
#[derive(Clone, Copy)]
pub(crate) struct Pinned(pub(crate) &'static str, pub(crate) &'static str);

pub(crate) const UNPINNED: Pinned = Pinned("-", "-");

/// What a client does: the workload, seconds or how many, how many at once.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) parallel: usize,
}

/// A client at work.
pub(crate) struct Running {
    client: Process,
    _servers: Vec<Process>,
}

impl Running {
    /// Its figures, when it is done.
    pub(crate) fn figures(mut self) -> Outcome<Vec<f64>> {
        let line = self.client.line()?;
        Ok(line.split(' ').map(str::parse).collect::<Result<_, _>>()?)
    }
}

/// Runs processes in `hosts`.
pub(crate) struct Runner<'a> {
    pub(crate) hosts: Hosts,
    /// The program that has s2n-quic, if it could be built.
    pub(crate) s2n_quic: Option<&'a Path>,
}

/// What the names of carriers begin with that are this program's.
pub(crate) const S2N_QUIC: &str = "s2n-quic";

/// Builds the program with s2n-quic, whose dependencies stay out of the workspace.
pub(crate) fn build_s2n_quic() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("streams/s2n-quic");
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "--locked"]).current_dir(&folder);
    let built = build.stdin(Stdio::null()).status().is_ok_and(|status| status.success());
    if !built {
        eprintln!("s2n-quic is left out: it does not build here");
    }
    built.then(|| folder.join("target/release/streams-s2n-quic"))
}

impl<'a> Runner<'a> {
    pub(crate) fn new(hosts: Hosts, s2n_quic: Option<&'a Path>) -> Outcome<Self> {
        crate::certificate::generate(&hosts.folder)?;
        Ok(Self { hosts, s2n_quic })
    }

    fn run(&self, name: &str, host: usize, words: &[&str]) -> Outcome<Process> {
        let mut child = match &self.s2n_quic {
            Some(program) if name.starts_with(S2N_QUIC) => {
                self.hosts.run_program(host, program, words)?
            }
            _ => self.hosts.run(host, words)?,
        };
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Process { child, lines })
    }

    /// Begins; ended by [`Running::figures`], or when it is dropped. `beside`: there is a
    /// server of its kind already.
    pub(crate) fn start(
        &self,
        name: &str,
        work: Work,
        pinned: Pinned,
        beside: bool,
    ) -> Outcome<Running> {
        let folder = self.hosts.folder.to_str().ok_or("a folder whose name is text")?;
        let mut servers = Vec::new();
        if ends::needs_daemon(name) {
            for (host, words) in ["0", "1"].iter().enumerate() {
                servers.push(self.run(name, host, &["daemon", words, folder])?);
            }
        }
        if !beside {
            servers.push(self.run(name, 0, &["server", name, pinned.0, folder])?);
        }
        for server in &mut servers {
            // It listens.
            server.line()?;
        }
        let Work { what, value, parallel } = work;
        let (value, parallel) = (value.to_string(), parallel.to_string());
        let words = ["client", name, pinned.1, folder, what, &value, &parallel];
        Ok(Running { client: self.run(name, 1, &words)?, _servers: servers })
    }
}
