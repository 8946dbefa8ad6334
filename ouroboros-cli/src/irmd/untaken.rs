//! Flows that were offered to a program which did not take them. Not here: those
//! that programs have (`flows`).

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ouroboros::{Flow, RawFlow, sync::lock, wire::Name};

/// How long a flow waits for another program.
const UNTAKEN: Duration = Duration::from_secs(10);

/// The flows, and until when another program may take each.
#[derive(Default)]
pub(super) struct Untaken(Mutex<Vec<(Instant, RawFlow)>>);

impl Untaken {
    pub(super) fn put(&self, flow: RawFlow) {
        self.flows().push((Instant::now() + UNTAKEN, flow));
    }

    /// The first flow that is to one of `names`.
    pub(super) fn take(&self, names: &[Name]) -> Option<RawFlow> {
        let mut flows = self.flows();
        let at = flows.iter().position(|(_, flow)| names.contains(&flow.info.name))?;
        Some(flows.remove(at).1)
    }

    /// Closes what nobody has taken in time.
    pub(super) fn close_expired(&self) {
        let now = Instant::now();
        let expired: Vec<_> = self.flows().extract_if(.., |(until, _)| *until <= now).collect();
        for (_, flow) in expired {
            tracing::info!(
                name = %flow.info.name, peer = %flow.info.peer,
                "a flow that no program took is closed"
            );
            close(flow);
        }
    }

    fn flows(&self) -> MutexGuard<'_, Vec<(Instant, RawFlow)>> {
        lock(&self.0)
    }
}

/// Closes a flow that no program has; a native peer is told.
pub(super) fn close(flow: RawFlow) {
    if let Ok(flow) = Flow::new(flow) {
        flow.closer().close();
    }
}
