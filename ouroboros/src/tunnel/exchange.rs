//! A client's half of the exchange with a hub while its tunnel runs: the inbound
//! direction takes the hub's packets, the outbound one sends ours.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{
    driver,
    flow::FlowSender,
    proto::hub::{Configuration, ConfigurationClient, IpNet},
    sync::lock,
};

/// The state of the exchange that the lanes of a tunnel share.
#[derive(Debug)]
pub(super) struct Exchange {
    client: Mutex<Option<ConfigurationClient>>,
    /// Something is to be sent, or repeated.
    is_due: AtomicBool,
    news: async_channel::Sender<Configuration>,
}

impl Exchange {
    pub(super) fn new(news: async_channel::Sender<Configuration>) -> Self {
        Self { client: Mutex::default(), is_due: AtomicBool::new(false), news }
    }

    /// Begins for a new flow; `None`: nothing is asked.
    pub(super) fn begin(&self, wanted: Option<&[IpNet]>) {
        let client = wanted.map(|wanted| ConfigurationClient::new(driver::monotonic(), wanted));
        self.is_due.store(client.is_some(), Relaxed);
        *lock(&self.client) = client;
    }

    /// Takes a packet that is none of IP.
    pub(super) fn handle(&self, packet: &[u8]) {
        if let Some(client) = &mut *lock(&self.client) {
            client.handle(packet);
            if let Some(configuration) = client.poll() {
                // The newest counts.
                let _ = self.news.force_send(configuration);
            }
            self.is_due.store(true, Relaxed);
        }
    }

    /// Returns `true` if [`transmit`](Self::transmit) should be called within a
    /// quarter of a second.
    pub(super) fn is_due(&self) -> bool {
        self.is_due.load(Relaxed)
    }

    /// Puts what is to be sent into the batch.
    pub(super) fn transmit(&self, sender: &mut FlowSender) {
        let mut client = lock(&self.client);
        let Some(client) = &mut *client else { return };
        client.handle_timeout(driver::monotonic());
        while let Some(packet) = client.poll_transmit() {
            // Lost like any other where there is no room: it is said again.
            if let Some(room) = sender.push(packet.len()) {
                room.copy_from_slice(&packet);
            }
        }
        self.is_due.store(client.poll_timeout().is_some(), Relaxed);
    }
}
