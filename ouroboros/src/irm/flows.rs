//! Flows of a resource manager: accepted, allocated, and ended together. Not here: who
//! waits for which name (`accept`), where a flow is looked for (`ipcp`).

use std::{slice, task::Poll, time::Duration};

use futures_lite::future;

use super::Irm;
use crate::{
    error::AllocateError,
    flow::{Flow, FlowSpec, RawFlow},
    ipcp::allocate_in,
    layer::Layer,
    sync::lock,
    wire::Name,
};

impl Irm {
    /// Waits for a flow to `name` and accepts it.
    ///
    /// A name that is not registered yet may be later. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`AllocateError::ListenerEnded`] when no flow can come any more: the name was
    /// taken back from all layers, its layer is gone, or the manager was
    /// [shut down](Self::shutdown). Otherwise as [`AllocateError`] says.
    ///
    /// ```
    /// use ouroboros::{AllocateError, Irm, transport::memory::Network};
    ///
    /// # async_io::block_on(async {
    /// let irm = Irm::new();
    /// let layer = irm.bootstrap("my_layer", Network::new().station()).await?;
    /// layer.register("greeter").await?;
    /// let serving = async {
    ///     while let Ok(flow) = irm.accept("greeter").await {
    ///         flow.send(b"welcome").await.ok();
    ///     }
    /// };
    /// futures_lite::future::zip(serving, layer.unregister("greeter")).await.1?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn accept(&self, name: &str) -> Result<Flow, AllocateError> {
        self.accept_begun(Some(name.parse()?)).await
    }

    /// Waits for a flow to any name that is registered here or, with a daemon,
    /// bound to this process or its program. Cancel safe.
    ///
    /// # Errors
    ///
    /// As for [`accept`](Self::accept); it ends with the last layer.
    pub async fn accept_any(&self) -> Result<Flow, AllocateError> {
        self.accept_begun(None).await
    }

    /// The first flow to the name that can be used (`None`: to any), of those
    /// that are asked for and those that were earlier. One whose client takes
    /// its time, or never answers, keeps no other waiting.
    async fn accept_begun(&self, name: Option<Name>) -> Result<Flow, AllocateError> {
        let accepting = &self.0.accepting;
        let wanted = |known: &Name| name.as_ref().is_none_or(|name| name == known);
        let names = name.as_ref().map(slice::from_ref);
        let _accepting = self.0.daemon.is_none().then(|| accepting.accepting(names, true));
        loop {
            let changed = accepting.changed();
            if let Some(flow) = accepting.take_ready(wanted) {
                return Ok(self.admit(flow));
            }
            if accepting.has_ended(name.as_ref()) {
                return Err(AllocateError::ListenerEnded);
            }
            let next = async {
                match &self.0.daemon {
                    Some(daemon) => Ok(Some(daemon.accept(name.as_ref().map(Name::as_str)).await?)),
                    None => self.accept_embedded(names).await.map(Some),
                }
            };
            let changed = async {
                changed.await;
                Ok(None)
            };
            let Some(raw) = future::or(next, changed).await? else { continue };
            let flow = Flow::new(raw)?;
            if flow.is_ready().unwrap_or(false) {
                return Ok(self.admit(flow));
            }
            accepting.wait_for(flow);
        }
    }

    /// Remembers a flow that is accepted, for when a stricter policy comes.
    fn admit(&self, flow: Flow) -> Flow {
        // One that was agreed before the policy is not accepted any more after it.
        let policies = lock(&self.0.policies);
        self.0.accepted.add(&flow);
        if policies.get(&flow.info().name).is_some_and(|policy| !flow.info().meets(policy)) {
            flow.closer().close();
        }
        flow
    }

    /// Waits for a flow to any of `names` whose peer has proved that it is there;
    /// see [`RawFlow`]. Cancel safe: a flow that is not taken waits for the next
    /// call.
    ///
    /// # Errors
    ///
    /// The daemon cannot be asked.
    pub async fn accept_raw(&self, names: &[Name]) -> Result<RawFlow, AllocateError> {
        let Some(daemon) = &self.0.daemon else {
            let _accepting = self.0.accepting.accepting(Some(names), false);
            return self.accept_embedded(Some(names)).await;
        };
        let mut accepting: Vec<_> =
            names.iter().map(|name| Box::pin(daemon.accept(Some(name.as_str())))).collect();
        // What another one has taken by then is kept for the next call.
        future::poll_fn(|context| {
            let ready = accepting.iter_mut().map(|accept| accept.as_mut().poll(context));
            ready.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// Waits for a flow to any of `names`; `None`: to any that is registered, also
    /// later.
    async fn accept_embedded(&self, names: Option<&[Name]>) -> Result<RawFlow, AllocateError> {
        let accepting = &self.0.accepting;
        let wanted = |known: &Name| names.is_none_or(|names| names.contains(known));
        loop {
            let changed = accepting.changed();
            if accepting.is_shut_down() {
                return Err(AllocateError::ListenerEnded);
            }
            accepting.begin(wanted);
            if let Some(flow) = accepting.take_established(wanted) {
                if self.permits(&flow.info) {
                    return Ok(flow);
                }
                // Agreed before a stricter policy: dropped, it ends.
                drop(Flow::new(flow));
                continue;
            }
            changed.await;
        }
    }

    /// Ends what this manager serves: takes its names back, accepts nothing any more,
    /// and waits for `patience` at most until the flows that were accepted have
    /// ended. Those that have not are closed, and the layers that it hosts go. Returns
    /// how many flows were closed.
    ///
    /// On a handle of a daemon the daemon's layers and names stay: its flows go to
    /// other programs that wait for them.
    ///
    /// Cancel safe: what has been waited for is not begun again, and a further call
    /// does the rest.
    pub async fn shutdown(&self, patience: Duration) -> usize {
        let layers = self.layers();
        for layer in &layers {
            for name in layer.names() {
                let _ = layer.unregister(name.as_str()).await;
            }
        }
        self.0.accepting.shut_down();
        let closed = self.0.accepted.end(patience).await;
        for ipcp in layers.iter().flat_map(Layer::ipcps) {
            self.destroy(ipcp.name());
        }
        closed
    }

    /// Allocates a flow to `name` in the first layer that knows it.
    ///
    /// Cancel safe: a flow that the server accepts for a future that was dropped is closed.
    ///
    /// # Errors
    ///
    /// As [`AllocateError`] says.
    pub async fn allocate(&self, name: &str, spec: FlowSpec) -> Result<Flow, AllocateError> {
        let (parsed, timeout, control) = (name.parse()?, spec.timeout, spec.congestion_control);
        let flow = Flow::begin(self.allocate_raw(&parsed, spec).await?, timeout).await?;
        flow.set_congestion_control(control);
        Ok(flow)
    }

    /// Like [`allocate`](Self::allocate); see [`RawFlow`].
    ///
    /// Cancel safe: a flow that the server accepts for a future that was dropped is closed.
    ///
    /// # Errors
    ///
    /// As [`AllocateError`] says.
    pub async fn allocate_raw(
        &self,
        name: &Name,
        mut spec: FlowSpec,
    ) -> Result<RawFlow, AllocateError> {
        if let Some(daemon) = &self.0.daemon {
            return daemon.allocate(name.as_str(), spec).await;
        }
        if let Some(security) = spec.security.as_mut().filter(|_| spec.manager_identity) {
            let identity = lock(&self.0.identity).clone().ok_or(AllocateError::NoIdentity)?;
            security.identity = Some(identity);
        }
        let ipcps = self.layers().iter().flat_map(Layer::ipcps).collect();
        allocate_in(ipcps, name, spec).await
    }
}
