//! Daemons in the process of a test, behind real sockets, each with an application's
//! view of it.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{process, sync::Arc};

use async_std::task::{self, JoinHandle, block_on};
use ouroboros::{
    Irm,
    daemon::protocol::Request,
    transport::{IntoTransport, memory::Network},
    trust::TrustFolder,
};
use ouroboros_cli::irmd::{DaemonSocket, State, serve};
use ouroboros_testing::Folder;

pub(crate) struct Host {
    pub(crate) state: Arc<State>,
    pub(crate) application: Irm,
    pub(crate) folder: Folder,
    serving: Option<JoinHandle<()>>,
}

impl Host {
    /// A daemon that begins with `state`, and files of trust in its folder.
    pub(crate) fn start(mut state: State) -> Self {
        let folder = Folder::new();
        let path = folder.path().join("irmd.sock");
        let place = DaemonSocket::take(&path).expect("a place");
        state.trust = Some(TrustFolder::at(folder.path().join("trust")));
        let state = Arc::new(state);
        let served = state.clone();
        let serving = Some(task::spawn(async move { serve(served, &place.listener).await }));
        Self { state, application: Irm::connect_to(path), folder, serving }
    }

    /// A daemon with the layer `my_layer`.
    pub(crate) async fn new(transport: impl IntoTransport) -> Self {
        let host = Self::start(State::default());
        host.state.irm.bootstrap("my_layer", transport).await.expect("a layer");
        host
    }

    /// Has this process accept flows to `name` in the layer.
    pub(crate) async fn register_and_bind(&self, name: &str) {
        let (name, layer) = (name.to_owned(), "my_layer".to_owned());
        let register = Request::Register { name: name.clone(), layer };
        self.state.handle(register).await.expect("registered");
        let bind = Request::Process { pid: process::id(), name, bind: true };
        self.state.handle(bind).await.expect("bound");
    }

    /// Whether each of the flows that applications have is relayed.
    pub(crate) fn relayed(&self) -> Vec<bool> {
        self.state.flows.list().iter().map(|flow| flow.relayed).collect()
    }

    /// The daemon ends.
    pub(crate) async fn end(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.cancel().await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        block_on(self.end());
    }
}

/// Two daemons on one network.
pub(crate) async fn hosts() -> (Host, Host) {
    let network = Network::new();
    (Host::new(network.station()).await, Host::new(network.station()).await)
}
