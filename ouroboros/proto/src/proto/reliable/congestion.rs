//! Congestion control: how much may be in flight. One trait, CUBIC (RFC 9438) with
//! HyStart++ (RFC 9406), and BBR.

mod bbr;

use std::{fmt::Debug, time::Duration};

pub use bbr::Bbr;

/// Which congestion control a flow has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CongestionControl {
    /// CUBIC: gives way to losses of any kind, and shares with others of its kind.
    Cubic,
    /// BBR version 3: follows the bandwidth and the round trip, so that losses that
    /// are no congestion cost little; leaves room to flows with CUBIC.
    #[default]
    Bbr,
}

impl CongestionControl {
    /// A controller with a window of `window` bytes at first, and segments of `segment`.
    #[must_use]
    pub fn controller(self, window: u64, segment: u64) -> Box<dyn Controller> {
        match self {
            Self::Cubic => Box::new(Cubic::new(window, segment)),
            Self::Bbr => Box::new(Bbr::new(window, segment)),
        }
    }
}

/// The initial window, in packets, and in bytes where those are larger than 1,472 each.
///
/// RFC 9002 (section 7.2) recommends 10 packets, for all of them may leave at once. Here
/// what exceeds [`INITIAL_BURST`] is paced by the allocation's round trip. Over 1 Mbit/s
/// with a queue of ten packets that costs two round trips at most; over 200 Mbit/s and
/// 100 ms it saves nearly two of eight.
const INITIAL_WINDOW: (u64, u64) = (32, 32 * 1472);
/// Of the initial window, what leaves at once (RFC 9002, sections 7.2 and 7.7).
const INITIAL_BURST: (u64, u64) = (10, 10 * 1472);

/// So many packets of `segment` bytes, and no more than so many bytes, but two packets.
fn bounded((packets, bytes): (u64, u64), segment: u64) -> u64 {
    (packets * segment).min(bytes.max(2 * segment))
}

/// Bytes that may be in flight before anything was acknowledged, in packets of `segment`.
#[must_use]
pub fn initial_window(segment: u64) -> u64 {
    bounded(INITIAL_WINDOW, segment)
}

/// Bytes of the [initial window](initial_window) that leave at once.
#[must_use]
pub fn initial_burst(segment: u64) -> u64 {
    bounded(INITIAL_BURST, segment)
}

/// A window in which nothing was acknowledged yet, after packets came to have `to` bytes
/// instead of `from`.
fn rescaled(window: f64, from: f64, to: f64) -> f64 {
    (window * to / from).min(window.max(INITIAL_WINDOW.1 as f64))
}

/// An acknowledgement, as a [`Controller`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// When it came.
    pub now: Duration,
    /// Bytes that it acknowledges.
    pub bytes: u64,
    /// The round trip that it measures, if it does.
    pub latest_rtt: Option<Duration>,
    /// The smoothed round trip.
    pub smoothed_rtt: Duration,
    /// Returns of a round trip: the packet was sent after the last round began.
    pub round: bool,
    /// The window was in use when the packets were sent.
    pub limited: bool,
    /// Bytes that were acknowledged so far.
    pub delivered: u64,
    /// The same when the packet left that is the last of those that are acknowledged.
    pub prior_delivered: u64,
    /// Bytes in a second that arrived between the two; `None`: not measured.
    pub rate: Option<f64>,
    /// The application had no more to send then.
    pub app_limited: bool,
    /// Bytes in flight after it.
    pub in_flight: u64,
}

/// A packet that was lost, for a [`Controller`].
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// When that was found.
    pub now: Duration,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that were in flight when it had been sent.
    pub in_flight: u64,
    /// Bytes that were found lost since then.
    pub since: u64,
    /// The application had no more to send then.
    pub app_limited: bool,
}

/// Decides how many bytes may be in flight.
pub trait Controller: Debug + Send {
    /// Packets were acknowledged; of a controller that is not model-based, those that
    /// were sent outside of a recovery.
    fn on_acked(&mut self, acked: Acked);
    /// A packet was lost.
    fn on_lost(&mut self, _lost: Lost) {}
    /// Packets were lost, or marked with congestion experienced (`marked`), for the
    /// first time in a round trip.
    fn on_congestion(&mut self, now: Duration, marked: bool);
    /// All losses of the last [`on_congestion`](Self::on_congestion) were none.
    fn on_spurious(&mut self);
    /// Nothing came through for a long time (RFC 9002, section 7.6); the least round trip
    /// is `latest_rtt` from now on.
    fn on_persistent(&mut self, latest_rtt: Duration);
    /// Packets have this many bytes from now on.
    fn set_segment(&mut self, segment: u64);
    /// Bytes that may be in flight.
    fn window(&self) -> u64;
    /// Returns where the window goes in recovery.
    fn threshold(&self) -> u64;
    /// The pace in bytes per second; `None`: as the window and the round trip say.
    fn pacing_rate(&self) -> Option<f64> {
        None
    }
    /// Returns `true` if the window is right in a recovery, too.
    fn is_model_based(&self) -> bool {
        false
    }
}

const BETA: f64 = 0.7;
/// The factor of the window after a mark: queues that mark are short (RFC 8511).
const BETA_MARKED: f64 = 0.85;
const C: f64 = 0.4;
/// HyStart++: samples of a round, bounds of the threshold, and rounds of
/// conservative slow start.
const SAMPLES: u32 = 8;
const RTT_THRESHOLD: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(16));
const CONSERVATIVE: (u64, u32) = (4, 5);

#[derive(Clone, Copy, Debug)]
struct State {
    window: f64,
    threshold: f64,
    /// The window before the last reduction.
    maximum: f64,
    /// Since when the window grows by the cubic function, its K in seconds, and
    /// the window that it has then.
    epoch: Option<(Duration, f64, f64)>,
    /// The window that Reno would have.
    reno: f64,
}

/// CUBIC.
#[derive(Debug)]
pub struct Cubic {
    segment: f64,
    state: State,
    before: Option<State>,
    /// Least round trip of the last round and of this one, and its samples.
    last_round: Duration,
    this_round: Duration,
    samples: u32,
    /// The round trip at which conservative slow start began, and its rounds.
    conservative: Option<(Duration, u32)>,
}

impl Cubic {
    /// With a window of `window` bytes at first, and segments of `segment`.
    pub fn new(window: u64, segment: u64) -> Self {
        let state = State {
            window: window as f64,
            threshold: f64::MAX,
            maximum: 0.0,
            epoch: None,
            reno: 0.0,
        };
        let (last_round, this_round) = (Duration::MAX, Duration::MAX);
        let segment = segment as f64;
        Self {
            segment,
            state,
            before: None,
            last_round,
            this_round,
            samples: 0,
            conservative: None,
        }
    }

    fn slow_start(&mut self, acked: Acked) {
        if acked.round {
            (self.last_round, self.this_round) = (self.this_round, Duration::MAX);
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
                if *rounds >= CONSERVATIVE.1 {
                    self.state.threshold = self.state.window;
                    return;
                }
            }
        }
        if let Some(rtt) = acked.latest_rtt {
            self.this_round = self.this_round.min(rtt);
            self.samples += 1;
        }
        if self.samples >= SAMPLES && self.last_round < Duration::MAX {
            let margin = (self.last_round / 8).clamp(RTT_THRESHOLD.0, RTT_THRESHOLD.1);
            match self.conservative {
                None if self.this_round >= self.last_round + margin => {
                    self.conservative = Some((self.this_round, 0));
                }
                Some((base, _)) if self.this_round < base => self.conservative = None,
                _ => {}
            }
        }
        let divisor = if self.conservative.is_some() { CONSERVATIVE.0 as f64 } else { 1.0 };
        self.state.window += acked.bytes as f64 / divisor;
    }

    fn avoid(&mut self, acked: Acked) {
        let Self { segment, state, .. } = self;
        let (began, k, origin) = *state.epoch.get_or_insert_with(|| {
            state.reno = state.window;
            let deficit = (state.maximum - state.window).max(0.0) / *segment;
            (acked.now, (deficit / C).cbrt(), state.maximum.max(state.window))
        });
        let elapsed = (acked.now.saturating_sub(began) + acked.smoothed_rtt).as_secs_f64();

        let target = origin + C * (elapsed - k).powi(3) * *segment;
        let target = target.clamp(state.window, 1.5 * state.window);
        let grown = 3.0 * (1.0 - BETA) / (1.0 + BETA);
        let alpha = if state.reno >= state.maximum { 1.0 } else { grown };
        state.reno += alpha * *segment * acked.bytes as f64 / state.window;
        state.window += (target - state.window) * acked.bytes as f64 / state.window;
        state.window = state.window.max(state.reno);
    }
}

impl Controller for Cubic {
    fn on_acked(&mut self, acked: Acked) {
        if !acked.limited {
            // What was not used does not grow (RFC 9438, section 5.8).
            return;
        }
        if self.state.window < self.state.threshold {
            self.slow_start(acked);
        } else {
            self.avoid(acked);
        }
    }

    fn on_congestion(&mut self, _now: Duration, marked: bool) {
        self.before = Some(self.state);
        let state = &mut self.state;
        let fast = state.window < state.maximum;
        state.maximum = if fast { state.window * (1.0 + BETA) / 2.0 } else { state.window };
        let beta = if marked { BETA_MARKED } else { BETA };
        state.window = (state.window * beta).max(2.0 * self.segment);
        (state.threshold, state.epoch) = (state.window, None);
    }

    fn on_spurious(&mut self) {
        if let Some(before) = self.before.take()
            && before.window > self.state.window
        {
            self.state = before;
        }
    }

    fn on_persistent(&mut self, _latest_rtt: Duration) {
        self.before = None;
        self.state.maximum = self.state.window;
        self.state.threshold = (self.state.window * BETA).max(2.0 * self.segment);
        (self.state.window, self.state.epoch) = (2.0 * self.segment, None);
    }

    fn set_segment(&mut self, segment: u64) {
        let segment = segment as f64;
        let untouched = self.last_round == Duration::MAX && self.this_round == Duration::MAX;
        if untouched && self.state.threshold == f64::MAX {
            self.state.window = rescaled(self.state.window, self.segment, segment);
        }
        self.segment = segment;
        self.state.window = self.state.window.max(2.0 * segment);
        self.state.threshold = self.state.threshold.max(2.0 * segment);
    }

    fn window(&self) -> u64 {
        self.state.window as u64
    }

    fn threshold(&self) -> u64 {
        self.state.threshold.min(self.state.window) as u64
    }
}
