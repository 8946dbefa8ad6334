//! Each of the kernel's offloads switched off, at either end and at both:
//! everything arrives, and the statistics tell.

use ouroboros::Offload;
use ouroboros_testing::Namespace;

use crate::{
    hosts::{End, Hosts},
    traffic::{FIRST, datagrams, transfer},
};

const OFF: [&str; 6] = ["tcp", "udp", "checksums", "segments", "coalesces", "all"];
const SIZE: usize = 2 << 20;

/// Counters of the kernel's own stack that a packet with a bad checksum raises.
const BAD: [&str; 8] = [
    "Ip.InHdrErrors",
    "Tcp.InErrs",
    "Tcp.InCsumErrors",
    "Udp.InCsumErrors",
    "Icmp.InCsumErrors",
    "Udp6InCsumErrors",
    "Icmp6InCsumErrors",
    "Ip6InHdrErrors",
];

/// What a host's kernel counts, as `Tcp.InErrs 0`.
pub(crate) fn counters(host: &Namespace) -> Vec<(String, u64)> {
    let text = host.shell("cat /proc/net/snmp /proc/net/netstat; cat /proc/net/snmp6");
    let mut counters = Vec::new();
    let mut names: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        if let Some((group, values)) = line.split_once(": ") {
            match names.take() {
                Some((known, words)) if known == group => {
                    let values = values.split(' ').map(|value| value.parse().unwrap_or(0));
                    counters.extend(
                        words.into_iter().map(|word| format!("{group}.{word}")).zip(values),
                    );
                }
                _ => names = Some((group, values.split(' ').collect())),
            }
        } else if let Some((name, value)) = line.split_once(char::is_whitespace) {
            counters.push((name.to_owned(), value.trim().parse().expect("a number")));
        }
    }
    counters
}

/// A host's counter of that name.
pub(crate) fn counter(host: &Namespace, name: &str) -> u64 {
    let all = counters(host);
    let found = all.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).1
}

fn no_bad_checksums(ends: &[End<'_>; 2]) {
    for end in ends {
        let all = counters(end.host);
        let bad = |name: &&str| !all.iter().any(|(known, count)| known == name && *count == 0);
        assert_eq!(BAD.into_iter().filter(bad).collect::<Vec<_>>(), [""; 0]);
    }
}

fn each_off(hosts: &Hosts, off: &[&str], to: &str) {
    let ends = hosts.tunnel([Offload::ALL; 2]);
    let all = ends.each_ref().map(|end| end.statistics().offload);
    drop(ends);
    for list in off {
        let without = Offload::ALL.without(list).expect("its name");
        for offloads in [[without, Offload::ALL], [Offload::ALL, without], [without, without]] {
            let ends = hosts.tunnel(offloads);
            for (end, (offload, all)) in ends.iter().zip(offloads.iter().zip(all)) {
                let expected = if *offload == without { all.without(list) } else { Ok(all) };
                assert_eq!(Ok(end.statistics().offload), expected);
            }
            let mtu = ends[1].mtu();
            transfer(&ends, to, SIZE);
            datagrams(&ends, to, mtu);
            for (end, (offload, all)) in ends.iter().zip(offloads.iter().zip(all)) {
                let expected = if *offload == without { all.without(list) } else { Ok(all) };
                assert_eq!(Ok(end.statistics().offload), expected, "still, after traffic");
            }
            no_bad_checksums(&ends);
        }
    }
}

pub(crate) fn with_each_offload_off_over_udp_everything_arrives() {
    each_off(&Hosts::on_udp(), &OFF, FIRST[0]);
}

pub(crate) fn with_each_offload_off_inside_ipv6_everything_arrives() {
    each_off(&Hosts::on_udp6(), &["tcp", "udp", "checksums"], FIRST[1]);
}

pub(crate) fn with_each_offload_off_on_ethernet_everything_arrives() {
    each_off(&Hosts::on_ethernet(), &["checksums", "all"], FIRST[0]);
}

pub(crate) fn a_bulk_transfer_moves_many_packets_in_a_call_and_the_statistics_tell() {
    let hosts = Hosts::on_udp();
    let ends = hosts.tunnel([Offload::ALL; 2]);
    transfer(&ends, FIRST[0], 8 << 20);
    for end in &ends {
        let seen = end.statistics();
        let per = |packets: u64, calls: u64| packets as f64 / calls as f64;
        assert!(per(seen.sent_packets, seen.reads) > 4.0, "{seen}");
        assert!(per(seen.received_packets, seen.writes) > 4.0, "{seen}");
        assert!(per(seen.flow.sent_packets, seen.flow.send_calls) > 4.0, "{seen}");
        assert!(per(seen.flow.received_packets, seen.flow.receive_calls) > 4.0, "{seen}");
        assert!(seen.sent_bytes > 8 << 20 && seen.received_bytes > 8 << 20, "{seen}");
        assert_eq!((seen.not_ip, seen.not_taken, seen.too_large, seen.malformed), (0, 0, 0, 0));
    }
}
