//! Management messages of endpoint 0 (WIRE.md, "eth-dix" and "UDP"). Both
//! dialects carry the same facts in different places; bytes here start behind
//! the endpoint id. Allocation headers inside are `oap`'s.

use super::{Dialect, DirectoryHash, Eid, NameHash, QosSpec};

/// Longest message taken, in bytes, as for a 0.23 peer (WIRE.md, "UDP").
pub const LARGEST_MESSAGE: usize = 2048;

const ETH_DIX_HEADER: usize = 39;
const UDP_HEADER: usize = 43;

const ETH_REQUEST: u8 = 0;
const ETH_REPLY: u8 = 1;
const ETH_QUERY: u8 = 2;
const ETH_QUERY_REPLY: u8 = 3;
const UDP_REQUEST: u8 = 1;
const UDP_REPLY: u8 = 2;

/// The bytes are no management message of this dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed management message")]
pub struct Malformed;

/// A management message from one IPCP to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A flow is asked for.
    FlowRequest {
        /// The requester's endpoint.
        source: Eid,
        /// The quality of service asked for.
        qos: QosSpec,
        /// Whom it is for.
        name: NameHash,
        /// The allocation header.
        allocation: &'a [u8],
    },
    /// A request is answered.
    FlowReply {
        /// The endpoint that asked.
        requester: Eid,
        /// The responder's endpoint.
        responder: Eid,
        /// 0 = accepted, negative = refused.
        response: i32,
        /// The allocation header; empty when refused.
        allocation: &'a [u8],
    },
    /// Asks who serves this name. (eth-dix only.)
    NameQuery(NameHash),
    /// I do. (eth-dix only.)
    NameReply(NameHash),
}

impl<'a> Message<'a> {
    /// A message from its bytes.
    ///
    /// # Errors
    ///
    /// Truncated, too long, or with an unknown code.
    pub fn parse(
        dialect: Dialect,
        hash: DirectoryHash,
        bytes: &'a [u8],
    ) -> Result<Self, Malformed> {
        if bytes.len() > LARGEST_MESSAGE {
            return Err(Malformed);
        }
        match dialect {
            Dialect::EthDix => Self::parse_eth_dix(hash, bytes),
            Dialect::Udp => Self::parse_udp(hash, bytes),
        }
    }

    fn parse_eth_dix(hash: DirectoryHash, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, tail) = bytes.split_first_chunk::<ETH_DIX_HEADER>().ok_or(Malformed)?;
        let eid = |at: usize| Eid(u32::from(u16::from_be_bytes([header[at], header[at + 1]])));
        match header[37] {
            ETH_REQUEST => {
                let (name, allocation) = split_name(hash, tail)?;
                let qos = QosSpec {
                    loss: u32_at(header, 4),
                    bandwidth: u64_at(header, 8),
                    bit_error_rate: u32_at(header, 16),
                    max_gap: u32_at(header, 20),
                    delay: u32_at(header, 24),
                    timeout: u32_at(header, 28),
                    in_order: header[36] != 0,
                    availability: header[38],
                };
                Ok(Self::FlowRequest { source: eid(0), qos, name, allocation })
            }
            ETH_REPLY => Ok(Self::FlowReply {
                requester: eid(2),
                responder: eid(0),
                response: u32_at(header, 32).cast_signed(),
                allocation: tail,
            }),
            ETH_QUERY => Ok(Self::NameQuery(whole_name(hash, tail)?)),
            ETH_QUERY_REPLY => Ok(Self::NameReply(whole_name(hash, tail)?)),
            _ => Err(Malformed),
        }
    }

    fn parse_udp(hash: DirectoryHash, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, tail) = bytes.split_first_chunk::<UDP_HEADER>().ok_or(Malformed)?;
        match header[40] {
            UDP_REQUEST => {
                let (name, allocation) = split_name(hash, tail)?;
                let qos = QosSpec {
                    bandwidth: u64_at(header, 12),
                    delay: u32_at(header, 20),
                    loss: u32_at(header, 24),
                    bit_error_rate: u32_at(header, 28),
                    max_gap: u32_at(header, 32),
                    timeout: u32_at(header, 36),
                    availability: header[41],
                    in_order: header[42] != 0,
                };
                Ok(Self::FlowRequest { source: Eid(u32_at(header, 0)), qos, name, allocation })
            }
            UDP_REPLY => Ok(Self::FlowReply {
                requester: Eid(u32_at(header, 0)),
                responder: Eid(u32_at(header, 4)),
                response: u32_at(header, 8).cast_signed(),
                allocation: tail,
            }),
            _ => Err(Malformed),
        }
    }

    /// The message's bytes. On eth-dix an EID is cut to its 16 bits.
    #[must_use]
    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        match dialect {
            Dialect::EthDix => self.encode_eth_dix(),
            Dialect::Udp => self.encode_udp(),
        }
    }

    fn encode_eth_dix(&self) -> Vec<u8> {
        let mut header = [0; ETH_DIX_HEADER];
        let eid = |eid: Eid| (eid.0 as u16).to_be_bytes();
        match self {
            Self::FlowRequest { source, qos, .. } => {
                header[0..2].copy_from_slice(&eid(*source));
                header[4..8].copy_from_slice(&qos.loss.to_be_bytes());
                header[8..16].copy_from_slice(&qos.bandwidth.to_be_bytes());
                header[16..20].copy_from_slice(&qos.bit_error_rate.to_be_bytes());
                header[20..24].copy_from_slice(&qos.max_gap.to_be_bytes());
                header[24..28].copy_from_slice(&qos.delay.to_be_bytes());
                header[28..32].copy_from_slice(&qos.timeout.to_be_bytes());
                header[36] = u8::from(qos.in_order);
                header[37] = ETH_REQUEST;
                header[38] = qos.availability;
            }
            Self::FlowReply { requester, responder, response, .. } => {
                header[0..2].copy_from_slice(&eid(*responder));
                header[2..4].copy_from_slice(&eid(*requester));
                header[32..36].copy_from_slice(&response.to_be_bytes());
                header[37] = ETH_REPLY;
            }
            Self::NameQuery(_) => header[37] = ETH_QUERY,
            Self::NameReply(_) => header[37] = ETH_QUERY_REPLY,
        }
        self.with_tail(&header)
    }

    fn encode_udp(&self) -> Vec<u8> {
        let mut header = [0; UDP_HEADER];
        match self {
            Self::FlowRequest { source, qos, .. } => {
                header[0..4].copy_from_slice(&source.0.to_be_bytes());
                header[12..20].copy_from_slice(&qos.bandwidth.to_be_bytes());
                header[20..24].copy_from_slice(&qos.delay.to_be_bytes());
                header[24..28].copy_from_slice(&qos.loss.to_be_bytes());
                header[28..32].copy_from_slice(&qos.bit_error_rate.to_be_bytes());
                header[32..36].copy_from_slice(&qos.max_gap.to_be_bytes());
                header[36..40].copy_from_slice(&qos.timeout.to_be_bytes());
                header[40] = UDP_REQUEST;
                header[41] = qos.availability;
                header[42] = u8::from(qos.in_order);
            }
            Self::FlowReply { requester, responder, response, .. } => {
                header[0..4].copy_from_slice(&requester.0.to_be_bytes());
                header[4..8].copy_from_slice(&responder.0.to_be_bytes());
                header[8..12].copy_from_slice(&response.to_be_bytes());
                header[40] = UDP_REPLY;
            }
            // The UDP dialect has no queries; code 0 is nobody's.
            Self::NameQuery(_) | Self::NameReply(_) => {}
        }
        self.with_tail(&header)
    }

    fn with_tail(&self, header: &[u8]) -> Vec<u8> {
        match self {
            Self::FlowRequest { name, allocation, .. } => {
                [header, name.as_bytes(), allocation].concat()
            }
            Self::FlowReply { allocation, .. } => [header, allocation].concat(),
            Self::NameQuery(name) | Self::NameReply(name) => [header, name.as_bytes()].concat(),
        }
    }
}

fn split_name(hash: DirectoryHash, tail: &[u8]) -> Result<(NameHash, &[u8]), Malformed> {
    let (name, rest) = tail.split_at_checked(hash.size()).ok_or(Malformed)?;
    Ok((NameHash::new(name).ok_or(Malformed)?, rest))
}

fn whole_name(hash: DirectoryHash, tail: &[u8]) -> Result<NameHash, Malformed> {
    match split_name(hash, tail)? {
        (name, []) => Ok(name),
        _ => Err(Malformed),
    }
}

fn u32_at(header: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn u64_at(header: &[u8], at: usize) -> u64 {
    u64::from(u32_at(header, at)) << 32 | u64::from(u32_at(header, at + 4))
}
