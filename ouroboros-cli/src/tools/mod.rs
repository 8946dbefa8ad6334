//! `oping`, `oecho`, `operf` and `ocbr`: what 0.23's tools of these names do, with
//! the same messages on the wire, so that either end may be theirs. Options, output
//! and defaults are theirs, too. Not here: the command lines (`bin`).

pub mod measure;
pub mod ocbr;
pub mod oecho;
pub mod operf;
pub mod oping;
mod units;

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_io::Timer;
use futures_lite::{StreamExt, future};
use ouroboros::{Flow, FlowError, FlowSpec, wire::QosSpec};
use rustix::thread::CapabilitySet;
pub use units::{bytes, count, duration, rate, seconds};

use crate::{confine::confine, signals};

/// The result of a tool.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The quality of service that a tool's option names; `None`: there is none of that
/// name.
pub fn qos(name: &str) -> Option<QosSpec> {
    match name {
        "raw" => Some(QosSpec::RAW),
        "best" => Some(QosSpec::BEST_EFFORT),
        "video" => Some(QosSpec::VIDEO),
        "voice" => Some(QosSpec::VOICE),
        "data" => Some(QosSpec::DATA),
        _ => None,
    }
}

/// The flow that a client asks for; for an unknown quality of service a raw one, and
/// it is said.
pub fn spec(quality: &str, crypt: bool) -> FlowSpec {
    let qos = qos(quality).unwrap_or_else(|| {
        println!("Unknown QoS cube, defaulting to raw.");
        QosSpec::RAW
    });
    let spec = FlowSpec::with_qos(qos);
    if crypt { spec.encrypted() } else { spec }
}

/// Gives up all rights but that to a flow's own packet socket.
///
/// # Errors
///
/// As [`confine`] says.
pub fn give_up_rights() -> io::Result<()> {
    Ok(confine(CapabilitySet::NET_RAW, &[])?)
}

/// Set by SIGINT and SIGTERM, for what runs on a thread of its own.
///
/// # Errors
///
/// The kernel gives no signal descriptors.
pub fn interrupted() -> io::Result<Arc<AtomicBool>> {
    let (mut signals, told) = (signals()?, Arc::new(AtomicBool::new(false)));
    let tells = told.clone();
    async_std::task::spawn(async move {
        signals.next().await;
        tells.store(true, Relaxed);
    });
    Ok(told)
}

/// The size of the next packet, or `None` if none came within `patience`.
pub(crate) async fn receive_within(
    flow: &Flow,
    buffer: &mut [u8],
    patience: Duration,
) -> Result<Option<usize>, FlowError> {
    let silent = async {
        Timer::after(patience).await;
        Ok(None)
    };
    future::or(async { flow.recv(buffer).await.map(Some) }, silent).await
}

/// A line now and then on how far a long run is, where somebody looks.
pub(crate) struct Progress {
    last: Option<Instant>,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(5);

    /// `wanted`: nothing else says how far it is.
    pub(crate) fn new(wanted: bool) -> Self {
        Self { last: (wanted && io::stderr().is_terminal()).then(Instant::now) }
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(last) = &mut self.last
            && last.elapsed() >= Self::EVERY
        {
            *last = Instant::now();
            eprintln!("{}", line());
        }
    }
}

/// When the packets of a steady rate are due.
pub(crate) struct Pace {
    start: Instant,
    interval: Duration,
    sent: u32,
    spins: bool,
}

impl Pace {
    /// Packets of `size` bytes at `rate` bits per second; `spins`: the processor is
    /// kept busy in between, for exact times.
    pub(crate) fn new(size: usize, rate: u64, spins: bool) -> Self {
        let interval = Duration::from_secs_f64(size as f64 * 8.0 / rate.max(1) as f64);
        Self { start: Instant::now(), interval, sent: 0, spins }
    }

    /// Waits for the next packet's time, or `end`'s.
    pub(crate) fn wait(&mut self, end: Instant) {
        let due = self.start + self.interval * self.sent;
        self.sent += 1;
        if self.sent == u32::MAX {
            (self.start, self.sent) = (due, 0);
        }
        let due = due.min(end);
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            if self.spins {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(left);
            }
        }
    }
}
