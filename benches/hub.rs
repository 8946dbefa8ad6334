//! What a hub of many clients costs beside one client: the rate of clients that are all
//! busy, of small packets to each in turn, the look-up of an address, and what clients
//! that are idle hold. Server and clients are processes of their own in two network
//! namespaces; clients are flows without devices. Needs root, and takes as many
//! descriptors as there may be. Figures are this machine's, ratios are of interest.
//!
//! `cargo bench -p ouroboros-benches --bench hub [-- SECONDS ROUNDS]`

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use futures_lite::future::block_on;
use ouroboros::{
    Flow, FlowSpec, Hub, HubBuilder, Irm, Packets, Tunnel,
    proto::hub::{IpNet, Router},
    transport::Udp,
};
use ouroboros_benches::{CLIENT, Hosts, SERVER};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NAME: &str = "hub";
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The discard service.
const PORT: u16 = 9;
/// How long idle clients are looked at.
const IDLE: Duration = Duration::from_secs(10);
/// Packets that a busy client sends at a time.
const BATCH: usize = 64;

/// A figure: what the clients do, and how many there are in each case. The first is
/// compared with the others.
const FIGURES: &[(&str, &str, &[usize])] = &[
    ("busy", "packets/s", &[1, 100]),
    ("in-turn", "packets/s", &[1, 1000]),
    ("idle-memory", "kB each", &[1000]),
    ("idle-cpu", "% of a core", &[1000]),
];

/// The inside address of a client, counted from 0.
fn inside(client: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(INSIDE.to_bits() + 1 + client as u32)
}

/// A datagram of 1,200 bytes to the server's discard service in an IPv4 packet.
fn packet(from: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; 1200];
    packet[..12].copy_from_slice(&[0x45, 0, 4, 176, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&INSIDE.octets());
    let words = packet[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    // No checksum of UDP: there need not be one in IPv4.
    packet[20..26].copy_from_slice(&[0x30, 0x39, 0, PORT as u8, 4, 156]);
    packet
}

/// Bytes resident in this process, in kB.
fn resident() -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn rate(hub: &Hub, time: Duration, count: impl Fn(&Hub) -> u64) -> f64 {
    let (before, start) = (count(hub), Instant::now());
    std::thread::sleep(time);
    (count(hub) - before) as f64 / start.elapsed().as_secs_f64()
}

/// Serves so many clients; prints when it listens, then the figure.
fn serve(what: &str, clients: usize, seconds: u64) -> Outcome<()> {
    let irm = Irm::new();
    let time = Duration::from_secs(seconds);
    let hub = block_on(async {
        let device = Tunnel::builder().name("hub0").address(format!("{INSIDE}/16").parse()?);
        let hub = HubBuilder::new(device).build()?;
        let layer = irm.bootstrap("layer", Udp::at(SERVER.parse()?)).await?;
        layer.register(NAME).await?;
        Outcome::Ok(hub)
    })?;
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
        "busy" => {
            rate(&hub, Duration::from_millis(500), |_| 0);
            rate(&hub, time, |hub| hub.statistics().received_packets)
        }
        "in-turn" => {
            let socket = UdpSocket::bind((INSIDE, 0))?;
            let to: Vec<_> =
                (0..clients).map(|client| SocketAddr::from((inside(client), PORT))).collect();
            let (start, sent) = (Instant::now(), hub.statistics().sent_packets);
            let mut next = to.iter().cycle();
            while start.elapsed() < time {
                for to in next.by_ref().take(256) {
                    // A full device loses it.
                    let _ = socket.send_to(&[7; 64], to);
                }
            }
            (hub.statistics().sent_packets - sent) as f64 / start.elapsed().as_secs_f64()
        }
        "idle-memory" => (resident()? - before) / clients.saturating_sub(1).max(1) as f64,
        _ => {
            let before = processor_time();
            std::thread::sleep(IDLE);
            (processor_time() - before) / IDLE.as_secs_f64() * 100.0
        }
    };
    println!("{figure}");
    Ok(())
}

/// Is so many clients, until its input ends.
fn be_clients(what: &str, clients: usize) -> Outcome<()> {
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
    if what == "busy" {
        let batches: Vec<_> =
            (0..clients).map(|client| vec![packet(inside(client)); BATCH]).collect();
        std::thread::spawn(move || {
            for (flow, batch) in flows.iter().zip(&batches).cycle() {
                if block_on(flow.send_many(batch)).is_err() {
                    return;
                }
            }
        });
    } else {
        std::thread::spawn(move || {
            let executor = smol::Executor::new();
            for flow in &flows {
                let read = async move {
                    let mut packets = Packets::default();
                    while flow.recv_many(&mut packets).await.is_ok() {}
                };
                executor.spawn(read).detach();
            }
            block_on(executor.run(std::future::pending::<()>()));
        });
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // Without a word to the server each.
    std::process::exit(0)
}

fn measure(hosts: &Hosts, what: &str, clients: usize, seconds: &str) -> Outcome<f64> {
    let count = clients.to_string();
    let mut server = hosts.run(0, &["server", what, &count, seconds])?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
    lines.next().ok_or("the server does not listen")??;
    let mut asks = hosts.run(1, &["clients", what, &count])?;
    let figure = lines.next().ok_or("the server has failed");
    drop(asks.stdin.take());
    let _ = asks.wait();
    let _ = server.kill();
    server.wait()?;
    Ok(figure??.parse()?)
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
    for v6 in [false, true] {
        let name = if v6 { "look-up v6" } else { "look-up v4" };
        let mut first = None;
        for prefixes in [10, 10_000] {
            let figure = look_up(prefixes, v6)?;
            let ratio = figure / *first.get_or_insert(figure);
            println!("{name:<12} {prefixes:>8} {figure:>12.1} {:<12} {ratio:.2}", "ns");
        }
    }
    let hosts = Hosts::new()?;
    for (what, unit, counts) in FIGURES {
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
