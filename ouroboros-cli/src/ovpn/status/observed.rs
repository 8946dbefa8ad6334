//! The tunnel that a process has now, for whoever asks.

use std::sync::{Arc, Mutex, MutexGuard};

use ouroboros::{FlowState, Hub, Tunnel, proto::hub::IpNet, sync::lock};

use super::report::{Report, Role};
use crate::http::Page;

/// The tunnel that there is, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Observed(Arc<Mutex<Option<Source>>>);

#[derive(Debug)]
struct Source {
    addresses: Vec<IpNet>,
    end: End,
}

/// Which end of tunnels this process is.
#[derive(Debug)]
enum End {
    Client(Arc<Tunnel>),
    Server(Arc<Hub>),
}

/// Observes a tunnel until it is dropped, which then is nobody's but its owner's.
#[derive(Debug)]
#[must_use]
pub struct Observing(Observed);

impl Drop for Observing {
    fn drop(&mut self) {
        *self.0.source() = None;
    }
}

impl Observed {
    /// Has a client's tunnel be told of.
    pub fn client(&self, tunnel: &Arc<Tunnel>, addresses: Vec<IpNet>) -> Observing {
        self.observe(addresses, End::Client(tunnel.clone()))
    }

    /// Has a server's device and clients be told of.
    pub fn server(&self, hub: &Arc<Hub>, addresses: Vec<IpNet>) -> Observing {
        self.observe(addresses, End::Server(hub.clone()))
    }

    fn observe(&self, addresses: Vec<IpNet>, end: End) -> Observing {
        *self.source() = Some(Source { addresses, end });
        Observing(self.clone())
    }

    fn source(&self) -> MutexGuard<'_, Option<Source>> {
        lock(&self.0)
    }

    /// Asks all peers, to know how long they take.
    pub(super) fn measure_round_trips(&self) {
        match self.source().as_ref().map(|source| &source.end) {
            Some(End::Client(tunnel)) => tunnel.measure_round_trips(),
            Some(End::Server(hub)) => hub.measure_round_trips(),
            None => {}
        }
    }

    /// Returns `true` if a peer that was asked has not answered.
    pub(super) fn is_measuring(&self) -> bool {
        let measuring = |flows: Vec<FlowState>| flows.iter().any(|flow| flow.measuring);
        match self.source().as_ref().map(|source| &source.end) {
            Some(End::Client(tunnel)) => measuring(tunnel.flows()),
            Some(End::Server(hub)) => {
                hub.clients().into_iter().any(|client| measuring(client.flows))
            }
            None => false,
        }
    }

    /// Returns the present report.
    #[must_use]
    pub fn report(&self) -> Report {
        let source = self.source();
        let Some(Source { addresses, end }) = &*source else { return Report::new(Role::None) };
        match end {
            End::Client(tunnel) => Report::of_client(tunnel, addresses),
            End::Server(hub) => Report::of_server(hub, addresses),
        }
    }

    pub(super) fn metrics(&self) -> Page {
        // The next scrape has what this one asks for.
        self.measure_round_trips();
        self.report().metrics()
    }
}
