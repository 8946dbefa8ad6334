//! `ocbr`: a constant bit rate, and what of it arrives each second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_std::task;
use event_listener::Event;
use ouroboros::{Flow, FlowSpec, Irm};
use serde_json::json;

use super::{Outcome, Pace, Progress, receive_within};

/// Flows served at once.
const FLOWS: usize = 10;
const LARGEST: usize = 1 << 20;

/// Options of a client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whom to send to.
    pub name: String,
    /// On what flow.
    pub spec: FlowSpec,
    /// For how long.
    pub duration: Duration,
    /// Bits per second.
    pub rate: u64,
    /// Bytes of a packet.
    pub size: usize,
    /// As fast as it goes.
    pub flood: bool,
    /// Keeps the processor busy from one packet to the next.
    pub spin: bool,
    /// Statistics as JSON, and nothing else.
    pub json: bool,
}

/// Serves up to ten flows at once, for ever, and says each `interval` what came.
///
/// # Errors
///
/// No flow can be accepted.
pub async fn serve(irm: &Irm, interval: Duration, timeout: Duration) -> Outcome {
    let (seconds, patience) = (interval.as_secs_f64(), timeout.as_secs_f64());
    println!("Server started, interval is {seconds} s, timeout is {patience} s.");
    let (served, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(Event::new()));
    for number in 0.. {
        loop {
            let less = left.listen();
            if served.load(Relaxed) < FLOWS {
                break;
            }
            println!("Can't accept any more flows, waiting.");
            less.await;
        }
        let flow = irm.accept_any().await?;
        println!("New flow.");
        served.fetch_add(1, Relaxed);
        let (served, left) = (served.clone(), left.clone());
        task::spawn(async move {
            count(&flow, number, interval, timeout).await;
            served.fetch_sub(1, Relaxed);
            left.notify(usize::MAX);
        });
    }
    Ok(())
}

async fn count(flow: &Flow, number: u64, interval: Duration, timeout: Duration) {
    let mut buffer = vec![0; LARGEST];
    let (mut start, mut heard) = (Instant::now(), Instant::now());
    let (mut packets, mut bytes) = (0u64, 0u64);
    loop {
        let due = (start + interval).min(heard + timeout);
        let patience = due.saturating_duration_since(Instant::now());
        match receive_within(flow, &mut buffer, patience).await {
            Ok(Some(size)) => {
                packets += 1;
                bytes += size as u64;
                heard = Instant::now();
            }
            Ok(None) => {}
            Err(error) => return println!("Flow {number}: {error}."),
        }
        let now = Instant::now();
        if now >= start + interval {
            let time = (now - start).as_secs_f64();
            println!(
                "Flow {number:4}: {packets:9} packets ({bytes:12} bytes) in {:9} ms => {:9.4} pps, \
                 {:9.4} Mbps",
                (time * 1e3).round(),
                packets as f64 / time,
                bytes as f64 * 8.0 / time / 1e6
            );
            (start, packets, bytes) = (now, 0, 0);
        }
        if now >= heard + timeout {
            return println!("Test on flow {number} timed out");
        }
    }
}

impl Client {
    /// Sends; blocks.
    ///
    /// # Errors
    ///
    /// There is no flow, or it ended.
    pub fn run(&self, irm: &Irm, interrupted: &AtomicBool) -> Outcome {
        let flow = task::block_on(irm.allocate(&self.name, self.spec.clone()))?;
        let size = self.size.min(flow.largest_packet());
        if !self.json {
            let (duration, rate) = (self.duration.as_secs_f64(), self.rate);
            match self.flood {
                true => println!("Client started, duration {duration}, flooding, size {size} B."),
                false => {
                    println!("Client started, duration {duration}, rate {rate} b/s, size {size} B.")
                }
            }
            if size < self.size {
                println!("The flow carries no larger packets than of {size} B.");
            }
        }
        let start = Instant::now();
        let mut pace = Pace::new(size, self.rate, self.spin);
        let mut progress = Progress::new(true);
        let (mut packet, mut sent) = (vec![0; size], 0u64);
        let end = start + self.duration;
        loop {
            if !self.flood {
                pace.wait(end);
            }
            if Instant::now() >= end || interrupted.load(Relaxed) {
                break;
            }
            if let Some(field) = packet.first_chunk_mut::<8>() {
                *field = sent.to_ne_bytes();
            }
            flow.send_blocking(&packet)?;
            sent += 1;
            progress.tell(|| format!("{sent} packets sent"));
        }
        let (time, bytes) = (start.elapsed(), sent * size as u64);
        let milliseconds = time.as_millis();
        let rate = bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9) / 1e6;
        if self.json {
            let statistics = json!({
                "name": self.name,
                "size": size,
                "packets": sent,
                "bytes": bytes,
                "time_ms": time.as_secs_f64() * 1e3,
                "bandwidth_mbps": rate,
            });
            println!("{statistics:#}");
        } else {
            println!(
                "sent statistics: {sent:9} packets, {bytes:12} bytes in {milliseconds:9} ms, \
                 {rate:4.4} Mb/s"
            );
        }
        Ok(())
    }
}
