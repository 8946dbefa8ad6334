//! A flow: packets to and from one program of a peer.
//!
//! [`Flow`] is the async handle; [`Flow::split`] gives the blocking, batched
//! pair that a tunnel's threads use. Sealing and opening happen here, in the
//! calling thread. Not here: how a flow comes to be (`ipcp`).

mod batched;
mod control;
mod shared;

use std::{
    future::Future,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::future;

pub use batched::{FlowReceiver, FlowSender};
use control::Control;
pub use shared::{FlowCloser, FlowInfo, FlowStatistics, FlowWatcher, RawFlow, WatchElsewhere};
use shared::{Rest, Shared, milliseconds};

use crate::{
    crypto::{AeadBackend, Suite, SystemEntropy},
    error::{AllocateError, FlowError},
    proto::{
        native::KeyLimits,
        negotiation::{ClientSecurity, Identity, ProfilePolicy, Trust},
        protection::{Protection, protection},
    },
    sync::lock,
    transport::{Path, PathOffload},
    wire::{QosSpec, extension::Lane},
};

/// What to ask of a flow that is to be allocated.
///
/// Encryption alone keeps out who only listens. Who is at the other end is
/// known by [`trust`](Self::trust):
///
/// ```
/// use ouroboros::{FlowSpec, Trust, crypto::{SystemEntropy, identity::IdentityKey}};
/// let server = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
/// let spec = FlowSpec::raw().encrypted().trust(Trust::Keys(vec![server])).require_native();
/// assert!(spec.is_encrypted());
/// ```
#[derive(Clone, Debug)]
pub struct FlowSpec {
    pub(crate) qos: QosSpec,
    pub(crate) security: Option<ClientSecurity>,
    pub(crate) identified: bool,
    pub(crate) timeout: Duration,
}

impl FlowSpec {
    /// A plain flow of raw packets.
    pub const fn raw() -> Self {
        Self::with_qos(QosSpec::RAW)
    }

    /// A flow with this quality of service. Allocation refuses what
    /// [`QosSpec::is_supported`] denies.
    pub const fn with_qos(qos: QosSpec) -> Self {
        Self { qos, security: None, identified: false, timeout: Duration::from_secs(10) }
    }

    /// A CRC-32 behind every packet.
    #[must_use]
    pub const fn without_errors(mut self) -> Self {
        self.qos.bit_error_rate = 0;
        self
    }

    /// Encrypted, by default with X25519, HKDF-SHA256, AES-256-GCM, and with
    /// what [`DEFAULT_CAPABILITIES`](crate::proto::negotiation::DEFAULT_CAPABILITIES)
    /// says between two of this library.
    #[must_use]
    pub fn encrypted(mut self) -> Self {
        self.encryption();
        self
    }

    /// Encrypted with this key exchange, taken literally, and at least this
    /// hash and cipher.
    #[must_use]
    pub fn suite(mut self, suite: Suite) -> Self {
        let ClientSecurity { capabilities, .. } = suite.into();
        let security = self.encryption();
        (security.suite, security.capabilities) = (suite, capabilities);
        self
    }

    /// Encrypted, and with nobody but whom `trust` says; anyone by default.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.encryption().trust = trust;
        self
    }

    /// Encrypted, and with the server told who asks for the flow. Through a
    /// daemon there is only its own identity: see [`identified`](Self::identified).
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.encryption().identity = Some(identity);
        self
    }

    /// Encrypted, and with the identity of the resource manager that allocates
    /// the flow: `irmd`'s, or [`Irm::set_identity`](crate::Irm::set_identity)'s.
    #[must_use]
    pub fn identified(mut self) -> Self {
        self.encryption();
        self.identified = true;
        self
    }

    /// Encrypted in the native profile, or no flow at all: what 0.23 peers
    /// have has no replay protection and no fresh keys.
    #[must_use]
    pub fn require_native(mut self) -> Self {
        self.encryption().profile = ProfilePolicy::RequireNative;
        self
    }

    /// Encrypted, in the native profile if the peer has it (`true`, the
    /// default), or as with a 0.23 peer whoever it is.
    #[must_use]
    pub fn native(mut self, native: bool) -> Self {
        let profile = if native { ProfilePolicy::PreferNative } else { ProfilePolicy::Wire023 };
        self.encryption().profile = profile;
        self
    }

    /// Encrypted, and one of the flows of a tunnel. A peer that does not know of
    /// such gives a flow like any other:
    /// [`FlowInfo::lane`](crate::FlowInfo::lane) tells.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.encryption().lane = Some(lane);
        self
    }

    /// Encrypted just as `security` says.
    #[must_use]
    pub fn secured(mut self, security: ClientSecurity) -> Self {
        self.security = Some(security);
        self
    }

    /// How long allocation may take; 10 s by default.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the server is told who asks, by
    /// [`identified`](Self::identified).
    pub const fn is_identified(&self) -> bool {
        self.identified
    }

    /// Whether the flow will be encrypted.
    pub const fn is_encrypted(&self) -> bool {
        self.security.is_some()
    }

    /// The quality of service asked for.
    pub const fn qos(&self) -> QosSpec {
        self.qos
    }

    /// What is asked of encryption; `None` for a plain flow.
    pub const fn security(&self) -> Option<&ClientSecurity> {
        self.security.as_ref()
    }

    /// How long allocation may take.
    pub const fn allocation_timeout(&self) -> Duration {
        self.timeout
    }

    fn encryption(&mut self) -> &mut ClientSecurity {
        self.security.get_or_insert_default()
    }
}

/// A flow to a program of a peer. Dropping it deallocates it. The peer of a
/// native flow is told; the 0.23 format has no message for that, so that its peer
/// learns of it by silence.
pub struct Flow {
    sender: Mutex<FlowSender>,
    receiver: Mutex<FlowReceiver>,
    watch: Async<PathSource>,
    /// When it was last looked whether something came, in milliseconds.
    looked: AtomicU64,
    shared: Arc<Shared>,
}

/// How often a program that sends looks whether something came, in
/// milliseconds.
const LOOKS: u64 = 100;

impl Flow {
    /// A flow over an allocated path, with packets protected by its keys. For
    /// those who carry flows between processes; others allocate or accept.
    pub fn new(raw: RawFlow) -> io::Result<Self> {
        Self::with_backend(raw, AeadBackend::default())
    }

    /// Like [`new`](Self::new), with the AEAD implementation chosen.
    pub fn with_backend(raw: RawFlow, backend: AeadBackend) -> io::Result<Self> {
        Self::with_limits(raw, backend, KeyLimits::default())
    }

    /// Like [`with_backend`](Self::with_backend), with keys that may do as much
    /// as `limits` says before the next are agreed. Of no effect on a flow in
    /// the 0.23 format.
    pub fn with_limits(raw: RawFlow, backend: AeadBackend, limits: KeyLimits) -> io::Result<Self> {
        let RawFlow { path, info, keys, early, strays, elsewhere, release } = raw;
        let (ends, checks_errors) = ((info.local, info.remote), info.qos.checks_errors());
        let Protection { sealer, opener, channel } =
            protection(keys, ends, checks_errors, backend, limits, &mut SystemEntropy);
        let shared =
            Shared::start(path.clone(), info, Rest { strays, elsewhere, release }, channel)?;
        Ok(Self {
            sender: Mutex::new(FlowSender::new(shared.clone(), sealer)),
            receiver: Mutex::new(FlowReceiver::new(shared.clone(), opener, early)),
            watch: Async::new_nonblocking(PathSource(path))?,
            looked: AtomicU64::new(0),
            shared,
        })
    }

    /// A flow that was allocated within `timeout`, and can be used by then.
    pub(crate) async fn begin(raw: RawFlow, timeout: Duration) -> Result<Self, AllocateError> {
        let flow = Self::new(raw)?;
        let late = async {
            Timer::after(timeout).await;
            Err(AllocateError::TimedOut)
        };
        let ready = async {
            flow.ready().await.map_err(|error| match error {
                FlowError::Transport(error) => AllocateError::Transport(error),
                FlowError::ClosedByPeer => AllocateError::Gone,
                _ => AllocateError::TimedOut,
            })
        };
        future::or(ready, late).await?;
        Ok(flow)
    }

    /// Sends one packet. Returns when the transport has taken it; the network
    /// may still lose it.
    ///
    /// # Errors
    ///
    /// As [`FlowError`] says; [`FlowError::Unread`] if new keys are due and what
    /// the peer sends is not received.
    pub async fn send(&self, packet: &[u8]) -> Result<(), FlowError> {
        if packet.is_empty() {
            return Err(FlowError::Empty);
        }
        let largest = self.largest_packet();
        if packet.len() > largest {
            return Err(FlowError::TooLarge { size: packet.len(), largest });
        }
        self.ready().await?;
        self.look_now_and_then()?;
        loop {
            {
                let mut sender = lock(&self.sender);
                if let Some(slot) = sender.push(packet.len()) {
                    slot.copy_from_slice(packet);
                    break;
                }
                sender.try_flush()?;
            }
            self.unless_ended(self.watch.writable()).await?;
        }
        while !lock(&self.sender).try_flush()? {
            self.unless_ended(self.watch.writable()).await?;
        }
        Ok(())
    }

    /// Receives one packet into `buffer` and returns its size in bytes.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, FlowError> {
        loop {
            {
                let mut receiver = lock(&self.receiver);
                if let Some(packet) = receiver.next_packet()? {
                    let size = packet.len();
                    let too_small = FlowError::BufferTooSmall { size, buffer: buffer.len() };
                    let slot = buffer.get_mut(..size).ok_or(too_small)?;
                    slot.copy_from_slice(packet);
                    return Ok(size);
                }
            }
            self.unless_ended(self.watch.readable()).await?;
        }
    }

    /// [`send`](Self::send) for threads that may block.
    pub fn send_blocking(&self, packet: &[u8]) -> Result<(), FlowError> {
        async_io::block_on(self.send(packet))
    }

    /// [`recv`](Self::recv) for threads that may block.
    pub fn recv_blocking(&self, buffer: &mut [u8]) -> Result<usize, FlowError> {
        async_io::block_on(self.recv(buffer))
    }

    /// Largest packet that can be sent now, in bytes.
    pub fn largest_packet(&self) -> usize {
        lock(&self.sender).largest_packet()
    }

    /// What was agreed.
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// What went over the flow so far.
    pub fn statistics(&self) -> FlowStatistics {
        self.shared.counters.statistics()
    }

    /// A handle that watches the flow from elsewhere.
    pub fn watcher(&self) -> FlowWatcher {
        FlowWatcher::new(&self.shared)
    }

    /// A handle that closes the flow from elsewhere.
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }

    /// Waits until packets may pass: until the keys are agreed that have to be
    /// before them. Sending waits for the same.
    ///
    /// # Errors
    ///
    /// The flow has ended before.
    pub async fn ready(&self) -> Result<(), FlowError> {
        while !self.is_ready()? {
            // Nobody else may be reading yet, and the exchange goes on by what
            // is read.
            lock(&self.receiver).look()?;
            if self.is_ready()? {
                return Ok(());
            }
            self.unless_ended(future::or(self.watch.readable(), self.becomes_ready())).await?;
        }
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> Result<bool, FlowError> {
        self.shared.check()?;
        Ok(self.shared.control.as_ref().is_none_or(Control::is_ready))
    }

    /// A program that only sends reads nothing, and what the peer's session says
    /// would be lost on it.
    fn look_now_and_then(&self) -> Result<(), FlowError> {
        if self.shared.control.is_none() {
            return Ok(());
        }
        let now = milliseconds();
        if now >= self.looked.load(Relaxed) + LOOKS
            && let Ok(mut receiver) = self.receiver.try_lock()
        {
            self.looked.store(now, Relaxed);
            receiver.look()?;
        }
        Ok(())
    }

    async fn becomes_ready(&self) -> io::Result<()> {
        let Some(control) = &self.shared.control else { return Ok(()) };
        let became = control.becomes_ready();
        if !control.is_ready() {
            became.await;
        }
        Ok(())
    }

    /// Ends the flow with [`FlowError::Down`] when the peer, asked whether it
    /// is there, does not say so within `patience`. It is asked when packets
    /// have left for a while and none has come. Without this only the flow's own
    /// timeout ends it. No effect on a flow in the 0.23 format.
    pub fn expect_answers_within(&self, patience: Duration) {
        if let Some(control) = &self.shared.control {
            control.set_patience(patience);
        }
    }

    /// Says that packets of this flow go to an IP stack, which finishes partial
    /// checksums by itself.
    pub(crate) fn take_partial_checksums(&self) {
        self.shared.announce_partial_checksums();
    }

    /// Leaves no more than this to the kernel; all that it has by default.
    pub(crate) fn limit_offload(&self, offload: PathOffload) {
        self.shared.path.limit_offload(offload);
    }

    /// What the kernel does in super-packets at the flow's socket now.
    pub fn offload(&self) -> PathOffload {
        self.shared.path.offload()
    }

    /// The blocking, batched pair of ends for two threads. The flow ends when
    /// both are gone.
    ///
    /// Both have to be used. With what is received comes what the peer says of
    /// keys: who only sends on a native flow and never reads the receiver can
    /// send as much as one key may seal (2^23 packets, 180 s), and then has
    /// [`FlowError::Unread`].
    pub fn split(self) -> (FlowSender, FlowReceiver) {
        let Self { sender, receiver, watch, .. } = self;
        drop(watch);
        (
            sender.into_inner().unwrap_or_else(PoisonError::into_inner),
            receiver.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }

    async fn unless_ended(
        &self,
        ready: impl Future<Output = io::Result<()>>,
    ) -> Result<(), FlowError> {
        let ended = self.shared.ended();
        self.shared.check()?;
        future::or(async { ready.await.map_err(FlowError::from) }, async {
            ended.await;
            self.shared.check()
        })
        .await
    }
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("info", &self.shared.info).finish_non_exhaustive()
    }
}

/// A path as something the reactor can watch.
pub(crate) struct PathSource(pub(crate) Arc<dyn Path>);

impl AsFd for PathSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.readiness()
    }
}
