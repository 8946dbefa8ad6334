//! The accepted flows of a resource manager, for when a policy gets stricter or the
//! manager ends. Not here: flows that nobody has accepted yet.

use std::{sync::Mutex, time::Duration};

use futures_lite::future;

use crate::{
    driver,
    flow::{Flow, FlowCloser, FlowInfo, FlowWatcher},
    proto::negotiation::ServerSecurity,
    sync::lock,
    wire::Name,
};

/// Flows that were accepted and have not ended.
#[derive(Default)]
pub(super) struct AcceptedFlows(Mutex<Vec<Accepted>>);

struct Accepted {
    info: FlowInfo,
    closer: FlowCloser,
    watcher: FlowWatcher,
}

impl AcceptedFlows {
    pub(super) fn add(&self, flow: &Flow) {
        let mut flows = lock(&self.0);
        // Now and then, so that it costs no more than the flows themselves.
        if flows.len() == flows.capacity() {
            flows.retain(|flow| flow.closer.is_alive());
        }
        let (info, closer, watcher) = (flow.info().clone(), flow.closer(), flow.watcher());
        flows.push(Accepted { info, closer, watcher });
    }

    /// Ends the flows to `name` that do not meet `policy`.
    pub(super) fn end_unless(&self, name: &Name, policy: &ServerSecurity) {
        lock(&self.0).retain(|Accepted { info, closer, .. }| {
            let stays = info.name != *name || info.meets(policy);
            if !stays && closer.is_alive() {
                tracing::warn!(%name, peer = %info.peer, "a flow does not meet the name's policy: closed");
                closer.close();
            }
            stays && closer.is_alive()
        });
    }

    /// Waits until all have ended, for `patience` at most, and closes the others;
    /// how many those were.
    pub(super) async fn end(&self, patience: Duration) -> usize {
        let handles = |flow: &Accepted| (flow.closer.clone(), flow.watcher.clone());
        let flows: Vec<_> = lock(&self.0).iter().map(handles).collect();
        let all_ended = async {
            for (_, watcher) in &flows {
                watcher.ended().await;
            }
        };
        let due = driver::monotonic().checked_add(patience);
        future::or(all_ended, driver::sleep_until(due)).await;
        let mut closed = 0;
        for (closer, _) in flows.iter().filter(|(_, watcher)| !watcher.has_ended()) {
            closer.close();
            closed += 1;
        }
        closed
    }
}
