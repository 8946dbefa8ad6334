//! The state that the two directions of a tunnel, and their threads, share.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::Relaxed},
};

use super::{Counters, exchange::Exchange};
use crate::tun::{Device, Queue};

/// One queue of the device and the flow that serves it.
pub(super) struct Lane {
    pub(super) device: Arc<Device>,
    pub(super) queue: usize,
    pub(super) counters: Arc<Counters>,
    pub(super) exchange: Arc<Exchange>,
    /// Largest packet in bytes, for all lanes.
    pub(super) mtu: Arc<AtomicU16>,
}

impl Lane {
    pub(super) fn queue(&self) -> &Queue {
        &self.device.queues()[self.queue]
    }

    pub(super) fn sink(&self) -> Sink<'_> {
        Sink { queue: self.queue(), counters: &self.counters, mtu: self.mtu() }
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu.load(Relaxed).into()
    }
}

/// Where packets go, or come from.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a> {
    pub(super) queue: &'a Queue,
    pub(super) counters: &'a Counters,
    /// Largest packet in bytes.
    pub(super) mtu: usize,
}
