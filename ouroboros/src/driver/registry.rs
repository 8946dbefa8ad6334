//! Everything that the background thread serves: one queue of timers and one epoll instance for
//! all. The thread drives it, turn by turn.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use rustix::{
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
};

use super::monotonic;
use crate::{log::Limited, sync::lock};

static CANNOT_WAIT: Limited = Limited::new();

/// Descriptors that are told ready in one turn, at most.
const EVENTS: usize = 256;
/// The registry's own eventfd: no slot has this token.
const WAKE: u64 = u64::MAX;

/// Why somebody is attended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The time has come that was asked for.
    Timer,
    /// The descriptor that was armed can be read, or has failed.
    Readable,
}

/// Something that the background thread serves. A call blocks for no longer than system calls
/// on non-blocking sockets take.
pub(crate) trait Attended: Send + Sync {
    /// Does what is due.
    fn attend(self: Arc<Self>, cause: Cause);
}

struct Slot {
    /// Tells a token of an earlier owner from one of the present owner.
    generation: u32,
    target: Option<Weak<dyn Attended>>,
    due: Option<Duration>,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    timers: BTreeSet<(Duration, u64)>,
}

impl State {
    fn slot(&mut self, token: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(token as u32 as usize)?;
        (slot.generation == (token >> 32) as u32).then_some(slot)
    }

    fn target(&mut self, token: u64) -> Option<Arc<dyn Attended>> {
        self.slot(token)?.target.as_ref()?.upgrade()
    }

    fn set(&mut self, token: u64, due: Option<Duration>) {
        let Some(slot) = self.slot(token) else { return };
        let before = std::mem::replace(&mut slot.due, due);
        if before != due {
            if let Some(before) = before {
                self.timers.remove(&(before, token));
            }
            if let Some(due) = due {
                self.timers.insert((due, token));
            }
        }
    }
}

pub(super) struct Registry {
    epoll: OwnedFd,
    wake: OwnedFd,
    /// There is something to do that no timer and no descriptor tells.
    notified: AtomicBool,
    /// The thread sleeps, or is about to.
    sleeps: AtomicBool,
    state: Mutex<State>,
}

impl Registry {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        // Each write is told once: it need not be read.
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        let (notified, sleeps) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { epoll, wake, notified, sleeps, state: Mutex::default() })
    }

    /// Has the thread begin another turn.
    pub(super) fn notify(&self) {
        self.notified.store(true, SeqCst);
        if self.sleeps.swap(false, SeqCst) {
            // An eventfd takes 2^64 - 2 writes of 1: this one cannot fail.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Begins a turn: later notifications are for the next one.
    pub(super) fn begin_turn(&self) {
        self.notified.store(false, SeqCst);
    }

    /// Attends to whom time and descriptors call; sleeps if that is nobody.
    pub(super) fn turn(&self) {
        let now = monotonic();
        let mut called = Vec::new();
        {
            let mut state = lock(&self.state);
            while let Some(&(due, token)) = state.timers.first().filter(|(due, _)| *due <= now) {
                state.timers.remove(&(due, token));
                if let Some(slot) = state.slot(token) {
                    slot.due = None;
                }
                called.extend(state.target(token).map(|target| (target, Cause::Timer)));
            }
        }
        for (target, cause) in called.drain(..) {
            target.attend(cause);
        }
        let events = self.wait();
        {
            let mut state = lock(&self.state);
            for event in events {
                let token = event.data.u64();
                if token != WAKE {
                    called.extend(state.target(token).map(|target| (target, Cause::Readable)));
                }
            }
        }
        for (target, cause) in called {
            target.attend(cause);
        }
    }

    /// Sleeps until a descriptor is ready, a timer is due or somebody notifies.
    fn wait(&self) -> Vec<Event> {
        self.sleeps.store(true, SeqCst);
        let due = lock(&self.state).timers.first().map(|(due, _)| *due);
        let timeout = if self.notified.load(SeqCst) {
            Some(Duration::ZERO)
        } else {
            due.map(|due| due.saturating_sub(monotonic()))
        };
        // In whole milliseconds, rounded up: a timer is never early.
        let timeout = timeout.map(|timeout| {
            let milliseconds = i64::try_from(timeout.as_nanos().div_ceil(1_000_000));
            let milliseconds = milliseconds.unwrap_or(i64::MAX).min(i32::MAX.into());
            Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 }
        });
        let mut events = Vec::with_capacity(EVENTS);
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                if let Some(times) = CANNOT_WAIT.report() {
                    tracing::error!(%error, times, "the background thread cannot wait");
                }
            }
        }
        self.sleeps.store(false, SeqCst);
        events
    }
}

/// A place in the queue of timers and at the poller. Given up when dropped; an
/// armed descriptor has to be [`disarm`](Self::disarm)ed before it is closed if
/// another descriptor of the same socket lives on.
#[derive(Debug)]
pub(crate) struct Registration {
    token: u64,
    /// The descriptor is known to epoll.
    added: AtomicBool,
}

impl Registration {
    /// A place for `target`, with nothing due yet.
    pub(crate) fn new(target: Weak<dyn Attended>) -> Self {
        let mut state = lock(&super::registry().state);
        let index = match state.free.pop() {
            Some(index) => index,
            None => {
                state.slots.push(Slot { generation: 0, target: None, due: None });
                (state.slots.len() - 1) as u32
            }
        };
        let slot = &mut state.slots[index as usize];
        slot.target = Some(target);
        let token = u64::from(slot.generation) << 32 | u64::from(index);
        Self { token, added: AtomicBool::new(false) }
    }

    /// Sets the timer: monotonic time; `None`: never.
    pub(crate) fn schedule(&self, due: Option<Duration>) {
        self.change(|before| (before != due).then_some(due));
    }

    /// Sets the timer if it would be later.
    pub(crate) fn schedule_by(&self, due: Duration) {
        self.change(|before| before.is_none_or(|before| before > due).then_some(Some(due)));
    }

    fn change(&self, change: impl FnOnce(Option<Duration>) -> Option<Option<Duration>>) {
        let registry = super::registry();
        let earlier = {
            let mut state = lock(&registry.state);
            let first = state.timers.first().map(|(due, _)| *due);
            let Some(before) = state.slot(self.token).map(|slot| slot.due) else { return };
            let Some(due) = change(before) else { return };
            state.set(self.token, due);
            due.is_some_and(|due| first.is_none_or(|first| due < first))
        };
        // A thread that does not sleep looks at the timers before it does.
        if earlier && registry.sleeps.load(SeqCst) {
            registry.notify();
        }
    }

    /// Has [`Attended::attend`] called, once, when `descriptor` can be read. To
    /// be called with the same descriptor each time.
    ///
    /// # Errors
    ///
    /// It cannot be watched.
    pub(crate) fn arm(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let (epoll, data) = (&super::registry().epoll, EventData::new_u64(self.token));
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        // Two threads may do this at once: what the other one has armed can have
        // fired by now.
        if !self.added.swap(true, SeqCst) {
            match epoll::add(epoll, descriptor, data, flags) {
                Err(Errno::EXIST) => {}
                result => {
                    self.added.store(result.is_ok(), SeqCst);
                    return Ok(result?);
                }
            }
        }
        match epoll::modify(epoll, descriptor, data, flags) {
            // The other one is about to.
            Err(Errno::NOENT) => Ok(epoll::add(epoll, descriptor, data, flags)?),
            result => Ok(result?),
        }
    }

    /// Has the descriptor told nobody until it is [armed](Self::arm) again: epoll wakes the
    /// thread inside of the kernel for each packet that somebody else reads first.
    pub(crate) fn quiet(&self, descriptor: BorrowedFd<'_>) {
        if self.added.load(SeqCst) {
            let (epoll, data) = (&super::registry().epoll, EventData::new_u64(self.token));
            let _ = epoll::modify(epoll, descriptor, data, EventFlags::ONESHOT);
        }
    }

    /// Lets go of the descriptor.
    pub(crate) fn disarm(&self, descriptor: BorrowedFd<'_>) {
        if self.added.swap(false, SeqCst) {
            let _ = epoll::delete(&super::registry().epoll, descriptor);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = lock(&super::registry().state);
        state.set(self.token, None);
        if let Some(slot) = state.slot(self.token) {
            slot.target = None;
            slot.generation = slot.generation.wrapping_add(1);
            state.free.push(self.token as u32);
        }
    }
}
