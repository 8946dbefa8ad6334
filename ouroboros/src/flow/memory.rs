//! Memory that all reliable flows of the process may hold in their buffers. Not here:
//! what a flow does with its part (`proto::reliable`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The budget by default, in bytes.
const DEFAULT: u64 = 256 << 20;

static BUDGET: AtomicU64 = AtomicU64::new(DEFAULT);
static HELD: AtomicU64 = AtomicU64::new(0);

/// Sets how many bytes the buffers of all reliable flows of this process may hold
/// together, for what was written and not acknowledged and for what was received and not
/// read; 256 MiB by default. Of no effect on flows in the 0.23 format.
///
/// A flow may hold as much as is free: one alone half of the budget, many a part each.
/// Each flow has 32 KiB in each direction, and room for one message that is on its way,
/// whatever the budget.
///
/// ```
/// ouroboros::set_buffer_budget(64 << 20);
/// assert_eq!(ouroboros::buffered_bytes(), 0);
/// ```
pub fn set_buffer_budget(bytes: u64) {
    BUDGET.store(bytes, Relaxed);
}

/// Bytes that the buffers of all reliable flows of this process hold now.
#[must_use]
pub fn buffered_bytes() -> u64 {
    HELD.load(Relaxed)
}

/// The bytes that one flow holds, which count towards the sum of all.
#[derive(Debug, Default)]
pub(super) struct Account(u64);

impl Account {
    /// Says that the flow holds `bytes` now; how many it may.
    pub(super) fn update(&mut self, bytes: u64) -> u64 {
        if bytes != self.0 {
            HELD.fetch_add(bytes.wrapping_sub(self.0), Relaxed);
            self.0 = bytes;
        }
        BUDGET.load(Relaxed).saturating_sub(HELD.load(Relaxed))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.update(0);
    }
}
