//! The one way to take a mutex.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes `mutex`. A thread that panicked while it held it has left no state
/// half changed here: each critical section is one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mutexes and atomics of what the threads of a flow share. They are loom's where its
/// model tries the orders in which threads can run (the modules `model`).
pub(crate) mod shared {
    #[cfg(all(test, loom))]
    pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
    #[cfg(not(all(test, loom)))]
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

    /// As [`lock`](super::lock).
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
