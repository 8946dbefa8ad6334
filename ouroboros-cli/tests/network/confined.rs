//! What the tools may do once they run, as the kernel tells.

use std::fs;

use crate::{
    host::{Host, Pair, Running, UDP4},
    probe::{INSIDE, ping},
};

const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

/// The values of `key` in the states of all of a process's threads.
fn states(of: &Running, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", of.id())).expect("it runs");
    let value = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).expect("a state");
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.expect("a line").trim().to_owned()
    };
    let values: Vec<_> = tasks.map(|task| value(task.expect("an entry"))).collect();
    assert!(!values.is_empty());
    values
}

/// Without the rights to look into any process.
const NO_SPY: &str = "--bounding-set=-sys_ptrace,-perfmon,-sys_admin";

/// Whether who has the same user and the same rights can look into its memory.
fn shows_its_memory(host: &Host, of: &Running) -> bool {
    let words = format!("{NO_SPY} cat /proc/{}/maps", of.id());
    host.run("setpriv", &words).status.success()
}

pub(crate) fn the_tools_keep_no_right_that_they_do_not_need() {
    let pair = Pair::new(UDP4);
    let (server, client) = pair.tunnel("--crypt");
    ping(&pair.two, INSIDE);
    let daemon = pair.daemons[0].as_ref().expect("it runs");
    for (tool, kept) in [
        (daemon, NET_RAW | NET_ADMIN | NET_BIND_SERVICE),
        (&server, NET_RAW | NET_ADMIN),
        (&client, NET_RAW | NET_ADMIN),
    ] {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            for state in states(tool, set) {
                assert_eq!(state, format!("{kept:016x}"), "{set}");
            }
        }
        for set in ["CapInh", "CapAmb"] {
            assert!(states(tool, set).iter().all(|state| *state == "0000000000000000"), "{set}");
        }
        assert!(states(tool, "NoNewPrivs").iter().all(|state| state == "1"));
        assert!(!shows_its_memory(&pair.one, tool));
    }
    // Or else that would say nothing.
    let file = pair.one.folder.write("file", "a line\n");
    let words = format!("{NO_SPY} tail -f {}", file.display());
    assert!(shows_its_memory(&pair.one, &pair.one.start("setpriv", &words, "a line")));
}
