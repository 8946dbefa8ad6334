//! Hosts for end-to-end tests: network namespaces made with `ip`, and the
//! tools of this crate running in them. Needs root; says so loudly where it is
//! missing.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Runs a shell command that has to succeed.
pub(crate) fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(
        output.status.success(),
        "{command}: {} (these tests need root, `ip` and /dev/net/tun)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `done`, or fails.
pub(crate) fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(15), "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A network namespace with a daemon's socket of its own.
pub(crate) struct Host {
    pub(crate) name: String,
    folder: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("o7s{}-{number}", std::process::id());
        shell(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).expect("a folder");
        Self { name, folder }
    }

    /// Gives this host's resolver a hosts file.
    pub(crate) fn hosts(&self, text: &str) {
        shell(&format!("mkdir -p /etc/netns/{}", self.name));
        fs::write(format!("/etc/netns/{}/hosts", self.name), text).expect("written");
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        shell(&format!("ip -n {} {arguments}", self.name))
    }

    /// Where this host's daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("irmd.sock")
    }

    /// A tool to be run.
    fn command(&self, program: &str, words: &str) -> Command {
        let tools = PathBuf::from(env!("CARGO_BIN_EXE_irm"));
        let tools = tools.parent().expect("a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, program])
            .args(words.split_whitespace())
            .env("PATH", format!("{tools}:{path}"))
            .env("OUROBOROS_SOCKET", self.socket());
        command
    }

    /// Runs a tool to its end.
    pub(crate) fn run(&self, program: &str, words: &str) -> Output {
        self.command(program, words).output().expect("a process")
    }

    /// Runs a tool that has to succeed.
    pub(crate) fn must(&self, program: &str, words: &str) -> String {
        let output = self.run(program, words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {words}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a tool and waits until it says a line with `sign` in it.
    pub(crate) fn start(&self, program: &str, words: &str, sign: &str) -> Running {
        let mut child = self
            .command(program, words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.contains(sign) {
            let read = output.read_line(&mut said).expect("text");
            assert!(read > 0, "{program} {words} ended without saying {sign}: {said}");
        }
        // Drained, so that it never blocks on what nobody reads.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Running { child, said }
    }

    pub(crate) fn irmd(&self) -> Running {
        self.start("irmd", "--stdout", "serves")
    }

    pub(crate) fn has_device(&self, device: &str) -> bool {
        self.ip("-o link").contains(&format!(" {device}:"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let name = &self.name;
        let _ = Command::new("ip").args(["netns", "del", name]).status();
        let _ = fs::remove_dir_all(format!("/etc/netns/{name}"));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Two hosts with a cable between them, `eth0` on both: 10.66.0.1 and
/// 10.66.0.2, fd66::1 and fd66::2.
pub(crate) fn cable() -> (Host, Host) {
    let (one, two) = (Host::new(), Host::new());
    let (a, b) = (&one.name, &two.name);
    shell(&format!("ip link add eth0 netns {a} type veth peer name eth0 netns {b}"));
    for (host, number) in [(&one, 1), (&two, 2)] {
        host.ip(&format!("addr add 10.66.0.{number}/24 dev eth0"));
        host.ip(&format!("addr add fd66::{number}/64 dev eth0 nodad"));
        host.ip("link set eth0 up");
    }
    eventually("the link is up", || one.ip("link show eth0").contains("LOWER_UP"));
    (one, two)
}

/// A tool that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) said: String,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal and returns the exit code.
    pub(crate) fn end(mut self, signal: &str) -> Option<i32> {
        shell(&format!("kill -{signal} {}", self.child.id()));
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
