//! One of the demonstration's two hosts: a process in a network namespace of
//! its own, driven by a line at a time on its standard input.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ouroboros::{FlowSpec, Irm, Tunnel, transport::EthDix};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

pub(crate) const NAME: &str = "my_vpn";
const PORT: u16 = 4242;
const TRANSFER: usize = 256 << 20;

pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, number)
}

/// A host as the demonstration holds it.
pub(crate) struct Host {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Host {
    /// Starts host `number` in a network namespace of its own.
    pub(crate) fn start(number: u8) -> Outcome<Self> {
        let mut command = Command::new("unshare");
        command.arg("--net");
        Self::spawn(command, number)
    }

    /// Starts a second process on `host`, to watch it.
    pub(crate) fn start_watching(host: &Self) -> Outcome<Self> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", host.id()));
        Self::spawn(command, 1)
    }

    fn spawn(mut command: Command, number: u8) -> Outcome<Self> {
        let mut child = command
            .arg(std::env::current_exe()?)
            .env(super::demonstration::ROLE, number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare or nsenter: {error} (Debian: util-linux)"))?;
        let input = child.stdin.take().ok_or("no standard input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, input, output })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, line: &str) -> Outcome {
        Ok(writeln!(self.input, "{line}")?)
    }

    /// The host's lines until it says that it is done.
    pub(crate) fn answer(&mut self) -> Outcome<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err("a host ended before its time".into());
            }
            match line.trim_end() {
                "." => return Ok(lines),
                line => match line.strip_prefix('!') {
                    Some(error) => return Err(error.to_owned().into()),
                    None => lines.push(line.to_owned()),
                },
            }
        }
    }

    pub(crate) fn ask(&mut self, line: &str) -> Outcome<Vec<String>> {
        self.tell(line)?;
        self.answer()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its namespace and devices go with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a shell command and says what it printed.
pub(crate) fn shell(command: &str) -> Outcome<String> {
    let output = Command::new("sh").args(["-c", command]).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

/// The host itself: does what it is told until its input ends.
pub(crate) fn play(number: u8) -> Outcome {
    let irm = Irm::new();
    let mut watch = None;
    for line in std::io::stdin().lines() {
        match obey(&irm, &mut watch, number, &line?) {
            Ok(lines) => lines.iter().for_each(|line| println!("{line}")),
            Err(error) => println!("!{error}"),
        }
        println!(".");
    }
    Ok(())
}

fn obey(irm: &Irm, watch: &mut Option<Socket>, number: u8, line: &str) -> Outcome<Vec<String>> {
    match line {
        "link" => {
            shell("ip link set lo up && ip link set eth0 up")?;
            Ok(Vec::new())
        }
        "tunnel" => tunnel(irm, number),
        "device" => {
            Ok(shell("ip addr show dev tun0")?.lines().take(3).map(str::to_owned).collect())
        }
        "watch-tunnel" => {
            *watch = Some(packets(0x0800)?);
            Ok(Vec::new())
        }
        "watch-wire" => {
            *watch = Some(packets(0xa000)?);
            Ok(Vec::new())
        }
        "look-tunnel" => look(watch, &|packet| packet.first() == Some(&0x45) && packet[9] == 1),
        "look-wire" => look(watch, &|frame| frame.len() == 18 + 6 + 84 + 16),
        "ping" => ping(address(3 - number)),
        "receive" => {
            let listener = TcpListener::bind((address(number), PORT))?;
            thread::spawn(move || -> std::io::Result<u64> {
                let (mut stream, _) = listener.accept()?;
                let mut sink = vec![0; 1 << 20];
                let mut total = 0;
                loop {
                    match stream.read(&mut sink)? {
                        0 => break,
                        size => total += size as u64,
                    }
                }
                stream.write_all(&total.to_be_bytes())?;
                Ok(total)
            });
            Ok(Vec::new())
        }
        "send" => send(address(3 - number)),
        other => Err(format!("{other}: not a thing to do").into()),
    }
}

fn tunnel(irm: &Irm, number: u8) -> Outcome<Vec<String>> {
    let flow = async_std::task::block_on(async {
        let layer = irm.bootstrap("my_layer", EthDix::on("eth0")).await?;
        Outcome::Ok(if number == 1 {
            layer.register(NAME).await?;
            irm.accept(NAME).await?
        } else {
            layer.allocate(NAME, FlowSpec::raw().encrypted()).await?
        })
    })?;
    let suite = flow.info().suite.ok_or("the flow is not encrypted")?;
    let tunnel = Tunnel::builder().address(format!("{}/24", address(number)).parse()?).build()?;
    let name = tunnel.interface_name().to_owned();
    thread::spawn(move || async_std::task::block_on(async move { tunnel.run(flow).await }));
    Ok(vec![format!("flow to {NAME} allocated, {suite}; tunnel device {name}")])
}

/// A socket that sees the packets of `ethertype` on every interface of this
/// host from now on, which in these hosts is one.
fn packets(ethertype: u16) -> Outcome<Socket> {
    // Packet sockets take the ethertype in network byte order.
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// The first packet seen that `wanted` wants, as a hex dump.
fn look(watch: &Option<Socket>, wanted: &dyn Fn(&[u8]) -> bool) -> Outcome<Vec<String>> {
    let mut socket = watch.as_ref().ok_or("nothing is watched")?;
    let mut buffer = [0; 2048];
    loop {
        let size = socket.read(&mut buffer)?;
        if wanted(&buffer[..size]) {
            return Ok(dump(&buffer[..size]));
        }
    }
}

fn dump(bytes: &[u8]) -> Vec<String> {
    let line = |(number, line): (usize, &[u8])| {
        let pairs: Vec<_> = line
            .chunks(2)
            .map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            .collect();
        let text: String = line
            .iter()
            .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' })
            .collect();
        format!("0x{:04x}:  {:39}  {text}", number * 16, pairs.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        odd => u32::from(odd[0]) << 8,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Twenty echo requests, one after the other.
fn ping(to: Ipv4Addr) -> Outcome<Vec<String>> {
    const COUNT: u16 = 20;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(&SocketAddr::from((to, 0)).into())?;
    let mut times = Vec::new();
    for sequence in 0..COUNT {
        let mut request = vec![8, 0, 0, 0, 0x6f, 0x37, 0, 0];
        request[6..8].copy_from_slice(&sequence.to_be_bytes());
        request.extend_from_slice(b"an echo request that nobody on the wire should read.....");
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
        let start = Instant::now();
        socket.send(&request)?;
        let mut reply = [0; 256];
        loop {
            let size = (&socket).read(&mut reply)?;
            // Behind the IPv4 header: an echo reply with our number.
            if size >= 28 && reply[20] == 0 && reply[26..28] == sequence.to_be_bytes() {
                break;
            }
        }
        times.push(start.elapsed());
    }
    times.sort();
    let of = |at: usize| times[at].as_secs_f64() * 1000.0;
    Ok(vec![format!(
        "{COUNT} echo requests, {COUNT} replies; round trip min/median/max {:.3}/{:.3}/{:.3} ms",
        of(0),
        of(times.len() / 2),
        of(times.len() - 1)
    )])
}

fn send(to: Ipv4Addr) -> Outcome<Vec<String>> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&(to, PORT).into(), Duration::from_secs(5))?;
    let (done, written) = mpsc::channel();
    let mut writer = stream.try_clone()?;
    thread::spawn(move || {
        let data = vec![0x55; 1 << 20];
        let result = (0..TRANSFER / data.len()).try_for_each(|_| writer.write_all(&data));
        let _ = done.send(result.and_then(|()| writer.shutdown(std::net::Shutdown::Write)));
    });
    written.recv()??;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    let (seconds, total) = (start.elapsed().as_secs_f64(), u64::from_be_bytes(total));
    if total != TRANSFER as u64 {
        return Err(format!("{total} of {TRANSFER} bytes arrived").into());
    }
    Ok(vec![format!(
        "{} MiB over TCP in {seconds:.2} s: {:.2} Gbit/s",
        TRANSFER >> 20,
        total as f64 * 8e-9 / seconds
    )])
}
