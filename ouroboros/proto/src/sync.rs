//! The one way to take a mutex.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes `mutex`. A thread that panicked while it held it has left no state
/// half changed here: each critical section is one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
