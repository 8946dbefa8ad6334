//! A bounded queue between threads whose readiness is a file descriptor, so
//! that it can stand where a socket stands. No I/O besides its eventfd; the
//! transports drive it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard},
};

use rustix::event::{EventfdFlags, eventfd};

use super::ReceiveBatch;
use crate::sync::lock;

/// Items in order, at most `limit` of them; the descriptor is readable exactly
/// while there are any.
#[derive(Debug)]
pub(super) struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    limit: usize,
    ready: OwnedFd,
}

impl<T> Queue<T> {
    pub(super) fn new(limit: usize) -> io::Result<Self> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { items: Mutex::new(VecDeque::new()), limit, ready })
    }

    fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
        lock(&self.items)
    }

    /// Adds `item`; `false` if the queue is full and the item is lost, as a
    /// full socket buffer loses it.
    pub(super) fn push(&self, item: T) -> bool {
        let mut items = self.items();
        if items.len() >= self.limit {
            return false;
        }
        items.push_back(item);
        if items.len() == 1 {
            // Cannot fail: the counter goes between 0 and 1 under the lock.
            let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        }
        true
    }

    /// Takes the first item that `take` agrees to, leaving it where it is if
    /// not.
    pub(super) fn pop_if(&self, take: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut items = self.items();
        if !take(items.front()?) {
            return None;
        }
        let item = items.pop_front();
        if items.is_empty() {
            let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
        }
        item
    }

    pub(super) fn pop(&self) -> Option<T> {
        self.pop_if(|_| true)
    }

    /// Moves the `frame`s of items into `batch`, at most `limit`, until one does
    /// not fit behind the others. Unwanted ones, and those that fit into no
    /// batch, are lost.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there are none.
    pub(super) fn receive(
        &self,
        batch: &mut ReceiveBatch,
        limit: usize,
        frame: impl Fn(&T) -> &[u8],
        wanted: impl Fn(&T) -> bool,
    ) -> io::Result<()> {
        let room = batch.buffer_mut().len();
        let mut at = 0;
        while batch.len() < limit {
            let fits = |item: &T| at == 0 || frame(item).len() <= room - at;
            let Some(item) = self.pop_if(fits) else { break };
            let frame = frame(&item);
            if frame.len() > room - at || !wanted(&item) {
                continue;
            }
            batch.buffer_mut()[at..at + frame.len()].copy_from_slice(frame);
            batch.push(at..at + frame.len());
            at += frame.len();
        }
        if batch.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
