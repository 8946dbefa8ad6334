//! The kernel's TCP: plain, and with TLS 1.3 by rustls.

use std::{net::SocketAddr, path::Path, sync::Arc};

use ouroboros_benches::SERVER;
use rustls::pki_types::ServerName;
use tokio::net::{
    TcpListener, TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    certificate,
    workload::{Connect, Outcome, PORT, Stream, serve},
};

/// What it is to be.
#[derive(Clone)]
pub(crate) struct Tcp {
    /// Congestion control of the kernel.
    pub(crate) control: &'static str,
}

pub(crate) type TcpChannel = Stream<OwnedReadHalf, OwnedWriteHalf, ()>;

fn channel(stream: TcpStream) -> Outcome<TcpChannel> {
    let (reader, writer) = stream.into_split();
    Ok(Stream { reader, writer, connection: () })
}

impl Tcp {
    async fn stream(&self) -> Outcome<TcpStream> {
        let stream = TcpStream::connect(SocketAddr::new(SERVER.parse()?, PORT)).await?;
        rustix::net::sockopt::set_tcp_congestion(&stream, self.control)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn listener(&self) -> Outcome<TcpListener> {
        let listener = TcpListener::bind(SocketAddr::new(SERVER.parse()?, PORT)).await?;
        // What is accepted has it, too.
        rustix::net::sockopt::set_tcp_congestion(&listener, self.control)?;
        println!("listens");
        Ok(listener)
    }

    pub(crate) async fn serve(&self) -> Outcome<()> {
        let listener = self.listener().await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(channel(stream)?));
        }
    }
}

impl Connect for Tcp {
    type Channel = TcpChannel;

    async fn connect(&self) -> Outcome<TcpChannel> {
        channel(self.stream().await?)
    }
}

/// TLS over it.
#[derive(Clone)]
pub(crate) struct Tls {
    tcp: Tcp,
    connector: TlsConnector,
}

impl Tls {
    pub(crate) fn new(tcp: Tcp, folder: &Path) -> Outcome<Self> {
        let config = Arc::new(certificate::client(folder)?);
        Ok(Self { tcp, connector: config.into() })
    }

    pub(crate) async fn serve(tcp: Tcp, folder: &Path) -> Outcome<()> {
        let acceptor = TlsAcceptor::from(Arc::new(certificate::server(folder)?));
        let listener = tcp.listener().await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await?;
                let (reader, writer) = tokio::io::split(stream);
                serve(Stream { reader, writer, connection: () }).await
            });
        }
    }
}

type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

impl Connect for Tls {
    type Channel = Stream<tokio::io::ReadHalf<TlsStream>, tokio::io::WriteHalf<TlsStream>, ()>;

    async fn connect(&self) -> Outcome<Self::Channel> {
        let (stream, name) = (self.tcp.stream().await?, ServerName::try_from("localhost")?);
        let stream = self.connector.connect(name, stream).await?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Stream { reader, writer, connection: () })
    }
}
