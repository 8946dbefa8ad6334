//! The threads of a hub: one for each queue of the device, whatever the number
//! of clients, and one more while both directions are busy, as in a tunnel of
//! two ends (`tunnel::worker`).

use std::{sync::Arc, time::Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Core, inbound::Inbound, outbound::Outbound};
use crate::{
    sys::socket,
    tunnel::{
        TunnelError,
        second::Second,
        worker::{BUSY, IDLE},
    },
};

/// How long a full transport is waited for, at most.
const FULL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How often to see whether a configuration has to be sent again.
const REPEAT: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Moves packets until the hub ends.
pub(super) fn run(core: &Arc<Core>, queue: usize) -> Result<(), TunnelError> {
    let ending = core.clone();
    let second = Second::start(move |inbound: &mut Inbound| {
        let idle = Timespec { tv_sec: 0, tv_nsec: IDLE };
        while !ending.has_ended() && inbound.wait(&idle)? {}
        Ok(())
    })?;
    let result = turns(core, queue, &second);
    second.end();
    result
}

fn turns(core: &Arc<Core>, queue: usize, second: &Second<Inbound>) -> Result<(), TunnelError> {
    let mut outbound = Outbound::new(queue);
    let mut inbound = Some(Inbound::new(core.clone(), queue)?);
    let mut busy = 0;
    let mut repeated = Instant::now();
    while !core.has_ended() {
        let full = outbound.full().cloned();
        let sender = full.as_ref().map(|client| client.sender(queue));
        let (writable, interest) = match &sender {
            Some(sender) => (sender.readiness(), PollFlags::OUT),
            None => (second.gave_back(), PollFlags::empty()),
        };
        let device = &core.device.queues()[queue];
        let reads = if full.is_some() { PollFlags::empty() } else { PollFlags::IN };
        let (arrivals, alone) = inbound.as_ref().map(Inbound::readiness).unzip();
        let arrival = |descriptor: Option<_>| match descriptor {
            Some(descriptor) => PollFd::from_borrowed_fd(descriptor, PollFlags::IN),
            None => PollFd::from_borrowed_fd(second.gave_back(), PollFlags::empty()),
        };
        let mut ready = [
            PollFd::new(device, reads),
            arrival(arrivals),
            arrival(alone.flatten()),
            PollFd::from_borrowed_fd(second.gave_back(), PollFlags::IN),
            PollFd::from_borrowed_fd(writable, interest),
        ];
        let repeats = queue == 0 && core.has_unacknowledged();
        let timeout = if full.is_some() { Some(&FULL) } else { repeats.then_some(&REPEAT) };
        let any = socket::wait(&mut ready, timeout)? > 0;
        let [device, arrivals, alone, back, _] = ready.map(|fd| fd.revents());
        drop(sender);
        if full.is_some() && !any {
            outbound.give_up();
        }
        if repeats && repeated.elapsed().as_millis() >= 250 {
            repeated = Instant::now();
            core.retransmit();
        }
        if !back.is_empty() {
            inbound = Some(second.take()?);
        }
        let arrived = match &mut inbound {
            Some(inbound) if !(arrivals | alone).is_empty() => {
                inbound.turn(!arrivals.is_empty())?
            }
            _ => 0,
        };
        // What has arrived may have been answered already: look at once.
        if !device.is_empty() || arrived > 0 || full.is_some() {
            outbound.turn(core)?;
        }
        busy = if arrived > 0 && !device.is_empty() { busy + 1 } else { 0 };
        if busy >= BUSY
            && let Some(inbound) = inbound.take()
        {
            busy = 0;
            second.give(inbound)?;
        }
    }
    Ok(())
}
