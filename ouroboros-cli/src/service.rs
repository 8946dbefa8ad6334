//! Notifications of a service to its manager (systemd's sd_notify protocol): that it is ready,
//! what it waits for, that it still runs, and that it ends. Without `NOTIFY_SOCKET` in the
//! environment nothing is sent. Not here: units (`dist/systemd`).

use std::{future::pending, sync::Mutex};

use async_std::task;
use ouroboros::sync::lock;
use sd_notify::{NotifyState, notify, watchdog_enabled};

/// Messages to the manager for each of its watchdog's periods.
const PER_PERIOD: u32 = 3;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Tells the manager that the service serves, or waits by itself for what it needs.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the manager in one line what the service does now.
pub fn status(line: &str) {
    line.clone_into(&mut lock(&LAST));
    tell(&[NotifyState::Status(line)]);
}

/// The line that [`status`] was told last.
#[must_use]
pub fn last_status() -> String {
    lock(&LAST).clone()
}

/// Tells the manager that the service ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the manager's watchdog that the service runs, as often as it wants to hear that
/// (`WATCHDOG_USEC`), for ever. `check` is called each time, and does not return if
/// something is stuck.
pub async fn watchdog<T>(check: impl Fn()) -> T {
    let Some(period) = watchdog_enabled().filter(|period| !period.is_zero()) else {
        return pending().await;
    };
    loop {
        check();
        tell(&[NotifyState::Watchdog]);
        task::sleep(period / PER_PERIOD).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
