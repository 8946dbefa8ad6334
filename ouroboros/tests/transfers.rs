//! Bulk transfers over reliable flows, embedded: every byte, over each transport (that
//! over Ethernet is in `transport`, those through the daemon in `ouroboros-cli`), while
//! keys change, while the client's address changes, and when an end is gone.

mod transfer;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread,
    time::Duration,
};

use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use ouroboros::{
    Flow, FlowError, FlowSpec, Irm,
    crypto::AeadBackend,
    proto::native::KeyLimits,
    transport::{IntoTransport, Udp, memory::Network},
    wire::Name,
};
use transfer::{Pattern, in_time, read, size, transfer};

/// A loopback address that no other test has.
fn address() -> IpAddr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, COUNT.fetch_add(1, Relaxed) as u8).into()
}

const PORT: u16 = 3435;

async fn ends(server_at: impl IntoTransport, client_at: impl IntoTransport) -> (Irm, Irm) {
    let (server, client) = (Irm::new(), Irm::new());
    let layer = server.bootstrap("my_layer", server_at).await.expect("a station");
    layer.register("files").await.expect("registered");
    client.bootstrap("my_layer", client_at).await.expect("a station");
    (server, client)
}

/// Two ends over UDP; the client asks at `server`, which may be somebody between them.
async fn udp(ip: IpAddr, server: SocketAddr) -> (Irm, Irm) {
    ends(Udp::at(ip).port(PORT), Udp::connect_only(ip).server(server)).await
}

async fn flows((server, client): &(Irm, Irm)) -> (Flow, Flow) {
    let spec = FlowSpec::reliable().encrypted();
    let (accepted, allocated) =
        future::zip(server.accept("files"), client.allocate("files", spec)).await;
    (accepted.expect("accepted"), allocated.expect("allocated"))
}

#[test]
fn a_transfer_arrives_whole_in_memory() {
    future::block_on(in_time(async {
        let network = Network::new();
        let ends = ends(network.station(), network.station()).await;
        let (accepted, allocated) = flows(&ends).await;
        transfer(allocated, accepted, size()).await;
    }));
}

#[test]
fn a_transfer_arrives_whole_over_udp() {
    future::block_on(in_time(async {
        let ip = address();
        let ends = udp(ip, (ip, PORT).into()).await;
        let (accepted, allocated) = flows(&ends).await;
        transfer(accepted, allocated, size()).await;
    }));
}

#[test]
fn keys_change_in_mid_stream_and_no_byte_is_lost_or_comes_twice() {
    const EPOCHS: u64 = 4;
    future::block_on(in_time(async {
        let ip = address();
        let (server, client) = udp(ip, (ip, PORT).into()).await;
        let name: Name = "files".parse().expect("a name");
        let spec = FlowSpec::reliable().encrypted();
        let (accepted, allocated) = future::zip(
            server.accept_raw(std::slice::from_ref(&name)),
            client.allocate_raw(&name, spec),
        )
        .await;
        // So few packets that keys change as often as they may.
        let limits = KeyLimits { due: 500, ..KeyLimits::default() };
        let [accepted, allocated] = [accepted, allocated].map(|raw| {
            let raw = raw.expect("a flow");
            Flow::with_limits(raw, AeadBackend::default(), limits).expect("a flow")
        });
        let start = allocated.statistics().epoch;
        let both_ways = |seed, from: Flow| async move {
            let (mut reader, mut writer) = from.into_stream().split();
            let write = async {
                let mut pattern = Pattern::new(seed);
                while writer.flow().statistics().epoch < start + EPOCHS {
                    writer.write_all(pattern.next(u64::MAX)).await.expect("written");
                }
                writer.finish().await.expect("the peer has all of it");
                pattern.count()
            };
            future::zip(write, read(&mut reader, 1 - seed)).await
        };
        let (one, other) = future::zip(both_ways(0, accepted), both_ways(1, allocated)).await;
        assert_eq!((one.0, other.0), (other.1, one.1), "all that was written was read");
    }));
}

/// How often it is looked whether somebody is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// Passes datagrams between clients and a server as an address translation does, which
/// on the way may forget what it knows: then clients have another address.
struct Translator {
    socket: UdpSocket,
    server: SocketAddr,
    /// The outer address of each client's.
    outer: HashMap<SocketAddr, Arc<UdpSocket>>,
}

impl Translator {
    fn run(mut self, forget: &AtomicBool, end: &AtomicBool) {
        let mut buffer = vec![0; 65_536];
        while !end.load(SeqCst) {
            let Ok((size, client)) = self.socket.recv_from(&mut buffer) else { continue };
            if forget.swap(false, SeqCst) {
                self.outer.clear();
            }
            let outer = self.outer.entry(client).or_insert_with(|| {
                let ip = self.socket.local_addr().expect("bound").ip();
                let outer = UdpSocket::bind((ip, 0)).expect("a port");
                outer.connect(self.server).expect("connected");
                outer.set_read_timeout(Some(LOOK)).expect("set");
                let outer = Arc::new(outer);
                let (inner, back) = (self.socket.try_clone().expect("a descriptor"), outer.clone());
                thread::spawn(move || {
                    let mut buffer = vec![0; 65_536];
                    // Until it is forgotten.
                    while Arc::strong_count(&back) > 1 {
                        if let Ok(size) = back.recv(&mut buffer) {
                            let _ = inner.send_to(&buffer[..size], client);
                        }
                    }
                });
                outer
            });
            let _ = outer.send(&buffer[..size]);
        }
    }
}

#[test]
fn a_transfer_goes_on_when_its_client_s_address_changes() {
    for upwards in [true, false] {
        let ip = address();
        let socket = UdpSocket::bind((address(), 0)).expect("a port");
        socket.set_read_timeout(Some(LOOK)).expect("set");
        let between = socket.local_addr().expect("bound");
        let (forget, end) = (&AtomicBool::new(false), &AtomicBool::new(false));
        let translator = Translator { socket, server: (ip, PORT).into(), outer: HashMap::new() };
        thread::scope(|scope| {
            scope.spawn(|| translator.run(forget, end));
            future::block_on(in_time(async {
                let ends = udp(ip, between).await;
                let (accepted, allocated) = flows(&ends).await;
                let (from, to) =
                    if upwards { (allocated, accepted) } else { (accepted, allocated) };
                let (mut writer, mut reader) = (from.into_stream(), to.into_stream());
                let write = async {
                    let mut pattern = Pattern::new(7);
                    for change in 0..3 {
                        while pattern.count() < 2_000_000 * (change + 1) {
                            writer.write_all(pattern.next(u64::MAX)).await.expect("written");
                        }
                        forget.store(true, SeqCst);
                    }
                    // And after the last one.
                    while pattern.count() < 8_000_000 {
                        writer.write_all(pattern.next(u64::MAX)).await.expect("written");
                    }
                    writer.close().await.expect("the peer has all of it");
                    pattern.count()
                };
                let (written, count) = future::zip(write, read(&mut reader, 7)).await;
                assert_eq!(written, count);
                assert!(!forget.load(SeqCst), "the address has changed");
            }));
            end.store(true, SeqCst);
        });
    }
}

#[test]
fn an_end_that_is_gone_in_mid_transfer_is_an_error_at_the_other_and_no_end() {
    for reader_is_gone in [true, false] {
        future::block_on(in_time(async {
            let network = Network::new();
            let ends = ends(network.station(), network.station()).await;
            let (accepted, allocated) = flows(&ends).await;
            let patience = Duration::from_millis(500);
            accepted.expect_answers_within(patience);
            allocated.expect_answers_within(patience);
            let (mut writer, mut reader) = (allocated.into_stream(), accepted.into_stream());
            let (mut sent, mut received) = (Pattern::new(7), Pattern::new(7));
            let mut buffer = vec![0; 65_536];
            while received.count() < 1_000_000 {
                let write = async { writer.write_all(sent.next(1000)).await.expect("written") };
                let read = async { reader.read(&mut buffer).await.expect("read") };
                let ((), count) = future::zip(write, read).await;
                received.check(&buffer[..count]);
            }
            network.cut();
            let kind = if reader_is_gone {
                let error = loop {
                    if let Err(error) = writer.write_all(sent.next(1000)).await {
                        break error;
                    }
                };
                let finished = writer.finish().await;
                assert!(matches!(finished, Err(FlowError::Down)), "{finished:?}");
                error.kind()
            } else {
                loop {
                    match reader.read(&mut buffer).await {
                        Ok(0) => panic!("taken for the end"),
                        Ok(count) => received.check(&buffer[..count]),
                        Err(error) => break error.kind(),
                    }
                }
            };
            assert_eq!(kind, io::ErrorKind::TimedOut);
        }));
    }
}
