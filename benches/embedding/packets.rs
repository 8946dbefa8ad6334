//! Packets of 1200 bytes that arrive in a second, through handles of one task at
//! each end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use ouroboros::{Flow, Packets};

use crate::{
    Outcome, SECONDS,
    ours::{Managers, runtime},
    quic::Endpoints,
    round_trip::sockets,
};

const PACKET: [u8; 1200] = [7; 1200];
/// Packets of one call.
const MANY: usize = 54;

#[derive(Default)]
struct Count {
    received: AtomicU64,
    done: AtomicBool,
}

impl Count {
    fn add(&self, packets: usize) {
        self.received.fetch_add(packets as u64, Relaxed);
    }

    async fn rate(&self) -> f64 {
        tokio::time::sleep(SECONDS / 4).await;
        let (begin, before) = (Instant::now(), self.received.load(Relaxed));
        tokio::time::sleep(SECONDS).await;
        let received = self.received.load(Relaxed) - before;
        self.done.store(true, Relaxed);
        received as f64 / begin.elapsed().as_secs_f64()
    }
}

pub(crate) fn measure(of: &str) -> Outcome<f64> {
    let count = Arc::new(Count::default());
    runtime()?.block_on(async {
        match of {
            "many" => {
                let (server, client) = Managers::new().await?.pair(true).await?;
                tokio::spawn(receive_many(server, count.clone()));
                tokio::spawn(
                    async move { while client.send_many([PACKET; MANY]).await.is_ok() {} },
                );
            }
            "one-by-one" => {
                let (server, client) = Managers::new().await?.pair(true).await?;
                let counts = count.clone();
                tokio::spawn(async move {
                    let mut packet = [0; 1500];
                    while server.recv(&mut packet).await.is_ok() {
                        counts.add(1);
                    }
                });
                tokio::spawn(async move { while client.send(&PACKET).await.is_ok() {} });
            }
            "batched" => {
                let (server, client) = Managers::new().await?.pair(true).await?;
                let (_sender, mut receiver) = server.split();
                let (mut sender, _receiver) = client.split();
                let counts = count.clone();
                thread::spawn(move || {
                    while let Ok(packets) = receiver.receive() {
                        counts.add(packets);
                    }
                });
                let counts = count.clone();
                thread::spawn(move || {
                    while !counts.done.load(Relaxed) {
                        for _ in 0..MANY {
                            if let Some(slot) = sender.push(PACKET.len()) {
                                slot.copy_from_slice(&PACKET);
                            }
                        }
                        if sender.flush().is_err() {
                            return;
                        }
                    }
                });
            }
            "quinn" => {
                let endpoints = Endpoints::new()?;
                let (server, client) = endpoints.pair().await?;
                let counts = count.clone();
                tokio::spawn(async move {
                    while server.read_datagram().await.is_ok() {
                        counts.add(1);
                    }
                });
                let packet = bytes(client.max_datagram_size().unwrap_or(1200).min(1200));
                tokio::spawn(async move {
                    while client.send_datagram_wait(packet.clone().into()).await.is_ok() {}
                });
                return Ok(count.rate().await);
            }
            "udp" => {
                let [server, client] = sockets()?;
                let server = tokio::net::UdpSocket::from_std(server)?;
                let client = tokio::net::UdpSocket::from_std(client)?;
                let counts = count.clone();
                tokio::spawn(async move {
                    let mut packet = [0; 1500];
                    while server.recv(&mut packet).await.is_ok() {
                        counts.add(1);
                    }
                });
                tokio::spawn(async move { while client.send(&PACKET).await.is_ok() {} });
            }
            _ => return Err(format!("there is no way {of}").into()),
        }
        Ok(count.rate().await)
    })
}

fn bytes(size: usize) -> Vec<u8> {
    PACKET[..size].to_vec()
}

async fn receive_many(flow: Flow, count: Arc<Count>) {
    let mut packets = Packets::new();
    while let Ok(received) = flow.recv_many(&mut packets).await {
        count.add(received);
    }
}
