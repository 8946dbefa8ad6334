//! The session of a native flow, as the flow drives it: control packets go in,
//! sealed frames go out by the flow's path, and a task keeps its clock. Not
//! here: what the session decides (`proto::native`).

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use event_listener::Event as Notify;
use futures_lite::future;

use super::shared::{CLOSED_BY_PEER, DOWN, Shared};
use crate::{
    crypto::SystemEntropy,
    driver,
    proto::native::{
        Capabilities, Channel, Content, Event, Opened, Opener, Session, SessionConfig,
    },
    sync::lock,
    transport::{SendBatch, Wanderer},
    wire::PeerAddress,
};

/// How often a flow with patience is looked at.
const WATCH: Duration = Duration::from_millis(250);
/// Frames from elsewhere that wait for the receiver; more are dropped.
const WANDERED: usize = 64;
/// How often a peer that was given up is told so.
const FAREWELL: Duration = Duration::from_millis(500);
/// And for how long at most.
const FAREWELLS: Duration = Duration::from_secs(120);
/// Room for the frames of one control message and more.
const BATCH: usize = 16 * 1024;

/// What a flow keeps for its session.
pub(super) struct Control {
    state: Mutex<State>,
    /// The task has something to do before its time.
    woken: Notify,
    /// Data may pass: what has to be agreed before it, is.
    ready: AtomicBool,
    became_ready: Notify,
    /// The far end takes them.
    partial_checksums: AtomicBool,
    /// This end does, and has said so.
    announced: AtomicBool,
    /// In milliseconds; 0: the flow's own timeout is all.
    patience: AtomicU64,
    /// Largest frame that is known to arrive, in bytes.
    largest: AtomicUsize,
    /// Packets have come from elsewhere than the peer's address.
    wandering: AtomicBool,
    /// There is something in `wandered`.
    wandered_any: AtomicBool,
    /// Data that came from elsewhere, sealed, for the receiver.
    wandered: Mutex<Vec<Vec<u8>>>,
}

struct State {
    session: Session,
    batch: SendBatch,
    /// For frames that come by another socket.
    opener: Opener,
    probing: bool,
}

impl Control {
    pub(super) fn new(channel: Channel, timeout: Duration, frame: usize, headroom: usize) -> Self {
        let first = channel.capabilities().has(Capabilities::HYBRID_FIRST);
        let config = SessionConfig { timeout, largest_frame: frame };
        let opener = channel.opener();
        let session = Session::new(driver::now(), &mut SystemEntropy, channel, config);
        let batch = SendBatch::new(headroom, BATCH);
        Self {
            state: Mutex::new(State { session, batch, opener, probing: false }),
            woken: Notify::new(),
            ready: AtomicBool::new(!first),
            became_ready: Notify::new(),
            partial_checksums: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            patience: AtomicU64::new(0),
            largest: AtomicUsize::new(usize::MAX),
            wandering: AtomicBool::new(false),
            wandered_any: AtomicBool::new(false),
            wandered: Mutex::default(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub(super) fn becomes_ready(&self) -> event_listener::EventListener {
        self.became_ready.listen()
    }

    pub(super) fn takes_partial_checksums(&self) -> bool {
        self.partial_checksums.load(Relaxed)
    }

    /// Whether this end awaits such packets.
    pub(super) fn awaits(&self, content: Content) -> bool {
        match content {
            Content::Packet => true,
            Content::PartialChecksum => self.announced.load(Relaxed),
            _ => false,
        }
    }

    /// Moves data that came from elsewhere to the end of `frames`.
    pub(super) fn take_wandered(&self, frames: &mut Vec<Vec<u8>>) {
        if self.wandered_any.load(Relaxed) {
            let mut wandered = lock(&self.wandered);
            self.wandered_any.store(false, Relaxed);
            frames.append(&mut wandered);
        }
    }

    /// Keeps data that came from elsewhere for the receiver, which has it with
    /// what comes next along the path.
    fn keep_wandered(&self, frame: Vec<u8>) {
        let mut wandered = lock(&self.wandered);
        if wandered.len() < WANDERED {
            wandered.push(frame);
            self.wandered_any.store(true, Relaxed);
        }
    }

    pub(super) fn set_patience(&self, patience: Duration) {
        let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.patience.store(milliseconds, Relaxed);
        self.wake();
    }

    /// Largest frame that is known to arrive, in bytes.
    pub(super) fn largest_frame(&self) -> usize {
        self.largest.load(Relaxed)
    }

    /// Has the task look at the session.
    pub(super) fn wake(&self) {
        self.woken.notify(usize::MAX);
    }
}

impl Shared {
    /// Gives the flow's session what the peer's says.
    pub(super) fn handle_control(&self, opened: &Opened, body: &[u8]) {
        self.with_session(|state| {
            state.session.handle(driver::now(), &mut SystemEntropy, opened, body);
        });
        self.attend();
    }

    /// Says that this end is a tunnel, which takes partial checksums.
    pub(super) fn announce_partial_checksums(&self) {
        let Some(control) = &self.control else { return };
        control.announced.store(true, Relaxed);
        self.with_session(|state| {
            state.session.announce(driver::now(), Capabilities::PARTIAL_CHECKSUMS);
        });
        self.attend();
    }

    /// Tells the peer that the flow ends.
    pub(super) fn say_goodbye(&self) {
        if let Some(control) = &self.control {
            let mut state = lock(&control.state);
            state.session.close(driver::now());
            self.transmit(&mut state);
        }
    }

    /// A frame for this flow came from elsewhere than its peer: the peer may
    /// have moved.
    pub(super) fn take_from_elsewhere(&self, from: PeerAddress, frame: &mut [u8]) {
        let Some(control) = &self.control else { return };
        self.with_session(|state| {
            let (size, sealed) = (frame.len(), frame.to_vec());
            let Ok(opened) = state.opener.open_from_elsewhere(frame) else { return };
            control.wandering.store(true, Relaxed);
            let (now, entropy) = (driver::now(), &mut SystemEntropy);
            state.session.heard_from(now, entropy, Some(from), size, opened.leads);
            if opened.content == Content::Control {
                state.session.handle(now, entropy, &opened, &frame[opened.body.clone()]);
            } else {
                control.keep_wandered(sealed);
            }
        });
        self.attend();
    }

    /// The newest packet so far came from the peer's own address.
    pub(super) fn heard_at_home(&self) {
        if self.control.as_ref().is_some_and(|control| control.wandering.swap(false, Relaxed)) {
            self.with_session(|state| {
                state.session.heard_from(driver::now(), &mut SystemEntropy, None, 0, true);
            });
        }
    }

    /// Has the flow's task look after its session.
    pub(super) fn attend(&self) {
        if let Some(control) = &self.control {
            control.wake();
        }
    }

    /// Does something with the session, then what follows from it.
    fn with_session(&self, work: impl FnOnce(&mut State)) {
        let Some(control) = &self.control else { return };
        let mut events = Vec::new();
        {
            let mut state = lock(&control.state);
            work(&mut state);
            events.extend(std::iter::from_fn(|| state.session.poll()));
            self.transmit(&mut state);
            for event in &events {
                match event {
                    Event::Responded { .. } | Event::Unresponsive => state.probing = false,
                    Event::Moved(address) => {
                        let Some(path) = self.path.mobility() else { continue };
                        if let Err(error) = path.follow(*address) {
                            tracing::warn!(%address, %error, "a peer moved, and cannot be followed");
                        } else {
                            tracing::info!(%address, "the peer has moved");
                        }
                    }
                    _ => {}
                }
            }
        }
        for event in events {
            self.tell(control, event);
        }
    }

    fn tell(&self, control: &Control, event: Event) {
        match event {
            Event::Rekeyed { epoch } => {
                self.counters.epoch.store(epoch, Relaxed);
                if !control.ready.swap(true, Relaxed) {
                    control.became_ready.notify(usize::MAX);
                }
            }
            Event::Announced(capabilities) => {
                let takes = capabilities.has(Capabilities::PARTIAL_CHECKSUMS);
                control.partial_checksums.store(takes, Relaxed);
            }
            Event::LargestFrame(size) => control.largest.store(size, Relaxed),
            Event::Closed => self.end(CLOSED_BY_PEER),
            Event::Down => self.end(DOWN),
            Event::Unresponsive => {
                self.part(control);
                self.end(DOWN);
            }
            _ => {}
        }
    }

    /// Gives up a peer that may only be out of reach: it is told as soon as
    /// something gets through, be it from another address, or it would take the
    /// flow for alive beside the one that comes after.
    fn part(&self, control: &Control) {
        let close = {
            let mut state = lock(&control.state);
            state.session.close(driver::now());
            state.session.poll_transmit()
        };
        let Some(close) = close else { return };
        let path = self.path.clone();
        // After that it has given the flow up itself.
        let patience = Duration::from_millis(self.info.qos.timeout.into()).min(FAREWELLS);
        let until = driver::monotonic() + patience;
        let farewell = async move {
            let size = path.headroom() + close.frame.len();
            let mut batch = SendBatch::new(path.headroom(), size);
            while driver::monotonic() < until {
                if let Some(path) = path.mobility() {
                    path.look_for_the_way();
                }
                batch.clear();
                if let Some(room) = batch.push(close.frame.len()) {
                    room.copy_from_slice(&close.frame);
                }
                let _ = path.send(&mut batch);
                driver::reaches(Some(driver::monotonic() + FAREWELL)).await;
            }
        };
        driver::spawn(farewell).detach();
    }

    /// Sends what the session has to send.
    fn transmit(&self, state: &mut State) {
        let State { session, batch, .. } = state;
        while let Some(transmit) = session.poll_transmit() {
            if let Some(to) = transmit.to {
                // Lost like any other: the session sends again.
                if let Some(path) = self.path.mobility() {
                    let _ = path.send_elsewhere(to, &transmit.frame);
                }
                continue;
            }
            if !batch.fits(transmit.frame.len()) {
                let _ = self.path.send(batch);
                batch.clear();
            }
            if let Some(room) = batch.push(transmit.frame.len()) {
                room.copy_from_slice(&transmit.frame);
            }
        }
        if !batch.is_empty() {
            let _ = self.path.send(batch);
            batch.clear();
            self.note_sent();
        }
    }
}

/// Keeps the session's clock until the flow ends.
pub(super) async fn attend(flow: Weak<Shared>) {
    loop {
        let (due, ended, woken) = {
            let Some(shared) = flow.upgrade() else { return };
            let Some(control) = &shared.control else { return };
            let (ended, woken) = (shared.ended(), control.woken.listen());
            if shared.check().is_err() {
                return;
            }
            let now = driver::now();
            let patience = Duration::from_millis(control.patience.load(Relaxed));
            let (sent, heard) = shared.traffic();
            let one_sided = sent > heard && now.monotonic > heard + WATCH;
            if let Some(path) = shared.path.mobility().filter(|_| one_sided) {
                path.look_for_the_way();
            }
            let mut due = None;
            shared.with_session(|state| {
                state.session.traffic(sent, heard);
                if control.is_ready() && shared.path.is_routed() {
                    state.session.search(now, shared.path.largest_frame());
                }
                state.session.handle_timeout(now, &mut SystemEntropy);
                // Patience begins with a network: until then each look is a
                // first question, which finds out whether there is one.
                let cut_off = shared.path.mobility().is_some_and(|path| path.is_cut_off());
                let unasked = !state.probing || cut_off;
                if !patience.is_zero() && one_sided && unasked {
                    state.session.probe(now, patience);
                    state.probing = true;
                }
                due = state.session.poll_timeout();
            });
            if !patience.is_zero() {
                due = Some(due.map_or(now.monotonic + WATCH, |due| due.min(now.monotonic + WATCH)));
            }
            (due, ended, woken)
        };
        future::or(driver::reaches(due), future::or(ended, woken)).await;
    }
}

/// What a path or a daemon calls with frames that came from elsewhere.
pub(super) fn wanderer(shared: &Arc<Shared>) -> Wanderer {
    let flow = Arc::downgrade(shared);
    Arc::new(move |from, frame: &mut [u8]| {
        if let Some(flow) = flow.upgrade() {
            flow.take_from_elsewhere(from, frame);
        }
    })
}
