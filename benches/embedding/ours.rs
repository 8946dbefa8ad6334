//! Flows of this library, both ends in this process, over UDP on loopback.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Instant,
};

use futures_lite::future;
use ouroboros::{
    Flow, FlowSpec, Irm, Layer,
    crypto::{KeyExchange, Suite},
    transport::Udp,
};
use ouroboros_benches::limits;

use crate::{Outcome, SECONDS};

pub(crate) const NAME: &str = "bench";

/// A resource manager that serves [`NAME`], and one that asks it.
pub(crate) struct Managers {
    pub(crate) server: Irm,
    _client: Irm,
    layer: Layer,
}

impl Managers {
    pub(crate) async fn new() -> Outcome<Self> {
        // A port of its own: one that was given up is free a moment later.
        static PORT: AtomicU16 = AtomicU16::new(3471);
        let at = SocketAddr::new("127.0.0.71".parse()?, PORT.fetch_add(1, Relaxed));
        let (server, client) = (Irm::with_limits(limits()), Irm::new());
        let served = server.bootstrap("layer", Udp::at(at.ip()).port(at.port())).await?;
        served.register(NAME).await?;
        let asking = Udp::connect_only("127.0.0.72".parse()?).server(at);
        let layer = client.bootstrap("layer", asking).await?;
        Ok(Self { server, _client: client, layer })
    }

    /// A flow's server end and client end.
    pub(crate) async fn pair(&self, hybrid: bool) -> Outcome<(Flow, Flow)> {
        let suite = Suite { kex: KeyExchange::X25519, ..Suite::default() };
        let spec = FlowSpec::raw();
        let spec = if hybrid { spec.encrypted() } else { spec.suite(suite) };
        let accept = async { Ok(self.server.accept(NAME).await?) };
        let allocate = async { Ok(self.layer.allocate(NAME, spec).await?) };
        future::try_zip(accept, allocate).await
    }
}

/// Flows that are allocated, one after the other, in a second.
pub(crate) fn handshakes(hybrid: bool) -> Outcome<f64> {
    runtime()?.block_on(async {
        let managers = Managers::new().await?;
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < SECONDS {
            drop(managers.pair(hybrid).await?);
            count += 1;
        }
        Ok(f64::from(count) / begin.elapsed().as_secs_f64())
    })
}

pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
