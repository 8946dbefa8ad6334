//! The resource manager: the layers of this process and the flows that wait to
//! be accepted. Embedded in a program, or the core of `irmd`.

mod accept;
mod accepted;
mod flows;
mod listing;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

pub(crate) use self::accept::AcceptQueue;
use self::accepted::AcceptedFlows;
pub use self::listing::{Destruction, LayerInfo};
use crate::{
    daemon::{Client, protocol::Request},
    error::{LayerError, NotEmbedded, PolicyError},
    flow::FlowInfo,
    ipcp::{Core, Ipcp},
    layer::{Layer, LayerState},
    proto::{
        allocation::Limits,
        negotiation::{Identity, Joining, ServerSecurity},
    },
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
    limits: Limits,
    accepting: Arc<AcceptQueue>,
    accepted: AcceptedFlows,
    policies: Mutex<HashMap<Name, ServerSecurity>>,
    identity: Mutex<Option<Identity>>,
}

impl Irm {
    /// A resource manager with no layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A resource manager with no layers, each of whose IPCPs will hold no more than
    /// `limits` say: of peers' requests, half-open and established flows, and own
    /// allocations.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ouroboros::{Irm, proto::allocation::Limits};
    ///
    /// let longest = Duration::from_secs(30);
    /// let flow_timeout = (Limits::default().flow_timeout.0, longest);
    /// let limits = Limits { established: 64, flow_timeout, ..Limits::default() };
    /// let irm = Irm::with_limits(limits);
    /// ```
    pub fn with_limits(limits: Limits) -> Self {
        Self(Arc::new(State { limits, ..State::default() }))
    }

    /// The resource manager that `irmd` runs on this machine, at
    /// [`socket_path`](crate::daemon::socket_path). Whether it runs shows when
    /// it is asked. Its layers are made with the `irm` tool.
    #[must_use]
    pub fn connect() -> Self {
        Self::connect_to(crate::daemon::socket_path())
    }

    /// Like [`connect`](Self::connect), for the daemon whose socket is `path`.
    #[must_use]
    pub fn connect_to(path: impl Into<std::path::PathBuf>) -> Self {
        let daemon = Some(Client::at(path.into()));
        Self(Arc::new(State { daemon, ..State::default() }))
    }

    /// Adds an IPCP over `transport` to the layer called `layer`, which comes
    /// to be if it is new.
    ///
    /// All of it is done when the future is first polled.
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
        self.add_ipcp(None, layer, transport)
    }

    /// Like [`bootstrap`](Self::bootstrap), with a name for the IPCP.
    ///
    /// All of it is done when the future is first polled.
    ///
    /// # Errors
    ///
    /// As for [`bootstrap`](Self::bootstrap); another IPCP has the name.
    pub async fn bootstrap_named(
        &self,
        ipcp: &str,
        layer: &str,
        transport: impl IntoTransport,
    ) -> Result<Layer, LayerError> {
        self.add_ipcp(Some(ipcp), layer, transport)
    }

    /// An IPCP called `ipcp`; `None`: by a number.
    fn add_ipcp(
        &self,
        ipcp: Option<&str>,
        layer: &str,
        transport: impl IntoTransport,
    ) -> Result<Layer, LayerError> {
        self.embedded("bootstrap", "make the layer with `irm ipcp bootstrap`")?;
        let transport = transport.open()?;
        // Held throughout, so that no other has the name.
        let mut layers = lock(&self.0.layers);
        let ipcps: Vec<_> = layers.iter().flat_map(Layer::ipcps).collect();
        let is_taken = |name: &str| ipcps.iter().any(|known| known.name() == name);
        let ipcp = match ipcp {
            Some(name) if is_taken(name) => return Err(LayerError::IpcpExists(name.to_owned())),
            Some(name) => name.to_owned(),
            None => (0..=ipcps.len())
                .map(|number| format!("ipcp-{number}"))
                .find(|name| !is_taken(name))
                .expect("more numbers than IPCPs"),
        };
        let accepting = self.0.accepting.clone();
        let core = Core::start(ipcp, transport, self.0.limits, move |notice| {
            accepting.take_notice(notice)
        });
        let known = layers.iter().find(|known| known.name() == layer).cloned();
        let layer = known.unwrap_or_else(|| {
            let state = LayerState {
                name: layer.to_owned(),
                ipcps: Mutex::default(),
                names: Mutex::default(),
                accepting: self.0.accepting.clone(),
            };
            self.0.accepting.count_layer(1);
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

    /// Returns the embedded manager.
    fn embedded(&self, operation: &'static str, instead: &'static str) -> Result<(), NotEmbedded> {
        match self.0.daemon {
            Some(_) => Err(NotEmbedded { operation, instead }),
            None => Ok(()),
        }
    }

    /// Returns `true` if everything is asked of a daemon.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.0.daemon.is_some()
    }

    /// Removes the IPCP called `ipcp`, and its layer with the last one. Flows
    /// that it allocated go on.
    pub fn destroy(&self, ipcp: &str) -> Destruction {
        let instead = "destroy the IPCP with `irm ipcp destroy`";
        if let Err(error) = self.embedded("destroy", instead) {
            return Destruction::NotEmbedded(error);
        }
        let mut ended = Vec::new();
        lock(&self.0.layers).retain(|layer| {
            let mut ipcps = lock(&layer.0.ipcps);
            ended.extend(ipcps.extract_if(.., |known| known.name() == ipcp));
            if ipcps.is_empty() {
                layer.0.end();
            }
            !ipcps.is_empty()
        });
        ended.iter().for_each(|ipcp| ipcp.0.stop());
        if ended.is_empty() { Destruction::NoSuchIpcp } else { Destruction::Destroyed }
    }

    /// The layers that this process hosts: none on a handle of a daemon, whose
    /// layers [`list_layers`](Self::list_layers) has.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        lock(&self.0.layers).clone()
    }

    /// The layer called `name` that this process hosts.
    #[must_use]
    pub fn layer(&self, name: &str) -> Option<Layer> {
        lock(&self.0.layers).iter().find(|layer| layer.name() == name).cloned()
    }

    /// The layers that this manager or its daemon hosts: what is in them.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The daemon cannot be asked.
    pub async fn list_layers(&self) -> Result<Vec<LayerInfo>, LayerError> {
        let Some(daemon) = &self.0.daemon else {
            return Ok(self.layers().iter().map(LayerInfo::of).collect());
        };
        let (ipcps, names) = (daemon.ipcps().await?, daemon.names().await?);
        let mut layers: Vec<LayerInfo> = Vec::new();
        // One that has no layer yet is in none.
        for ipcp in ipcps.into_iter().filter(|ipcp| !ipcp.layer.is_empty()) {
            match layers.iter_mut().find(|layer| layer.name == ipcp.layer) {
                Some(layer) => layer.ipcps.push(ipcp.name),
                None => layers.push(LayerInfo {
                    names: Vec::new(),
                    name: ipcp.layer,
                    ipcps: vec![ipcp.name],
                }),
            }
        }
        for name in names {
            for layer in layers.iter_mut().filter(|layer| name.layers.contains(&layer.name)) {
                layer.names.extend(name.name.parse::<Name>());
            }
        }
        Ok(layers)
    }

    /// Registers `name` in the layer called `layer`, so that peers find it here.
    ///
    /// Cancel safe in that nothing is lost. On a handle of a daemon it is not known then
    /// whether it was done; otherwise it is when the future is first polled.
    ///
    /// # Errors
    ///
    /// There is no such layer, the text is no name, or it is registered already;
    /// the daemon cannot be asked.
    pub async fn register(&self, name: &str, layer: &str) -> Result<(), LayerError> {
        if let Some(daemon) = &self.0.daemon {
            let (name, layer) = (name.parse::<Name>()?.to_string(), layer.to_owned());
            return daemon.ask(&Request::Register { name, layer }).await.map(drop);
        }
        let known = self.layer(layer).ok_or_else(|| LayerError::NoSuchLayer(layer.to_owned()))?;
        known.register(name).await
    }

    /// Takes `name` back from the layer called `layer`. Flows that were allocated to
    /// it go on.
    ///
    /// Cancel safe in that nothing is lost. On a handle of a daemon it is not known then
    /// whether it was done; otherwise it is when the future is first polled.
    ///
    /// # Errors
    ///
    /// As for [`register`](Self::register); the name is not registered there.
    pub async fn unregister(&self, name: &str, layer: &str) -> Result<(), LayerError> {
        if let Some(daemon) = &self.0.daemon {
            let (name, layer) = (name.parse::<Name>()?.to_string(), layer.to_owned());
            return daemon.ask(&Request::Unregister { name, layer }).await.map(drop);
        }
        let known = self.layer(layer).ok_or_else(|| LayerError::NoSuchLayer(layer.to_owned()))?;
        known.unregister(name).await
    }

    /// Has this process accept flows to `name`. A manager that hosts its layers
    /// itself accepts flows to all names that are registered there: nothing has to
    /// be done then.
    ///
    /// Cancel safe in that nothing is lost. On a handle of a daemon it is not known then
    /// whether it was done; otherwise it is when the future is first polled.
    ///
    /// # Errors
    ///
    /// The text is no name, or the daemon cannot be asked.
    pub async fn bind(&self, name: &str) -> Result<(), LayerError> {
        self.bind_process(name, true).await
    }

    /// Takes [`bind`](Self::bind) back.
    ///
    /// Cancel safe in that nothing is lost. On a handle of a daemon it is not known then
    /// whether it was done; otherwise it is when the future is first polled.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind); it was not bound. A manager that hosts its
    /// layers itself [`unregister`](Self::unregister)s what it is not to serve.
    pub async fn unbind(&self, name: &str) -> Result<(), LayerError> {
        self.bind_process(name, false).await
    }

    async fn bind_process(&self, name: &str, bind: bool) -> Result<(), LayerError> {
        let name = name.parse::<Name>()?.to_string();
        match &self.0.daemon {
            Some(daemon) => {
                let request = Request::Process { pid: std::process::id(), name, bind };
                daemon.ask(&request).await.map(drop)
            }
            None if bind => Ok(()),
            None => Err(LayerError::BoundByRegistration(name)),
        }
    }

    /// Sets the security that flows to `name` must have to be accepted here from now on, in
    /// every layer. Best called before the name is registered: accepted flows that do not meet
    /// a stricter policy end.
    ///
    /// On a handle of a daemon a program can only ask for more than the daemon has
    /// for the name: both have to be met, by all flows to the name as long as this
    /// process lives, from the next [`accept`](Self::accept) on.
    ///
    /// # Errors
    ///
    /// On a handle of a daemon, what [`PolicyError`] says. Nothing is accepted for
    /// the name on this handle then, so that an error that is overlooked lets nobody
    /// in.
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
    /// server.set_policy("my_vpn".parse()?, policy)?;
    /// server.bootstrap("my_layer", network.station()).await?.register("my_vpn").await?;
    /// client.bootstrap("my_layer", network.station()).await?;
    ///
    /// let spec = FlowSpec::raw().encrypted().with_identity(theirs).trust(pinned);
    /// let (accepted, allocated) =
    ///     futures_lite::future::zip(server.accept("my_vpn"), client.allocate("my_vpn", spec)).await;
    /// let client = accepted?.info().identity.clone().expect("who it is");
    /// assert_eq!(client.common_name, "laptop");
    /// assert!(allocated?.info().identity.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn set_policy(&self, name: Name, security: ServerSecurity) -> Result<(), PolicyError> {
        if let Some(daemon) = &self.0.daemon {
            return daemon.set_policy(name, security);
        }
        // Held throughout, so that no IPCP comes to be without it.
        let layers = lock(&self.0.layers);
        for ipcp in layers.iter().flat_map(Layer::ipcps) {
            ipcp.0.set_policy(&name, security.clone());
        }
        // First, so that a flow which is admitted meanwhile meets the one or the other.
        lock(&self.0.policies).insert(name.clone(), security.clone());
        self.0.accepted.end_unless(&name, &security);
        Ok(())
    }

    /// Returns `true` if a flow that was accepted here is as the policy of its name demands
    /// now ([`set_policy`](Self::set_policy)). On a handle of a daemon all are.
    #[must_use]
    pub fn permits(&self, info: &FlowInfo) -> bool {
        lock(&self.0.policies).get(&info.name).is_none_or(|policy| info.meets(policy))
    }

    /// Has `admit` make clients of those who prove an invitation
    /// ([`ServerSecurity::invited`](crate::ServerSecurity)). It is called before a flow to
    /// the name is accepted, on the thread that accepts, and returns `true` when the
    /// client's key is among the name's clients ([`set_policy`](Self::set_policy)) and the
    /// invitation is not open any more, both durably. Who is not admitted hears nothing.
    /// Without it nobody is.
    ///
    /// # Errors
    ///
    /// On a handle of a daemon, which does that itself.
    pub fn set_admission(
        &self,
        admit: impl Fn(&Name, Joining) -> bool + Send + Sync + 'static,
    ) -> Result<(), NotEmbedded> {
        self.embedded("set_admission", "invite clients with `ovpn invite`")?;
        self.0.accepting.set_admission(Arc::new(admit));
        Ok(())
    }

    /// Under which identity flows are allocated whose spec says
    /// [`with_manager_identity`](crate::FlowSpec::with_manager_identity).
    ///
    /// # Errors
    ///
    /// On a handle of a daemon: flows have the daemon's identity.
    pub fn set_identity(&self, identity: Identity) -> Result<(), NotEmbedded> {
        let instead = "flows have the identity of irmd: `irm key show`";
        self.embedded("set_identity", instead)?;
        *lock(&self.0.identity) = Some(identity);
        Ok(())
    }
}

impl std::fmt::Debug for Irm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Irm").field("layers", &self.layers()).finish()
    }
}
