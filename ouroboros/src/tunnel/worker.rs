//! The threads of a tunnel. One moves packets both ways while that suffices,
//! since a reply is often there before the thread would sleep; when both
//! directions are busy, the inbound one goes to a second thread, and comes back
//! when it is idle. No queue stands between the steps. Driven by [`Tunnel::run`](super::Tunnel::run).

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

use super::{
    TunnelError,
    inbound::Inbound,
    lane::Lane,
    outbound::{Outbound, Progress},
};
use crate::sys::socket;

/// Turns in a row with work both ways, after which a second thread helps.
const BUSY: u32 = 16;
/// Idleness, in nanoseconds, after which the second thread gives its work back.
const IDLE: i64 = 2_000_000;

/// Moves packets until the flow ends, and closes it.
pub(super) fn run(
    lane: &Arc<Lane>,
    outbound: Outbound,
    inbound: Inbound,
) -> Result<(), TunnelError> {
    let closer = outbound.sender().closer();
    let second = Second::start(lane)?;
    let result = turns(lane, outbound, inbound, &second);
    closer.close();
    second.end();
    result
}

fn turns(
    lane: &Lane,
    mut outbound: Outbound,
    inbound: Inbound,
    second: &Second,
) -> Result<(), TunnelError> {
    let mut inbound = Some(inbound);
    let (mut full, mut busy) = (false, 0);
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
            PollFd::new(&second.gave_back, PollFlags::IN),
        ];
        socket::wait(&mut ready, None)?;
        let [device, path, end, back] = ready.map(|fd| fd.revents());
        if !end.is_empty() {
            sender.check()?;
        }
        if !back.is_empty() {
            inbound = Some(second.take()?);
        }
        let arrived = match &mut inbound {
            Some(inbound) if path.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) => {
                inbound.turn(lane)?
            }
            _ => 0,
        };
        // What has arrived may have been answered already: look at once.
        let leaving = !device.is_empty() || path.contains(PollFlags::OUT) || arrived > 0;
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

/// The thread that takes over the inbound direction.
struct Second {
    work: SyncSender<Inbound>,
    back: Receiver<Result<Inbound, TunnelError>>,
    gave_back: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Second {
    fn start(lane: &Arc<Lane>) -> io::Result<Self> {
        let (work, to_do) = sync_channel::<Inbound>(1);
        let (done, back) = sync_channel(1);
        let gave_back = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (lane, signal) = (lane.clone(), gave_back.clone());
        let builder = thread::Builder::new().name("tunnel-in".to_owned());
        let thread = builder.spawn(move || {
            for mut inbound in to_do {
                let result = until_idle(&lane, &mut inbound).map(|()| inbound);
                if done.send(result).is_err() {
                    return;
                }
                // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
                let _ = rustix::io::write(&signal, &1u64.to_ne_bytes());
            }
        })?;
        Ok(Self { work, back, gave_back, thread })
    }

    /// Waits for the thread's end. The flow has ended, so that it does not hold
    /// on to work.
    fn end(self) {
        drop((self.work, self.back));
        let _ = self.thread.join();
    }

    fn give(&self, inbound: Inbound) -> io::Result<()> {
        self.work.send(inbound).map_err(|_| gone())
    }

    fn take(&self) -> Result<Inbound, TunnelError> {
        let _ = rustix::io::read(&*self.gave_back, &mut [0u8; 8]);
        self.back.recv().map_err(|_| TunnelError::from(gone()))?
    }
}

fn gone() -> io::Error {
    io::Error::other("a packet thread ended unexpectedly")
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
