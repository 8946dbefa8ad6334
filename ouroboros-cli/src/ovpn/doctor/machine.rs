//! Checks of this machine: the device, rights, forwarding, filters, the clock, the uplink.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    path::PathBuf,
    process::{Command, Stdio},
};

use ouroboros::{daemon::protocol::TransportSpec, transport::Udp};
use rustix::thread::CapabilitySet;

use super::{Finding, firewall};
use crate::{
    confine::has,
    lists::Overview,
    sysctl::{Forwarding, Sysctl},
};

/// IPv6 needs packets of 1280 bytes inside; what is around them takes no more than this.
const LEAST_UPLINK: u32 = 1280 + 80;

/// Where files are read and programs are run.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    /// The output of programs, instead of running them.
    outputs: Option<BTreeMap<&'static str, String>>,
}

impl Machine {
    /// The machine that this process runs on.
    #[must_use]
    pub fn real() -> Self {
        Self { root: "/".into(), outputs: None }
    }

    fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.root.join(path)).ok()?.trim().to_owned())
    }

    /// Returns the output of a program; `None` if it is not there or fails.
    fn run(&self, program: &'static str, words: &[&str]) -> Option<String> {
        if let Some(outputs) = &self.outputs {
            return outputs.get(program).cloned();
        }
        let output = Command::new(program).args(words).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Looks at everything; `overview` is what the daemon has, if it tells.
    #[must_use]
    pub fn check(&self, overview: Option<&Overview>) -> Vec<Finding> {
        let serves = overview.is_some_and(|overview| {
            overview.names.iter().any(|name| {
                let bound = !name.programs.is_empty() || !name.processes.is_empty();
                bound && !name.layers.is_empty()
            })
        });
        let mut findings = vec![self.device(), self.rights()];
        findings.extend(self.forwarding(serves));
        findings.extend(self.uplink());
        findings.extend(self.clock());
        findings.extend(self.firewall(&ports(overview), serves));
        findings
    }

    fn device(&self) -> Finding {
        let check = "device";
        let path = self.root.join("dev/net/tun");
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(_) => Finding::good(check, "/dev/net/tun can be opened"),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Finding::problem(
                    check,
                    "there is no /dev/net/tun",
                    "modprobe tun; a container has to be given the device",
                ),
                io::ErrorKind::PermissionDenied => Finding::problem(
                    check,
                    "/dev/net/tun may not be opened by this user",
                    "run ovpn as root, or chmod 666 /dev/net/tun, which is usual",
                ),
                _ => Finding::problem(
                    check,
                    format!("/dev/net/tun cannot be opened: {error}"),
                    "modprobe tun, as the kernel that runs now has it (reboot after an upgrade)",
                ),
            },
        }
    }

    fn rights(&self) -> Finding {
        if has(CapabilitySet::NET_ADMIN) {
            Finding::good("rights", "this process may make devices")
        } else {
            Finding::warning(
                "rights",
                "this process may not make devices, and not see all that is looked for",
                "run ovpn doctor as root; ovpn itself needs root or CAP_NET_ADMIN",
            )
        }
    }

    fn forwarding(&self, serves: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let sysctl = Sysctl::of(&self.root);
        for forwarding in [Forwarding::V4, Forwarding::V6] {
            let Forwarding { family, setting } = forwarding;
            match sysctl.forwards(forwarding) {
                Some(false) if serves => findings.push(Finding::warning(
                    "forwarding",
                    format!("{family} is not forwarded: clients reach this machine only"),
                    format!("sysctl -w {setting}=1, if they are to reach more"),
                )),
                Some(false) => findings.push(Finding::good(
                    "forwarding",
                    format!("{family} is not forwarded, which a client does not need"),
                )),
                Some(true) => {
                    findings.push(Finding::good("forwarding", format!("{family} is forwarded")));
                }
                None => {}
            }
        }
        findings
    }

    /// The interfaces of default routes.
    fn uplinks(&self) -> Vec<String> {
        let v4 = self.read("proc/net/route").unwrap_or_default();
        let v4 = v4.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (device, destination) = (words.next()?, words.next()?);
            let mask = words.nth(5)?;
            (destination == "00000000" && mask == "00000000").then(|| device.to_owned())
        });
        let v6 = self.read("proc/net/ipv6_route").unwrap_or_default();
        let v6 = v6.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let is_default = words.first()?.bytes().all(|digit| digit == b'0');
            let device = words.get(9).filter(|device| **device != "lo")?;
            (is_default && words.get(1) == Some(&"00")).then(|| (*device).to_owned())
        });
        let mut devices: Vec<_> = v4.chain(v6).collect();
        devices.sort();
        devices.dedup();
        devices
    }

    fn uplink(&self) -> Vec<Finding> {
        let uplinks = self.uplinks();
        let mut findings = Vec::new();
        if uplinks.is_empty() {
            findings.push(Finding::warning(
                "uplink",
                "there is no default route",
                "connect the machine, if peers are not in a network of its own (ip route)",
            ));
        }
        let sysctl = Sysctl::of(&self.root);
        for device in &uplinks {
            let mtu = self.read(&format!("sys/class/net/{device}/mtu"));
            if let Some(mtu) = mtu.and_then(|text| text.parse::<u32>().ok()) {
                findings.push(if mtu < LEAST_UPLINK {
                    Finding::warning(
                        "MTU",
                        format!("{device} carries packets of {mtu} bytes: no IPv6 in a tunnel"),
                        format!("ip link set {device} mtu 1500, if its network carries that"),
                    )
                } else {
                    Finding::good("MTU", format!("{device} carries packets of {mtu} bytes"))
                });
            }
            findings.push(match sysctl.strict_filter(device) {
                Some(setting) => Finding::warning(
                    "rp_filter",
                    format!(
                        "{device} drops packets whose answers would leave by another interface, \
                         as those of a full tunnel would"
                    ),
                    format!("sysctl -w {setting}=2"),
                ),
                None => Finding::good("rp_filter", format!("{device} is not strict")),
            });
        }
        findings
    }

    fn clock(&self) -> Option<Finding> {
        let words = ["show", "-p", "NTPSynchronized", "--value"];
        Some(match self.run("timedatectl", &words)?.trim() {
            "yes" => Finding::good("clock", "it is synchronized"),
            _ => Finding::warning(
                "clock",
                "it is not synchronized: peers of release 0.23 refuse a request from a clock that \
                 is 100 ms ahead or 20 s behind",
                "timedatectl set-ntp true",
            ),
        })
    }

    fn firewall(&self, ports: &[u16], serves: bool) -> Vec<Finding> {
        if ports.is_empty() {
            return Vec::new();
        }
        let Some(ruleset) = self.run("nft", &["-j", "list", "ruleset"]) else { return Vec::new() };
        let check = "firewall";
        let finding = |port: &u16| match firewall::drops(&ruleset, *port) {
            Some(chain) => {
                let found =
                    format!("{chain} drops what no rule accepts, and none accepts UDP {port}");
                let advice = format!("nft insert rule {chain} udp dport {port} accept");
                // A client's packets are answers.
                if serves {
                    Finding::problem(check, found, advice)
                } else {
                    Finding::warning(check, found, format!("{advice}, if this is a server"))
                }
            }
            None => Finding::good(check, format!("no chain of nftables drops UDP {port}")),
        };
        ports.iter().map(finding).collect()
    }
}

/// The UDP ports of the daemon's layers.
fn ports(overview: Option<&Overview>) -> Vec<u16> {
    let ipcps = overview.map(|overview| &overview.ipcps[..]).unwrap_or_default();
    let port = |transport: &TransportSpec| match transport {
        TransportSpec::Udp { port, .. } => Some(port.unwrap_or(Udp::PORT)),
        _ => None,
    };
    let ports = ipcps.iter().filter_map(|ipcp| ipcp.transport.as_ref().and_then(port));
    let mut ports: Vec<_> = ports.collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use ouroboros::daemon::protocol::{IpcpEntry, NameEntry};
    use ouroboros_testing::Folder;

    use super::{super::Severity, *};

    fn overview() -> Overview {
        let transport = TransportSpec::Udp { ip: "0.0.0.0".parse().unwrap(), port: None };
        let ipcp = IpcpEntry {
            name: "wan".to_owned(),
            layer: "internet".to_owned(),
            attachment: String::new(),
            transport: Some(transport),
        };
        let name = NameEntry {
            name: "my_vpn".to_owned(),
            layers: vec!["internet".to_owned()],
            programs: vec!["/usr/bin/ovpn".to_owned()],
            processes: Vec::new(),
            encryption: String::new(),
        };
        Overview { ipcps: vec![ipcp], names: vec![name], flows: Vec::new() }
    }

    fn machine(files: &[(&str, &str)], outputs: &[(&'static str, &str)]) -> (Folder, Machine) {
        let folder = Folder::new();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let outputs = outputs.iter().map(|(program, text)| (*program, (*text).to_owned()));
        let machine = Machine { root: folder.path().to_owned(), outputs: Some(outputs.collect()) };
        (folder, machine)
    }

    /// Returns the findings, but for the rights of the user who runs the test.
    fn found(machine: &Machine, overview: Option<&Overview>) -> Vec<(&'static str, Severity)> {
        let findings = machine.check(overview);
        let others = findings.iter().filter(|finding| finding.check != "rights");
        for finding in others.clone().filter(|finding| finding.severity != Severity::Good) {
            assert!(finding.advice.is_some(), "{finding}");
            assert_eq!(finding.to_string().lines().count(), 1, "{finding}");
        }
        others.map(|finding| (finding.check, finding.severity)).collect()
    }

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                          eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
                          eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";

    #[test]
    fn a_machine_as_it_should_be_has_no_problem() {
        use Severity::Good;
        let (_folder, machine) = machine(
            &[
                ("dev/net/tun", ""),
                ("proc/sys/net/ipv4/ip_forward", "1\n"),
                ("proc/sys/net/ipv6/conf/all/forwarding", "1\n"),
                ("proc/net/route", ROUTES),
                ("proc/sys/net/ipv4/conf/all/rp_filter", "0\n"),
                ("proc/sys/net/ipv4/conf/eth0/rp_filter", "2\n"),
                ("sys/class/net/eth0/mtu", "1500\n"),
            ],
            &[("timedatectl", "yes\n"), ("nft", r#"{"nftables": []}"#)],
        );
        let all = ["device", "forwarding", "forwarding", "MTU", "rp_filter", "clock", "firewall"];
        assert_eq!(found(&machine, Some(&overview())), all.map(|check| (check, Good)));
    }

    #[test]
    fn what_is_wrong_is_found_and_something_is_to_be_done_about_it() {
        use Severity::{Good, Problem, Warning};
        let drops = r#"{"nftables": [{"chain": {"family": "inet", "table": "filter",
            "name": "input", "hook": "input", "policy": "drop"}}]}"#;
        let (_folder, machine) = machine(
            &[
                ("proc/sys/net/ipv4/ip_forward", "0\n"),
                ("proc/net/route", ROUTES),
                ("proc/sys/net/ipv4/conf/all/rp_filter", "1\n"),
                ("sys/class/net/eth0/mtu", "1280\n"),
            ],
            &[("timedatectl", "no\n"), ("nft", drops)],
        );
        let expected = [
            ("device", Problem),
            ("forwarding", Warning),
            ("MTU", Warning),
            ("rp_filter", Warning),
            ("clock", Warning),
            ("firewall", Problem),
        ];
        assert_eq!(found(&machine, Some(&overview())), expected);
        // Who serves nobody needs neither forwarding nor an open port.
        let client = Overview { names: Vec::new(), ..overview() };
        let expected = expected.map(|(check, severity)| match check {
            "forwarding" => (check, Good),
            "firewall" => (check, Warning),
            _ => (check, severity),
        });
        assert_eq!(found(&machine, Some(&client)), expected);
        // Without a daemon no port is known.
        assert_eq!(found(&machine, None), expected[..5]);
    }
}
