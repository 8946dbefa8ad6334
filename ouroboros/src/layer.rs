//! A layer: the names it serves and the IPCPs it lives on.

use std::sync::{Arc, Mutex};

use crate::{
    error::{AllocateError, LayerError},
    flow::{Flow, FlowSpec, RawFlow},
    ipcp::{Ipcp, allocate_in},
    irm::AcceptQueue,
    sync::lock,
    wire::Name,
};

/// A layer in this process. Clones are the same layer, which lasts as long as its
/// resource manager or one of them.
///
/// ```
/// use ouroboros::{Irm, LayerError, transport::memory::Network};
///
/// # async_io::block_on(async {
/// let irm = Irm::new();
/// let layer = irm.bootstrap("my_layer", Network::new().station()).await?;
/// layer.register("my_vpn").await?;
/// assert!(matches!(layer.register("my_vpn").await, Err(LayerError::AlreadyRegistered(..))));
/// assert_eq!(layer.names().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Layer(pub(crate) Arc<LayerState>);

pub(crate) struct LayerState {
    pub(crate) name: String,
    pub(crate) ipcps: Mutex<Vec<Ipcp>>,
    pub(crate) names: Mutex<Vec<Name>>,
    /// Where those wait who accept flows to its names.
    pub(crate) accepting: Arc<AcceptQueue>,
}

impl LayerState {
    /// No flow comes from here any more.
    pub(crate) fn end(&self) {
        lock(&self.names).drain(..).for_each(|name| self.accepting.count_name(&name, -1));
        self.accepting.count_layer(-1);
    }
}

impl Drop for LayerState {
    fn drop(&mut self) {
        for ipcp in lock(&self.ipcps).iter() {
            ipcp.0.stop();
        }
    }
}

impl Layer {
    /// The layer's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The IPCPs the layer lives on.
    #[must_use]
    pub fn ipcps(&self) -> Vec<Ipcp> {
        lock(&self.0.ipcps).clone()
    }

    /// The names registered in the layer by this process.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        lock(&self.0.names).clone()
    }

    /// Registers `name`, so that peers find it here.
    ///
    /// All of it is done when the future is first polled.
    ///
    /// # Errors
    ///
    /// The text is no name, or it is registered already.
    pub async fn register(&self, name: &str) -> Result<(), LayerError> {
        let name: Name = name.parse()?;
        let mut names = lock(&self.0.names);
        if names.contains(&name) {
            return Err(LayerError::AlreadyRegistered(name.to_string(), self.0.name.clone()));
        }
        for ipcp in self.ipcps() {
            ipcp.0.register(&name);
        }
        self.0.accepting.count_name(&name, 1);
        names.push(name);
        Ok(())
    }

    /// Takes `name` back. Flows that were allocated to it go on.
    ///
    /// All of it is done when the future is first polled.
    ///
    /// # Errors
    ///
    /// The text is no name, or it is not registered here.
    pub async fn unregister(&self, name: &str) -> Result<(), LayerError> {
        let name: Name = name.parse()?;
        let mut names = lock(&self.0.names);
        let Some(at) = names.iter().position(|known| *known == name) else {
            return Err(LayerError::NotRegistered(name.to_string(), self.0.name.clone()));
        };
        names.remove(at);
        for ipcp in self.ipcps() {
            ipcp.0.unregister(&name);
        }
        self.0.accepting.count_name(&name, -1);
        Ok(())
    }

    /// Allocates a flow to the program that serves `name` in this layer.
    ///
    /// Cancel safe: a flow that the server accepts for a future that was dropped is closed.
    ///
    /// # Errors
    ///
    /// As [`AllocateError`] says.
    pub async fn allocate(&self, name: &str, spec: FlowSpec) -> Result<Flow, AllocateError> {
        let (name, timeout, control) = (name.parse()?, spec.timeout, spec.congestion_control);
        let flow = Flow::begin(self.allocate_raw(&name, spec).await?, timeout).await?;
        flow.set_congestion_control(control);
        Ok(flow)
    }

    /// Like [`allocate`](Self::allocate), before packets are protected: for
    /// those who carry flows to another process.
    ///
    /// Cancel safe: a flow that the server accepts for a future that was dropped is closed.
    ///
    /// # Errors
    ///
    /// As [`AllocateError`] says.
    pub async fn allocate_raw(
        &self,
        name: &Name,
        spec: FlowSpec,
    ) -> Result<RawFlow, AllocateError> {
        allocate_in(self.ipcps(), name, spec).await
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layer({})", self.0.name)
    }
}
