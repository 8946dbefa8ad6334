//! The tutorial and its variants, with the real tools on real interfaces.

mod common;

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use common::{Host, Running, cable, eventually};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

/// Runs `work` on a thread inside a host's network namespace.
fn inside<T: Send + 'static>(host: &Host, work: impl FnOnce() -> T + Send + 'static) -> T {
    let place = format!("/run/netns/{}", host.name);
    thread::spawn(move || {
        let namespace = std::fs::File::open(place).expect("a namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a namespace");
        work()
    })
    .join()
    .expect("no panic inside")
}

/// A socket that sees every frame of a host from now on.
fn watch(host: &Host) -> Socket {
    inside(host, || {
        const ALL: u16 = 0x0003;
        let protocol = Protocol::from(i32::from(ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        socket
    })
}

/// The first frame seen that `wanted` wants.
fn seen(mut socket: &Socket, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut frame = [0; 16_384];
    loop {
        let size = socket.read(&mut frame).expect("a frame that was wanted");
        if wanted(&frame[..size]) {
            return frame[..size].to_vec();
        }
    }
}

const MARK: &[u8] = b"a text that must not be seen on the wire";

fn contains(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|window| window == text)
}

fn send_datagram(host: &Host, to: &'static str) {
    inside(host, move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(MARK, to).expect("sent");
    });
}

/// `size` bytes over TCP from one host to the other, checked as they arrive.
fn transfer(from: &Host, to: &Host, address: &'static str, size: usize) {
    fn byte(at: usize) -> u8 {
        (at % 251) as u8
    }
    let listener = inside(to, move || TcpListener::bind(address).expect("listening"));
    let receiving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connected");
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match stream.read(&mut buffer).expect("read") {
                0 => return total,
                count => {
                    for (at, found) in buffer[..count].iter().enumerate() {
                        assert_eq!(*found, byte(total + at), "byte {}", total + at);
                    }
                    total += count;
                }
            }
        }
    });
    inside(from, move || {
        use std::io::Write;
        let mut stream = TcpStream::connect(address).expect("connected");
        let data: Vec<u8> = (0..251 * 4096).map(byte).collect();
        let mut left = size;
        while left > 0 {
            let count = left.min(data.len());
            stream.write_all(&data[..count]).expect("written");
            left -= count;
        }
    });
    assert_eq!(receiving.join().expect("intact"), size);
}

#[test]
fn the_tutorial_over_the_loopback_interface() {
    let host = Host::new();
    let irmd = host.irmd();
    host.must("irm", "ipcp bootstrap type eth-dix name dix layer my_layer dev lo");
    host.must("irm", "reg name my_vpn layer my_layer");
    host.must("irm", "bind program ovpn name my_vpn");
    let server = host.start("ovpn", "--ip 127.0.0.3 --mask 255.255.255.0", "Waiting");
    let words = "-n my_vpn -i 127.0.0.8 -m 255.255.255.0 --crypt";
    let client = host.start("ovpn", words, "is up");
    assert!(client.said.contains("X25519") && client.said.contains("aes-256-gcm"));
    eventually("two devices", || host.has_device("tun0") && host.has_device("tun1"));
    let devices = host.ip("addr");
    assert!(devices.contains("inet 127.0.0.3/24") && devices.contains("inet 127.0.0.8/24"));
    assert!(devices.contains("POINTOPOINT"));

    let wire = watch(&host);
    // Into the client's device; it comes out of the server's.
    host.ip("route add 10.10.10.0/24 dev tun0");
    send_datagram(&host, "10.10.10.1:9");
    let mut sent_in = false;
    let ciphertext = seen(&wire, |frame| {
        // The TUN devices are seen by this socket, too: IP without Ethernet.
        sent_in |= frame.first() == Some(&0x45) && contains(frame, MARK);
        frame.len() > 14 && frame[12..14] == [0xa0, 0x00]
    });
    assert!(sent_in, "the packet went into a tunnel device");
    assert!(!contains(&ciphertext, MARK), "plaintext on the wire");
    // A native header and content type in front, a tag behind.
    assert_eq!(ciphertext.len(), 18 + 6 + 28 + MARK.len() + 16);
    let arrived = seen(&wire, |frame| frame.first() == Some(&0x45) && contains(frame, MARK));
    assert!(contains(&arrived, MARK));

    assert_eq!(client.end("INT"), Some(0));
    assert_eq!(server.end("TERM"), Some(0));
    assert!(!host.has_device("tun0") && !host.has_device("tun1"), "devices are removed");
    assert_eq!(irmd.end("INT"), Some(0));
}

struct Pair {
    one: Host,
    two: Host,
    _daemons: (Running, Running),
}

fn bootstrapped(first: &str, second: &str, hosts: &str) -> Pair {
    let (one, two) = cable();
    two.hosts(hosts);
    let daemons = (one.irmd(), two.irmd());
    one.must("irm", first);
    two.must("irm", second);
    one.must("irm", "reg name my_vpn layer my_layer");
    one.must("irm", "bind program ovpn name my_vpn");
    Pair { one, two, _daemons: daemons }
}

fn tunnel(pair: &Pair, crypt: &str) -> (Running, Running) {
    let server = pair.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    let client = pair.two.start("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {crypt}"), "is up");
    assert_eq!(client.said.contains("NOT encrypted"), crypt.is_empty());
    eventually("the server's device", || pair.one.has_device("tun0"));
    (server, client)
}

const UDP4: (&str, &str, &str) = (
    "i b t udp n udp l my_layer ip 10.66.0.1",
    "i b t udp n udp l my_layer ip 10.66.0.2",
    "10.66.0.1 2694581a473adbf3d988f56c79953cae\n",
);
const UDP6: (&str, &str, &str) = (
    "i b t udp6 n udp l my_layer ip fd66::1 port 4000",
    "i b t udp6 n udp l my_layer ip fd66::2 sport 4000",
    "fd66::1 2694581a473adbf3d988f56c79953cae\n",
);
const ETH: (&str, &str, &str) = (
    "i b t eth-dix n dix l my_layer dev eth0",
    "i b t eth-dix n dix l my_layer dev eth0",
    "127.0.0.1 localhost\n",
);

#[test]
fn a_tunnel_carries_tcp_over_every_layer_plain_and_encrypted() {
    for (first, second, hosts) in [UDP4, UDP6, ETH] {
        let pair = bootstrapped(first, second, hosts);
        for crypt in ["", "--crypt"] {
            let ends = tunnel(&pair, crypt);
            transfer(&pair.two, &pair.one, "10.9.0.1:4242", 8 << 20);
            transfer(&pair.one, &pair.two, "10.9.0.2:4242", 8 << 20);
            drop(ends);
        }
    }
}

#[test]
fn a_gibibyte_arrives_intact_through_an_encrypted_tunnel() {
    let pair = bootstrapped(UDP4.0, UDP4.1, UDP4.2);
    let _ends = tunnel(&pair, "--crypt");
    transfer(&pair.two, &pair.one, "10.9.0.1:4242", 1 << 30);
}

#[test]
fn the_server_outlives_a_client_that_was_killed() {
    let pair = bootstrapped(ETH.0, ETH.1, ETH.2);
    let (_server, client) = tunnel(&pair, "--crypt");
    assert_eq!(client.end("KILL"), None);
    eventually("the client's device is gone", || !pair.two.has_device("tun0"));
    // It comes back at once, while the server still believes in the old flow.
    let _client = pair.two.start("ovpn", "-n my_vpn -i 10.9.0.2/24 -C", "is up");
    eventually("one tunnel at the server", || pair.one.ip("-o link").matches("tun").count() == 1);
    transfer(&pair.two, &pair.one, "10.9.0.1:4242", 1 << 20);
}

#[test]
fn a_client_outlives_a_server_that_was_killed() {
    let pair = bootstrapped(UDP4.0, UDP4.1, UDP4.2);
    let (server, client) = tunnel(&pair, "-C");
    assert_eq!(server.end("KILL"), None);
    eventually("the server's device is gone", || !pair.one.has_device("tun0"));
    assert!(pair.two.has_device("tun0"), "the client learns of it by silence alone");
    assert_eq!(client.end("TERM"), Some(0));
    assert!(!pair.two.has_device("tun0"));
    drop(tunnel(&pair, "-C"));
}

#[test]
fn a_name_with_encryption_set_refuses_plain_flows() {
    let pair = bootstrapped(ETH.0, ETH.1, ETH.2);
    let file = std::env::temp_dir().join(format!("{}.conf", pair.one.name));
    std::fs::write(&file, "kex=X25519\ncipher=chacha20-poly1305\n").expect("written");
    pair.one.must("irm", "name destroy my_vpn");
    pair.one.must("irm", &format!("name create my_vpn sencpath {}", file.display()));
    std::fs::remove_file(file).expect("removed");
    pair.one.must("irm", "name reg my_vpn layer my_layer");
    pair.one.must("irm", "bind program ovpn name my_vpn");
    let _server = pair.one.start("ovpn", "--ip 10.9.0.1 --mask 255.255.255.0", "Waiting");
    let refused = pair.two.run("ovpn", "-n my_vpn -i 10.9.0.2/24");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("refused"));
    let client = pair.two.start("ovpn", "-n my_vpn -i 10.9.0.2/24 -C", "is up");
    assert!(client.said.contains("chacha20-poly1305"), "the stronger cipher: {}", client.said);
}

#[test]
fn a_process_is_bound_by_its_id() {
    let host = Host::new();
    let _irmd = host.irmd();
    host.must("irm", "ipcp bootstrap type eth-dix name dix layer my_layer dev lo");
    host.must("irm", "reg name my_vpn layer my_layer");
    let server = host.start("ovpn", "--ip 127.0.0.3 --mask 255.255.255.0", "Waiting");
    // `ip netns exec` becomes the program: the id is the tool's own.
    host.must("irm", &format!("bind process {} name my_vpn", server.id()));
    let _client = host.start("ovpn", "-n my_vpn -i 127.0.0.8/24 -C", "is up");
    host.must("irm", &format!("unbind process {} name my_vpn", server.id()));
}

#[test]
fn wrong_usage_and_failure_are_told_apart() {
    let host = Host::new();
    for (program, words, code) in [
        ("irm", "", 2),
        ("irm", "frobnicate", 2),
        ("irm", "--frobnicate", 2),
        ("irm", "ipcp list", 1),
        ("irm", "bind program no-such-program name n", 1),
        ("irmd", "--frobnicate", 2),
        ("ovpn", "", 2),
        ("ovpn", "--ip 10.0.0.1", 2),
        ("ovpn", "--ip 10.0.0.1/33", 2),
        ("ovpn", "--ip 10.0.0.1 --mask 255.0.255.0", 2),
        ("ovpn", "-n my_vpn --ip 10.0.0.1/24", 1),
    ] {
        let output = host.run(program, words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{program} {words}: {error}");
        assert!(!error.is_empty(), "{program} {words} says why");
    }
    let refused = host.run("irm", "ipcp list");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("irmd is not running"));
}

#[test]
fn a_daemon_is_alone_and_survives_nonsense() {
    let host = Host::new();
    let irmd = host.irmd();
    let second = host.run("irmd", "--stdout");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another irmd is running"));
    host.must("irm", "i b t udp n udp l my_layer ip 127.0.0.1");
    inside(&host, || {
        // With the management EID, and what would follow it cut or overlong.
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for size in [0, 1, 4, 46, 47, 100, 2048, 2052, 9000, 60_000] {
            for fill in [0, 0xff] {
                let mut datagram = vec![fill; size];
                datagram.iter_mut().take(4).for_each(|byte| *byte = 0);
                for code in [0, 1, 2, 255] {
                    if let Some(at) = datagram.get_mut(44) {
                        *at = code;
                    }
                    udp.send_to(&datagram, "127.0.0.1:3435").expect("sent");
                }
            }
        }
    });
    host.must("irm", "ipcp list");
    assert_eq!(irmd.end("TERM"), Some(0));
}
