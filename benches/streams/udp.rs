//! The kernel's UDP alone, with neither order nor keys: what the others cannot be below.
//! For round trips of one client; what is lost is waited for in vain.

use std::net::SocketAddr;

use ouroboros_benches::{CLIENT, SERVER};
use tokio::net::UdpSocket;

use crate::workload::{Channel, Connect, Outcome, PORT, serve};

fn address(host: &str, port: u16) -> Outcome<SocketAddr> {
    Ok(SocketAddr::new(host.parse()?, port))
}

pub(crate) async fn serve_client() -> Outcome<()> {
    let socket = UdpSocket::bind(address(SERVER, PORT)?).await?;
    println!("listens");
    socket.connect(socket.peek_sender().await?).await?;
    serve(Datagrams(socket)).await
}

#[derive(Clone)]
pub(crate) struct Udp;

impl Connect for Udp {
    type Channel = Datagrams;

    async fn connect(&self) -> Outcome<Datagrams> {
        let socket = UdpSocket::bind(address(CLIENT, 0)?).await?;
        socket.connect(address(SERVER, PORT)?).await?;
        Ok(Datagrams(socket))
    }
}

/// A connected socket.
pub(crate) struct Datagrams(UdpSocket);

impl Channel for Datagrams {
    async fn send(&mut self, data: &[u8]) -> Outcome<()> {
        self.0.send(data).await?;
        Ok(())
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        Ok(self.0.recv(buffer).await?)
    }

    async fn finish(&mut self) -> Outcome<()> {
        Ok(())
    }
}
