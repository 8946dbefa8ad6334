//! The task of an IPCP: management messages, timers, wake-ups from its users,
//! and a line now and then about what was dropped.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_lite::future;

use super::{Core, dropped::Dropped};
use crate::{
    crypto::SystemEntropy,
    driver::{self, Watch},
    transport::{LARGEST_MANAGEMENT, Management},
};

/// Management messages handled before the timers get their turn.
const MESSAGES_PER_TURN: usize = 64;

/// Turns in which a socket that is never empty is read until the flows that were
/// established meanwhile are handed over.
const TURNS_TO_SETTLE: u32 = 16;

struct ManagementSource(Arc<dyn Management>);

impl AsFd for ManagementSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.readiness()
    }
}

/// Runs until nobody holds the IPCP any more.
pub(super) async fn drive(core: Weak<Core>) {
    let watch = {
        let Some(core) = core.upgrade() else { return };
        core.management.clone().map(|management| Watch::new(ManagementSource(management)))
    };
    let mut buffer = [0; LARGEST_MANAGEMENT];
    let mut dropped = Dropped::default();
    let mut turns = 0u32;
    loop {
        let (woken, due) = {
            let Some(core) = core.upgrade() else { return };
            let woken = core.wake.listen();
            let mut drained = true;
            if let Some(watch) = &watch {
                drained = false;
                for _ in 0..MESSAGES_PER_TURN {
                    match watch.source().0.receive(&mut buffer) {
                        Ok((size, from)) => core.take_message(from, None, &buffer[..size]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            drained = true;
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(ipcp = core.name, %error, "management socket");
                            break;
                        }
                    }
                }
            }
            let now = driver::now();
            core.allocator().handle_timeout(now, &mut SystemEntropy);
            core.flush();
            turns = if drained { 0 } else { turns + 1 };
            // Frames of flows that were just established may be behind many
            // others, but what is behind too many is lost.
            if turns.is_multiple_of(TURNS_TO_SETTLE) {
                core.settle();
            }
            let (counters, due) = (core.counters(), core.sleep_until());
            if let Some(causes) = dropped.report(now.monotonic, counters) {
                tracing::warn!(ipcp = core.name, "management messages dropped: {causes}");
            }
            (woken, due.into_iter().chain(dropped.due(counters)).min())
        };
        let readable = async {
            match &watch {
                Some(watch) => {
                    if watch.readable().await.is_err() {
                        // Not to spin on a broken descriptor.
                        driver::sleep_until(Some(driver::monotonic() + Duration::from_secs(1)))
                            .await;
                    }
                }
                None => future::pending().await,
            }
        };
        future::or(woken, future::or(driver::sleep_until(due), readable)).await;
    }
}
