//! Criterion benchmarks of the `ouroboros` library: see the `[[bench]]` targets. Here:
//! two hosts for those that need a network, and limits for servers that are measured.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use ouroboros::proto::allocation::{Limits, Share};

/// Two network namespaces, as long as they are held, and a folder that both see. Needs
/// root.
#[derive(Debug)]
pub struct Hosts {
    names: [String; 2],
    /// The folder.
    pub folder: PathBuf,
}

/// The address of the first host, in a network with a prefix of 24 bits.
pub const SERVER: &str = "10.97.0.1";
/// The address of the second.
pub const CLIENT: &str = "10.97.0.2";

fn ip(words: &str) -> io::Result<()> {
    let status = Command::new("ip").args(words.split(' ')).status()?;
    let needs_root = || io::Error::other(format!("ip {words}: needs root"));
    if status.success() { Ok(()) } else { Err(needs_root()) }
}

impl Hosts {
    /// Makes them, with a veth pair of MTU 1500 between them.
    ///
    /// # Errors
    ///
    /// Those of ip(8).
    pub fn new() -> io::Result<Self> {
        let hosts = Self::unconnected()?;
        let [a, b] = &hosts.names;
        ip(&format!("link add veth0 netns {a} type veth peer name veth0 netns {b}"))?;
        hosts.set_up(["veth0"; 2])?;
        Ok(hosts)
    }

    /// Makes them, with nothing between them.
    ///
    /// # Errors
    ///
    /// Those of ip(8).
    pub fn unconnected() -> io::Result<Self> {
        let id = std::process::id();
        let folder = env::temp_dir().join(format!("benches-{id}"));
        fs::create_dir(&folder)?;
        let hosts = Self { names: ["a", "b"].map(|end| format!("o7s{id}{end}")), folder };
        for name in &hosts.names {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(hosts)
    }

    /// Gives each of them one of these devices of this process's own namespace.
    ///
    /// # Errors
    ///
    /// Those of ip(8).
    pub fn connect(&self, devices: [&str; 2]) -> io::Result<()> {
        for (name, device) in self.names.iter().zip(devices) {
            ip(&format!("link set {device} netns {name} txqueuelen 10000"))?;
        }
        self.set_up(devices)
    }

    fn set_up(&self, devices: [&str; 2]) -> io::Result<()> {
        for ((name, device), address) in self.names.iter().zip(devices).zip([SERVER, CLIENT]) {
            ip(&format!("-n {name} addr add {address}/24 dev {device}"))?;
            ip(&format!("-n {name} link set {device} up"))?;
        }
        Ok(())
    }

    /// Runs this program with `words` at the first (0) or second host (1), with its output
    /// to be read.
    ///
    /// # Errors
    ///
    /// It cannot be run.
    pub fn run(&self, host: usize, words: &[&str]) -> io::Result<Child> {
        self.run_program(host, &env::current_exe()?, words)
    }

    /// Runs another program as [`run`](Self::run) does this one.
    ///
    /// # Errors
    ///
    /// It cannot be run.
    pub fn run_program(&self, host: usize, program: &Path, words: &[&str]) -> io::Result<Child> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host]]).arg(program).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Limits of a server for one client that asks for what many would.
pub fn limits() -> Limits {
    let many = Share { host: 100_000, prefix: 100_000 };
    Limits {
        established: many.host,
        established_of: many,
        requests_per_second_of: many,
        remembered_of: many,
        ..Limits::default()
    }
}
