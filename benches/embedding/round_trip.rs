//! A packet of 64 bytes and its echo, in microseconds: the median.

use std::{future::Future, io, net, sync::Arc, time::Instant};

use ouroboros::Flow;
use quinn::{AsyncStdRuntime, Connection, SmolRuntime};

use crate::{
    Outcome,
    ours::{Managers, runtime},
    quic::Endpoints,
};

const PACKET: [u8; 64] = [7; 64];
const WARM: usize = 500;
const TIMES: usize = 10_000;

pub(crate) fn measure(of: &str) -> Outcome<f64> {
    match of {
        "tokio" => runtime()?.block_on(async {
            let (server, client) = Managers::new().await?.pair(true).await?;
            tokio::spawn(echo(server));
            tokio::spawn(ask(client)).await?
        }),
        "tokio-quinn" => runtime()?.block_on(async {
            let (server, client) = Endpoints::new()?.pair().await?;
            tokio::spawn(echo_datagrams(server));
            tokio::spawn(ask_datagrams(client)).await?
        }),
        "tokio-udp" => runtime()?.block_on(async {
            let [server, client] = sockets()?;
            let [server, client] = [server, client].map(tokio::net::UdpSocket::from_std);
            let (server, client) = (server?, client?);
            tokio::spawn(async move {
                let mut packet = [0; 100];
                while let Ok(size) = server.recv(&mut packet).await {
                    let _ = server.send(&packet[..size]).await;
                }
            });
            let asked = tokio::spawn(async move {
                median(async || {
                    client.send(&PACKET).await?;
                    client.recv(&mut [0; 100]).await?;
                    Ok(())
                })
                .await
            });
            asked.await?
        }),
        "smol" => smol::block_on(async {
            let (server, client) = Managers::new().await?.pair(true).await?;
            smol::spawn(echo(server)).detach();
            smol::spawn(ask(client)).await
        }),
        "smol-quinn" => smol::block_on(async {
            let (server, client) = Endpoints::on(Arc::new(SmolRuntime))?.pair().await?;
            smol::spawn(echo_datagrams(server)).detach();
            smol::spawn(ask_datagrams(client)).await
        }),
        "smol-udp" => smol::block_on(async {
            let [server, client] = sockets()?;
            let [server, client] = [server, client].map(smol::net::UdpSocket::try_from);
            let (server, client) = (server?, client?);
            smol::spawn(async move {
                let mut packet = [0; 100];
                while let Ok(size) = server.recv(&mut packet).await {
                    let _ = server.send(&packet[..size]).await;
                }
            })
            .detach();
            let asked = smol::spawn(async move {
                median(async || {
                    client.send(&PACKET).await?;
                    client.recv(&mut [0; 100]).await?;
                    Ok(())
                })
                .await
            });
            asked.await
        }),
        "async-std" => async_std::task::block_on(async {
            let (server, client) = Managers::new().await?.pair(true).await?;
            async_std::task::spawn(echo(server));
            async_std::task::spawn(ask(client)).await
        }),
        "async-std-quinn" => async_std::task::block_on(async {
            let (server, client) = Endpoints::on(Arc::new(AsyncStdRuntime))?.pair().await?;
            async_std::task::spawn(echo_datagrams(server));
            async_std::task::spawn(ask_datagrams(client)).await
        }),
        "async-std-udp" => async_std::task::block_on(async {
            let [server, client] = sockets()?.map(async_std::net::UdpSocket::from);
            async_std::task::spawn(async move {
                let mut packet = [0; 100];
                while let Ok(size) = server.recv(&mut packet).await {
                    let _ = server.send(&packet[..size]).await;
                }
            });
            let asked = async_std::task::spawn(async move {
                median(async || {
                    client.send(&PACKET).await?;
                    client.recv(&mut [0; 100]).await?;
                    Ok(())
                })
                .await
            });
            asked.await
        }),
        "threads" => {
            let (server, client) =
                smol::block_on(async { Managers::new().await?.pair(true).await })?;
            std::thread::spawn(move || {
                let mut packet = [0; 100];
                while let Ok(size) = server.recv_blocking(&mut packet) {
                    let _ = server.send_blocking(&packet[..size]);
                }
            });
            smol::block_on(median(async || {
                client.send_blocking(&PACKET)?;
                client.recv_blocking(&mut [0; 100])?;
                Ok(())
            }))
        }
        "threads-udp" => {
            let [server, client] = sockets()?;
            for socket in [&server, &client] {
                socket.set_nonblocking(false)?;
            }
            std::thread::spawn(move || {
                let mut packet = [0; 100];
                while let Ok(size) = server.recv(&mut packet) {
                    let _ = server.send(&packet[..size]);
                }
            });
            smol::block_on(median(async || {
                client.send(&PACKET)?;
                client.recv(&mut [0; 100])?;
                Ok(())
            }))
        }
        _ => Err(format!("there is no runtime {of}").into()),
    }
}

async fn echo(flow: Flow) {
    let mut packet = [0; 100];
    while let Ok(size) = flow.recv(&mut packet).await {
        let _ = flow.send(&packet[..size]).await;
    }
}

async fn ask(flow: Flow) -> Outcome<f64> {
    let flow = &flow;
    median(async || {
        flow.send(&PACKET).await?;
        flow.recv(&mut [0; 100]).await?;
        Ok(())
    })
    .await
}

async fn echo_datagrams(connection: Connection) {
    while let Ok(packet) = connection.read_datagram().await {
        if connection.send_datagram(packet).is_err() {
            return;
        }
    }
}

async fn ask_datagrams(connection: Connection) -> Outcome<f64> {
    let connection = &connection;
    median(async || {
        connection.send_datagram(PACKET.to_vec().into())?;
        connection.read_datagram().await?;
        Ok(())
    })
    .await
}

async fn median<F: Future<Output = Outcome<()>>>(round_trip: impl Fn() -> F) -> Outcome<f64> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..WARM + TIMES {
        let begin = Instant::now();
        round_trip().await?;
        times.push(begin.elapsed());
    }
    let times = &mut times[WARM..];
    times.sort_unstable();
    Ok(times[TIMES / 2].as_secs_f64() * 1e6)
}

/// Two that are connected with each other.
pub(crate) fn sockets() -> io::Result<[net::UdpSocket; 2]> {
    let sockets = [net::UdpSocket::bind("127.0.0.1:0")?, net::UdpSocket::bind("127.0.0.1:0")?];
    for (from, to) in [(0, 1), (1, 0)] {
        sockets[from].connect(sockets[to].local_addr()?)?;
        sockets[from].set_nonblocking(true)?;
    }
    Ok(sockets)
}
