//! The accepted flows of a resource manager, for when a policy gets stricter. Not
//! here: flows that nobody has accepted yet.

use std::sync::Mutex;

use crate::{
    flow::{Flow, FlowCloser, FlowInfo},
    proto::negotiation::ServerSecurity,
    sync::lock,
    wire::Name,
};

/// Flows that were accepted and have not ended, for when a stricter policy comes.
#[derive(Default)]
pub(super) struct AcceptedFlows(Mutex<Vec<(FlowInfo, FlowCloser)>>);

impl AcceptedFlows {
    pub(super) fn add(&self, flow: &Flow) {
        let mut flows = lock(&self.0);
        // Now and then, so that it costs no more than the flows themselves.
        if flows.len() == flows.capacity() {
            flows.retain(|(_, closer)| closer.is_alive());
        }
        flows.push((flow.info().clone(), flow.closer()));
    }

    /// Ends the flows to `name` that do not meet `policy`.
    pub(super) fn end_unless(&self, name: &Name, policy: &ServerSecurity) {
        lock(&self.0).retain(|(info, closer)| {
            let stays = info.name != *name || info.meets(policy);
            if !stays && closer.is_alive() {
                tracing::warn!(%name, peer = %info.peer, "a flow does not meet the name's policy: closed");
                closer.close();
            }
            stays && closer.is_alive()
        });
    }
}
