//! Limits on connections: so many of each user and in all. Where there are too many, those go
//! first that have asked for nothing yet.
//!
//! Not here: sockets (`serve`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use event_listener::Event;
use ouroboros::sync::lock;

/// Connections served at once, without those of flows.
const MAX_CONNECTIONS: usize = 2048;
/// The same of one user, who may be root.
const MAX_OF_USER: usize = 1536;

#[derive(Default)]
struct Connected {
    next: u64,
    slots: BTreeMap<u64, Entry>,
}

struct Entry {
    user: u32,
    /// Present as long as nothing was asked.
    idle: Option<Arc<Event>>,
}

/// The connections that there are.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Connected>>);

impl Connections {
    fn connected(&self) -> MutexGuard<'_, Connected> {
        lock(&self.0)
    }

    /// A slot for one more connection of `user`; `None` if there are too many that
    /// have asked for something.
    pub(super) fn enter(&self, user: u32) -> Option<ConnectionSlot> {
        let mut connected = self.connected();
        let of_user = connected.slots.values().filter(|entry| entry.user == user).count();
        if of_user >= MAX_OF_USER {
            connected.evict(|entry| entry.user == user)?;
        } else if connected.slots.len() >= MAX_CONNECTIONS {
            connected.evict(|_| true)?;
        }
        let (id, evicted) = (connected.next, Arc::new(Event::new()));
        connected.next += 1;
        connected.slots.insert(id, Entry { user, idle: Some(evicted.clone()) });
        Some(ConnectionSlot { connections: self.clone(), id, evicted })
    }
}

impl Connected {
    /// Ends the oldest idle connection of those that `choose` says.
    fn evict(&mut self, choose: impl Fn(&Entry) -> bool) -> Option<()> {
        let idle = self.slots.iter().find(|(_, entry)| entry.idle.is_some() && choose(entry));
        let id = *idle?.0;
        self.slots.remove(&id)?.idle?.notify(usize::MAX);
        Some(())
    }
}

/// One connection's slot, given back when dropped.
pub(super) struct ConnectionSlot {
    connections: Connections,
    id: u64,
    evicted: Arc<Event>,
}

impl ConnectionSlot {
    /// The connection has asked for something, and stays.
    pub(super) fn has_asked(&self) {
        if let Some(entry) = self.connections.connected().slots.get_mut(&self.id) {
            entry.idle = None;
        }
    }

    /// Waits until another connection needs the slot.
    pub(super) async fn evicted(&self) {
        loop {
            let evicted = self.evicted.listen();
            if !self.connections.connected().slots.contains_key(&self.id) {
                return;
            }
            evicted.await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.connected().slots.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_nothing_keeps_nobody_out() {
        let connections = Connections::default();
        let idle: Vec<_> = (0..MAX_OF_USER).map(|_| connections.enter(1000)).collect();
        assert!(idle.iter().all(Option::is_some));
        for user in [1000, 0, 1001] {
            let slot = connections.enter(user).expect("a slot for who comes later");
            slot.has_asked();
        }
        let others: Vec<_> = (0..MAX_CONNECTIONS).map_while(|_| connections.enter(1001)).collect();
        assert!(others.len() >= MAX_OF_USER, "{}", others.len());
    }

    #[test]
    fn one_user_leaves_places_for_the_others() {
        let connections = Connections::default();
        let asked = |user| {
            let slot = connections.enter(user)?;
            slot.has_asked();
            Some(slot)
        };
        let busy: Vec<_> = (0..2 * MAX_CONNECTIONS).map_while(|_| asked(1000)).collect();
        assert_eq!(busy.len(), MAX_OF_USER);
        assert!(asked(1000).is_none());
        assert!(asked(0).is_some());
        drop(busy);
        assert!(asked(1000).is_some());
    }
}
