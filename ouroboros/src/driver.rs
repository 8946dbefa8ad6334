//! The one background thread of the process: it runs the control tasks of all
//! IPCPs and the timers of all flows. Packets of a tunnel never pass here.

use std::{
    future::{Future, pending},
    sync::OnceLock,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_executor::{Executor, Task};
use async_io::Timer;

use crate::proto::Now;

static EXECUTOR: Executor<'static> = Executor::new();

/// Runs `future` on the background thread, started at first use.
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        thread::Builder::new()
            .name("ouroboros".to_owned())
            .spawn(|| async_io::block_on(EXECUTOR.run(pending::<()>())))
            .expect("the process may start one more thread");
    });
    EXECUTOR.spawn(future)
}

/// What the clocks say now.
pub(crate) fn now() -> Now {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { monotonic: monotonic(), utc: u64::try_from(utc.as_nanos()).unwrap_or(u64::MAX) }
}

/// Monotonic time alone, for those who ask often.
pub(crate) fn monotonic() -> Duration {
    start().elapsed()
}

/// Waits until monotonic time says `due`; for ever if nothing is due.
pub(crate) async fn reaches(due: Option<Duration>) {
    match due {
        Some(at) => {
            Timer::at(start() + at).await;
        }
        None => pending().await,
    }
}

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}
