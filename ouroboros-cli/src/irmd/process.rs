//! Processes that something is bound to. Not here: what.

use std::os::fd::OwnedFd;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::Error;

/// A process, not whichever has its id later.
pub(super) struct Process(OwnedFd);

impl Process {
    pub(super) fn with_id(id: u32) -> Result<Self, Error> {
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        process.map(Self).ok_or(Error::NoProcess(id))
    }

    pub(super) fn lives(&self) -> bool {
        // Readable when it has ended.
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        !poll(&mut ended, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
