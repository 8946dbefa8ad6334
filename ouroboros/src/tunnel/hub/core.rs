//! The state that the threads of a hub share: the device, the clients, and the routes of their
//! prefixes. Not here: the hub's public type (`Hub`), and moving packets (`worker`).

use std::sync::{
    Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    ClientEvent,
    client::{Client, Shared},
    clients::Clients,
    inbound::Mailbox,
};
use crate::{
    error::FlowError,
    log::Limited,
    proto::hub::{IpNet, Router},
    sync::lock,
    tun::{Device, LEAST_IPV6},
    tunnel::{Counters, TunnelError},
};

static MTU_REFUSED: Limited = Limited::new();

/// Events that nobody has taken yet, at most. Later ones are dropped: those that say where
/// clients are first.
const EVENTS: usize = 4096;
/// The same for those that say which clients there are, and what they ask for.
const ESSENTIAL_EVENTS: usize = 65_536;

/// The state that the workers share.
pub(super) struct Core {
    pub(super) device: Arc<Device>,
    pub(super) counters: Arc<Counters>,
    pub(super) forward: bool,
    pub(super) fixed_mtu: Option<u16>,
    /// Held by a worker for a batch, so that a change waits for one at most.
    pub(super) router: RwLock<Router<Shared>>,
    pub(super) clients: Mutex<Clients>,
    /// What the device was told, in bytes.
    pub(super) device_mtu: Mutex<Option<u16>>,
    /// One for each queue.
    pub(super) mailboxes: Vec<Mailbox>,
    /// Clients that have not acknowledged their configuration, each once.
    pub(super) unacknowledged: Mutex<Vec<Shared>>,
    pub(super) any_unacknowledged: AtomicBool,
    pub(super) events: async_channel::Sender<ClientEvent>,
    pub(super) ended: AtomicBool,
    pub(super) failure: Mutex<Option<TunnelError>>,
}

impl Core {
    /// Where packets go. Not to be held when a client's prefixes change.
    pub(super) fn router(&self) -> RwLockReadGuard<'_, Router<Shared>> {
        self.router.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
        self.events.close();
        self.mailboxes.iter().for_each(|mailbox| mailbox.waker.wake());
    }

    /// Has [`Hub::next_event`](super::Hub::next_event) tell an event, unless too many wait.
    pub(super) fn emit(&self, event: ClientEvent) {
        let most = match event {
            ClientEvent::Addressed { .. } | ClientEvent::Moved { .. } => EVENTS,
            // A server that missed one would be wrong about the client from then on.
            _ => ESSENTIAL_EVENTS,
        };
        if self.events.len() < most {
            let _ = self.events.try_send(event);
        }
    }

    /// Gives a client these prefixes in place of those that it has; one that has left gets
    /// none.
    ///
    /// # Errors
    ///
    /// One is another client's; nothing has changed.
    pub(super) fn set_prefixes(
        &self,
        client: &Shared,
        prefixes: &[IpNet],
    ) -> Result<(), TunnelError> {
        let mut router = self.router.write().unwrap_or_else(PoisonError::into_inner);
        let mut current = lock(&client.prefixes);
        let prefixes = if client.left.load(Relaxed) { &[] } else { prefixes };
        router.replace(client, &current, prefixes)?;
        *current = prefixes.to_vec();
        Ok(())
    }

    /// A client's flow has ended.
    pub(super) fn left(&self, client: &Shared, error: &FlowError) {
        if client.left.swap(true, Relaxed) {
            return;
        }
        lock(&self.clients).remove(client);
        // None are none of another's.
        let _ = self.set_prefixes(client, &[]);
        self.emit(ClientEvent::Left { client: client.id, reason: error.to_string() });
    }

    /// The device takes packets that some client can be sent, but none that IPv6
    /// could not be had with; those that are too large for one client are
    /// answered.
    pub(super) fn mtu_changed(&self, client: &Client, mtu: u16) {
        tracing::debug!(client = ?client.id, mtu, "a client's MTU");
        if self.fixed_mtu.is_some() {
            return;
        }
        let mut device_mtu = lock(&self.device_mtu);
        if *device_mtu == Some(mtu) {
            return;
        }
        let largest = lock(&self.clients).iter().map(|client| client.mtu()).max();
        let mtu = largest.unwrap_or(LEAST_IPV6).max(LEAST_IPV6);
        if *device_mtu == Some(mtu) {
            return;
        }
        *device_mtu = Some(mtu);
        if let Err(error) = self.device.set_mtu(mtu)
            && let Some(times) = MTU_REFUSED.report()
        {
            tracing::warn!(%error, mtu, times, "the device does not take its MTU");
        }
    }

    pub(super) fn has_unacknowledged(&self) -> bool {
        self.any_unacknowledged.load(Relaxed)
    }

    /// Has the configuration of a client repeated until it has acknowledged it.
    pub(super) fn note_unacknowledged(&self, client: &Shared) {
        if !client.unacknowledged.swap(true, Relaxed) {
            lock(&self.unacknowledged).push(client.clone());
        }
        self.any_unacknowledged.store(true, Relaxed);
    }

    /// Repeats configurations that have not been acknowledged, where it is time.
    pub(super) fn retransmit(&self) {
        self.any_unacknowledged.store(false, Relaxed);
        let waiting = std::mem::take(&mut *lock(&self.unacknowledged));
        for client in waiting {
            client.unacknowledged.store(false, Relaxed);
            if !client.left.load(Relaxed) && client.handle_timeout().is_some() {
                self.note_unacknowledged(&client);
            }
        }
    }
}
