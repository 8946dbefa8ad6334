//! Hosts: network namespaces with the tools of this crate running in them, and
//! pairs of hosts with a cable and a tunnel between them.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use ouroboros_testing::{Folder, Namespace};
use rustix::process::{Pid, Signal, kill_process};

/// Only ends a test that has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `done`, or fails.
pub(crate) fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Where the tools are.
pub(crate) fn tools() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_irm")).parent().expect("a folder")
}

/// A network namespace with a daemon's socket of its own.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) folder: Folder,
    hosts: Option<PathBuf>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { namespace: Namespace::new(), folder: Folder::new(), hosts: None }
    }

    /// Where this host's daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("irmd.sock")
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.namespace.shell(&format!("ip {arguments}"))
    }

    pub(crate) fn has_device(&self, device: &str) -> bool {
        self.ip("-o link").contains(&format!(" {device}:"))
    }

    /// Has the tools that are started from now on see `text` as the hosts file; those that
    /// have seen one of these see it, too.
    pub(crate) fn set_hosts(&mut self, text: &str) {
        self.hosts = Some(self.folder.write("hosts", text));
    }

    fn command(&self, program: &str, words: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = match &self.hosts {
            None => Command::new(program),
            Some(hosts) => {
                // In a mount namespace of its own; the process id stays.
                let instead = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", instead]).arg(hosts).arg(program);
                command
            }
        };
        command
            .args(words.split_whitespace())
            .env("PATH", format!("{}:{path}", tools().display()))
            .env("OUROBOROS_SOCKET", self.socket())
            .env("OUROBOROS_CONFIG", self.folder.path().join("trust"));
        command
    }

    /// Runs a tool to its end.
    pub(crate) fn run(&self, program: &str, words: &str) -> Output {
        let mut command = self.command(program, words);
        self.namespace.inside(|| command.output()).expect("a process")
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
        let mut command = self.command(program, words);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = self.namespace.inside(|| command.spawn()).expect("a process");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.contains(sign) {
            let read = output.read_line(&mut said).expect("text");
            assert!(read > 0, "{program} {words} ended without saying {sign}: {said}");
        }
        // Read on, so that it never blocks.
        let log = Arc::new(Mutex::new(String::new()));
        let written = log.clone();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut log = written.lock().expect("whole lines");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Running { child, said, log }
    }

    /// What ovpn runs a tunnel with that it has remembered, as the unit has it.
    pub(crate) fn configured(&self, tunnel: &str) -> String {
        format!("--config {} {tunnel}", self.folder.path().join("trust/ovpn.toml").display())
    }

    pub(crate) fn irmd(&self) -> Running {
        self.start("irmd", "--stdout", "serves")
    }
}

/// A tool that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// What it said until it was ready.
    pub(crate) said: String,
    log: Arc<Mutex<String>>,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has written a line with `sign` in it since it was ready:
    /// what a line tells of may be seen elsewhere first.
    pub(crate) fn must_say(&self, sign: &str) {
        eventually(sign, || self.lines_with(sign) > 0);
    }

    /// How many lines with `sign` in them it has written since it was ready.
    pub(crate) fn lines_with(&self, sign: &str) -> usize {
        self.log.lock().expect("whole lines").lines().filter(|line| line.contains(sign)).count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    /// Sends a signal and returns the exit code.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How the IPCPs of two hosts are bootstrapped, and the second one's hosts file.
pub(crate) struct Layer {
    pub(crate) first: &'static str,
    pub(crate) second: &'static str,
    hosts: &'static str,
}

pub(crate) const UDP4: Layer = Layer {
    first: "i b t udp n udp l my_layer ip 10.66.0.1",
    second: "i b t udp n udp l my_layer ip 10.66.0.2",
    // `my_vpn` and `other`.
    hosts: "10.66.0.1 2694581a473adbf3d988f56c79953cae 795f3202b17cb6bc3d4b771d8c6c9eaf\n",
};
pub(crate) const UDP6: Layer = Layer {
    first: "i b t udp6 n udp l my_layer ip fd66::1 port 4000",
    second: "i b t udp6 n udp l my_layer ip fd66::2 sport 4000",
    hosts: "fd66::1 2694581a473adbf3d988f56c79953cae\n",
};
/// Nothing but link-local addresses.
pub(crate) const LINK_LOCAL: Layer = Layer {
    first: "i b t udp6 n udp l my_layer ip fe80::1%eth0",
    second: "i b t udp6 n udp l my_layer ip fe80::2%eth0",
    hosts: "fe80::1%eth0 2694581a473adbf3d988f56c79953cae\n",
};
/// A server of both families, which its client reaches over IPv4.
pub(crate) const DUAL: Layer = Layer {
    first: "i b t udp n udp l my_layer ip ::",
    second: "i b t udp n udp l my_layer ip 10.66.0.2",
    hosts: "10.66.0.1 2694581a473adbf3d988f56c79953cae\n",
};
pub(crate) const ETH: Layer = Layer {
    first: "i b t eth-dix n dix l my_layer dev eth0",
    second: "i b t eth-dix n dix l my_layer dev eth0",
    hosts: "127.0.0.1 localhost\n",
};

/// Two hosts with a cable between them, `eth0` on both: 10.66.0.1 and
/// 10.66.0.2, fd66::1 and fd66::2. The first serves `my_vpn`.
pub(crate) struct Pair {
    pub(crate) one: Host,
    pub(crate) two: Host,
    pub(crate) layer: Layer,
    pub(crate) daemons: [Option<Running>; 2],
}

impl Pair {
    pub(crate) fn new(layer: Layer) -> Self {
        let (one, mut two) = (Host::new(), Host::new());
        one.namespace.connect(&two.namespace);
        for (host, number) in [(&one, 1), (&two, 2)] {
            host.ip(&format!("addr add 10.66.0.{number}/24 dev eth0"));
            host.ip(&format!("addr add fd66::{number}/64 dev eth0 nodad"));
            host.ip(&format!("addr add fe80::{number}/64 dev eth0 nodad"));
            host.ip("link set eth0 up");
        }
        eventually("the link is up", || one.ip("link show eth0").contains("LOWER_UP"));
        two.set_hosts(layer.hosts);
        let mut pair = Self { one, two, layer, daemons: [None, None] };
        pair.start();
        pair
    }

    /// Starts both daemons and tells them what they have to know.
    pub(crate) fn start(&mut self) {
        self.daemons = [Some(self.one.irmd()), Some(self.two.irmd())];
        self.two.must("irm", self.layer.second);
        self.serve();
    }

    /// Has the first host's daemon serve `my_vpn`.
    pub(crate) fn serve(&self) {
        self.one.must("irm", self.layer.first);
        self.one.must("irm", "reg name my_vpn layer my_layer");
        self.one.must("irm", "bind program ovpn name my_vpn");
    }

    /// Kills both daemons.
    pub(crate) fn kill(&mut self) {
        for daemon in self.daemons.iter_mut().filter_map(Option::take) {
            assert_eq!(daemon.end(Signal::KILL), None);
        }
    }

    /// A tunnel from the second host to the first: 10.9.0.2 and 10.9.0.1.
    pub(crate) fn tunnel(&self, crypt: &str) -> (Running, Running) {
        let server = self.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
        (server, self.client(crypt))
    }

    pub(crate) fn client(&self, crypt: &str) -> Running {
        let client = self.two.start("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {crypt}"), "is up");
        assert_eq!(client.said.contains("NOT encrypted"), crypt.is_empty());
        client
    }

    /// Whether the first host's daemon still does what it is asked.
    pub(crate) fn must_obey(&self) {
        assert!(self.one.must("irm", "ipcp list").contains("my_layer"));
    }
}
