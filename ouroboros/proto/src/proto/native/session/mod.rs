//! The session of a native flow: when keys change, whether the peer is there,
//! where it is. A state machine without I/O; `flow` drives it.
//!
//! `handle` takes the control packets that an opener gives, `poll_transmit`
//! gives sealed frames, `poll` tells events, `poll_timeout` and
//! `handle_timeout` are its clock. What it keeps is bounded, whatever the peer
//! does. Not here: data, which passes it by; it is told of it by `traffic`.

mod announcement;
mod count;
mod event;
mod liveness;
mod repeat;

use std::{collections::VecDeque, time::Duration};

pub use self::event::{Event, SessionConfig, Transmit};
use self::{
    announcement::Announcement,
    count::Delivery,
    liveness::Probe,
    repeat::{RETRY, Repeat},
};
use super::{
    Capabilities, Channel, Content, HEAD, Opened, Opener, Role, Sealer, TAIL,
    control::{Message, Part},
    mtu::{self, Search},
    path::Paths,
    rekey::{Progress, Rekey},
};
use crate::{crypto::Entropy, proto::Now, wire::PeerAddress};

/// The next key is due after this, plus up to as much as `JITTER`.
const KEY_LIFE: Duration = Duration::from_secs(100);
const JITTER: Duration = Duration::from_secs(20);
/// No data is sealed with a key that is older.
const KEY_END: Duration = Duration::from_secs(180);
/// No epoch after the first is shorter, so that no more than 16 overlap.
const SHORTEST_EPOCH: Duration = Duration::from_millis(250);
/// How long packets of the epoch before are opened after both ends have left
/// it.
const RETENTION: Duration = Duration::from_secs(3);
/// An answer is not repeated faster than this.
const ANSWER_INTERVAL: Duration = Duration::from_millis(100);
/// The path is probed for the first time after this: the shortest flows are over by then.
const FIRST_PROBE: Duration = Duration::from_millis(100);
/// Control frames that wait to be sent; more are dropped, as by the network.
const QUEUE: usize = 64;

/// The session of one native flow.
pub struct Session {
    channel: Channel,
    sealer: Sealer,
    config: SessionConfig,
    rekey: Rekey,
    /// When the present epoch began here.
    began: Duration,
    /// When the next one is due.
    due: Duration,
    /// Data is held back because the key is too old, or will be from `key_end` on.
    overdue: bool,
    key_end: Duration,
    /// When the exchange is repeated.
    retry: Option<Repeat>,
    answered: Duration,
    /// Epochs before these are forgotten at these times.
    retiring: VecDeque<(Duration, u64)>,
    sent: Duration,
    heard: Duration,
    confirmed: bool,
    probe: Option<Probe>,
    /// When the latest ping left, until it is answered.
    pinged: Option<Duration>,
    round_trip: Option<Duration>,
    announcement: Option<Announcement>,
    search: Option<Search>,
    told_largest: Option<usize>,
    paths: Paths,
    delivery: Delivery,
    queue: VecDeque<(Option<PeerAddress>, Vec<u8>)>,
    events: VecDeque<Event>,
    ended: bool,
}

impl Session {
    /// The session of the flow that `channel` is of, which begins now. The
    /// client says that it is there.
    pub fn new(
        now: Now,
        entropy: &mut dyn Entropy,
        mut channel: Channel,
        config: SessionConfig,
    ) -> Self {
        let now = now.monotonic;
        let mut session = Self {
            sealer: channel.sealer(),
            rekey: Rekey::new(&mut channel),
            channel,
            config,
            began: now,
            due: now,
            overdue: false,
            key_end: now,
            retry: None,
            answered: Duration::ZERO,
            retiring: VecDeque::new(),
            sent: now,
            heard: now,
            confirmed: false,
            probe: None,
            pinged: None,
            round_trip: None,
            announcement: None,
            search: None,
            told_largest: None,
            paths: Paths::default(),
            delivery: Delivery::default(),
            queue: VecDeque::new(),
            events: VecDeque::new(),
            ended: false,
        };
        session.begin_epoch(now, entropy);
        if session.channel.keys.role() == Role::Client {
            if session.exchanges_first() {
                session.begin_exchange(now, entropy);
            } else {
                session.probe_at(now, KEY_LIFE, false);
            }
        }
        session
    }

    /// Returns `true` if data has to wait for the first exchange.
    fn exchanges_first(&self) -> bool {
        self.channel.epoch.number == 0
            && self.channel.keys.capabilities().contains(Capabilities::HYBRID_FIRST)
    }

    /// Takes a control packet: what was opened, and its body.
    pub fn handle(&mut self, now: Now, entropy: &mut dyn Entropy, opened: &Opened, body: &[u8]) {
        let now = now.monotonic;
        if self.ended {
            return;
        }
        self.heard_at(now);
        let progress = self.rekey.heard(&mut self.channel, opened.epoch);
        self.progress(now, entropy, progress);
        match Message::parse(body) {
            Some(Message::Ping(token)) => self.send(now, &Message::Pong(token)),
            Some(Message::Pong(token)) => self.ponged(now, token),
            Some(Message::Close) => self.end(Event::Closed),
            Some(Message::Challenge(token)) => self.send(now, &Message::Response(token)),
            Some(Message::Response(token)) => {
                if let Some(address) = self.paths.answered(token) {
                    self.events.push_back(Event::Moved(address));
                }
            }
            Some(Message::Offer(part)) => self.offered(now, entropy, opened.epoch, part),
            Some(Message::Answer(part)) => {
                let progress = self.rekey.answered(&mut self.channel, part);
                self.progress(now, entropy, progress);
            }
            Some(Message::Confirm(epoch)) if epoch == self.channel.epoch.number as u32 => {
                self.send(now, &Message::Confirmed(epoch));
            }
            Some(Message::Announce(flags)) => {
                self.send(now, &Message::Announced(flags));
                self.events.push_back(Event::Announced(Capabilities::from_bits(flags)));
            }
            Some(Message::Announced(flags)) => {
                self.announcement.take_if(|announcement| announcement.says(flags));
            }
            Some(Message::Count) => self.count(now),
            Some(Message::Counted { newest, packets }) => self.counted(newest, packets),
            Some(Message::Probe(size)) => self.send(now, &Message::Probed(size)),
            Some(Message::Probed(size)) => {
                if let Some(search) = &mut self.search {
                    search.arrived(now, usize::from(size) + HEAD + TAIL);
                }
                self.tell_largest();
            }
            // That it was heard in its epoch is what a confirmation says.
            Some(Message::Confirm(_) | Message::Confirmed(_)) | None => {}
        }
    }

    /// Looks for the largest frame that the path carries, which itself says
    /// that it is `ceiling` bytes; [`Event::LargestFrame`] tells what is found.
    /// To be called again when the path says something else.
    pub fn search(&mut self, now: Now, ceiling: usize) {
        match &mut self.search {
            Some(search) => search.path_says(now.monotonic, ceiling),
            None => self.search = Some(Search::new(now.monotonic + FIRST_PROBE, ceiling)),
        }
        self.tell_largest();
    }

    fn tell_largest(&mut self) {
        let largest = self.search.as_ref().map(Search::largest);
        if let Some(largest) = largest
            && self.told_largest != Some(largest)
        {
            self.told_largest = Some(largest);
            self.events.push_back(Event::LargestFrame(largest));
        }
    }

    fn search_further(&mut self, now: Duration) {
        let Some(search) = &mut self.search else { return };
        if let Some(size) = search.handle_timeout(now) {
            let body = size.saturating_sub(HEAD + TAIL);
            self.send(now, &Message::Probe(u16::try_from(body).unwrap_or(u16::MAX)));
        }
        self.tell_largest();
    }

    fn offered(&mut self, now: Duration, entropy: &mut dyn Entropy, epoch: u64, part: Part<'_>) {
        if epoch != self.channel.epoch.number {
            return;
        }
        let ready = epoch == 0 || now >= self.began + SHORTEST_EPOCH;
        match self.rekey.offered(&mut self.channel, entropy, part, ready) {
            Progress::Answered => {
                // Unasked, too: the peer may be asking where this end is not
                // any more.
                self.retry = Some(Repeat::new(now, RETRY));
                self.answer(now);
            }
            Progress::Repeated if now >= self.answered + ANSWER_INTERVAL => self.answer(now),
            _ => {}
        }
    }

    fn answer(&mut self, now: Duration) {
        self.answered = now;
        self.exchange(now);
    }

    fn progress(&mut self, now: Duration, entropy: &mut dyn Entropy, progress: Progress) {
        match progress {
            Progress::Sealing => {
                self.begin_epoch(now, entropy);
                self.retry = Some(Repeat::new(now, RETRY));
                self.exchange(now);
            }
            Progress::Settled => self.settled(now),
            Progress::SealingSettled => {
                self.begin_epoch(now, entropy);
                self.settled(now);
            }
            Progress::None | Progress::Repeated | Progress::Answered => {}
        }
    }

    /// This end seals in another epoch.
    fn begin_epoch(&mut self, now: Duration, entropy: &mut dyn Entropy) {
        let mut random = [0; 4];
        entropy.fill(&mut random);
        let part = f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX);
        self.began = now;
        self.due = now + KEY_LIFE + JITTER.mul_f64(part);
        (self.overdue, self.key_end) = (false, now + KEY_END);
        if self.channel.epoch.number > 0 {
            self.channel.sending.allow_data(true);
            let epoch = self.channel.epoch.number;
            self.events.push_back(Event::Rekeyed { epoch });
        }
    }

    fn settled(&mut self, now: Duration) {
        self.retry = None;
        let epoch = self.channel.epoch.number;
        if epoch == 1 && self.channel.keys.capabilities().contains(Capabilities::HYBRID_FIRST) {
            // Epoch 0 had no data, and what may still come of the exchange is of no use.
            return self.channel.receiving.retire(epoch);
        }
        self.retiring.push_back((now + RETENTION, epoch));
    }

    fn begin_exchange(&mut self, now: Duration, entropy: &mut dyn Entropy) {
        self.rekey.begin(entropy);
        self.retry = Some(Repeat::new(now, RETRY));
        self.exchange(now);
    }

    /// Sends the messages of the exchange as it stands.
    fn exchange(&mut self, now: Duration) {
        // Not more than every path carries: an exchange must not hang on that.
        let largest = self.config.largest_frame.min(mtu::BASE_PLPMTU);
        let size = largest.saturating_sub(HEAD + TAIL + Part::OVERHEAD);
        for message in self.rekey.messages(&self.channel, size) {
            self.queue(now, None, message);
        }
    }

    /// Where the peer is: nothing but a challenge goes anywhere else.
    fn send(&mut self, now: Duration, message: &Message<'_>) {
        self.queue(now, None, message.encode());
    }

    fn queue(&mut self, now: Duration, to: Option<PeerAddress>, body: Vec<u8>) {
        if self.queue.len() < QUEUE {
            self.queue.push_back((to, body));
            self.sent = now;
        }
    }

    /// Data passed: when the latest left and when the latest was opened.
    pub fn traffic(&mut self, sent: Duration, heard: Duration) {
        self.sent = self.sent.max(sent);
        if heard > self.heard {
            self.heard_at(heard);
        }
    }

    fn heard_at(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
        if !self.confirmed {
            self.confirmed = true;
            self.events.push_back(Event::Confirmed);
        }
    }

    /// An authentic packet came, in a frame of `size` bytes; `leads`: none with
    /// a higher number came before. `from`: where it came from, if that is not
    /// the peer's address. To be told of every packet from elsewhere, and while
    /// there are such, of the others.
    ///
    /// A server follows its client; a client finds its server by name. Were
    /// both to follow, who can relay a challenge could part them for good.
    pub fn heard_from(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        from: Option<PeerAddress>,
        size: usize,
        leads: bool,
    ) {
        match from {
            _ if self.ended || !leads || self.channel.keys.role() == Role::Client => {}
            Some(address) => {
                self.paths.heard_from(now.monotonic, entropy, address, size);
                self.challenge(now.monotonic);
            }
            None => self.paths.heard_on_path(),
        }
    }

    fn challenge(&mut self, now: Duration) {
        let size = HEAD + Message::Challenge([0; 16]).encode().len() + TAIL;
        if let Some((address, token)) = self.paths.handle_timeout(now, size) {
            self.queue(now, Some(address), Message::Challenge(token).encode());
        }
    }

    /// Ends the flow and tells the peer, once.
    pub fn close(&mut self, now: Now) {
        if !self.ended {
            self.queue.clear();
            self.send(now.monotonic, &Message::Close);
            self.ended = true;
        }
    }

    /// A sealed message that the flow has ended, for a peer that was given up;
    /// `None`: the keys can do no more.
    pub(in crate::proto) fn farewell(&mut self) -> Option<Vec<u8>> {
        self.ended = true;
        self.queue.clear();
        let body = Message::Close.encode();
        self.seal(&body)
    }

    fn end(&mut self, event: Event) {
        if !self.ended {
            self.ended = true;
            self.queue.clear();
            self.events.push_back(event);
        }
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let (to, body) = self.queue.pop_front()?;
        let Some(frame) = self.seal(&body) else {
            self.end(Event::Down);
            return None;
        };
        Some(Transmit { to, frame })
    }

    fn seal(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut frame = vec![0; HEAD + body.len() + TAIL];
        frame[HEAD..HEAD + body.len()].copy_from_slice(body);
        self.sealer.reserve(1, false).ok()?.seal(&mut frame, Content::Control);
        Some(frame)
    }

    /// The next thing that happened.
    pub fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due, in monotonic time; `None`: never again. It
    /// is due at once when a sealer or an opener wants attention.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.ended {
            return None;
        }
        let mut due = vec![self.key_end];
        if self.rekey.is_settled() && self.begins() {
            due.push(if self.keys_due() { self.earliest() } else { self.due });
        }
        due.extend(self.retry.as_ref().map(Repeat::next));
        due.extend(self.retiring.front().map(|(at, _)| *at));
        due.extend(self.probe.as_ref().map(Probe::next));
        due.extend(self.search.as_ref().and_then(Search::poll_timeout));
        due.extend(self.announcement.as_ref().map(Announcement::next));
        due.extend(self.paths.poll_timeout());
        if self.config.timeout > Duration::ZERO {
            due.push(self.sent + self.config.timeout / 4);
            due.push(self.heard + self.config.timeout);
        }
        due.into_iter().min()
    }

    /// Returns `true` if this end may begin an exchange: not the first where the client does.
    fn begins(&self) -> bool {
        !self.exchanges_first() || self.channel.keys.role() == Role::Client
    }

    /// When an exchange may begin at the earliest.
    fn earliest(&self) -> Duration {
        self.began + SHORTEST_EPOCH
    }

    fn keys_due(&self) -> bool {
        self.channel.sending.is_due() || self.channel.receiving.is_due()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, entropy: &mut dyn Entropy) {
        let now = now.monotonic;
        if self.ended {
            return;
        }
        if self.config.timeout > Duration::ZERO && now >= self.heard + self.config.timeout {
            return self.end(Event::Down);
        }
        while self.retiring.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, oldest)) = self.retiring.pop_front() {
                self.channel.receiving.retire(oldest);
            }
        }
        if now >= self.key_end {
            self.key_end = now + KEY_END;
            if !std::mem::replace(&mut self.overdue, true) {
                self.channel.sending.allow_data(false);
            }
        }
        let due = now >= self.due || (now >= self.earliest() && self.keys_due());
        if due && self.rekey.is_settled() && self.begins() {
            self.begin_exchange(now, entropy);
        }
        if self.retry.as_mut().is_some_and(|retry| retry.is_due(now)) {
            self.exchange(now);
        }
        self.probe_timeout(now);
        self.count_now_and_then(now);
        self.announce_again(now);
        self.search_further(now);
        self.challenge(now);
        if self.config.timeout > Duration::ZERO && now >= self.sent + self.config.timeout / 4 {
            self.ping(now);
        }
    }

    /// An opener of the flow's frames.
    pub(in crate::proto) fn opener(&self) -> Opener {
        self.channel.opener()
    }

    /// Gives back memory that an idle session has no use for.
    pub fn shrink(&mut self) {
        self.queue.shrink_to_fit();
        self.events.shrink_to_fit();
        self.retiring.shrink_to_fit();
        self.sealer.rest();
        self.channel.rest();
    }

    /// Returns how much is kept for the peer: keys that open packets, and control messages that
    /// wait to be sent.
    pub fn held(&self) -> (usize, usize) {
        (self.channel.receiving.held(), self.queue.len())
    }

    /// Returns how many of the peer's packets were lost, or are late.
    pub fn missed(&self) -> u64 {
        match self.channel.receiving.count() {
            (_, 0) => 0,
            (newest, packets) => newest.saturating_add(1).saturating_sub(packets),
        }
    }

    /// The epoch that this end seals in, from 0.
    pub fn epoch(&self) -> u64 {
        self.channel.epoch.number
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}
