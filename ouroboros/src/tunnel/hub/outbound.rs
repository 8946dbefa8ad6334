//! From the device to the clients: each packet is sealed for whoever has the
//! longest prefix that it is for. Driven by a hub's worker.

use std::{
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    Core,
    client::{Client, Shared},
    destination,
};
use crate::{
    error::FlowError,
    tun::offload::VnetHeader,
    tunnel::{
        TunnelError,
        lane::Sink,
        outbound::{PACKETS, SUPER_PACKET, cut},
    },
};

/// Bytes of packets that are read before the first of them is looked at, and no fewer
/// packets than one: what comes from the device then is still in the first cache.
const READ_AHEAD: usize = 16 * 1024;

pub(super) struct Outbound {
    queue: usize,
    buffer: Box<[u8]>,
    /// Packets that were read, in `buffer`.
    packets: Vec<(VnetHeader, Range<usize>)>,
    /// Clients whose batches hold packets of this turn.
    touched: Vec<Shared>,
    /// A client whose transport takes no more for now.
    full: Option<Shared>,
}

impl Outbound {
    pub(super) fn new(queue: usize) -> Self {
        let buffer = vec![0; READ_AHEAD + SUPER_PACKET].into_boxed_slice();
        Self { queue, buffer, packets: Vec::new(), touched: Vec::new(), full: None }
    }

    /// The client whose transport is to be waited for.
    pub(super) fn full(&self) -> Option<&Shared> {
        self.full.as_ref()
    }

    /// Drops what waits for a transport that has been full for too long: it must
    /// not hold the others up.
    pub(super) fn give_up(&mut self) {
        if let Some(client) = self.full.take() {
            client.sender(self.queue).discard();
        }
    }

    /// Moves what is there, at most a batch.
    pub(super) fn turn(&mut self, core: &Core) -> Result<(), TunnelError> {
        if let Some(client) = self.full.take() {
            self.flush(core, client);
        }
        if self.full.is_none() {
            self.fill(core)?;
        }
        // Between system calls, which leave little of this in a cache.
        if self.touched.len() > 1 {
            self.touched.iter().for_each(|client| client.sender(self.queue).seal());
        }
        while let Some(client) = self.touched.pop() {
            self.flush(core, client);
        }
        Ok(())
    }

    fn flush(&mut self, core: &Core, client: Shared) {
        let mut sender = client.sender(self.queue);
        match sender.try_flush() {
            Ok(true) => {
                if let Some(mtu) = client.follow(&mut sender) {
                    drop(sender);
                    core.mtu_changed(&client, mtu);
                }
            }
            Ok(false) => {
                if let Some(before) = self.full.replace(client.clone()) {
                    before.sender(self.queue).discard();
                }
            }
            Err(error) => {
                drop(sender);
                failed(&client, &error);
            }
        }
    }

    /// Reads until there is nothing more, or enough.
    fn fill(&mut self, core: &Core) -> Result<(), TunnelError> {
        let (mut left, mut more) = (PACKETS, true);
        while more && left > 0 {
            more = self.read(core, left)?;
            left -= self.packets.len();
            self.distribute(core);
        }
        Ok(())
    }

    /// Reads at most so many packets; `false`: there is nothing more, or enough.
    fn read(&mut self, core: &Core, most: usize) -> Result<bool, TunnelError> {
        let (queue, counters) = (&core.device.queues()[self.queue], &*core.counters);
        let (mut end, mut more) = (0, true);
        while more && end < READ_AHEAD && self.packets.len() < most {
            let (header, size) = match queue.read(&mut self.buffer[end..]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    counters.malformed.add(1);
                    more = false;
                    break;
                }
                Err(error) => return Err(core.device.read_failed(error).into()),
            };
            more = !ends_turn(&header);
            self.packets.push((header, end..end + size));
            end += size;
        }
        counters.reads.add(self.packets.len() as u64);
        counters.sent_bytes.add(end as u64);
        Ok(more)
    }

    /// Puts what was read into the batches of those that it is for.
    fn distribute(&mut self, core: &Core) {
        let (queue, counters) = (&core.device.queues()[self.queue], &*core.counters);
        let router = core.router();
        for (header, range) in self.packets.drain(..) {
            let packet = &mut self.buffer[range];
            let Some(client) = destination(packet).and_then(|to| router.client(to)) else {
                counters.no_client.add(1);
                continue;
            };
            let mut sender = client.sender(self.queue);
            let sink = Sink { queue, counters, mtu: client.mtu().into() };
            let result = cut(&header, packet, &mut sender, sink);
            drop(sender);
            match result {
                Ok(()) => {
                    client.counters.sent_packets.fetch_add(1, Relaxed);
                    touch(&mut self.touched, client);
                }
                Err(error) => failed(client, &error),
            }
        }
    }
}

/// A super-packet is enough for one system call: the peer can begin with it.
fn ends_turn(header: &VnetHeader) -> bool {
    header.gso.is_some()
}

fn touch(touched: &mut Vec<Shared>, client: &Shared) {
    // Packets come in runs, and a turn is short.
    if !touched.iter().rev().any(|known| Arc::ptr_eq(known, client)) {
        touched.push(client.clone());
    }
}

/// A flow that cannot be sent on has ended, or is to.
pub(super) fn failed(client: &Client, error: &FlowError) {
    tracing::debug!(client = ?client.id, %error, "a client's flow cannot be sent on");
    client.close();
}
