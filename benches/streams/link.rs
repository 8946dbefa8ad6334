//! A link in user space, for kernels without netem: two TUN devices, one in each host,
//! between which packets are carried with a rate, a delay, a queue and losses. From the
//! client to the server all of that, in this order: losses, the queue's end (what has
//! no room is dropped), the rate, the delay. Back the delay only.
//!
//! What it is not: exact. Its threads are woken late where the machine is busy, which
//! is jitter for who measures: [`Link::report`] says how often.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ouroboros_benches::Hosts;
use rustix::thread::set_current_timer_slack;

use crate::workload::Outcome;

/// What a packet takes on Ethernet beside itself: header, checksum, preamble and gap.
const FRAME: usize = 38;
const MTU: u16 = 1500;
/// A packet that leaves so long after its time is late.
const LATE: Duration = Duration::from_millis(2);
/// How soon an end of the link is noticed.
const LOOK: Duration = Duration::from_millis(50);

/// What the link is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bits a second.
    pub(crate) rate: f64,
    /// One way.
    pub(crate) delay: Duration,
    /// Bytes that wait at most, frames' heads included.
    pub(crate) queue: f64,
    /// Share of packets that are lost at random.
    pub(crate) loss: f64,
    pub(crate) seed: u64,
}

impl Shape {
    /// Of 200 Mbit/s, with a queue of a bandwidth-delay product.
    pub(crate) fn new(round_trip: Duration, loss: f64) -> Self {
        let rate = 200e6;
        let queue = rate / 8.0 * round_trip.as_secs_f64();
        Self { rate, delay: round_trip / 2, queue, loss, seed: 7 }
    }
}

#[derive(Default)]
struct Counters {
    carried: AtomicU64,
    lost: AtomicU64,
    full: AtomicU64,
    late: AtomicU64,
}

/// The link, until it is dropped.
pub(crate) struct Link {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
}

type Packet = (Instant, Vec<u8>);

fn device(name: &str) -> Outcome<Arc<tun::Device>> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).mtu(MTU);
    Ok(Arc::new(tun::create(&configuration)?))
}

impl Link {
    /// Between the hosts, which have no other.
    pub(crate) fn new(hosts: &Hosts, shape: Shape) -> Outcome<Self> {
        let names = ["s", "c"].map(|end| format!("o7l{}{end}", std::process::id()));
        let [server, client] = [device(&names[0])?, device(&names[1])?];
        hosts.connect([&names[0], &names[1]])?;
        let (stop, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(Counters::default()));
        let back = Shape { rate: f64::INFINITY, queue: f64::INFINITY, loss: 0.0, ..shape };
        let mut threads = Vec::new();
        for (from, to, shape) in [(&client, &server, shape), (&server, &client, back)] {
            let (sender, receiver) = channel();
            let (from, to) = (from.clone(), to.clone());
            let (stop, taken, given) = (stop.clone(), counters.clone(), counters.clone());
            threads.push(thread::spawn(move || take(&from, shape, &sender, &stop, &taken)));
            threads.push(thread::spawn(move || give(&to, &receiver, &given)));
        }
        Ok(Self { stop, counters, threads })
    }

    /// What it has done.
    pub(crate) fn report(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { carried, lost, full, late } = &*self.counters;
        let (carried, lost, full, late) = (of(carried), of(lost), of(full), of(late));
        format!("{carried} packets, {lost} lost, {full} without room, {late} late")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Xorshift.
struct Random(u64);

impl Random {
    /// Between 0 and 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Reads what a host sends, and says when it is to arrive.
fn take(
    device: &tun::Device,
    shape: Shape,
    packets: &Sender<Packet>,
    stop: &AtomicBool,
    counters: &Counters,
) {
    let mut random = Random(shape.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut idle_at = Instant::now();
    let mut buffer = [0; MTU as usize];
    while !stop.load(Ordering::Relaxed) {
        let Ok(size) = device.recv_timeout(&mut buffer, LOOK) else { continue };
        let now = Instant::now();
        if random.next() < shape.loss {
            counters.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let frame = (size + FRAME) as f64;
        let waiting = idle_at.saturating_duration_since(now);
        if waiting.as_secs_f64() * shape.rate / 8.0 + frame > shape.queue {
            counters.full.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let takes = Duration::from_secs_f64(frame * 8.0 / shape.rate);
        idle_at = now + waiting + takes;
        let _ = packets.send((idle_at + shape.delay, buffer[..size].to_vec()));
    }
}

/// Gives the other host what arrives.
fn give(device: &tun::Device, packets: &Receiver<Packet>, counters: &Counters) {
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    for (due, packet) in packets {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let late = due.elapsed() > LATE;
        counters.late.fetch_add(late.into(), Ordering::Relaxed);
        counters.carried.fetch_add(1, Ordering::Relaxed);
        let _ = device.send(&packet);
    }
}
