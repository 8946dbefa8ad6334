//! The accepted flows of a resource manager, for when a policy gets stricter or the
//! manager ends. Not here: flows that nobody has accepted yet.

use std::{sync::Mutex, time::Duration};

use futures_lite::future;

use crate::{
    driver,
    flow::{Flow, FlowCloser},
    proto::negotiation::ServerSecurity,
    sync::lock,
    wire::Name,
};

/// Flows that were accepted and have not ended.
#[derive(Default)]
pub(super) struct AcceptedFlows(Mutex<Vec<FlowCloser>>);

impl AcceptedFlows {
    pub(super) fn add(&self, flow: &Flow) {
        let mut flows = lock(&self.0);
        // Now and then, so that it costs no more than the flows themselves.
        if flows.len() == flows.capacity() {
            flows.retain(FlowCloser::is_alive);
        }
        flows.push(flow.closer());
    }

    /// Ends the flows to `name` that do not meet `policy`.
    pub(super) fn end_unless(&self, name: &Name, policy: &ServerSecurity) {
        lock(&self.0).retain(|flow| {
            let Some((_, info)) = flow.watch() else { return false };
            let stays = info.name != *name || info.meets(policy);
            if !stays {
                tracing::warn!(%name, peer = %info.peer, "a flow does not meet the name's policy: closed");
                flow.close();
            }
            stays
        });
    }

    /// Waits until all have ended, for `patience` at most, and closes the others;
    /// how many those were.
    pub(super) async fn end(&self, patience: Duration) -> usize {
        let handles = |flow: &FlowCloser| flow.watch().map(|(watcher, _)| (flow.clone(), watcher));
        let flows: Vec<_> = lock(&self.0).iter().filter_map(handles).collect();
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
