//! One flow after its allocation, of every kind (plain, 0.23, native): whether
//! the peer is there, when keys change, where the peer is, how large a frame the
//! path carries, and how the flow ends. A state machine without I/O; `flow`
//! drives it.
//!
//! [`handle`](Connection::handle) takes the control packets that an opener gives,
//! [`poll_transmit`](Connection::poll_transmit) gives sealed frames,
//! [`poll`](Connection::poll) tells events,
//! [`poll_timeout`](Connection::poll_timeout) and
//! [`handle_timeout`](Connection::handle_timeout) are its clock. Not here: data,
//! which [`Sealer`](super::protection::Sealer)s and
//! [`Opener`](super::protection::Opener)s carry past it in threads of their own;
//! it is told by [`traffic`](Connection::traffic), before each `handle_timeout`,
//! that some has passed.

mod event;
mod farewell;
mod keepalive;

use std::{collections::VecDeque, time::Duration};

pub use self::event::{ConnectionConfig, ConnectionEvent, PathState};
use self::{farewell::Farewell, keepalive::Keepalive};
use super::{
    Now,
    native::{
        Capabilities, Channel, Content, Event, Opened, Opener, Session, SessionConfig, Transmit,
    },
    protection::OpenError,
};
use crate::{crypto::Entropy, wire::PeerAddress};

/// How often a flow is looked at whose peer is expected to answer soon; and how
/// long only this end may have sent before that is a reason to ask.
const ATTENTION: Duration = Duration::from_millis(250);

/// The machine of one flow.
#[derive(Debug)]
pub struct Connection {
    protocol: Protocol,
    /// A flow that hears nothing for so long has ended; zero: never.
    timeout: Duration,
    /// When the latest frame left, and when the latest was heard.
    sent: Duration,
    heard: Duration,
    /// How soon the peer has to answer; `None`: the timeout is all.
    patience: Option<Duration>,
    /// The peer is being asked on behalf of `patience`.
    probing: bool,
    /// When the flow was looked at last.
    looked: Duration,
    path: PathState,
    confirmed: bool,
    ready: bool,
    ended: bool,
    farewell: Option<Farewell>,
    events: VecDeque<ConnectionEvent>,
}

/// How the two ends speak with each other.
#[derive(Debug)]
enum Protocol {
    /// Plain packets, or those of 0.23: keepalives without content.
    Wire023(Keepalive),
    /// The native profile. The opener is for frames that come by another socket, made for the
    /// first of them.
    Native { session: Box<Session>, opener: Option<Box<Opener>> },
}

impl Connection {
    /// The connection of a flow that begins now. `channel` is that of a native
    /// flow, `None` for others.
    pub fn new(
        now: Now,
        entropy: &mut dyn Entropy,
        channel: Option<Channel>,
        config: ConnectionConfig,
    ) -> Self {
        let ConnectionConfig { timeout, largest_frame } = config;
        let mut ready = true;
        let protocol = match channel {
            None => Protocol::Wire023(Keepalive::new(now.monotonic, timeout)),
            Some(channel) => {
                ready = !channel.capabilities().contains(Capabilities::HYBRID_FIRST);
                let config = SessionConfig { timeout, largest_frame };
                let session = Box::new(Session::new(now, entropy, channel, config));
                Protocol::Native { session, opener: None }
            }
        };
        let now = now.monotonic;
        Self {
            protocol,
            timeout,
            sent: now,
            heard: now,
            patience: None,
            probing: false,
            looked: now,
            path: PathState::default(),
            confirmed: false,
            ready,
            ended: false,
            farewell: None,
            events: VecDeque::new(),
        }
    }

    /// Returns `true` if data may pass: the keys are agreed that have to be
    /// before it.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes a control packet of the peer: what was opened, and its body.
    pub fn handle(&mut self, now: Now, entropy: &mut dyn Entropy, opened: &Opened, body: &[u8]) {
        if self.ended {
            return;
        }
        if let Protocol::Native { session, .. } = &mut self.protocol {
            session.handle(now, entropy, opened, body);
        }
        self.heard_at(now.monotonic);
        self.collect(now.monotonic);
    }

    /// Takes a frame that came from another address than the peer's, and opens
    /// it in place. Control is handled; that the peer may have moved is noted.
    /// Data has not passed the replay window: `Ok(true)` says that the frame, as
    /// it was, has to be opened with what comes along the path.
    ///
    /// # Errors
    ///
    /// It is no new packet of the flow, or the flow is not native. Nothing has
    /// changed.
    pub fn handle_off_path(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        from: PeerAddress,
        frame: &mut [u8],
    ) -> Result<bool, OpenError> {
        let Protocol::Native { session, opener } = &mut self.protocol else {
            return Err(OpenError::NotAuthentic);
        };
        if self.ended {
            return Err(OpenError::NotAuthentic);
        }
        let size = frame.len();
        let opener = opener.get_or_insert_with(|| Box::new(session.opener()));
        let opened = opener.open_off_path(frame)?;
        session.heard_from(now, entropy, Some(from), size, opened.leads);
        let control = opened.content == Content::Control;
        if control {
            session.handle(now, entropy, &opened, &frame[opened.body.clone()]);
        }
        self.heard_at(now.monotonic);
        self.collect(now.monotonic);
        Ok(!control)
    }

    /// The newest packet so far came from the peer's own address. To be told
    /// after frames have come from others.
    pub fn heard_on_path(&mut self, now: Now, entropy: &mut dyn Entropy) {
        if let Protocol::Native { session, .. } = &mut self.protocol {
            session.heard_from(now, entropy, None, 0, true);
        }
    }

    /// Data has passed: when the latest frame left, and when the latest was
    /// opened.
    pub fn traffic(&mut self, sent: Duration, heard: Duration) {
        self.sent = self.sent.max(sent);
        if heard > self.heard {
            self.heard_at(heard);
        }
        match &mut self.protocol {
            Protocol::Wire023(keepalive) => keepalive.traffic(sent, heard),
            Protocol::Native { session, .. } => session.traffic(sent, heard),
        }
    }

    fn heard_at(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
        if !std::mem::replace(&mut self.confirmed, true) {
            self.events.push_back(ConnectionEvent::Confirmed);
        }
    }

    /// Takes the present state of the path.
    pub fn path_state(&mut self, now: Now, path: PathState) {
        self.path = path;
        if let Protocol::Native { session, .. } = &mut self.protocol
            && self.ready
            && path.routed
            && !self.ended
        {
            session.search(now, path.largest_frame);
        }
        self.collect(now.monotonic);
    }

    /// Tells the peer, until it has heard it, what the program at this end takes
    /// beyond packets as they are. Native flows only.
    pub fn announce(&mut self, now: Now, capabilities: Capabilities) {
        if let Protocol::Native { session, .. } = &mut self.protocol
            && !self.ended
        {
            session.announce(now, capabilities);
        }
    }

    /// Ends the flow when the peer, asked whether it is there, does not say so
    /// within `patience`; zero: only after the flow's timeout. It is asked when
    /// frames have left for a while and none has come. Native flows only.
    pub fn expect_answers_within(&mut self, patience: Duration) {
        self.patience = Some(patience).filter(|patience| !patience.is_zero());
    }

    /// Asks the peer at once whether it is there, and ends the flow when it does not
    /// say so within `patience`. Native flows only.
    pub fn probe(&mut self, now: Now, patience: Duration) {
        if let Protocol::Native { session, .. } = &mut self.protocol {
            session.probe(now, patience);
            self.probing = true;
        }
    }

    /// Asks the peer, at most once a second, how many packets it has got:
    /// [`ConnectionEvent::Delivery`]. Native flows only.
    pub fn ask_delivery(&mut self, now: Now) {
        if let Protocol::Native { session, .. } = &mut self.protocol
            && !self.ended
        {
            session.ask_delivery(now);
        }
    }

    /// Ends the flow and tells the peer, once, where the format can say it.
    pub fn close(&mut self, now: Now) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Protocol::Native { session, .. } = &mut self.protocol {
            session.close(now);
        }
    }

    /// The next frame to send; an empty one is a keepalive.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(farewell) = &mut self.farewell {
            return farewell.poll_transmit();
        }
        let transmit = match &mut self.protocol {
            Protocol::Wire023(keepalive) => keepalive.poll_transmit(),
            Protocol::Native { session, .. } => session.poll_transmit(),
        };
        if transmit.is_none() {
            // Sealing may have found that the keys can do no more.
            self.collect(self.looked);
        }
        transmit
    }

    /// The next thing that happened.
    pub fn poll(&mut self) -> Option<ConnectionEvent> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is due, in monotonic time; `None`: never again, as
    /// things are. It is due at once when a sealer or an opener wants attention.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.ended {
            return self.farewell.as_ref().map(Farewell::poll_timeout);
        }
        match &self.protocol {
            Protocol::Wire023(keepalive) => keepalive.poll_timeout(),
            Protocol::Native { session, .. } => {
                let attention = self.patience.map(|_| self.looked + ATTENTION);
                session.poll_timeout().into_iter().chain(attention).min()
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, entropy: &mut dyn Entropy) {
        let at = now.monotonic;
        self.looked = at;
        if self.ended {
            if let Some(farewell) = &mut self.farewell {
                if farewell.handle_timeout(at) {
                    self.events.push_back(ConnectionEvent::RevalidatePath);
                } else if farewell.is_over(at) {
                    self.farewell = None;
                }
            }
            return;
        }
        match &mut self.protocol {
            Protocol::Wire023(keepalive) => {
                if keepalive.handle_timeout(at) {
                    self.ended = true;
                    self.events.push_back(ConnectionEvent::Down);
                }
            }
            Protocol::Native { session, .. } => {
                let one_sided = self.sent > self.heard && at > self.heard + ATTENTION;
                if one_sided {
                    self.events.push_back(ConnectionEvent::RevalidatePath);
                }
                session.handle_timeout(now, entropy);
                // Patience begins with a network: until then each look is a
                // first question, which finds out whether there is one.
                let unasked = !self.probing || self.path.detached;
                if let Some(patience) = self.patience
                    && one_sided
                    && unasked
                {
                    session.probe(now, patience);
                    self.probing = true;
                }
                self.collect(at);
            }
        }
    }

    /// Takes over what the session tells.
    fn collect(&mut self, now: Duration) {
        let Protocol::Native { session, .. } = &mut self.protocol else { return };
        let mut given_up = false;
        while let Some(event) = session.poll() {
            let event = match event {
                // Told by whatever was heard first, of every kind of flow.
                Event::Confirmed => continue,
                Event::Responded { .. } => {
                    self.probing = false;
                    continue;
                }
                Event::Unresponsive | Event::Down => {
                    given_up = true;
                    continue;
                }
                Event::Rekeyed { epoch } => {
                    self.ready = true;
                    ConnectionEvent::Rekeyed { epoch }
                }
                Event::Announced(capabilities) => ConnectionEvent::Announced(capabilities),
                Event::LargestFrame(size) => ConnectionEvent::LargestFrame(size),
                Event::Delivery { undelivered } => ConnectionEvent::Delivery { undelivered },
                Event::Moved(address) => ConnectionEvent::Moved(address),
                Event::Closed => {
                    self.ended = true;
                    ConnectionEvent::Closed
                }
            };
            self.events.push_back(event);
        }
        if given_up && !std::mem::replace(&mut self.ended, true) {
            // It may be alive and out of reach, and would take the flow for alive
            // beside the one that comes after. Once its own timeout is over it
            // has given the flow up itself.
            self.farewell = session.farewell().map(|frame| Farewell::new(now, frame, self.timeout));
            self.events.push_back(ConnectionEvent::Down);
        }
    }

    /// The key epoch that this end seals in, from 0; 0 if the flow is not native.
    pub fn epoch(&self) -> u64 {
        match &self.protocol {
            Protocol::Wire023(_) => 0,
            Protocol::Native { session, .. } => session.epoch(),
        }
    }

    /// Sends the peer a ping; [`round_trip`](Self::round_trip) is new when it has answered.
    /// Native flows only.
    pub fn measure_round_trip(&mut self, now: Now) {
        if let Protocol::Native { session, .. } = &mut self.protocol {
            session.measure_round_trip(now);
        }
    }

    /// The round trip that was measured last; `None`: none was.
    pub fn round_trip(&self) -> Option<Duration> {
        match &self.protocol {
            Protocol::Wire023(_) => None,
            Protocol::Native { session, .. } => session.round_trip(),
        }
    }

    /// Returns `true` if the peer has been sent a ping and has not answered it.
    pub fn awaits_pong(&self) -> bool {
        match &self.protocol {
            Protocol::Wire023(_) => false,
            Protocol::Native { session, .. } => session.awaits_pong(),
        }
    }

    /// Returns how many of the peer's packets were lost, or are late; `None` if the flow's
    /// packets have no numbers.
    pub fn missed(&self) -> Option<u64> {
        match &self.protocol {
            Protocol::Wire023(_) => None,
            Protocol::Native { session, .. } => Some(session.missed()),
        }
    }

    /// Gives back memory that an idle flow has no use for.
    pub fn shrink(&mut self) {
        self.events.shrink_to_fit();
        if let Protocol::Native { session, .. } = &mut self.protocol {
            session.shrink();
        }
    }

    /// Returns how much is kept for the peer: keys that open packets, and control messages that
    /// wait to be sent.
    pub fn held(&self) -> (usize, usize) {
        match &self.protocol {
            Protocol::Wire023(_) => (0, 0),
            Protocol::Native { session, .. } => session.held(),
        }
    }
}
