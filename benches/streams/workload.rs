//! What client and server do, over whatever carries bytes or messages. Not here: how
//! that is had (`ours`, `quic`, `tcp`, and the crate in `s2n-quic/`, which has this
//! file, too).

use std::{
    fs,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where the server listens.
pub(crate) const PORT: u16 = 3435;
/// Bytes of a write, and of a message, in bulk.
const PIECE: usize = 64 * 1024;
/// Bytes of a request and of its reply.
const SMALL: usize = 64;
/// Round trips that are not counted.
const WARM: usize = 500;
/// Flows that are there before memory is first looked at.
const FIRST_FLOWS: usize = 100;

/// What a request begins with.
const ECHO: u8 = b'E';
const TAKE: u8 = b'T';
const GIVE: u8 = b'G';
const STATUS: u8 = b'S';

type Small = [u8; SMALL];

/// One stream, or one flow of messages.
pub(crate) trait Channel: Send + Sync + 'static {
    fn send(&mut self, data: &[u8]) -> impl Future<Output = Outcome<()>> + Send;
    /// How many bytes; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> impl Future<Output = Outcome<usize>> + Send;
    fn finish(&mut self) -> impl Future<Output = Outcome<()>> + Send;
}

/// A client that knows its server.
pub(crate) trait Connect: Clone + Send + Sync + 'static {
    type Channel: Channel;
    /// A channel over a connection of its own.
    fn connect(&self) -> impl Future<Output = Outcome<Self::Channel>> + Send;
    /// One more, over the connection of `beside` if it can have more than one.
    fn open(&self, _beside: &Self::Channel) -> impl Future<Output = Outcome<Self::Channel>> + Send {
        self.connect()
    }
}

/// A stream of bytes, and what has to live as long.
pub(crate) struct Stream<R, W, K> {
    pub(crate) reader: R,
    pub(crate) writer: W,
    pub(crate) connection: K,
}

impl<R, W, K> Channel for Stream<R, W, K>
where
    R: AsyncRead + Unpin + Send + Sync + 'static,
    W: AsyncWrite + Unpin + Send + Sync + 'static,
    K: Send + Sync + 'static,
{
    async fn send(&mut self, data: &[u8]) -> Outcome<()> {
        self.writer.write_all(data).await?;
        Ok(self.writer.flush().await?)
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        Ok(self.reader.read(buffer).await?)
    }

    async fn finish(&mut self) -> Outcome<()> {
        Ok(self.writer.shutdown().await?)
    }
}

/// A request or a reply; `None` at the end.
async fn receive_small(channel: &mut impl Channel) -> Outcome<Option<Small>> {
    let (mut small, mut filled) = ([0; SMALL], 0);
    while filled < SMALL {
        match channel.receive(&mut small[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err("an end within a request".into()),
            count => filled += count,
        }
    }
    Ok(Some(small))
}

async fn ask(channel: &mut impl Channel, request: Small) -> Outcome<Small> {
    channel.send(&request).await?;
    receive_small(channel).await?.ok_or_else(|| "no reply".into())
}

fn small(first: u8, numbers: [f64; 2]) -> Small {
    let mut small = [7; SMALL];
    small[0] = first;
    small[8..16].copy_from_slice(&numbers[0].to_le_bytes());
    small[16..24].copy_from_slice(&numbers[1].to_le_bytes());
    small
}

fn number(small: &Small, index: usize) -> f64 {
    let bytes = &small[8 + 8 * index..16 + 8 * index];
    f64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Seconds of processor time that this process has had.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Memory that is resident in this process, in kB.
fn resident() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Does what the client asks for, until it has finished.
pub(crate) async fn serve(mut channel: impl Channel) -> Outcome<()> {
    while let Some(request) = receive_small(&mut channel).await? {
        match request[0] {
            ECHO => channel.send(&request).await?,
            STATUS => {
                let reply = small(STATUS, [processor_time(), resident()?]);
                channel.send(&reply).await?;
            }
            TAKE => {
                let mut piece = vec![0; PIECE];
                while channel.receive(&mut piece).await? > 0 {}
                channel.send(&request).await?;
                return channel.finish().await;
            }
            GIVE => {
                let (time, begin) = (Duration::from_secs_f64(number(&request, 0)), Instant::now());
                give(&mut channel, || begin.elapsed() < time).await?;
                // The client has read to the end when it finishes.
                channel.receive(&mut [0]).await?;
                return Ok(());
            }
            _ => return Err("a request that is none".into()),
        }
    }
    channel.finish().await
}

/// Sends for as long as `goes_on` says, and finishes; how many bytes.
async fn give(channel: &mut impl Channel, goes_on: impl Fn() -> bool + Send) -> Outcome<usize> {
    let (piece, mut bytes) = (vec![7; PIECE], 0);
    while goes_on() {
        channel.send(&piece).await?;
        bytes += piece.len();
    }
    channel.finish().await?;
    Ok(bytes)
}

/// Does `what` with a value: seconds, or how many of them; the figures.
pub(crate) async fn measure(
    client: impl Connect,
    what: &str,
    value: f64,
    parallel: usize,
) -> Outcome<Vec<f64>> {
    let time = Duration::from_secs_f64(value);
    match what {
        "up" | "down" => bulk(&client, what == "up", time).await,
        "round-trip" => {
            let mut channel = client.connect().await?;
            round_trips(&mut channel, time).await
        }
        "loaded" => loaded(&client, time).await,
        "open" => open(&client, time, parallel).await,
        "idle" => idle(&client, value as usize).await,
        _ => Err(format!("there is no workload {what}").into()),
    }
}

/// Gbit/s, and seconds of processor time for a GB at both ends.
async fn bulk(client: &impl Connect, up: bool, time: Duration) -> Outcome<Vec<f64>> {
    let mut channel = client.connect().await?;
    ask(&mut channel, small(ECHO, [0.0; 2])).await?;
    let mut control = client.open(&channel).await?;
    let status = small(STATUS, [0.0; 2]);
    let before = number(&ask(&mut control, status).await?, 0) + processor_time();
    let begin = Instant::now();
    let bytes = if up {
        channel.send(&small(TAKE, [0.0; 2])).await?;
        let bytes = give(&mut channel, || begin.elapsed() < time).await?;
        // The server has read all of it.
        receive_small(&mut channel).await?.ok_or("no reply")?;
        bytes
    } else {
        channel.send(&small(GIVE, [time.as_secs_f64(), 0.0])).await?;
        let (mut piece, mut bytes) = (vec![0; PIECE], 0);
        loop {
            match channel.receive(&mut piece).await? {
                0 => break bytes,
                count => bytes += count,
            }
        }
    };
    let time = begin.elapsed().as_secs_f64();
    let after = number(&ask(&mut control, status).await?, 0) + processor_time();
    if !up {
        channel.finish().await?;
    }
    let bytes = bytes as f64;
    Ok(vec![bytes * 8e-9 / time, (after - before) / (bytes * 1e-9)])
}

/// Microseconds: median, and what 99 of 100 are below.
async fn round_trips(channel: &mut impl Channel, time: Duration) -> Outcome<Vec<f64>> {
    let (request, mut trips) = (small(ECHO, [0.0; 2]), Vec::new());
    for _ in 0..WARM {
        ask(channel, request).await?;
    }
    let begin = Instant::now();
    while begin.elapsed() < time {
        let begin = Instant::now();
        ask(channel, request).await?;
        trips.push(begin.elapsed());
    }
    trips.sort_unstable();
    let at = |part: usize| trips[trips.len() * part / 100].as_secs_f64() * 1e6;
    Ok(vec![at(50), at(99)])
}

/// Round trips while this program sends in bulk to the same server.
async fn loaded(client: &impl Connect, time: Duration) -> Outcome<Vec<f64>> {
    let mut bulk = client.connect().await?;
    let mut channel = client.open(&bulk).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let sending = tokio::spawn(async move {
        bulk.send(&small(TAKE, [0.0; 2])).await?;
        give(&mut bulk, || !stopped.load(Ordering::Relaxed)).await?;
        receive_small(&mut bulk).await?;
        Outcome::Ok(())
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let figures = round_trips(&mut channel, time).await?;
    stop.store(true, Ordering::Relaxed);
    sending.await??;
    Ok(figures)
}

/// Connections with a first reply in a second, so many at once.
async fn open(client: &impl Connect, time: Duration, parallel: usize) -> Outcome<Vec<f64>> {
    // What is made once is no connection's.
    ask(&mut client.connect().await?, small(ECHO, [0.0; 2])).await?;
    let begin = Instant::now();
    let tasks: Vec<_> = (0..parallel)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut count = 0.0;
                while begin.elapsed() < time {
                    let mut channel = client.connect().await?;
                    ask(&mut channel, small(ECHO, [0.0; 2])).await?;
                    count += 1.0;
                }
                Outcome::Ok(count)
            })
        })
        .collect();
    let mut count = 0.0;
    for task in tasks {
        count += task.await??;
    }
    Ok(vec![count / begin.elapsed().as_secs_f64()])
}

/// Memory of each connection at the server that had one round trip, in kB: of so many, the
/// first of which are not counted.
async fn idle(client: &impl Connect, count: usize) -> Outcome<Vec<f64>> {
    let mut control = client.connect().await?;
    let (mut kept, mut resident) = (Vec::new(), Vec::new());
    let count = count.saturating_sub(FIRST_FLOWS).max(1);
    for count in [FIRST_FLOWS, count] {
        for _ in 0..count {
            let mut channel = client.connect().await?;
            ask(&mut channel, small(ECHO, [0.0; 2])).await?;
            kept.push(channel);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        resident.push(number(&ask(&mut control, small(STATUS, [0.0; 2])).await?, 1));
    }
    Ok(vec![(resident[1] - resident[0]) / count as f64])
}
