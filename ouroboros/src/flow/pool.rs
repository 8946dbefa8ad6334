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
/// Batches of a kind that wait for the next call, at most.
const IDLE: usize = 4;

/// Batches of one kind that nobody uses, at most [`IDLE`] of them.
pub(super) struct Pool<T: 'static>(Mutex<Vec<T>>);

static SEND_BATCHES: Pool<SendBatch> = Pool(Mutex::new(Vec::new()));
static RECEIVE_BATCHES: Pool<ReceiveBatch> = Pool(Mutex::new(Vec::new()));

/// A batch that goes back to its pool when dropped.
pub(super) struct Pooled<T: 'static> {
    batch: Option<T>,
    pool: &'static Pool<T>,
}

/// An empty batch for a path with `headroom` bytes of header.
pub(super) fn send_batch(headroom: usize) -> Pooled<SendBatch> {
    let mut batch = SEND_BATCHES.take().unwrap_or_else(|| SendBatch::new(headroom, SEND));
    batch.reset(headroom);
    Pooled { batch: Some(batch), pool: &SEND_BATCHES }
}

/// An empty batch.
pub(super) fn receive_batch() -> Pooled<ReceiveBatch> {
    let mut batch = RECEIVE_BATCHES.take().unwrap_or_else(|| ReceiveBatch::new(RECEIVE));
    batch.clear();
    Pooled { batch: Some(batch), pool: &RECEIVE_BATCHES }
}

impl<T> Pool<T> {
    fn take(&self) -> Option<T> {
        lock(&self.0).pop()
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
        let mut idle = lock(&self.pool.0);
        if idle.len() < IDLE {
            idle.extend(self.batch.take());
        }
    }
}
