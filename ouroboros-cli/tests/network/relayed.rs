//! Reliable transfers whose packets two daemons relay: what both ends learn when a daemon, or
//! an end, is killed in the middle. The ends are processes of their own, without privilege;
//! this program, run with words that no test has.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use async_std::task::block_on;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use ouroboros::{FlowSpec, Irm};
use rustix::{
    process::{Gid, Signal, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    host::{ETH, Host, Pair, Running, eventually},
    survival::relayed,
    transfer::{self, Pattern},
};

/// The first word of a process that is an end.
const END: &str = "--end-of-a-transfer";
/// Bytes that are read: so few that credit grows by no more than that.
const READ: u64 = 40_000;
/// Bytes that are written: more than the reader's end takes until more is read, and no more
/// than that and what may wait at the writer's.
const WRITTEN: u64 = READ + 256 * 1024 + 32 * 1024;
/// For how long a peer may be silent, to an end that is to learn of it by that.
const SILENCE: Duration = Duration::from_secs(10);
/// Of an end that is to learn by something else first.
const LONG_SILENCE: Duration = Duration::from_secs(3600);
const SEED: u64 = 7;

/// Runs an end, if this process is to be one; `false`: it is not.
pub(crate) fn was_end() -> bool {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [first, role, patience] = words.as_slice() else { return false };
    if first != END {
        return false;
    }
    // Before there is another thread.
    let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
    set_thread_groups(&[]).expect("root may");
    set_thread_res_gid(group, group, group).expect("root may");
    set_thread_res_uid(user, user, user).expect("root may");
    let patience = Duration::from_secs(patience.parse().expect("seconds"));
    block_on(async {
        match role.as_str() {
            "reader" => read(patience).await,
            _ => write(patience).await,
        }
    });
    true
}

fn say(text: &str) {
    println!("{text}");
}

async fn write(patience: Duration) {
    let spec = FlowSpec::reliable().encrypted();
    let flow = Irm::connect().allocate("my_vpn", spec).await.expect("allocated");
    flow.expect_answers_within(patience);
    let mut stream = flow.into_stream();
    transfer::write(&mut stream, SEED, WRITTEN).await;
    say("under way");
    match stream.finish().await {
        Ok(()) => say("taken for delivered"),
        Err(error) => say(&format!("not complete: {error}")),
    }
    match stream.write(b"more").await {
        Ok(_) => say("taken for open"),
        Err(_) => say("over"),
    }
}

async fn read(patience: Duration) {
    say("waits");
    let flow = Irm::connect().accept("my_vpn").await.expect("accepted");
    flow.expect_answers_within(patience);
    let mut stream = flow.into_stream();
    let (mut pattern, mut buffer) = (Pattern::new(SEED), vec![0; 65_536]);
    while pattern.count() < READ {
        let most = buffer.len().min((READ - pattern.count()) as usize);
        let count = stream.read(&mut buffer[..most]).await.expect("read");
        assert!(count > 0, "no end");
        pattern.check(&buffer[..count]);
    }
    say("under way");
    stream.flow().closed().await;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return say("taken for the end"),
            Ok(count) => pattern.check(&buffer[..count]),
            Err(error) => return say(&format!("not complete: {error}")),
        }
    }
}

/// An end at `host`, until it says `sign`.
fn end(host: &Host, role: &str, patience: Duration, sign: &str) -> Running {
    let program = std::env::current_exe().expect("this program");
    let words = format!("{END} {role} {}", patience.as_secs());
    host.start(program.to_str().expect("a path in UTF-8"), &words, sign)
}

/// A transfer from the second host to the first that is under way and cannot be complete.
fn under_way(pair: &Pair, [reader, writer]: [Duration; 2]) -> [Running; 2] {
    for host in [&pair.one, &pair.two] {
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(host.socket(), everybody).expect("set");
    }
    let reader = end(&pair.one, "reader", reader, "waits");
    pair.one.must("irm", &format!("bind process {} name my_vpn", reader.id()));
    let writer = end(&pair.two, "writer", writer, "under way");
    reader.must_say("under way");
    eventually("a flow that both relay", || {
        [&pair.one, &pair.two].iter().all(|host| relayed(host) == [true])
    });
    [reader, writer]
}

/// Waits until an end says why its transfer is not complete, which it must not take it for.
fn must_fail(end: &Running, why: &str) {
    eventually("an end", || ["not complete", "taken for"].iter().any(|s| end.lines_with(s) > 0));
    assert_eq!(end.lines_with("taken for"), 0);
    assert_eq!(end.lines_with(why), 1, "not for this: {why}");
}

/// What an end says whose own daemon is gone, and one whose peer is silent.
const RELAYED_NO_LONGER: &str = "irmd relays the flow no longer";
const SILENT: &str = "the flow is down";

pub(crate) fn a_transfer_whose_relay_is_killed_is_complete_at_neither_end() {
    for killed in [0, 1] {
        let mut pair = Pair::new(ETH);
        // At the daemon that is killed nobody waits for silence.
        let mut patience = [SILENCE; 2];
        patience[killed] = LONG_SILENCE;
        let [reader, writer] = under_way(&pair, patience);
        let daemon = pair.daemons[killed].take().expect("it runs");
        assert_eq!(daemon.end(Signal::KILL), None);
        let mut why = [SILENT; 2];
        why[killed] = RELAYED_NO_LONGER;
        must_fail(&reader, why[0]);
        must_fail(&writer, why[1]);
        writer.must_say("over");
    }
}

pub(crate) fn a_relayed_transfer_whose_end_is_killed_is_complete_at_neither() {
    let pair = Pair::new(ETH);
    let [reader, writer] = under_way(&pair, [SILENCE; 2]);
    assert_eq!(reader.end(Signal::KILL), None);
    must_fail(&writer, SILENT);
    writer.must_say("over");
    drop(writer);
    let [reader, writer] = under_way(&pair, [SILENCE; 2]);
    assert_eq!(writer.end(Signal::KILL), None);
    must_fail(&reader, SILENT);
}
