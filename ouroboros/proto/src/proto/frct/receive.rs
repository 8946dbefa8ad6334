//! The receiving side: the peer's run, what came of it, and what is to be said of
//! that.

use std::{collections::VecDeque, time::Duration};

use super::{RETRANSMISSION_LIMIT, Statistics};
use crate::wire::frct::{Flags, Header};

/// So many packets after the oldest unread one are taken.
pub(super) const WINDOW: usize = 256;
/// An acknowledgement waits for so many packets, or so long, for data to go with.
const ACKNOWLEDGED_TOGETHER: u32 = 2;
const ACKNOWLEDGEMENT_DELAY: Duration = Duration::from_millis(5);
/// On an ordered flow the window is said each so many packets: a 0.23 sender stops
/// for good after the first 64 without.
const ANNOUNCED_EACH: u32 = 32;
/// And so often more once no data comes, for that it may have been lost.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_REPEATS: u32 = 3;
/// On a reliable flow the last window of a burst is said once more after this time: a
/// 0.23 sender takes one that was overtaken as it is, and may then wait and never ask.
const OVERTAKEN: Duration = Duration::from_millis(250);
/// A window that was closed is open when so many packets are unread, and this is
/// repeated after this time and its doubles until data comes: the peer may wait and
/// never ask.
const OPEN: usize = WINDOW / 2;
const OPENED: Duration = Duration::from_millis(50);
const LONGEST_REPEAT: Duration = Duration::from_secs(5);
const OPENED_REPEATS: u32 = 30;
/// A gap that stays for so long, while what comes instead of the missing packet
/// cannot be opened, will not close.
const GARBLED_GAP: Duration = Duration::from_secs(10);
/// How long one stays whose sender must have given up.
const ANY_GAP: Duration = Duration::from_secs(125);
/// A frame that cannot be opened may be corrupted; so many are repetitions.
const GARBLED_FRAMES: u32 = 2;
/// Packets that are kept while the first of the run is missing: a 0.23 sender sends no
/// more before it has heard of a window.
const EARLY: usize = 64;
/// A number so far from the next one is no late packet's.
const FAR: u32 = 1 << 22;
/// A closed flow acknowledges what is repeated until nothing came for so long: a 0.23
/// peer's own end waits for 120 s for an acknowledgement that was lost.
const CLOSED_QUIET: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Receiver {
    reliable: bool,
    /// Without data for so long, the peer may begin a run with another number.
    inactivity: Duration,
    run: Option<Run>,
    /// Came before the run's first packet, with their numbers.
    early: Vec<(u32, Vec<u8>)>,
    gap: Option<Gap>,
    /// In order, for the application.
    ready: VecDeque<Vec<u8>>,
    /// An acknowledgement, or a window, is to be said at this time.
    due: Option<Duration>,
    /// It is said again so often, after so long.
    repeat: Option<(Duration, u32)>,
    /// The peer asks for the window.
    asked: bool,
    /// The last window that was said let nothing in.
    said_closed: bool,
}

/// A run of the peer's numbers.
#[derive(Debug)]
struct Run {
    /// The next number in order.
    next: u32,
    /// Packets that came before their turn, the first for `next`.
    ahead: VecDeque<Option<Vec<u8>>>,
    last_data: Duration,
    /// Packets since the last acknowledgement.
    unacknowledged: u32,
    /// The value of `next` when the window was last announced.
    announced: u32,
}

/// A packet is missing while later ones are there.
#[derive(Debug)]
struct Gap {
    since: Duration,
    last_arrival: Duration,
    /// Frames that could not be opened since.
    garbled: u32,
}

impl Receiver {
    pub(super) fn new(reliable: bool, inactivity: Duration) -> Self {
        Self {
            reliable,
            inactivity,
            run: None,
            early: Vec::new(),
            gap: None,
            ready: VecDeque::new(),
            due: None,
            repeat: None,
            asked: false,
            said_closed: false,
        }
    }

    pub(super) fn handle(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
        statistics: &mut Statistics,
    ) {
        let Header { flags, sequence, .. } = header;
        let data = flags.contains(Flags::DATA);
        if flags.contains(Flags::DRF) {
            // By data only if there is a run already: the peer that wrote a bare
            // packet never chooses another number.
            let begins =
                self.run.as_ref().is_none_or(|run| data && self.is_over(run, now, sequence));
            if begins {
                self.begin(now, sequence, statistics);
            }
        }
        self.asked |= flags.contains(Flags::RDVS) && self.run.is_some();
        if !data {
            return;
        }
        let Some(run) = &mut self.run else {
            return self.keep_early(now, sequence, payload, statistics);
        };
        run.last_data = now;
        self.repeat = self.reliable.then_some((OVERTAKEN, 1));
        let ahead = sequence.wrapping_sub(run.next);
        if (ahead as i32) < 0 {
            statistics.duplicates += 1;
            // Its acknowledgement was lost.
            self.due = self.reliable.then_some(now).or(self.due);
        } else if self.reliable {
            self.take_reliable(now, ahead as usize, payload, statistics);
        } else {
            run.next = sequence.wrapping_add(1);
            if self.ready.len() < WINDOW {
                hand_over(&mut self.ready, payload.to_vec());
            } else {
                statistics.unread += 1;
            }
            let at_once = run.next.wrapping_sub(run.announced) >= ANNOUNCED_EACH;
            self.due = Some(if at_once { now } else { now + QUIET });
            self.repeat = Some((4 * QUIET, QUIET_REPEATS));
        }
    }

    /// Returns `true` if the peer, which has forgotten its run, begins another with
    /// this number. It does so by the time of its last new packet; what came last here
    /// may have been repeated for long before.
    fn is_over(&self, run: &Run, now: Duration, sequence: u32) -> bool {
        let silence = now.saturating_sub(run.last_data);
        let distance = (sequence.wrapping_sub(run.next) as i32).unsigned_abs();
        let is_far = distance > FAR && silence + RETRANSMISSION_LIMIT >= self.inactivity;
        distance != 0 && (is_far || silence >= self.inactivity)
    }

    fn begin(&mut self, now: Duration, sequence: u32, statistics: &mut Statistics) {
        self.run = Some(Run::begin(sequence, now));
        self.gap = None;
        for (number, payload) in std::mem::take(&mut self.early) {
            self.take_reliable(now, number.wrapping_sub(sequence) as usize, &payload, statistics);
        }
    }

    /// Keeps a packet that has overtaken the first of its run: on an encrypted flow a
    /// 0.23 peer could not repeat it.
    fn keep_early(
        &mut self,
        now: Duration,
        sequence: u32,
        payload: &[u8],
        statistics: &mut Statistics,
    ) {
        let known = self.early.iter().any(|(number, _)| *number == sequence);
        if !self.reliable || known || self.early.len() == EARLY {
            statistics.misplaced += 1;
            return;
        }
        self.early.push((sequence, payload.to_vec()));
        let new = Gap { since: now, last_arrival: now, garbled: 0 };
        self.gap.get_or_insert(new).last_arrival = now;
    }

    fn take_reliable(
        &mut self,
        now: Duration,
        ahead: usize,
        payload: &[u8],
        statistics: &mut Statistics,
    ) {
        let Some(run) = &mut self.run else { return };
        if ahead >= WINDOW.saturating_sub(self.ready.len()) {
            statistics.misplaced += 1;
            self.due = Some(now);
            return;
        }
        if run.ahead.len() <= ahead {
            run.ahead.resize_with(ahead + 1, || None);
        }
        let slot = &mut run.ahead[ahead];
        if slot.is_some() {
            statistics.duplicates += 1;
            self.due = Some(now);
            return;
        }
        *slot = Some(payload.to_vec());
        let mut moved = false;
        while let Some(Some(_)) = run.ahead.front() {
            if let Some(packet) = run.ahead.pop_front().flatten() {
                hand_over(&mut self.ready, packet);
            }
            run.next = run.next.wrapping_add(1);
            moved = true;
        }
        run.unacknowledged += 1;
        let in_order = run.ahead.is_empty() && self.gap.is_none();
        if in_order && run.unacknowledged < ACKNOWLEDGED_TOGETHER {
            let due = now + ACKNOWLEDGEMENT_DELAY;
            self.due = Some(self.due.map_or(due, |at| at.min(due)));
        } else {
            self.due = Some(now);
        }
        self.gap = match self.gap.take() {
            _ if run.ahead.is_empty() => None,
            Some(gap) if !moved => Some(Gap { last_arrival: now, ..gap }),
            _ => Some(Gap { since: now, last_arrival: now, garbled: 0 }),
        };
    }

    /// Handles a packet when nobody reads any more: what comes again is acknowledged again.
    pub(super) fn handle_closing(&mut self, now: Duration, header: Header) {
        let Header { flags, sequence, .. } = header;
        let Some(run) = &mut self.run else { return };
        self.asked |= flags.contains(Flags::RDVS);
        let old = (sequence.wrapping_sub(run.next) as i32) < 0;
        if self.reliable && flags.contains(Flags::DATA) && old {
            run.last_data = now;
            self.due = Some(now);
        }
    }

    /// A frame came that cannot be opened. Behind a gap it counts as one that came: a
    /// peer whose window is full only repeats.
    pub(super) fn note_garbled(&mut self, now: Duration) {
        if let Some(gap) = &mut self.gap {
            gap.garbled = gap.garbled.saturating_add(1);
            gap.last_arrival = now;
        }
    }

    /// Returns `true` if a packet is missing for good. A blackout alone is none: it
    /// takes something to have come since.
    pub(super) fn is_irrecoverable(&self, now: Duration) -> bool {
        self.gap.as_ref().is_some_and(|gap| {
            let patience = if gap.garbled < GARBLED_FRAMES { ANY_GAP } else { GARBLED_GAP };
            now >= gap.since + patience && gap.last_arrival >= gap.since + patience / 2
        })
    }

    pub(super) fn has_packets(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn read(&mut self, now: Duration) -> Option<Vec<u8>> {
        let packet = self.ready.pop_front()?;
        if self.said_closed && self.ready.len() <= OPEN {
            self.said_closed = false;
            self.due = Some(now);
            self.repeat = Some((OPENED, OPENED_REPEATS));
        }
        Some(packet)
    }

    /// Nobody reads any more.
    pub(super) fn close(&mut self) {
        self.ready.clear();
        self.early.clear();
        self.repeat = None;
        let pending = self.run.as_ref().is_some_and(|run| run.unacknowledged > 0);
        self.due = (self.reliable && pending).then_some(Duration::ZERO);
    }

    /// Until when a flow that was closed listens for what is repeated; `None`: nothing
    /// is.
    pub(super) fn listens_until(&self) -> Option<Duration> {
        let run = self.run.as_ref().filter(|_| self.reliable)?;
        Some(run.last_data + CLOSED_QUIET)
    }

    /// Returns `true` if the peer asks for the window; once.
    pub(super) fn take_rendezvous(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }

    pub(super) fn acknowledgement_due(&self, now: Duration) -> bool {
        self.run.is_some() && self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        self.due
    }

    /// Returns the flags with which a bare packet tells of the peer's run.
    pub(super) fn bare_flags(&self) -> Flags {
        if self.reliable { Flags::ACK | Flags::FC } else { Flags::FC }
    }

    /// Returns what a packet that leaves now tells of the peer's run: flags, window and
    /// acknowledgement. Nothing before there is a run: a 0.23 sender would take the zeros for
    /// its window.
    pub(super) fn announce(&mut self, now: Duration) -> (Flags, u32, u32) {
        let Some(run) = &mut self.run else { return (Flags::NONE, 0, 0) };
        run.unacknowledged = 0;
        run.announced = run.next;
        let room = if self.reliable { WINDOW - self.ready.len() } else { WINDOW };
        self.said_closed |= room == 0;
        self.due = match &mut self.repeat {
            Some((after, times)) if *times > 0 => {
                let due = now + *after;
                *times -= 1;
                *after = (2 * *after).min(LONGEST_REPEAT);
                Some(due)
            }
            _ => None,
        };
        let edge = run.next.wrapping_add(room as u32);
        let acknowledgement = if self.reliable { run.next } else { 0 };
        (self.bare_flags(), edge & 0x00ff_ffff, acknowledgement)
    }
}

impl Run {
    fn begin(sequence: u32, now: Duration) -> Self {
        Self {
            next: sequence,
            ahead: VecDeque::new(),
            last_data: now,
            unacknowledged: 0,
            announced: sequence,
        }
    }
}

/// An empty packet has its number and says nothing.
fn hand_over(ready: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
    if !packet.is_empty() {
        ready.push_back(packet);
    }
}
