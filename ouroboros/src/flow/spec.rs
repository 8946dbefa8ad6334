//! The specification of a flow that is to be allocated. Not here: how it is allocated (`ipcp`).

use std::time::Duration;

use crate::{
    crypto::Suite,
    proto::{
        negotiation::{ClientSecurity, Identity, InvitationSecret, ProfilePolicy, Trust},
        reliable::congestion::CongestionControl,
    },
    transport::ServerHost,
    wire::{QosSpec, extension::Lane},
};

/// The specification of a flow that is to be allocated: reliability, security, timeout, and
/// where the server is.
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
    pub(crate) manager_identity: bool,
    pub(crate) timeout: Duration,
    pub(crate) server: Option<ServerHost>,
    pub(crate) congestion_control: CongestionControl,
}

impl FlowSpec {
    /// A plain flow of raw packets.
    #[must_use]
    pub const fn raw() -> Self {
        Self::with_qos(QosSpec::RAW)
    }

    /// A flow with this quality of service. Allocation refuses what
    /// [`QosSpec::is_supported`] denies.
    #[must_use]
    pub const fn with_qos(qos: QosSpec) -> Self {
        let timeout = Duration::from_secs(10);
        let congestion_control = CongestionControl::Bbr;
        let (security, manager_identity, server) = (None, false, None);
        Self { qos, security, manager_identity, timeout, server, congestion_control }
    }

    /// A flow whose messages arrive in order, and none is lost:
    /// [`QosSpec::DATA`]. Encrypted and between two of this library a message may have
    /// any size up to the peer's limit ([`Flow::largest_packet`](crate::Flow)); towards
    /// a 0.23 peer, or plain, it has to fit a packet. Also for
    /// [streams](crate::FlowStream).
    pub const fn reliable() -> Self {
        Self::with_qos(QosSpec::DATA)
    }

    /// A flow whose packets arrive in order, or not at all:
    /// [`QosSpec::BEST_EFFORT`]. Encrypted and between two of this library their own numbers
    /// keep the order: a packet that comes after a later one is dropped
    /// ([`FlowStatistics::late`](crate::FlowStatistics::late)), and costs no more than one
    /// of a [raw](Self::raw) flow. Towards a 0.23 peer, or plain, it is FRCT that does.
    pub const fn ordered() -> Self {
        Self::with_qos(QosSpec::BEST_EFFORT)
    }

    /// With this congestion control at this end of a reliable flow in the native profile;
    /// BBR by default. See [`Flow::set_congestion_control`](crate::Flow::set_congestion_control).
    #[must_use]
    pub const fn congestion_control(mut self, control: CongestionControl) -> Self {
        self.congestion_control = control;
        self
    }

    /// A CRC-32 behind every packet.
    #[must_use]
    pub const fn with_crc32(mut self) -> Self {
        self.qos.bit_error_rate = 0;
        self
    }

    /// To the server at `host`, instead of wherever the name is looked up: in layers over
    /// UDP. The host is looked up anew for each allocation.
    #[must_use]
    pub fn at_server(mut self, host: ServerHost) -> Self {
        self.server = Some(host);
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
    /// daemon there is only its own identity: see [`with_manager_identity`](Self::with_manager_identity).
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.encryption().identity = Some(identity);
        self
    }

    /// Encrypted in the native profile, and with the proof that this side is invited: if
    /// the server does not know its identity yet, it does from then on. Goes with
    /// [`with_identity`](Self::with_identity) or
    /// [`with_manager_identity`](Self::with_manager_identity), and with
    /// [`trust`](Self::trust) in the server's key.
    #[must_use]
    pub fn with_invitation(mut self, secret: InvitationSecret) -> Self {
        self.encryption().invitation = Some(secret);
        self.require_native()
    }

    /// Encrypted, and with the identity of the resource manager that allocates
    /// the flow: `irmd`'s, or [`Irm::set_identity`](crate::Irm::set_identity)'s.
    #[must_use]
    pub fn with_manager_identity(mut self) -> Self {
        self.encryption();
        self.manager_identity = true;
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
    pub fn with_security(mut self, security: ClientSecurity) -> Self {
        self.security = Some(security);
        self
    }

    /// Sets how long allocation may take; 10 s by default.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns `true` if the server is told who asks, by
    /// [`with_manager_identity`](Self::with_manager_identity).
    #[must_use]
    pub const fn has_manager_identity(&self) -> bool {
        self.manager_identity
    }

    /// Returns `true` if the flow will be encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.security.is_some()
    }

    /// The quality of service asked for.
    #[must_use]
    pub const fn qos(&self) -> QosSpec {
        self.qos
    }

    /// Returns the security asked for; `None` for a plain flow.
    #[must_use]
    pub const fn security(&self) -> Option<&ClientSecurity> {
        self.security.as_ref()
    }

    /// Returns how long allocation may take.
    #[must_use]
    pub const fn allocation_timeout(&self) -> Duration {
        self.timeout
    }

    fn encryption(&mut self) -> &mut ClientSecurity {
        self.security.get_or_insert_default()
    }
}
