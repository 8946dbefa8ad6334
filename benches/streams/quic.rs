//! quinn, with its defaults but for the congestion control.

use std::{net::SocketAddr, path::Path, sync::Arc};

use ouroboros_benches::SERVER;
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig,
    congestion::BbrConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use crate::{
    certificate,
    workload::{Connect, Outcome, PORT, Stream, serve},
};

type Channel = Stream<RecvStream, SendStream, Connection>;

#[derive(Clone)]
pub(crate) struct Quinn(Endpoint);

fn transport(bbr: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    if bbr {
        config.congestion_controller_factory(Arc::new(BbrConfig::default()));
    }
    Arc::new(config)
}

impl Quinn {
    pub(crate) fn new(bbr: bool, folder: &Path) -> Outcome<Self> {
        let tls = QuicClientConfig::try_from(certificate::client(folder)?)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport(bbr));
        let mut endpoint = Endpoint::client("0.0.0.0:0".parse()?)?;
        endpoint.set_default_client_config(config);
        Ok(Self(endpoint))
    }

    pub(crate) async fn serve(bbr: bool, folder: &Path) -> Outcome<()> {
        let tls = QuicServerConfig::try_from(certificate::server(folder)?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(transport(bbr));
        let endpoint = Endpoint::server(config, SocketAddr::new(SERVER.parse()?, PORT))?;
        println!("listens");
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                loop {
                    let (writer, reader) = connection.accept_bi().await?;
                    let connection = connection.clone();
                    tokio::spawn(serve(Stream { reader, writer, connection }));
                }
                #[expect(unreachable_code, reason = "says what errors become")]
                Outcome::Ok(())
            });
        }
        Ok(())
    }
}

async fn channel(connection: Connection) -> Outcome<Channel> {
    let (writer, reader) = connection.open_bi().await?;
    Ok(Stream { reader, writer, connection })
}

impl Connect for Quinn {
    type Channel = Channel;

    async fn connect(&self) -> Outcome<Channel> {
        let server = SocketAddr::new(SERVER.parse()?, PORT);
        channel(self.0.connect(server, "localhost")?.await?).await
    }

    async fn open(&self, beside: &Channel) -> Outcome<Channel> {
        channel(beside.connection.clone()).await
    }
}
