//! The threads of a tunnel. One moves packets both ways while that suffices,
//! since a reply is often there before the thread would sleep; when both
//! directions are busy, the inbound one goes to a second thread, and comes back
//! when it is idle. No queue stands between the steps. Driven by [`Tunnel::run`](super::Tunnel::run).

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{
    TunnelError,
    inbound::Inbound,
    lane::Lane,
    outbound::{Outbound, Progress},
    second::Second,
};
use crate::sys::socket;

/// How often to see whether a hub has to be asked again.
const REPEAT: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Turns in a row with work both ways, after which a second thread helps.
pub(super) const BUSY: u32 = 16;
/// Idleness, in nanoseconds, after which the second thread gives its work back.
pub(super) const IDLE: i64 = 2_000_000;

/// Moves packets until the flow ends, and closes it.
pub(super) fn run(
    lane: &Arc<Lane>,
    outbound: Outbound,
    inbound: Inbound,
) -> Result<(), TunnelError> {
    let closer = outbound.sender().closer();
    let shared = lane.clone();
    let second = Second::start(move |inbound| until_idle(&shared, inbound))?;
    let result = turns(lane, outbound, inbound, &second);
    closer.close();
    second.end();
    result
}

fn turns(
    lane: &Lane,
    mut outbound: Outbound,
    inbound: Inbound,
    second: &Second<Inbound>,
) -> Result<(), TunnelError> {
    let mut inbound = Some(inbound);
    let (mut full, mut busy) = (false, 0);
    if lane.exchange.is_due() {
        full = outbound.turn(lane)? == Progress::Full;
    }
    loop {
        let device = if full { PollFlags::empty() } else { PollFlags::IN };
        let mut path = PollFlags::empty();
        path.set(PollFlags::IN, inbound.is_some());
        path.set(PollFlags::OUT, full);
        let sender = outbound.sender();
        let mut ready = [
            PollFd::new(lane.queue(), device),
            PollFd::from_borrowed_fd(sender.readiness(), path),
            PollFd::from_borrowed_fd(sender.end(), PollFlags::IN),
            PollFd::from_borrowed_fd(second.gave_back(), PollFlags::IN),
        ];
        let asks = lane.queue == 0 && lane.exchange.is_due();
        let timeout = asks.then_some(&REPEAT);
        socket::wait(&mut ready, timeout)?;
        let [device, path, end, back] = ready.map(|fd| fd.revents());
        if !end.is_empty() {
            sender.check()?;
        }
        if !back.is_empty() {
            inbound = Some(second.take()?);
        }
        let arrived = match &mut inbound {
            // What the background thread has read, `end` tells of.
            Some(inbound)
                if path.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP)
                    || !end.is_empty() =>
            {
                inbound.turn(lane)?
            }
            _ => 0,
        };
        // What has arrived may have been answered already: look at once.
        let leaving = !device.is_empty() || path.contains(PollFlags::OUT) || arrived > 0 || asks;
        if leaving {
            full = outbound.turn(lane)? == Progress::Full;
        }
        busy = if arrived > 0 && !device.is_empty() { busy + 1 } else { 0 };
        if busy >= BUSY
            && let Some(inbound) = inbound.take()
        {
            busy = 0;
            second.give(inbound)?;
        }
    }
}

fn until_idle(lane: &Lane, inbound: &mut Inbound) -> Result<(), TunnelError> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: IDLE };
    loop {
        let receiver = inbound.receiver();
        let mut ready = [
            PollFd::from_borrowed_fd(receiver.readiness(), PollFlags::IN),
            PollFd::from_borrowed_fd(receiver.end(), PollFlags::IN),
        ];
        if socket::wait(&mut ready, Some(&timeout))? == 0 {
            return Ok(());
        }
        inbound.turn(lane)?;
    }
}
