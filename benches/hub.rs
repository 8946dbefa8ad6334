//! What a hub of many clients costs beside one client: the rate of clients that are all
//! busy, of small packets to and from each in turn, the look-up of an address, and what
//! clients that are idle hold. Server and clients are processes of their own in two
//! network namespaces; clients are flows without devices, which one thread reads. Needs
//! root, and takes as many descriptors as there may be. Figures are this machine's,
//! ratios are of interest; on a machine that is busy, those of processor time are.
//!
//! Packets in turn are a send each, whatever the hub does, and one client's leave by 63 in a
//! segmented send. `compare/README.md` has where the time of either goes; `plain-cpu` is what
//! a loop of plain sends to as many sockets costs.
//!
//! `cargo bench -p ouroboros-benches --bench hub [-- SECONDS ROUNDS [FIGURE]]`

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use futures_lite::future::block_on;
use ouroboros::{
    Flow, FlowError, FlowReceiver, FlowSpec, Hub, HubBuilder, Irm, Tunnel,
    proto::hub::{IpNet, Router},
    transport::Udp,
};
use ouroboros_benches::{CLIENT, Hosts, SERVER};
use rustix::{
    event::epoll,
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NAME: &str = "hub";
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The discard service.
const PORT: u16 = 9;
/// How long idle clients are looked at.
const IDLE: Duration = Duration::from_secs(10);
/// Packets that a busy client sends at a time.
const BATCH: usize = 64;
/// Packets that wait in the server's device at most, which has room for 500: what it
/// drops has cost as much as what it takes.
const QUEUED: u64 = 256;
/// A datagram of 64 bytes with its headers.
const SMALL: usize = 64 + 28;
/// The same in a sealed packet.
const SEALED: usize = SMALL + 28;

/// A figure: what the clients do, and how many there are in each case. The first is
/// compared with the others.
const FIGURES: &[(&str, &str, &[usize])] = &[
    ("busy", "packets/s", &[1, 100]),
    ("in-turn", "packets/s", &[1, 1000]),
    ("in-turn-cpu", "us a packet", &[1, 1000]),
    ("plain-cpu", "us a packet", &[1, 1000]),
    ("from-each", "packets/s", &[1, 1000]),
    ("from-each-cpu", "us a packet", &[1, 1000]),
    ("idle-memory", "kB each", &[1000]),
    ("idle-cpu", "% of a core", &[1000]),
];

/// The inside address of a client, counted from 0.
fn inside(client: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(INSIDE.to_bits() + 1 + client as u32)
}

/// A datagram to the server's discard service in an IPv4 packet of `size` bytes.
fn packet(from: Ipv4Addr, size: usize) -> Vec<u8> {
    let mut packet = vec![0; size];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&INSIDE.octets());
    let words = packet[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    // No checksum of UDP: there need not be one in IPv4.
    packet[20..24].copy_from_slice(&[0x30, 0x39, 0, PORT as u8]);
    packet[24..26].copy_from_slice(&(size as u16 - 20).to_be_bytes());
    packet
}

/// Bytes resident in this process, in kB.
fn resident() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// User and system, of this process without this thread, in seconds.
fn processor_time() -> f64 {
    let of = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    of(ClockId::ProcessCPUTime) - of(ClockId::ThreadCPUTime)
}

/// What a hub did in some time.
struct Work {
    packets: u64,
    seconds: f64,
    processor: f64,
}

impl Work {
    /// Of what `count` counts while `work` is done.
    fn of(hub: &Hub, count: impl Fn(&Hub) -> u64, work: impl FnOnce()) -> Self {
        let (before, processor, start) = (count(hub), processor_time(), Instant::now());
        work();
        let (seconds, processor) = (start.elapsed().as_secs_f64(), processor_time() - processor);
        Self { packets: count(hub) - before, seconds, processor }
    }

    fn rate(&self) -> f64 {
        self.packets as f64 / self.seconds
    }

    fn microseconds_each(&self) -> f64 {
        self.processor * 1e6 / self.packets as f64
    }
}

fn sent(hub: &Hub) -> u64 {
    hub.statistics().sent_packets
}

fn received(hub: &Hub) -> u64 {
    hub.statistics().received_packets
}

/// Sends small packets to all clients in turn.
fn send_in_turn(socket: &UdpSocket, clients: usize, time: Duration) -> Outcome<()> {
    let to: Vec<_> = (0..clients).map(|client| SocketAddr::from((inside(client), PORT))).collect();
    let statistics = fs::File::open("/sys/class/net/hub0/statistics/tx_packets")?;
    let taken = || -> Outcome<u64> {
        let mut text = [0; 24];
        let size = statistics.read_at(&mut text, 0)?;
        Ok(std::str::from_utf8(&text[..size])?.trim().parse()?)
    };
    let (start, before, mut count) = (Instant::now(), taken()?, 0);
    let mut next = to.iter().cycle();
    while start.elapsed() < time {
        for to in next.by_ref().take(BATCH) {
            socket.send_to(&[7; 64], to)?;
            count += 1;
        }
        while count > taken()? - before + QUEUED && start.elapsed() < time {
            thread::sleep(Duration::from_micros(20));
        }
    }
    Ok(())
}

/// Microseconds of this thread for each datagram that it sends on so many connected sockets in
/// turn, a call each: the least that packets in turn cost here.
fn send_plain(sockets: usize, time: Duration) -> Outcome<f64> {
    let connected = |_| {
        let socket = UdpSocket::bind((SERVER, 0))?;
        socket.connect((CLIENT, PORT))?;
        Ok(socket)
    };
    let sockets: Vec<_> = (0..sockets).map(connected).collect::<std::io::Result<_>>()?;
    // The client's socket comes to be meanwhile.
    thread::sleep(Duration::from_millis(500));
    let thread_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    };
    let (start, before, mut count) = (Instant::now(), thread_time(), 0u64);
    let mut next = sockets.iter().cycle();
    while start.elapsed() < time {
        for socket in next.by_ref().take(BATCH) {
            socket.send(&[7; SEALED])?;
            count += 1;
        }
    }
    Ok((thread_time() - before) * 1e6 / count as f64)
}

/// Serves so many clients; prints when it listens, then the figure.
fn serve(what: &str, clients: usize, seconds: u64) -> Outcome<()> {
    let irm = Irm::new();
    let time = Duration::from_secs(seconds);
    if what == "plain-cpu" {
        println!("listens");
        println!("{}", send_plain(clients, time)?);
        return Ok(());
    }
    let hub = block_on(async {
        let device = Tunnel::builder().name("hub0").address(format!("{INSIDE}/16").parse()?);
        let hub = HubBuilder::new(device).build()?;
        let layer = irm.bootstrap("layer", Udp::at(SERVER.parse()?)).await?;
        layer.register(NAME).await?;
        Outcome::Ok(hub)
    })?;
    // What nobody takes would be answered by ICMP.
    let _discard = UdpSocket::bind((INSIDE, PORT))?;
    println!("listens");
    let mut before = resident()?;
    for client in 0..clients {
        let own = [IpNet::from(std::net::IpAddr::V4(inside(client)))];
        block_on(async {
            let flow = irm.accept(NAME).await?;
            hub.join(vec![flow], &own).await?;
            Outcome::Ok(())
        })?;
        if client == 0 && clients > 1 {
            // What is there once.
            before = resident()?;
        }
    }
    let figure = match what {
        "busy" | "from-each" | "from-each-cpu" => {
            thread::sleep(Duration::from_millis(500));
            let work = Work::of(&hub, received, || thread::sleep(time));
            if what == "from-each-cpu" { work.microseconds_each() } else { work.rate() }
        }
        "in-turn" | "in-turn-cpu" => {
            let socket = UdpSocket::bind((INSIDE, 0))?;
            let mut done = Ok(());
            let work = Work::of(&hub, sent, || done = send_in_turn(&socket, clients, time));
            done?;
            if what == "in-turn-cpu" { work.microseconds_each() } else { work.seconds }
        }
        "idle-memory" => (resident()? - before) / clients.saturating_sub(1).max(1) as f64,
        _ => {
            let before = processor_time();
            thread::sleep(IDLE);
            (processor_time() - before) / IDLE.as_secs_f64() * 100.0
        }
    };
    println!("{figure}");
    Ok(())
}

/// Is so many clients, until its input ends.
fn be_clients(what: &str, clients: usize) -> Outcome<()> {
    if what == "plain-cpu" {
        // It drops what it has no room for.
        let _socket = UdpSocket::bind((CLIENT, PORT))?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let irm = Irm::new();
    let flows: Vec<Flow> = block_on(async {
        let udp =
            Udp::connect_only(CLIENT.parse()?).server((SERVER.parse::<Ipv4Addr>()?, 3435).into());
        irm.bootstrap("layer", udp).await?;
        let mut flows = Vec::new();
        for _ in 0..clients {
            flows.push(irm.allocate(NAME, FlowSpec::raw().encrypted()).await?);
        }
        Outcome::Ok(flows)
    })?;
    let received = Arc::new(AtomicU64::new(0));
    match what {
        "busy" => {
            let batches: Vec<_> =
                (0..clients).map(|client| vec![packet(inside(client), 1200); BATCH]).collect();
            thread::spawn(move || {
                for (flow, batch) in flows.iter().zip(&batches).cycle() {
                    if block_on(flow.send_many(batch)).is_err() {
                        return;
                    }
                }
            });
        }
        "from-each" | "from-each-cpu" => {
            let packets: Vec<_> =
                (0..clients).map(|client| packet(inside(client), SMALL)).collect();
            thread::spawn(move || {
                for (flow, packet) in flows.iter().zip(&packets).cycle() {
                    if flow.send_blocking(packet).is_err() {
                        return;
                    }
                }
            });
        }
        _ => {
            let received = received.clone();
            thread::spawn(move || receive_all(flows, &received));
        }
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{}", received.load(Relaxed));
    // Without a word to the server each.
    std::process::exit(0)
}

/// Receives what comes on any flow, as cheaply as that can be, and counts it.
fn receive_all(flows: Vec<Flow>, received: &AtomicU64) -> Outcome<()> {
    let (_senders, mut receivers): (Vec<_>, Vec<_>) =
        flows.into_iter().map(Flow::split_for_many).unzip();
    let receive = |receiver: &mut FlowReceiver| -> Result<(), FlowError> {
        received.fetch_add(receiver.try_receive()? as u64, Relaxed);
        receiver.release();
        Ok(())
    };
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, receiver) in receivers.iter_mut().enumerate() {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, receiver.readiness(), data, epoll::EventFlags::IN)?;
        // What came before it was watched.
        receive(receiver)?;
    }
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            receive(&mut receivers[event.data.u64() as usize])?;
        }
    }
}

fn measure(hosts: &Hosts, what: &str, clients: usize, seconds: &str) -> Outcome<f64> {
    let count = clients.to_string();
    let mut server = hosts.run(0, &["server", what, &count, seconds])?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
    lines.next().ok_or("the server does not listen")??;
    let mut asks = hosts.run(1, &["clients", what, &count])?;
    let figure = lines.next().ok_or("the server has failed");
    drop(asks.stdin.take());
    let arrived = asks.wait_with_output()?.stdout;
    let _ = server.kill();
    server.wait()?;
    let figure: f64 = figure??.parse()?;
    if what != "in-turn" {
        return Ok(figure);
    }
    // In so many seconds.
    Ok(String::from_utf8(arrived)?.trim().parse::<f64>()? / figure)
}

/// Nanoseconds for each look-up among so many prefixes.
fn look_up(prefixes: u32, v6: bool) -> Outcome<f64> {
    let mut router = Router::new();
    let address = |number: u32| -> std::net::IpAddr {
        if v6 {
            std::net::Ipv6Addr::from_bits(0xfd09 << 112 | u128::from(number) << 64 | 1).into()
        } else {
            Ipv4Addr::from_bits(0x0a09_0000 + number).into()
        }
    };
    for number in 0..prefixes {
        router.insert(IpNet::new(address(number), if v6 { 64 } else { 32 })?.trunc(), number)?;
    }
    let (times, mut found) = (2_000_000, 0u64);
    let start = Instant::now();
    for time in 0..times {
        let number = (time * 7919) % prefixes;
        found += u64::from(router.client(address(number)).copied() == Some(number));
    }
    assert_eq!(found, u64::from(times));
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(times))
}

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most })?;
    match words[..] {
        ["server", what, clients, seconds] => {
            return serve(what, clients.parse()?, seconds.parse()?);
        }
        ["clients", what, clients] => return be_clients(what, clients.parse()?),
        _ => {}
    }
    let seconds = words.first().copied().unwrap_or("3");
    let rounds: usize = words.get(1).map_or(Ok(3), |rounds| rounds.parse())?;
    println!("{:<12} {:>8} {:>12} {:<12} this : first", "figure", "of", "", "unit");
    let look_ups: &[bool] = if words.len() > 2 { &[] } else { &[false, true] };
    for &v6 in look_ups {
        let name = if v6 { "look-up v6" } else { "look-up v4" };
        let mut first = None;
        for prefixes in [10, 10_000] {
            let figure = look_up(prefixes, v6)?;
            let ratio = figure / *first.get_or_insert(figure);
            println!("{name:<12} {prefixes:>8} {figure:>12.1} {:<12} {ratio:.2}", "ns");
        }
    }
    let hosts = Hosts::new()?;
    let wanted = |what: &str| words.get(2).is_none_or(|wanted| *wanted == what);
    for (what, unit, counts) in FIGURES.iter().filter(|(what, ..)| wanted(what)) {
        let mut had = vec![Vec::new(); counts.len()];
        for _ in 0..rounds {
            for (clients, had) in counts.iter().zip(&mut had) {
                match measure(&hosts, what, *clients, seconds) {
                    Ok(figure) => had.push(figure),
                    Err(error) => eprintln!("{what} of {clients}: {error}"),
                }
            }
        }
        let mut first = None;
        for (clients, mut had) in counts.iter().zip(had) {
            had.sort_by(f64::total_cmp);
            let Some(&median) = had.get(had.len() / 2) else { continue };
            let ratio = median / *first.get_or_insert(median);
            println!("{what:<12} {clients:>8} {median:>12.1} {unit:<12} {ratio:.2}");
        }
    }
    Ok(())
}
