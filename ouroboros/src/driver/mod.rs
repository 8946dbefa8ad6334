//! The one background thread of the process: it runs the control tasks of all
//! IPCPs, keeps the timers of all flows in one queue, and tells flows that
//! nobody reads when something has come for them. It has a poller of its own
//! ([`registry`]), so that whichever reactor a program uses is left to the
//! program. Not here: what a flow does then (`flow`). Packets of a tunnel, and
//! of a program that is in a call, never pass here.

mod registry;
mod wait;

use std::{
    cell::Cell,
    future::{Future, pending},
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_executor::{Executor, Task};
use futures_lite::future;

use self::registry::Registry;
pub(crate) use self::{
    registry::{Attended, Cause, Registration},
    wait::{Watch, sleep_until},
};
use crate::proto::Now;

thread_local! {
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

static EXECUTOR: Executor<'static> = Executor::new();

/// Runs `future` on the background thread, started at first use.
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    registry();
    EXECUTOR.spawn(future)
}

/// Ends a task: what it has is let go when this returns, or soon after if the
/// background thread itself ends it.
pub(crate) fn end(task: Task<()>) {
    if IS_BACKGROUND.get() {
        drop(task);
    } else {
        future::block_on(task.cancel());
    }
}

/// The registry that the background thread, started at first use, looks after.
fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<&'static Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let registry = Registry::new().expect("the process may open two more descriptors");
        let registry: &'static Registry = Box::leak(Box::new(registry));
        thread::Builder::new()
            .name("ouroboros".to_owned())
            .spawn(move || run(registry))
            .expect("the process may start one more thread");
        registry
    })
}

fn run(registry: &'static Registry) {
    struct Notifier(&'static Registry);
    impl Wake for Notifier {
        fn wake(self: Arc<Self>) {
            self.0.notify();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            self.0.notify();
        }
    }
    IS_BACKGROUND.set(true);
    let waker = Waker::from(Arc::new(Notifier(registry)));
    let mut context = Context::from_waker(&waker);
    let mut tasks = pin!(EXECUTOR.run(pending::<()>()));
    loop {
        registry.begin_turn();
        let _ = tasks.as_mut().poll(&mut context);
        registry.turn();
    }
}

/// Returns the present time of the clocks.
pub(crate) fn now() -> Now {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { monotonic: monotonic(), utc: u64::try_from(utc.as_nanos()).unwrap_or(u64::MAX) }
}

/// Monotonic time alone, for those who ask often.
pub(crate) fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
