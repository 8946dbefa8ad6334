//! `oping`: requests that are answered, and how long that takes.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_std::task;
use futures_lite::{StreamExt, future};
use ouroboros::{Flow, FlowError, FlowSpec, Irm};
use serde_json::json;

use super::{
    Outcome, Progress,
    measure::{Times, loss},
};
use crate::signals;

/// Bytes of a message before the zeros that fill it up.
const MESSAGE: usize = 24;
const REQUEST: [u8; 4] = [0; 4];
const REPLY: [u8; 4] = [0, 0, 0, 1];
/// A flow without a request for so long is deallocated.
const IDLE: Duration = Duration::from_secs(10);
/// Flows served at once.
const FLOWS: usize = 256;
/// Largest packet of any transport.
const LARGEST: usize = 1 << 16;

/// Options of a client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whom to ask.
    pub name: String,
    /// The specification of the flow to ask on.
    pub spec: FlowSpec,
    /// How many requests.
    pub count: u32,
    /// From one to the next.
    pub interval: Duration,
    /// Bytes of each.
    pub size: usize,
    /// The next as soon as the reply is there.
    pub flood: bool,
    /// The same, without sleeping meanwhile.
    pub busy: bool,
    /// The time of day before each line.
    pub time_of_day: bool,
    /// Statistics only.
    pub quiet: bool,
    /// Statistics as JSON, and nothing else.
    pub json: bool,
}

struct Counted {
    sent: u32,
    received: u32,
    out_of_order: u32,
    /// The largest id that was answered.
    newest: Option<u32>,
    times: Times,
    heard: Instant,
}

/// Serves whoever asks, for ever. `poll`: without sleeping; `busy`: that, and one
/// client at a time.
///
/// # Errors
///
/// No flow can be accepted.
pub async fn serve(irm: &Irm, quiet: bool, poll: bool, busy: bool) -> Outcome {
    println!("Ouroboros ping server started.{}", if busy { " [busy-poll]" } else { "" });
    let (places, free) = async_std::channel::bounded(FLOWS);
    for number in 0.. {
        let _ = places.send(()).await;
        let flow = irm.accept_any().await?;
        println!("New flow {number}.");
        if busy {
            answer(&flow, number, quiet, true).await;
            let _ = free.try_recv();
        } else {
            let free = free.clone();
            task::spawn(async move {
                answer(&flow, number, quiet, poll).await;
                let _ = free.try_recv();
            });
        }
    }
    Ok(())
}

async fn answer(flow: &Flow, number: u64, quiet: bool, busy: bool) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let idle = async {
            task::sleep(IDLE).await;
            Err(FlowError::Down)
        };
        let size = match future::or(receive(flow, &mut buffer, busy), idle).await {
            Ok(size) => size,
            Err(_) => return println!("Flow {number} timed out."),
        };
        let message = &mut buffer[..size];
        if size < MESSAGE || message[..4] != REQUEST {
            println!("Invalid message on fd {number}.");
            continue;
        }
        if !quiet {
            println!("Received {size} bytes on fd {number}.");
        }
        message[..4].copy_from_slice(&REPLY);
        if let Err(error) = flow.send(message).await {
            return println!("Flow {number}: {error}.");
        }
    }
}

async fn receive(flow: &Flow, buffer: &mut [u8], busy: bool) -> Result<usize, FlowError> {
    loop {
        if !busy {
            return flow.recv(buffer).await;
        }
        if let Some(result) = future::poll_once(flow.recv(buffer)).await {
            return result;
        }
        future::yield_now().await;
    }
}

impl Client {
    /// Asks, and says what came of it.
    ///
    /// # Errors
    ///
    /// There is no flow, or no request of this size can be sent on it.
    pub async fn run(&self, irm: &Irm) -> Outcome {
        let mut signals = signals()?;
        let flow = irm.allocate(&self.name, self.spec.clone()).await?;
        if !self.json {
            let busy = if self.busy { ", busy-poll" } else { "" };
            let Self { name, size, count, .. } = self;
            println!("Pinging {name} with {size} bytes of data ({count} packets{busy}):\n");
        }
        let start = Instant::now();
        let counted = RefCell::new(Counted {
            sent: 0,
            received: 0,
            out_of_order: 0,
            newest: None,
            times: Times::default(),
            heard: start,
        });
        let asking = async {
            if self.flood || self.busy {
                self.flood(&flow, start, &counted).await
            } else {
                let answers = self.take_answers(&flow, start, &counted);
                future::or(answers, self.ask(&flow, start, &counted)).await
            }
        };
        let interrupted = async {
            signals.next().await;
            Ok(())
        };
        let outcome = future::or(asking, interrupted).await;
        self.conclude(&counted.borrow(), start.elapsed());
        match outcome {
            // An end that the statistics have told of.
            Ok(()) | Err(FlowError::Down | FlowError::ClosedByPeer) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn send(&self, flow: &Flow, start: Instant, id: u32) -> Result<(), FlowError> {
        let mut message = vec![0; self.size];
        let since = start.elapsed();
        message[4..8].copy_from_slice(&id.to_be_bytes());
        message[8..16].copy_from_slice(&since.as_secs().to_ne_bytes());
        message[16..24].copy_from_slice(&u64::from(since.subsec_nanos()).to_ne_bytes());
        flow.send(&message).await
    }

    /// One request each interval, and then a while for the last answers.
    async fn ask(
        &self,
        flow: &Flow,
        start: Instant,
        counted: &RefCell<Counted>,
    ) -> Result<(), FlowError> {
        let patience = Duration::from_secs(self.interval.as_secs() + 2);
        let mut progress = Progress::new(self.quiet || self.json);
        for id in 0..self.count {
            let due = start + self.interval * (id + 1);
            task::sleep(due.saturating_duration_since(Instant::now())).await;
            if counted.borrow().heard.elapsed() > patience + self.interval {
                self.say("Server timed out.");
                return Ok(());
            }
            self.send(flow, start, id).await?;
            let mut counted = counted.borrow_mut();
            counted.sent = id + 1;
            progress.tell(|| format!("{} sent, {} received", counted.sent, counted.received));
        }
        loop {
            let left = patience.saturating_sub(counted.borrow().heard.elapsed());
            if left.is_zero() {
                self.say("Server timed out.");
                return Ok(());
            }
            task::sleep(left).await;
        }
    }

    async fn take_answers(
        &self,
        flow: &Flow,
        start: Instant,
        counted: &RefCell<Counted>,
    ) -> Result<(), FlowError> {
        let mut buffer = vec![0; LARGEST];
        while counted.borrow().received < self.count {
            let size = flow.recv(&mut buffer).await?;
            self.take(&buffer[..size], start, &mut counted.borrow_mut());
        }
        Ok(())
    }

    /// A request as soon as the one before is answered.
    async fn flood(
        &self,
        flow: &Flow,
        start: Instant,
        counted: &RefCell<Counted>,
    ) -> Result<(), FlowError> {
        let mut buffer = vec![0; LARGEST];
        let mut progress = Progress::new(self.quiet || self.json);
        for id in 0..self.count {
            counted.borrow_mut().sent = id + 1;
            self.send(flow, start, id).await?;
            loop {
                let late = async {
                    task::sleep(Duration::from_secs(2)).await;
                    Ok(0)
                };
                let size = future::or(receive(flow, &mut buffer, self.busy), late).await?;
                if size == 0 {
                    // On a raw flow one was lost, which must not stop the rest.
                    break;
                }
                if self.take(&buffer[..size], start, &mut counted.borrow_mut()) == Some(id) {
                    break;
                }
            }
            let counted = counted.borrow();
            progress.tell(|| format!("{} sent, {} received", counted.sent, counted.received));
        }
        Ok(())
    }

    /// Takes an answer; its id, if it is one.
    fn take(&self, message: &[u8], start: Instant, counted: &mut Counted) -> Option<u32> {
        let now = start.elapsed();
        let field = |at: usize| message.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        let id = u32::from_be_bytes(message.get(4..8)?.try_into().ok()?);
        let (seconds, nanoseconds) = (field(8)?, field(16)?);
        if message[..4] != REPLY || id >= self.count {
            return None;
        }
        let asked = Duration::new(seconds, u32::try_from(nanoseconds).ok()?);
        let time = now.saturating_sub(asked);
        counted.heard = Instant::now();
        counted.received += 1;
        counted.times.add(time);
        let late = counted.newest.is_some_and(|newest| id < newest);
        counted.out_of_order += u32::from(late);
        counted.newest = counted.newest.max(Some(id));
        if !self.quiet {
            let milliseconds = time.as_secs_f64() * 1e3;
            let time = match milliseconds < 0.1 {
                true => format!("{:.3} µs", milliseconds * 1e3),
                false => format!("{milliseconds:.3} ms"),
            };
            let late = if late { " [out-of-order]" } else { "" };
            let size = message.len();
            self.say(&format!("{size} bytes from {}: seq={id} time={time}{late}", self.name));
        }
        Some(id)
    }

    fn say(&self, line: &str) {
        if self.json {
            return;
        }
        if self.time_of_day {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            print!("[{}.{:06}] ", now.as_secs(), now.subsec_micros());
        }
        println!("{line}");
    }

    fn conclude(&self, counted: &Counted, time: Duration) {
        let Counted { sent, received, out_of_order, .. } = *counted;
        let loss = loss(sent.into(), received.into());
        let milliseconds = time.as_secs_f64() * 1e3;
        let summary = counted.times.summary();
        if self.json {
            let statistics = json!({
                "name": self.name,
                "size": self.size,
                "transmitted": sent,
                "received": received,
                "out_of_order": out_of_order,
                "loss_percent": loss,
                "time_ms": milliseconds,
                "rtt_ms": summary,
            });
            return println!("{statistics:#}");
        }
        println!("\n--- {} ping statistics ---", self.name);
        println!(
            "{sent} packets transmitted, {received} received, {out_of_order} out-of-order, \
             {loss}% packet loss, time: {milliseconds:.3} ms"
        );
        let Some(summary) = summary else { return };
        let (unit, factor) = if summary.avg < 0.1 { ("µs", 1e3) } else { ("ms", 1.0) };
        let [min, avg, max, mdev, p50, p90, p99, p999] = [
            summary.min,
            summary.avg,
            summary.max,
            summary.mdev,
            summary.p50,
            summary.p90,
            summary.p99,
            summary.p999,
        ]
        .map(|value| value * factor);
        println!("rtt min/avg/max/mdev = {min:.3}/{avg:.3}/{max:.3}/{mdev:.3} {unit}");
        println!("rtt p50/p90/p99/p99.9 = {p50:.3}/{p90:.3}/{p99:.3}/{p999:.3} {unit}");
    }
}
