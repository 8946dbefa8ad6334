//! Batches for who works now: taken for a call, given back after it. A flow that
//! idles owns none. Not here: who may keep one for longer (`batched`).

use std::{
    ops::{Deref, DerefMut},
    sync::Mutex,
};

use crate::{
    sync::lock,
    transport::{ReceiveBatch, SendBatch},
};

/// Room for one 64 KiB super-packet cut into frames, more than twice over.
const SEND: usize = 192 * 1024;
/// Eight receive-coalesced datagrams of 64 KiB, with room between them.
const RECEIVE: usize = 8 * (64 * 1024 + 192);
/// Batches to send that wait for the next call, at most: in one turn of a hub, as many
/// clients as it reads packets. What no frame was in yet takes no memory.
const IDLE_SENDS: usize = 64;
/// Batches to receive that do.
const IDLE_RECEIVES: usize = 4;

/// Batches of one kind that nobody uses, at most `most` of them. Boxed: to take one is to
/// move a pointer, and a flow without one is small.
pub(super) struct Pool<T: 'static> {
    idle: Mutex<Vec<Box<T>>>,
    most: usize,
}

static SEND_BATCHES: Pool<SendBatch> = Pool::new(IDLE_SENDS);
static RECEIVE_BATCHES: Pool<ReceiveBatch> = Pool::new(IDLE_RECEIVES);

/// A batch that goes back to its pool when dropped.
pub(super) struct Pooled<T: 'static> {
    batch: Option<Box<T>>,
    pool: &'static Pool<T>,
}

/// An empty batch for a path with `headroom` bytes of header.
pub(super) fn send_batch(headroom: usize) -> Pooled<SendBatch> {
    let mut batch = SEND_BATCHES.take().unwrap_or_else(|| Box::new(SendBatch::new(headroom, SEND)));
    batch.reset(headroom);
    Pooled { batch: Some(batch), pool: &SEND_BATCHES }
}

/// An empty batch.
pub(super) fn receive_batch() -> Pooled<ReceiveBatch> {
    let mut batch = RECEIVE_BATCHES.take().unwrap_or_else(|| Box::new(ReceiveBatch::new(RECEIVE)));
    batch.clear();
    Pooled { batch: Some(batch), pool: &RECEIVE_BATCHES }
}

impl<T> Pool<T> {
    const fn new(most: usize) -> Self {
        Self { idle: Mutex::new(Vec::new()), most }
    }

    fn take(&self) -> Option<Box<T>> {
        lock(&self.idle).pop()
    }
}

impl<T> Deref for Pooled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.batch.as_ref().expect("there until it is dropped")
    }
}

impl<T> DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.batch.as_mut().expect("there until it is dropped")
    }
}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        let mut idle = lock(&self.pool.idle);
        if idle.len() < self.pool.most {
            idle.extend(self.batch.take());
        }
    }
}
