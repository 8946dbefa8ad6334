//! A server as people run it, irmd and `ovpn`, with 1,000 clients that come at once: how long
//! until each has its address and a ping through its tunnel is answered, and until all are
//! back after the server's programs were killed and started again. The clients are flows
//! without devices, each with a key of its own, in one process behind one address, as behind a
//! NAT; nobody's limits are raised. Needs root, and irmd and ovpn of the same build
//! (`cargo build --release -p ouroboros-cli`).
//!
//! `cargo bench -p ouroboros-benches --bench clients [-- CLIENTS ROUNDS]`

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Lines, Write},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, ChildStdout},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_std::task;
use futures_lite::future::{block_on, or};
use ouroboros::{
    Flow, FlowError, FlowSpec, Identity, Irm,
    crypto::{SystemEntropy, identity::IdentityKey},
    daemon::Client,
    proto::hub::ConfigurationClient,
    sync::lock,
    transport::Udp,
    wire::Name,
};
use ouroboros_benches::{CLIENT, Hosts, SERVER};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NAME: &str = "office";
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// How often a client pings, and asks for another flow.
const AGAIN: Duration = Duration::from_millis(500);
/// A server that does not say by then that it is there is gone, as for `ovpn`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often to look whether all are served.
const LOOK: Duration = Duration::from_millis(10);
/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// An ICMP echo request in an IPv4 packet.
fn ping(from: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend(INSIDE.octets());
    packet.extend([8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let words = packet[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Asks for an address, pings, and notes each answer, until the flow has ended.
async fn use_flow(flow: &Flow, answered: &AtomicBool) -> Result<(), FlowError> {
    flow.expect_answers_within(PROBE_TIMEOUT);
    let start = Instant::now();
    let mut asking = ConfigurationClient::new(start.elapsed(), &[]);
    let (mut own, mut pinged) = (None, Instant::now());
    let mut buffer = vec![0; 2048];
    loop {
        while let Some(packet) = asking.poll_transmit() {
            flow.send(&packet).await?;
        }
        let told = asking.poll().and_then(|told| told.addresses.first().copied());
        if let Some(IpAddr::V4(address)) = told.map(|told| told.addr()) {
            own = Some(address);
            flow.send(&ping(address)).await?;
        }
        let received = async { flow.recv(&mut buffer).await.map(Some) };
        let later = async {
            task::sleep(AGAIN).await;
            Ok(None)
        };
        let is_reply = |packet: &[u8], own: Ipv4Addr| {
            packet.len() == 28 && packet[16..20] == own.octets() && packet[20] == 0
        };
        match (or(received, later).await?, own) {
            (Some(size), Some(own)) if is_reply(&buffer[..size], own) => {
                answered.store(true, SeqCst);
            }
            (Some(size), _) => asking.handle(&buffer[..size]),
            (None, None) => asking.handle_timeout(start.elapsed()),
            (None, Some(_)) => {}
        }
        if let Some(own) = own.filter(|_| pinged.elapsed() >= AGAIN) {
            pinged = Instant::now();
            flow.send(&ping(own)).await?;
        }
    }
}

/// Is so many clients. Writes the file of them, and for each line of its input says how long
/// it took from then until all had been served, and how often one got no flow.
fn be_clients(clients: usize, file: &str) -> Outcome<()> {
    let name: Name = NAME.parse()?;
    let keys: Vec<_> = (0..clients).map(|_| IdentityKey::generate(&mut SystemEntropy)).collect();
    let line = |(number, key): (usize, &IdentityKey)| {
        format!("{} client{number}\n", key.public_key().fingerprint())
    };
    fs::write(file, keys.iter().enumerate().map(line).collect::<String>())?;
    println!("ready");
    let irm = Irm::new();
    let server = (SERVER.parse::<Ipv4Addr>()?, 3435).into();
    block_on(irm.bootstrap("layer", Udp::connect_only(CLIENT.parse()?).server(server)))?;
    let answered: Arc<[_]> = (0..clients).map(|_| AtomicBool::new(false)).collect();
    let failures: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let mut keys = Some(keys);
    for line in std::io::stdin().lines() {
        line?;
        let start = Instant::now();
        answered.iter().for_each(|answered| answered.store(false, SeqCst));
        lock(&failures).clear();
        for (number, key) in keys.take().into_iter().flatten().enumerate() {
            let spec = FlowSpec::raw()
                .encrypted()
                .require_native()
                .with_identity(Identity::self_signed(key, &name));
            let (irm, answered, failures) = (irm.clone(), answered.clone(), failures.clone());
            task::spawn(async move {
                // As `ovpn` asks again.
                let mut spec = spec;
                loop {
                    match irm.allocate(NAME, spec.clone()).await {
                        Ok(flow) => {
                            spec = spec.timeout(Duration::from_secs(3));
                            let _ = use_flow(&flow, &answered[number]).await;
                        }
                        Err(error) => {
                            *lock(&failures).entry(error.to_string()).or_default() += 1;
                            task::sleep(AGAIN).await;
                        }
                    }
                }
            });
        }
        let count = || answered.iter().filter(|answered| answered.load(SeqCst)).count();
        let mut half = None;
        while count() < clients && start.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
            if count() >= clients / 2 {
                half.get_or_insert(start.elapsed());
            }
        }
        let half = half.unwrap_or_default().as_secs_f64();
        let all = start.elapsed().as_secs_f64();
        println!(
            "{} served, half in {half:.2} s, all in {all:.2} s; no flow: {:?}",
            count(),
            lock(&failures)
        );
    }
    std::process::exit(0)
}

/// A program that is killed when it is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Output = Lines<BufReader<ChildStdout>>;

fn output(child: &mut Child) -> Outcome<Output> {
    Ok(BufReader::new(child.stdout.take().ok_or("no output")?).lines())
}

/// The first line with `sign` in it.
fn wait_for(lines: &mut Output, sign: &str) -> Outcome<String> {
    let found = lines.find(|line| line.as_ref().map_or(true, |line| line.contains(sign)));
    Ok(found.ok_or_else(|| format!("a program has ended without saying {sign}"))??)
}

/// The programs of the server.
struct Server<'a> {
    hosts: &'a Hosts,
    folder: PathBuf,
}

impl Server<'_> {
    fn socket(&self) -> PathBuf {
        self.folder.join("irmd.sock")
    }

    /// Starts one of the programs beside this one, and waits until it says `sign`.
    fn start(&self, program: &str, words: &[&str], sign: &str) -> Outcome<Program> {
        let own = env::current_exe()?;
        let place = own.parent().and_then(Path::parent).ok_or("no folder")?.join(program);
        let socket = format!("OUROBOROS_SOCKET={}", self.socket().display());
        let trust = format!("OUROBOROS_CONFIG={}", self.folder.display());
        let place = place.display().to_string();
        let words = [&[&*socket, &*trust, &*place], words].concat();
        let mut child = self.hosts.run_program(0, "env".as_ref(), &words)?;
        let mut lines = output(&mut child)?;
        let started = Program(child);
        wait_for(&mut lines, sign).map_err(|error| format!("{program}: {error}"))?;
        // Read on, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(started)
    }

    fn irmd(&self) -> Outcome<Program> {
        self.start("irmd", &["--stdout"], "serves")
    }

    fn ovpn(&self) -> Outcome<Program> {
        let words = ["--serve", NAME, "--dev", "office0", "--ip", "10.9.0.1/20"];
        self.start("ovpn", &words, "Waiting for a flow")
    }

    /// Seconds until the daemon lists so many flows.
    fn until_listed(&self, flows: usize) -> Outcome<f64> {
        let (start, client) = (Instant::now(), Client::at(self.socket()));
        while block_on(client.flows()).map_or(0, |listed| listed.len()) < flows {
            if start.elapsed() > PATIENCE {
                return Err("the daemon does not list all flows".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// User and system time of a process in seconds.
fn processor_time(program: &Program) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", program.0.id()))?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    // USER_HZ.
    Ok(ticks / 100.0)
}

fn measure(hosts: &Hosts, clients: usize) -> Outcome<()> {
    let server = Server { hosts, folder: hosts.folder.clone() };
    let file = server.folder.join(format!("{NAME}.clients")).display().to_string();
    let mut crowd = Program(hosts.run(1, &["clients", &clients.to_string(), &file])?);
    let mut said = output(&mut crowd.0)?;
    let mut asks = crowd.0.stdin.take().ok_or("no input")?;
    wait_for(&mut said, "ready")?;
    let mut ask = |what: &str| -> Outcome<()> {
        asks.write_all(b"go\n")?;
        println!("{what}: {}", wait_for(&mut said, "served")?);
        Ok(())
    };
    let mut irmd = server.irmd()?;
    let mut ovpn = server.ovpn()?;
    ask("first")?;
    let times = (processor_time(&irmd)?, processor_time(&ovpn)?);
    println!("    processor time of irmd {:.2} s, of ovpn {:.2} s", times.0, times.1);
    drop(ovpn);
    ovpn = server.ovpn()?;
    ask("ovpn killed")?;
    let times = (processor_time(&irmd)? - times.0, processor_time(&ovpn)?);
    println!("    processor time of irmd {:.2} s, of ovpn {:.2} s", times.0, times.1);
    drop(irmd);
    irmd = server.irmd()?;
    ask("irmd killed")?;
    println!("    the next irmd lists all flows after {:.2} s", server.until_listed(clients)?);
    drop((ovpn, irmd));
    let _irmd = server.irmd()?;
    let _ovpn = server.ovpn()?;
    ask("both killed")
}

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most })?;
    if let ["clients", clients, file] = words[..] {
        return be_clients(clients.parse()?, file);
    }
    let clients = words.first().map_or(Ok(1000), |clients| clients.parse())?;
    let rounds: usize = words.get(1).map_or(Ok(3), |rounds| rounds.parse())?;
    for _ in 0..rounds {
        measure(&Hosts::new()?, clients)?;
    }
    Ok(())
}
