//! Who may be connected at once: so many of each user and in all. Where there are
//! too many, those go first that have asked for nothing yet.
//!
//! Not here: sockets (`serve`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use event_listener::Event;

/// Connections served at once, without those of flows.
const MAX_CONNECTIONS: usize = 2048;
/// The same of one user, who may be root.
const MAX_OF_USER: usize = 1536;

#[derive(Default)]
struct Connected {
    next: u64,
    places: BTreeMap<u64, Entry>,
}

struct Entry {
    user: u32,
    /// Present as long as nothing was asked.
    idle: Option<Arc<Event>>,
}

/// The connections that there are.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<Connected>>);

impl Crowd {
    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection of `user`; `None` if there are too many that
    /// have asked for something.
    pub(super) fn enter(&self, user: u32) -> Option<Place> {
        let mut connected = self.connected();
        let of_user = connected.places.values().filter(|entry| entry.user == user).count();
        if of_user >= MAX_OF_USER {
            connected.evict(|entry| entry.user == user)?;
        } else if connected.places.len() >= MAX_CONNECTIONS {
            connected.evict(|_| true)?;
        }
        let (id, evicted) = (connected.next, Arc::new(Event::new()));
        connected.next += 1;
        connected.places.insert(id, Entry { user, idle: Some(evicted.clone()) });
        Some(Place { crowd: self.clone(), id, evicted })
    }
}

impl Connected {
    /// Ends the oldest idle connection of those that `choose` says.
    fn evict(&mut self, choose: impl Fn(&Entry) -> bool) -> Option<()> {
        let idle = self.places.iter().find(|(_, entry)| entry.idle.is_some() && choose(entry));
        let id = *idle?.0;
        self.places.remove(&id)?.idle?.notify(usize::MAX);
        Some(())
    }
}

/// One connection's place, given back when dropped.
pub(super) struct Place {
    crowd: Crowd,
    id: u64,
    evicted: Arc<Event>,
}

impl Place {
    /// The connection has asked for something, and stays.
    pub(super) fn has_asked(&self) {
        if let Some(entry) = self.crowd.connected().places.get_mut(&self.id) {
            entry.idle = None;
        }
    }

    /// Waits until another connection needs the place.
    pub(super) async fn evicted(&self) {
        loop {
            let evicted = self.evicted.listen();
            if !self.crowd.connected().places.contains_key(&self.id) {
                return;
            }
            evicted.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.connected().places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_nothing_keeps_nobody_out() {
        let crowd = Crowd::default();
        let idle: Vec<_> = (0..MAX_OF_USER).map(|_| crowd.enter(1000)).collect();
        assert!(idle.iter().all(Option::is_some));
        for user in [1000, 0, 1001] {
            let place = crowd.enter(user).expect("a place for who comes later");
            place.has_asked();
        }
        let others: Vec<_> = (0..MAX_CONNECTIONS).map_while(|_| crowd.enter(1001)).collect();
        assert!(others.len() >= MAX_OF_USER, "{}", others.len());
    }

    #[test]
    fn one_user_leaves_places_for_the_others() {
        let crowd = Crowd::default();
        let asked = |user| {
            let place = crowd.enter(user)?;
            place.has_asked();
            Some(place)
        };
        let busy: Vec<_> = (0..2 * MAX_CONNECTIONS).map_while(|_| asked(1000)).collect();
        assert_eq!(busy.len(), MAX_OF_USER);
        assert!(asked(1000).is_none());
        assert!(asked(0).is_some());
        drop(busy);
        assert!(asked(1000).is_some());
    }
}
