//! Watches a device for changes made by others: one that was down and is up again gets back
//! what the kernel took from it. The background thread drives it. Not here: how (`device`).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, Ordering::Relaxed},
    },
};

use tun::AbstractDevice;

use super::device::{Control, DeviceError};
use crate::{
    driver::{Attended, Cause, Registration},
    log::Limited,
    sys::link::{self, LinkChange},
};

static NOT_RESTORED: Limited = Limited::new();

/// No interface has this index.
const NONE: i32 = 0;

/// Follows one device.
pub(super) struct Link {
    control: Arc<Control>,
    /// Changes of the links of the network namespace that the device was made in.
    changes: OwnedFd,
    index: AtomicI32,
    /// It has been down since it was given its addresses.
    was_down: AtomicBool,
    registration: OnceLock<Registration>,
}

impl Link {
    /// Begins to follow a device that is up; `None`: the kernel does not say.
    pub(super) fn follow(control: &Arc<Control>) -> Option<Arc<Self>> {
        let followed = control.with(|device| {
            let index = device.tun_index().map_err(|e| DeviceError::Failed("index", e.into()))?;
            let changes = link::changes().map_err(|e| DeviceError::Failed("link", e))?;
            Ok((index, changes))
        });
        let (index, changes) = match followed {
            Ok(followed) => followed,
            Err(error) => {
                tracing::debug!(%error, "a device is not followed");
                return None;
            }
        };
        let link = Arc::new(Self {
            control: control.clone(),
            changes,
            index: AtomicI32::new(index),
            was_down: AtomicBool::new(false),
            registration: OnceLock::new(),
        });
        let attended: std::sync::Weak<Self> = Arc::downgrade(&link);
        let _ = link.registration.set(Registration::new(attended));
        link.arm();
        Some(link)
    }

    fn arm(&self) {
        let armed = self.registration.get().map(|place| place.arm(self.changes.as_fd()));
        if let Some(Err(error)) = armed {
            tracing::debug!(%error, "a device is not followed any more");
        }
    }

    /// Takes what has happened; `true`: the device is up and was down.
    fn came_up(&self) -> bool {
        let mut up = false;
        loop {
            let changed = link::read_changes(&self.changes, |index, change| {
                if index != self.index.load(Relaxed) {
                    return;
                }
                up = change == LinkChange::Up;
                match change {
                    LinkChange::Up => {}
                    LinkChange::Down => self.was_down.store(true, Relaxed),
                    // Its addresses are whoever moved it's, and the index another's.
                    LinkChange::Gone => self.index.store(NONE, Relaxed),
                }
            });
            match changed {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // More has happened than the kernel keeps: it may have been down.
                    tracing::debug!(%error, "changes of links were missed");
                    self.was_down.store(true, Relaxed);
                    up = true;
                }
            }
        }
        up && self.index.load(Relaxed) != NONE && self.was_down.swap(false, Relaxed)
    }
}

impl Attended for Link {
    fn attend(self: Arc<Self>, _: Cause) {
        if self.came_up()
            && let Err(error) = self.control.restore()
        {
            // It may be down once more.
            self.was_down.store(true, Relaxed);
            if let Some(times) = NOT_RESTORED.report() {
                tracing::warn!(%error, times, "the device has not got its addresses back");
            }
        }
        self.arm();
    }
}
