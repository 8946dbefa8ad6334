//! The resource manager: the layers of this process and the flows that wait to
//! be accepted. Embedded in a program, or the core of `irmd`.

mod accept;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use futures_lite::future;

use self::accept::AcceptQueue;

use crate::{
    daemon::{Client, DaemonError},
    error::{AllocateError, LayerError},
    flow::{Flow, FlowSpec, RawFlow},
    ipcp::{Core, Ipcp, allocate_in},
    layer::{Layer, LayerState},
    proto::negotiation::{Identity, ServerSecurity},
    sync::lock,
    transport::IntoTransport,
    wire::Name,
};

/// The resource manager of this process: bootstraps layers, allocates and
/// accepts flows. Clones are the same manager.
///
/// ```
/// use ouroboros::{FlowSpec, Irm, transport::memory::Network};
///
/// # async_io::block_on(async {
/// let network = Network::new();
/// let (server, client) = (Irm::new(), Irm::new());
/// let layer = server.bootstrap("my_layer", network.station()).await?;
/// layer.register("greeter").await?;
/// let layer = client.bootstrap("my_layer", network.station()).await?;
///
/// let (accepted, allocated) = futures_lite::future::zip(
///     server.accept("greeter"),
///     layer.allocate("greeter", FlowSpec::raw().encrypted()),
/// )
/// .await;
/// let (accepted, allocated) = (accepted?, allocated?);
/// allocated.send(b"hello").await?;
/// let mut packet = [0; 1500];
/// let size = accepted.recv(&mut packet).await?;
/// assert_eq!(&packet[..size], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct Irm(Arc<State>);

#[derive(Default)]
struct State {
    /// Set: everything is asked of a daemon, and the rest is empty.
    daemon: Option<Client>,
    layers: Mutex<Vec<Layer>>,
    accepting: Arc<AcceptQueue>,
    policies: Mutex<HashMap<Name, ServerSecurity>>,
    identity: Mutex<Option<Identity>>,
}

impl Irm {
    /// A resource manager with no layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The resource manager that `irmd` runs on this machine, at
    /// [`socket_path`](crate::daemon::socket_path). Whether it runs shows when
    /// it is asked. Its layers are made with the `irm` tool.
    pub fn connect() -> Self {
        Self::connect_to(crate::daemon::socket_path())
    }

    /// Like [`connect`](Self::connect), for the daemon whose socket is `path`.
    pub fn connect_to(path: impl Into<std::path::PathBuf>) -> Self {
        let mut state = State::default();
        state.daemon = Some(Client::at(path.into()));
        Self(Arc::new(state))
    }

    /// Adds an IPCP over `transport` to the layer called `layer`, which comes
    /// to be if it is new.
    ///
    /// # Errors
    ///
    /// The transport cannot be opened: no such interface, no permission,
    /// address in use.
    pub async fn bootstrap(
        &self,
        layer: &str,
        transport: impl IntoTransport,
    ) -> Result<Layer, LayerError> {
        let count = lock(&self.0.layers).iter().map(|l| l.ipcps().len()).sum::<usize>();
        self.bootstrap_named(&format!("ipcp-{count}"), layer, transport).await
    }

    /// Like [`bootstrap`](Self::bootstrap), with a name for the IPCP.
    pub async fn bootstrap_named(
        &self,
        ipcp: &str,
        layer: &str,
        transport: impl IntoTransport,
    ) -> Result<Layer, LayerError> {
        if self.0.daemon.is_some() {
            let reason = "the layers of a daemon are made with `irm ipcp bootstrap`".to_owned();
            return Err(DaemonError::Refused(reason).into());
        }
        let transport = transport.open()?;
        let accepting = self.0.accepting.clone();
        let core =
            Core::start(ipcp.to_owned(), transport, move |notice| accepting.take_notice(notice));
        let mut layers = lock(&self.0.layers);
        let known = layers.iter().find(|known| known.name() == layer).cloned();
        let layer = known.unwrap_or_else(|| {
            let state = LayerState {
                name: layer.to_owned(),
                ipcps: Mutex::default(),
                names: Mutex::default(),
            };
            layers.push(Layer(Arc::new(state)));
            layers[layers.len() - 1].clone()
        });
        // Before any name is served: some are not for everyone.
        for (name, security) in lock(&self.0.policies).iter() {
            core.set_policy(name, security.clone());
        }
        for name in layer.names() {
            core.register(&name);
        }
        lock(&layer.0.ipcps).push(Ipcp(core));
        Ok(layer)
    }

    /// Removes the IPCP called `ipcp`, and its layer with the last one. Flows
    /// that it allocated go on. Whether there was one.
    pub fn destroy(&self, ipcp: &str) -> bool {
        let mut found = false;
        lock(&self.0.layers).retain(|layer| {
            let mut ipcps = lock(&layer.0.ipcps);
            ipcps.retain(|known| {
                let other = known.name() != ipcp;
                if !other {
                    found = true;
                    known.0.stop();
                }
                other
            });
            !ipcps.is_empty()
        });
        found
    }

    /// The layers of this process.
    pub fn layers(&self) -> Vec<Layer> {
        lock(&self.0.layers).clone()
    }

    /// The layer called `name`.
    pub fn layer(&self, name: &str) -> Option<Layer> {
        lock(&self.0.layers).iter().find(|layer| layer.name() == name).cloned()
    }

    /// What flows to `name` have to be like to be accepted here from now on,
    /// in every layer. Best said before the name is registered.
    ///
    /// ```
    /// use ouroboros::{
    ///     FlowSpec, Identity, Irm, ServerSecurity, Trust,
    ///     crypto::{SystemEntropy, identity::IdentityKey},
    ///     transport::memory::Network,
    /// };
    ///
    /// # async_io::block_on(async {
    /// let identity = |name: &str| {
    ///     let key = IdentityKey::generate(&mut SystemEntropy);
    ///     Identity::self_signed(key, &name.parse().expect("a name"))
    /// };
    /// let (ours, theirs) = (identity("my_vpn"), identity("laptop"));
    /// let pinned = Trust::Keys(vec![ours.fingerprint()]);
    ///
    /// let network = Network::new();
    /// let (server, client) = (Irm::new(), Irm::new());
    /// let friends = Trust::Keys(vec![theirs.fingerprint()]);
    /// let policy = ServerSecurity::encrypted().identity(ours).clients(friends);
    /// server.set_policy("my_vpn".parse()?, policy);
    /// server.bootstrap("my_layer", network.station()).await?.register("my_vpn").await?;
    /// client.bootstrap("my_layer", network.station()).await?;
    ///
    /// let spec = FlowSpec::raw().encrypted().identity(theirs).trust(pinned);
    /// let (accepted, allocated) =
    ///     futures_lite::future::zip(server.accept("my_vpn"), client.allocate("my_vpn", spec)).await;
    /// let client = accepted?.info().identity.clone().expect("who it is");
    /// assert_eq!(client.common_name, "laptop");
    /// assert!(allocated?.info().identity.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn set_policy(&self, name: Name, security: ServerSecurity) {
        // Held throughout, so that no IPCP comes to be without it.
        let layers = lock(&self.0.layers);
        for ipcp in layers.iter().flat_map(Layer::ipcps) {
            ipcp.0.set_policy(&name, security.clone());
        }
        lock(&self.0.policies).insert(name, security);
    }

    /// Under which identity flows are allocated whose spec says
    /// [`identified`](FlowSpec::identified).
    pub fn set_identity(&self, identity: Identity) {
        *lock(&self.0.identity) = Some(identity);
    }

    /// Waits for a flow to `name` and accepts it.
    pub async fn accept(&self, name: &str) -> Result<Flow, AllocateError> {
        self.accept_begun(Some(name.parse()?)).await
    }

    /// Waits for a flow to any name that is registered here or, with a daemon,
    /// bound to this process or its program.
    pub async fn accept_any(&self) -> Result<Flow, AllocateError> {
        self.accept_begun(None).await
    }

    /// The first flow to the name that can be used (`None`: to any), of those
    /// that are asked for and those that were earlier. One whose client takes
    /// its time, or never answers, keeps no other waiting.
    async fn accept_begun(&self, name: Option<Name>) -> Result<Flow, AllocateError> {
        let accepting = &self.0.accepting;
        let names = match &name {
            Some(name) => vec![name.clone()],
            None => self.layers().iter().flat_map(Layer::names).collect(),
        };
        let wanted = |known: &Name| match &self.0.daemon {
            Some(_) => name.as_ref().is_none_or(|name| name == known),
            None => names.contains(known),
        };
        loop {
            let changed = accepting.changed();
            if let Some(flow) = accepting.take_ready(wanted) {
                return Ok(flow);
            }
            let next = async {
                match &self.0.daemon {
                    Some(daemon) => Ok(Some(daemon.accept(name.as_ref().map(Name::as_str)).await?)),
                    None => self.accept_raw(&names).await.map(Some),
                }
            };
            let changed = async {
                changed.await;
                Ok(None)
            };
            let Some(raw) = future::or(next, changed).await? else { continue };
            let flow = Flow::new(raw)?;
            if flow.is_ready().unwrap_or(false) {
                return Ok(flow);
            }
            accepting.wait_for(flow);
        }
    }

    /// Waits for a flow to any of `names` whose peer has proved that it is there;
    /// see [`RawFlow`]. Cancel safe: a flow that is not taken waits for the next
    /// call.
    pub async fn accept_raw(&self, names: &[Name]) -> Result<RawFlow, AllocateError> {
        let accepting = &self.0.accepting;
        let wanted = |known: &Name| names.contains(known);
        loop {
            let changed = accepting.changed();
            accepting.begin(wanted);
            if let Some(flow) = accepting.take_established(wanted) {
                return Ok(flow);
            }
            changed.await;
        }
    }

    /// Allocates a flow to `name` in the first layer that knows it.
    pub async fn allocate(&self, name: &str, spec: FlowSpec) -> Result<Flow, AllocateError> {
        let (parsed, timeout) = (name.parse()?, spec.timeout);
        if let Some(daemon) = &self.0.daemon {
            return Flow::begin(daemon.allocate(name, spec).await?, timeout).await;
        }
        Flow::begin(self.allocate_raw(&parsed, spec).await?, timeout).await
    }

    /// Like [`allocate`](Self::allocate); see [`RawFlow`].
    pub async fn allocate_raw(
        &self,
        name: &Name,
        mut spec: FlowSpec,
    ) -> Result<RawFlow, AllocateError> {
        if let Some(security) = spec.security.as_mut().filter(|_| spec.identified) {
            let identity = lock(&self.0.identity).clone().ok_or(AllocateError::NoIdentity)?;
            security.identity = Some(identity);
        }
        let ipcps = self.layers().iter().flat_map(Layer::ipcps).collect();
        allocate_in(ipcps, name, spec).await
    }
}

impl std::fmt::Debug for Irm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Irm").field("layers", &self.layers()).finish()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for layer in lock(&self.layers).iter() {
            for ipcp in layer.ipcps() {
                ipcp.0.stop();
            }
        }
    }
}
