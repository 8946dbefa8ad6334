//! Management messages that are too large to be one: dropped, and counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::LARGEST_MANAGEMENT;

/// How many there were.
#[derive(Debug, Default)]
pub(super) struct Oversized(AtomicU64);

impl Oversized {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Copies `message` into `buffer` and says how long it is, or counts it if
    /// it is too large, for `buffer` or at all.
    pub(super) fn take(&self, message: &[u8], buffer: &mut [u8]) -> Option<usize> {
        let room = buffer.get_mut(..message.len()).filter(|room| room.len() <= LARGEST_MANAGEMENT);
        match room {
            Some(room) => room.copy_from_slice(message),
            None => {
                self.add();
                return None;
            }
        }
        Some(message.len())
    }
}
