//! The flows that applications have from this daemon: the list of them, and
//! how many there may be. No sockets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_channel::{Receiver, Sender, bounded};
use ouroboros::{
    FlowInfo, ServerSecurity, daemon::protocol::FlowEntry, error::TooManyFlows, sync::lock,
    wire::Name,
};

/// A relayed flow costs two threads and their buffers.
const RELAYED: usize = 128;
/// A flow that was handed over costs two descriptors.
const HANDED_OVER: usize = 4096;

/// The flows that applications have.
#[derive(Debug)]
pub struct Flows {
    table: Arc<Mutex<Table>>,
    relayed: usize,
    handed_over: usize,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    flow: FlowEntry,
    /// The agreed terms and what ends the flow, if it was accepted here.
    accepted: Option<(FlowInfo, Sender<()>)>,
}

impl Default for Flows {
    fn default() -> Self {
        Self::limited(RELAYED, HANDED_OVER)
    }
}

impl Flows {
    /// None yet, and at most as many relayed and handed over at once.
    pub fn limited(relayed: usize, handed_over: usize) -> Self {
        Self { table: Arc::default(), relayed, handed_over }
    }

    /// Takes a flow in, until what is returned is dropped. If it was `accepted` here,
    /// what was agreed has to meet the policy of its name, also later.
    ///
    /// # Errors
    ///
    /// There are too many of its kind.
    pub(super) fn admit(
        &self,
        entry: FlowEntry,
        accepted: Option<FlowInfo>,
    ) -> Result<(Admitted, Receiver<()>), TooManyFlows> {
        let mut table = lock(&self.table);
        let count = table.entries.values().filter(|e| e.flow.relayed == entry.relayed).count();
        match entry.relayed {
            true if count >= self.relayed => return Err(TooManyFlows::Relayed(count)),
            false if count >= self.handed_over => return Err(TooManyFlows::HandedOver(count)),
            _ => {}
        }
        let id = table.next;
        table.next += 1;
        let (revoke, revoked) = bounded(1);
        let accepted = accepted.map(|info| (info, revoke));
        table.entries.insert(id, Entry { flow: entry, accepted });
        Ok((Admitted { table: self.table.clone(), id }, revoked))
    }

    /// Returns `true` if there are as many flows of the kind as there may be.
    pub(super) fn are_full(&self, relayed: bool) -> bool {
        let count =
            lock(&self.table).entries.values().filter(|e| e.flow.relayed == relayed).count();
        count >= if relayed { self.relayed } else { self.handed_over }
    }

    /// Ends the accepted flows to `name` that do not meet `policy`.
    pub(super) fn revoke_unless(&self, name: &Name, policy: &ServerSecurity) {
        for entry in lock(&self.table).entries.values() {
            if let Some((info, revoke)) = &entry.accepted
                && info.name == *name
                && !info.meets(policy)
                && revoke.try_send(()).is_ok()
            {
                let peer = &entry.flow.peer;
                tracing::warn!(%name, peer, "a flow does not meet the name's policy any more: ended");
            }
        }
    }

    /// Shows the flows there are to `look`, oldest first, without copying them.
    pub(super) fn for_each(&self, mut look: impl FnMut(&FlowEntry)) {
        lock(&self.table).entries.values().for_each(|entry| look(&entry.flow));
    }

    /// The flows there are, oldest first.
    pub fn list(&self) -> Vec<FlowEntry> {
        lock(&self.table).entries.values().map(|entry| entry.flow.clone()).collect()
    }
}

/// A flow that was taken in.
pub(super) struct Admitted {
    table: Arc<Mutex<Table>>,
    id: u64,
}

impl Admitted {
    /// Ends the flow: the policy of its name does not allow it any more.
    pub(super) fn revoke(&self) {
        if let Some(Entry { accepted: Some((_, revoke)), .. }) =
            lock(&self.table).entries.get(&self.id)
        {
            // Full: it has been said.
            let _ = revoke.try_send(());
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        lock(&self.table).entries.remove(&self.id);
    }
}
