//! Handles of a flow that somebody else uses.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    info::{Counters, FlowInfo, FlowState, FlowStatistics},
    shared::{CLOSED, Shared},
};
use crate::{driver, proto::reliable::Statistics as ReliableStatistics, transport::PathOffload};

/// Closes a flow from another thread or task: both directions then say
/// [`FlowError::Closed`](crate::FlowError::Closed).
#[derive(Clone)]
pub struct FlowCloser(Weak<Shared>);

impl FlowCloser {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// Returns `true` if somebody has the flow still.
    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// A handle that watches the flow, and its agreed terms; `None`: nobody has it any more.
    pub(crate) fn watch(&self) -> Option<(FlowWatcher, FlowInfo)> {
        self.0.upgrade().map(|shared| (FlowWatcher::new(&shared), shared.info.clone()))
    }

    /// Closes the flow, if it is still there.
    pub fn close(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.end(CLOSED);
        }
    }
}

impl std::fmt::Debug for FlowCloser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowCloser")
    }
}

/// Watches a flow that somebody else uses.
#[derive(Clone)]
pub struct FlowWatcher {
    counters: Arc<Counters>,
    flow: Weak<Shared>,
}

impl FlowWatcher {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { counters: shared.counters.clone(), flow: Arc::downgrade(shared) }
    }

    /// Returns the flow's statistics.
    #[must_use]
    pub fn statistics(&self) -> FlowStatistics {
        self.flow.upgrade().map_or_else(|| self.counters.statistics(), |flow| flow.statistics())
    }

    /// The flow as it is now; `None` if nobody has it any more.
    #[must_use]
    pub fn state(&self) -> Option<FlowState> {
        self.flow.upgrade().map(|flow| flow.snapshot())
    }

    /// Has the round trip measured: [`state`](Self::state) tells it when the peer has
    /// answered. No effect on a flow without the native profile.
    pub fn measure_round_trip(&self) {
        if let Some(flow) = self.flow.upgrade() {
            flow.with_connection(|connection| connection.measure_round_trip(driver::now()));
        }
    }

    /// Figures of a flow in the reliable profile now; `None` of any other, and once
    /// nobody has the flow any more.
    #[must_use]
    pub fn reliable_statistics(&self) -> Option<ReliableStatistics> {
        self.flow.upgrade()?.order_statistics()
    }

    /// Asks the peer whether it is there, and ends the flow with
    /// [`FlowError::Down`](crate::FlowError::Down) when it does not say so within
    /// `patience`. No effect on a flow in the 0.23 format.
    pub fn probe(&self, patience: Duration) {
        if let Some(flow) = self.flow.upgrade() {
            flow.with_connection(|connection| connection.probe(driver::now(), patience));
            flow.call_driver();
        }
    }

    /// Returns `true` if the flow has ended, or nobody has it any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.flow.upgrade().is_none_or(|flow| flow.check().is_err())
    }

    /// Waits until the flow has ended, or nobody has it any more. Cancel safe.
    pub async fn ended(&self) {
        loop {
            let ended = self.counters.ended.listen();
            if self.has_ended() {
                return;
            }
            ended.await;
        }
    }

    /// Returns how large the socket's buffers for sending and receiving are, in bytes as the
    /// kernel counts them.
    #[must_use]
    pub fn buffers(&self) -> (usize, usize) {
        self.flow.upgrade().map_or((0, 0), |flow| flow.path.buffers())
    }

    /// Returns the offloads in use at the flow's socket.
    #[must_use]
    pub fn offload(&self) -> PathOffload {
        self.flow.upgrade().map_or(PathOffload::NONE, |flow| flow.path.offload())
    }
}

impl std::fmt::Debug for FlowWatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowWatcher")
    }
}
