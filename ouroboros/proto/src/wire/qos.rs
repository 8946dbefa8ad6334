//! The quality of service of a flow, as allocation messages carry it.

/// The quality of service that a flow asks of the layer (WIRE.md, "Packets of a flow").
///
/// ```
/// use ouroboros::wire::QosSpec;
/// assert!(!QosSpec::RAW.checks_errors());
/// assert!(QosSpec::RAW_CRC32.checks_errors());
/// assert!(!QosSpec::RAW.in_order);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct QosSpec {
    /// Largest delay, in milliseconds; `u32::MAX` for any.
    pub delay: u32,
    /// Least bandwidth, in bits per second.
    pub bandwidth: u64,
    /// Availability, in nines.
    pub availability: u8,
    /// Packet loss; 0 asks for retransmission.
    pub loss: u32,
    /// Bit error rate; 0 asks for a CRC-32 behind every packet.
    pub bit_error_rate: u32,
    /// Packets keep their order and carry an FRCT header.
    pub in_order: bool,
    /// Longest gap between packets, in milliseconds; `u32::MAX` for any.
    pub max_gap: u32,
    /// Silence after which the flow is down, in milliseconds.
    pub timeout: u32,
}

impl QosSpec {
    /// Packets as they are: no order, no check beyond the encryption's own.
    pub const RAW: Self = Self {
        delay: u32::MAX,
        bandwidth: 0,
        availability: 0,
        loss: 1,
        bit_error_rate: 1,
        in_order: false,
        max_gap: u32::MAX,
        timeout: 120_000,
    };

    /// Like [`RAW`](Self::RAW), and a CRC-32 guards every packet.
    pub const RAW_CRC32: Self = Self { bit_error_rate: 0, ..Self::RAW };

    /// Packets keep their order; what is lost stays lost. 0.23's preset `best`, with
    /// the bit error rate that its default build asks for, as in those that follow.
    pub const BEST_EFFORT: Self = Self { in_order: true, ..Self::RAW };

    /// In order, as [`BEST_EFFORT`](Self::BEST_EFFORT), and soon: 0.23's preset
    /// `video`.
    pub const VIDEO: Self = Self {
        delay: 100,
        bandwidth: u64::MAX,
        availability: 3,
        max_gap: 100,
        ..Self::BEST_EFFORT
    };

    /// In order, sooner, with little bandwidth: 0.23's preset `voice`.
    pub const VOICE: Self =
        Self { delay: 50, bandwidth: 100_000, availability: 5, max_gap: 50, ..Self::BEST_EFFORT };

    /// In order, and repeated until it arrives: 0.23's preset `data`.
    pub const DATA: Self = Self { delay: 1000, loss: 0, max_gap: 2000, ..Self::BEST_EFFORT };

    /// Returns `true` if a CRC-32 follows every packet of the flow.
    #[must_use]
    pub const fn checks_errors(&self) -> bool {
        self.bit_error_rate == 0
    }

    /// Returns `true` if packets keep their order and are repeated until they arrive.
    pub const fn is_reliable(&self) -> bool {
        self.in_order && self.loss == 0
    }

    /// Returns `true` if such a flow can be carried: all but those in order with a bit
    /// error rate of 0. A 0.23 peer leaves out the CRC of what it repeats and of what
    /// it acknowledges, and drops it for that.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        !(self.in_order && self.checks_errors())
    }
}
