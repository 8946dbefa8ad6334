//! quinn with a certificate that both ends know.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use futures_lite::future;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::{Outcome, SECONDS, ours::runtime};

pub(crate) struct Endpoints {
    server: Endpoint,
    client: Endpoint,
}

impl Endpoints {
    pub(crate) fn new() -> Outcome<Self> {
        Self::on(Arc::new(TokioRuntime))
    }

    pub(crate) fn on(runtime: Arc<dyn Runtime>) -> Outcome<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let certificate = CertificateDer::from(made.cert);
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into())?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate)?;
        let endpoint = |server| {
            let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            Endpoint::new(EndpointConfig::default(), server, socket, runtime.clone())
        };
        let server = endpoint(Some(server))?;
        let mut client = endpoint(None)?;
        client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
        Ok(Self { server, client })
    }

    pub(crate) async fn pair(&self) -> Outcome<(Connection, Connection)> {
        let accept = async {
            let incoming = self.server.accept().await.ok_or("the endpoint is closed")?;
            Ok(incoming.await?)
        };
        let connect =
            async { Ok(self.client.connect(self.server.local_addr()?, "localhost")?.await?) };
        future::try_zip(accept, connect).await
    }
}

/// Connections that are made, one after the other, in a second.
pub(crate) fn handshakes() -> Outcome<f64> {
    runtime()?.block_on(async {
        let endpoints = Endpoints::new()?;
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < SECONDS {
            drop(endpoints.pair().await?);
            count += 1;
        }
        Ok(f64::from(count) / begin.elapsed().as_secs_f64())
    })
}
