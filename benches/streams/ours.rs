//! Reliable flows: streams and messages, embedded and through irmd, over UDP and
//! eth-dix.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_std::task;
use ouroboros::{
    Flow, FlowError, FlowReadHalf, FlowSpec, FlowWriteHalf, Irm,
    crypto::{KeyExchange, Suite},
    proto::reliable::congestion::CongestionControl,
    transport::{EthDix, Udp},
    trust::TrustFolder,
};
use ouroboros_benches::{CLIENT, SERVER, limits};
use ouroboros_cli::irmd::{self, DaemonSocket, State};

use crate::workload::{Channel, Connect, Outcome, PORT, Stream, serve};

const NAME: &str = "bench";
const LAYER: &str = "layer";

/// Which way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    pub(crate) irmd: bool,
    pub(crate) eth_dix: bool,
    pub(crate) control: Option<CongestionControl>,
    /// X25519 alone is agreed.
    pub(crate) x25519: bool,
}

/// A daemon at one of the hosts, with its layer, until it is killed.
pub(crate) fn daemon(host: usize, folder: &Path) -> Outcome<()> {
    let socket = DaemonSocket::take(&daemon_socket(host, folder))?;
    let mut state = State::default();
    state.trust = Some(TrustFolder::at(folder.join(format!("trust{host}"))));
    let state = Arc::new(state);
    task::block_on(async {
        bootstrap(&state.irm, false, host).await?;
        println!("listens");
        irmd::serve(state, &socket.listener).await;
        Ok(())
    })
}

fn daemon_socket(host: usize, folder: &Path) -> PathBuf {
    folder.join(format!("irmd{host}.sock"))
}

async fn bootstrap(irm: &Irm, eth_dix: bool, host: usize) -> Outcome<()> {
    if eth_dix {
        irm.bootstrap(LAYER, EthDix::on("veth0")).await?;
    } else if host == 0 {
        irm.bootstrap(LAYER, Udp::at(SERVER.parse()?).port(PORT)).await?;
    } else {
        let server = SocketAddr::new(SERVER.parse()?, PORT);
        irm.bootstrap(LAYER, Udp::connect_only(CLIENT.parse()?).server(server)).await?;
    }
    Ok(())
}

/// A host's manager, with its layer.
async fn manager(way: Way, host: usize, folder: &Path) -> Outcome<Irm> {
    if way.irmd {
        return Ok(Irm::connect_to(daemon_socket(host, folder)));
    }
    let irm = Irm::with_limits(limits());
    bootstrap(&irm, way.eth_dix, host).await?;
    Ok(irm)
}

async fn server(way: Way, folder: &Path) -> Outcome<Irm> {
    let irm = manager(way, 0, folder).await?;
    irm.register(NAME, LAYER).await?;
    if way.irmd {
        irm.bind(NAME).await?;
    }
    println!("listens");
    Ok(irm)
}

pub(crate) async fn serve_streams(way: Way, folder: &Path) -> Outcome<()> {
    let irm = server(way, folder).await?;
    loop {
        let flow = accept(&irm, way).await?;
        tokio::spawn(serve(stream(flow)));
    }
}

pub(crate) async fn serve_messages(way: Way, folder: &Path) -> Outcome<()> {
    let irm = server(way, folder).await?;
    loop {
        tokio::spawn(serve(Messages(accept(&irm, way).await?)));
    }
}

async fn accept(irm: &Irm, way: Way) -> Outcome<Flow> {
    let flow = irm.accept(NAME).await?;
    if let Some(control) = way.control {
        flow.set_congestion_control(control);
    }
    Ok(flow)
}

type FlowChannel = Stream<FlowReadHalf, FlowWriteHalf, ()>;

fn stream(flow: Flow) -> FlowChannel {
    let (reader, writer) = flow.into_stream().split();
    Stream { reader, writer, connection: () }
}

/// Whose flows are streams.
#[derive(Clone)]
pub(crate) struct Streams {
    irm: Irm,
    spec: FlowSpec,
}

impl Streams {
    pub(crate) async fn new(way: Way, folder: &Path) -> Outcome<Self> {
        let irm = manager(way, 1, folder).await?;
        let mut spec = FlowSpec::reliable().encrypted();
        if let Some(control) = way.control {
            spec = spec.congestion_control(control);
        }
        if way.x25519 {
            spec = spec.suite(Suite { kex: KeyExchange::X25519, ..Suite::default() });
        }
        Ok(Self { irm, spec })
    }

    async fn flow(&self) -> Outcome<Flow> {
        Ok(self.irm.allocate(NAME, self.spec.clone()).await?)
    }
}

impl Connect for Streams {
    type Channel = FlowChannel;

    async fn connect(&self) -> Outcome<FlowChannel> {
        Ok(stream(self.flow().await?))
    }
}

/// Whose flows carry messages.
#[derive(Clone)]
pub(crate) struct InMessages(pub(crate) Streams);

impl Connect for InMessages {
    type Channel = Messages;

    async fn connect(&self) -> Outcome<Messages> {
        Ok(Messages(self.0.flow().await?))
    }
}

pub(crate) struct Messages(Flow);

impl Channel for Messages {
    async fn send(&mut self, data: &[u8]) -> Outcome<()> {
        Ok(self.0.send(data).await?)
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        match self.0.recv(buffer).await {
            Ok(count) => Ok(count),
            Err(FlowError::EndOfStream) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    async fn finish(&mut self) -> Outcome<()> {
        Ok(self.0.finish().await?)
    }
}
