//! `operf`: packets at a rate, one way or both, and how many arrive. The client of
//! 0.23.0 sends none; ours does as its usage says.

use std::{
    fmt, str,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_io::Timer;
use async_std::task;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use ouroboros::{Flow, FlowError, FlowSpec, Irm};
use serde_json::json;

use super::{
    Outcome, Pace, Progress,
    measure::{Times, loss},
    receive_within,
};

/// Flows that were silent for so long are dropped; the first data comes one second
/// after the test's kind.
const SILENCE: Duration = Duration::from_secs(1);
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const LARGEST: usize = 1 << 20;

/// Which way the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// To the server.
    Uni,
    /// There and back.
    Bi,
    /// As a stream of bytes, as fast as it goes; for servers of ours only.
    Stream,
}

impl str::FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uni" => Ok(Self::Uni),
            "bi" => Ok(Self::Bi),
            "stream" => Ok(Self::Stream),
            _ => Err(format!("{text}: a test is uni, bi or stream")),
        }
    }
}

impl Test {
    /// Returns the number that a client sends first, in its own byte order.
    fn kind(self) -> u32 {
        match self {
            Self::Uni => 0,
            Self::Bi => 1,
            Self::Stream => 2,
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uni => "uni",
            Self::Bi => "bi",
            Self::Stream => "stream",
        })
    }
}

/// Options of a client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whom to send to.
    pub name: String,
    /// On what flow.
    pub spec: FlowSpec,
    /// Which way.
    pub test: Test,
    /// For how long.
    pub duration: Duration,
    /// Bits per second.
    pub rate: u64,
    /// Bytes of a packet.
    pub size: usize,
    /// As fast as it goes.
    pub flood: bool,
    /// Sleeps from one packet to the next.
    pub sleep: bool,
    /// Statistics as JSON, and nothing else.
    pub json: bool,
}

/// Serves whoever comes, for ever.
///
/// # Errors
///
/// No flow can be accepted.
pub async fn serve(irm: &Irm) -> Outcome {
    println!("Ouroboros perf server started.");
    for number in 0.. {
        let flow = irm.accept_any().await?;
        println!("New flow {number}.");
        task::spawn(async move {
            if let Err(error) = take(flow, number).await {
                println!("Flow {number}: {error}.");
            }
        });
    }
    Ok(())
}

/// Takes a test; what it was like is said at its end.
async fn take(flow: Flow, number: u64) -> Outcome {
    let mut buffer = vec![0; LARGEST];
    let Some(size) = receive_within(&flow, &mut buffer, 2 * SILENCE).await? else {
        println!("Flow {number} timed out.");
        return Ok(());
    };
    let first = &buffer[..size];
    if flow.info().qos.is_reliable() && first == Test::Stream.kind().to_ne_bytes() {
        return take_stream(flow, number).await;
    }
    // In the client's own byte order, which is told by where the one is.
    let swapped = first.starts_with(&1u32.swap_bytes().to_ne_bytes());
    let both = swapped || first.starts_with(&1u32.to_ne_bytes());
    let (mut count, mut bytes, mut newest) = (0u64, 0u64, 0u64);
    let (mut start, mut last) = (Instant::now(), Instant::now());
    let mut patience = 2 * SILENCE;
    let ended = loop {
        let size = match receive_within(&flow, &mut buffer, patience).await {
            Ok(Some(size)) => size,
            Ok(None) => break "timed out",
            Err(FlowError::EndOfStream | FlowError::ClosedByPeer) => break "ended",
            Err(error) => return Err(error.into()),
        };
        let packet = &buffer[..size];
        let Some(field) = packet.first_chunk::<4>() else { continue };
        last = Instant::now();
        if count == 0 {
            (start, patience) = (last, SILENCE);
        }
        let sequence = u32::from_ne_bytes(*field);
        let sequence = if swapped { sequence.swap_bytes() } else { sequence };
        count += 1;
        bytes += packet.len() as u64;
        newest = newest.max(u64::from(sequence) + 1);
        if both {
            flow.send(packet).await?;
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let (seconds, micros) = (now.as_secs(), now.subsec_micros());
            println!("Seqno {sequence} from fd {number}: {seconds}.{micros:06}");
        }
    };
    println!("Flow {number} {ended}.");
    let time = (last - start).as_secs_f64();
    let rate = if time > 0.0 { bytes as f64 * 8.0 / time / 1e6 } else { 0.0 };
    let lost = loss(newest, count);
    println!(
        "Flow {number}: {count} packets, {bytes} bytes in {:.3} ms, {rate:.3} Mb/s, {lost}% packet \
         loss",
        time * 1e3
    );
    Ok(())
}

/// Takes a stream to its end, and says how much came.
async fn take_stream(flow: Flow, number: u64) -> Outcome {
    let (mut stream, mut buffer) = (flow.into_stream(), vec![0; LARGEST]);
    let (mut start, mut bytes) = (Instant::now(), 0u64);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        if bytes == 0 {
            start = Instant::now();
        }
        bytes += count as u64;
    }
    let time = start.elapsed().as_secs_f64();
    let rate = if time > 0.0 { bytes as f64 * 8.0 / time / 1e6 } else { 0.0 };
    println!("Flow {number}: {bytes} bytes in {:.3} ms, {rate:.3} Mb/s", time * 1e3);
    // The client waits until its end is acknowledged, and then closes.
    stream.close().await?;
    Ok(())
}

impl Client {
    /// Runs the test; blocks.
    ///
    /// # Errors
    ///
    /// There is no flow, or it ended.
    pub fn run(&self, irm: &Irm, interrupted: &AtomicBool) -> Outcome {
        let flow = task::block_on(irm.allocate(&self.name, self.spec.clone()))?;
        if self.test == Test::Stream {
            return task::block_on(self.stream(flow, interrupted));
        }
        let size = self.size.min(flow.largest_packet());
        if size < self.size && !self.json {
            println!("Packet size is {size} bytes: the flow carries no larger ones.");
        }
        flow.send_blocking(&self.test.kind().to_ne_bytes())?;
        // The server has to have read that before the data comes.
        thread::sleep(Duration::from_secs(1));
        let (received, start) = (AtomicU64::new(0), Instant::now());
        let closer = flow.closer();
        let mut times = Times::default();
        let (sent, time) = thread::scope(|scope| {
            let answers = (self.test == Test::Bi)
                .then(|| scope.spawn(|| take_answers(&flow, start, &received)));
            let result = self.send(&flow, size, &received, interrupted);
            let time = start.elapsed();
            if self.test == Test::Bi {
                let sent = *result.as_ref().unwrap_or(&0);
                let end = Instant::now() + LAST_ANSWERS;
                while received.load(Relaxed) < sent && Instant::now() < end {
                    thread::sleep(Duration::from_millis(1));
                }
                closer.close();
            }
            if let Some(Ok(measured)) = answers.map(thread::ScopedJoinHandle::join) {
                times = measured;
            }
            (result, time)
        });
        self.conclude(sent?, received.load(Relaxed), size, time, &times);
        Ok(())
    }

    /// Writes to a stream until the time is over, and waits until the server has all.
    async fn stream(&self, flow: Flow, interrupted: &AtomicBool) -> Outcome {
        if !flow.info().qos.is_reliable() {
            return Err("a stream needs a reliable flow: use --qos data".into());
        }
        flow.send(&self.test.kind().to_ne_bytes()).await?;
        // The server has to have read that before the data comes.
        Timer::after(SILENCE).await;
        let (mut stream, data) = (flow.into_stream(), vec![0; self.size]);
        let (start, mut written) = (Instant::now(), 0u64);
        let mut progress = Progress::new(!self.json);
        while start.elapsed() < self.duration && !interrupted.load(Relaxed) {
            stream.write_all(&data).await?;
            written += data.len() as u64;
            progress.tell(|| format!("{written} bytes written"));
        }
        stream.finish().await?;
        let time = start.elapsed();
        let rate = written as f64 * 8.0 / time.as_secs_f64().max(1e-9) / 1e6;
        let resent = stream.flow().statistics().retransmitted;
        stream.close().await?;
        let milliseconds = time.as_secs_f64() * 1e3;
        if self.json {
            let statistics = json!({
                "name": self.name,
                "test": self.test.to_string(),
                "bytes": written,
                "time_ms": milliseconds,
                "bandwidth_mbps": rate,
                "retransmitted": resent,
            });
            println!("{statistics:#}");
        } else {
            println!("Test finished.");
            println!("\n--- {} perf statistics ---\n", self.name);
            println!(
                "{written} bytes in {milliseconds:.3} ms, bandwidth: {rate:.3} Mb/s, {resent} \
                 packets sent again."
            );
        }
        Ok(())
    }

    fn send(
        &self,
        flow: &Flow,
        size: usize,
        received: &AtomicU64,
        interrupted: &AtomicBool,
    ) -> Result<u64, FlowError> {
        let (start, mut packet) = (Instant::now(), vec![0; size]);
        let mut pace = Pace::new(size, self.rate, !self.sleep);
        let mut progress = Progress::new(true);
        let end = start + self.duration;
        let mut sent: u64 = 0;
        loop {
            if !self.flood {
                pace.wait(end);
            }
            if Instant::now() >= end || interrupted.load(Relaxed) {
                return Ok(sent);
            }
            packet[..4].copy_from_slice(&(sent as u32).to_ne_bytes());
            if let Some(stamp) = packet.get_mut(8..16) {
                let since = u64::try_from(start.elapsed().as_nanos()).unwrap_or_default();
                // For a server of anybody's these are zeros that it does not look at.
                stamp.copy_from_slice(&since.to_ne_bytes());
            }
            flow.send_blocking(&packet)?;
            sent += 1;
            progress.tell(|| format!("{sent} sent, {} received", received.load(Relaxed)));
        }
    }

    fn conclude(&self, sent: u64, received: u64, size: usize, time: Duration, times: &Times) {
        let milliseconds = time.as_secs_f64() * 1e3;
        let both = self.test == Test::Bi;
        let arrived = if both { received } else { sent };
        let rate = arrived as f64 * size as f64 * 8.0 / time.as_secs_f64().max(1e-9) / 1e6;
        let lost = loss(sent, received);
        if self.json {
            let statistics = json!({
                "name": self.name,
                "test": self.test.to_string(),
                "size": size,
                "transmitted": sent,
                "received": both.then_some(received),
                "loss_percent": both.then_some(lost),
                "time_ms": milliseconds,
                "bandwidth_mbps": rate,
                "rtt_ms": times.summary(),
            });
            return println!("{statistics:#}");
        }
        println!("Test finished.");
        if both {
            println!("\n--- {} perf statistics ---\n", self.name);
            println!(
                "{sent} packets transmitted, {received} received, {lost}% packet loss, time: \
                 {milliseconds:.3} ms, bandwidth: {rate:.3} Mb/s."
            );
            if let Some(all) = times.summary() {
                println!(
                    "rtt p50/p90/p99/p99.9 = {:.3}/{:.3}/{:.3}/{:.3} ms",
                    all.p50, all.p90, all.p99, all.p999
                );
            }
        }
    }
}

/// Counts what comes back, until the flow is closed.
fn take_answers(flow: &Flow, start: Instant, received: &AtomicU64) -> Times {
    let (mut buffer, mut times) = (vec![0; LARGEST], Times::default());
    while let Ok(size) = flow.recv_blocking(&mut buffer) {
        if let Some(stamp) = buffer[..size].get(8..16).and_then(|stamp| stamp.try_into().ok()) {
            let sent = Duration::from_nanos(u64::from_ne_bytes(stamp));
            times.add(start.elapsed().saturating_sub(sent));
        }
        received.fetch_add(1, Relaxed);
    }
    times
}
