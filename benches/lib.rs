//! Criterion benchmarks of the `ouroboros` library: see the `[[bench]]` targets. Here:
//! two hosts for those that need a network.

use std::{
    env, fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Two network namespaces with a veth pair of MTU 1500 between them, as long as they are
/// held, and a folder that both see. Needs root.
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
    /// Makes them.
    ///
    /// # Errors
    ///
    /// Those of ip(8).
    pub fn new() -> io::Result<Self> {
        let id = std::process::id();
        let folder = env::temp_dir().join(format!("benches-{id}"));
        fs::create_dir(&folder)?;
        let hosts = Self { names: ["a", "b"].map(|end| format!("o7s{id}{end}")), folder };
        let [a, b] = &hosts.names;
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("link add veth0 netns {a} type veth peer name veth0 netns {b}"))?;
        for (name, address) in [(a, SERVER), (b, CLIENT)] {
            ip(&format!("-n {name} addr add {address}/24 dev veth0"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set veth0 up"))?;
        }
        Ok(hosts)
    }

    /// Runs this program with `words` at the first (0) or second host (1), with its output
    /// to be read.
    ///
    /// # Errors
    ///
    /// It cannot be run.
    pub fn run(&self, host: usize, words: &[&str]) -> io::Result<Child> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host]]).arg(env::current_exe()?).args(words);
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
