//! The header in front of each packet of a flow in order (WIRE.md, "Packets of a
//! flow"): FRCT, the flow and retransmission control of 0.23. Shapes only: when
//! which packet is sent, and what is believed of one, is `proto::frct`'s.

use std::ops::BitOr;

use super::management::Malformed;

/// Length of the header in bytes.
pub const HEADER: usize = 12;

/// The window of a header has this many bits.
const WINDOW_BITS: u32 = 24;
const WINDOW_MASK: u32 = (1 << WINDOW_BITS) - 1;

/// The flags of a packet: its kind, and which fields of its header are valid.
///
/// ```
/// use ouroboros::wire::frct::Flags;
/// let flags = Flags::DATA | Flags::DRF;
/// assert!(flags.contains(Flags::DATA) && !flags.contains(Flags::ACK));
/// assert_eq!(flags.bits(), 0x03);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// The sequence number is valid and a packet of the application follows.
    pub const DATA: Self = Self(0x01);
    /// A new run may begin at this sequence number.
    pub const DRF: Self = Self(0x02);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x04);
    /// The window is valid.
    pub const FC: Self = Self(0x08);
    /// The sender's window is closed: it asks for the receiver's (rendezvous).
    pub const RDVS: Self = Self(0x10);

    /// The flags with these bits; what has no meaning is kept and not looked at.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns `true` if all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Header {
    /// The packet's flags.
    pub flags: Flags,
    /// The low 24 bits of the first sequence number that may not be sent; valid
    /// with [`Flags::FC`].
    pub window: u32,
    /// The packet's number; valid with [`Flags::DATA`] or [`Flags::DRF`].
    pub sequence: u32,
    /// The next sequence number that is expected; valid with [`Flags::ACK`].
    pub acknowledgement: u32,
}

impl Header {
    /// The header of a packet, and what follows it: the application's packet.
    ///
    /// # Errors
    ///
    /// Too short, or something follows that is not data.
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (header, payload) = packet.split_first_chunk::<HEADER>().ok_or(Malformed)?;
        let [flags, w2, w1, w0, s3, s2, s1, s0, a3, a2, a1, a0] = *header;
        let header = Self {
            flags: Flags(flags),
            window: u32::from_be_bytes([0, w2, w1, w0]),
            sequence: u32::from_be_bytes([s3, s2, s1, s0]),
            acknowledgement: u32::from_be_bytes([a3, a2, a1, a0]),
        };
        if !payload.is_empty() && !header.flags.contains(Flags::DATA) {
            return Err(Malformed);
        }
        Ok((header, payload))
    }

    /// The header's bytes. Of the window, the low 24 bits are taken.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let [_, w2, w1, w0] = self.window.to_be_bytes();
        let [s3, s2, s1, s0] = self.sequence.to_be_bytes();
        let [a3, a2, a1, a0] = self.acknowledgement.to_be_bytes();
        [self.flags.0, w2, w1, w0, s3, s2, s1, s0, a3, a2, a1, a0]
    }

    /// The sequence number that the window means: of those with its 24 bits, the
    /// one nearest to `to`.
    #[must_use]
    pub const fn window_near(&self, to: u32) -> u32 {
        let ahead = self.window.wrapping_sub(to) & WINDOW_MASK;
        // Sign-extended from 24 bits.
        let ahead = (ahead << (32 - WINDOW_BITS)) as i32 >> (32 - WINDOW_BITS);
        to.wrapping_add_signed(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_capture_shows_is_read_and_written() {
        // The first answer of `data-pp` in the tests' vectors.
        let packet = [0x0f, 0xf2, 0x74, 0xd5, 0xf2, 0x85, 0xb2, 0x30, 0xd6, 0xf2, 0x73, 0xd5, 7, 8];
        let (header, payload) = Header::parse(&packet).expect("well-formed");
        let flags = Flags::DATA | Flags::DRF | Flags::ACK | Flags::FC;
        let (window, sequence) = (0x00f2_74d5, 0xf285_b230);
        assert_eq!(header, Header { flags, window, sequence, acknowledgement: 0xd6f2_73d5 });
        assert_eq!(payload, [7, 8]);
        assert_eq!(header.encode(), packet[..HEADER]);
        assert_eq!(header.window_near(0xd6f2_73d4), 0xd6f2_74d5);
    }

    #[test]
    fn only_data_has_something_behind_its_header() {
        let bare = Header { flags: Flags::ACK | Flags::FC, ..Header::default() }.encode();
        assert!(Header::parse(&bare).is_ok());
        assert_eq!(Header::parse(&[&bare[..], &[1]].concat()), Err(Malformed));
        assert_eq!(Header::parse(&bare[..11]), Err(Malformed));
    }

    #[test]
    fn a_window_is_completed_to_the_nearest_number() {
        for (window, near, means) in [
            (0x00_0100, 0x0000_0000, 0x0000_0100),
            (0x00_0010, 0x12ff_fff0, 0x1300_0010),
            (0xff_fff0, 0x1300_0010, 0x12ff_fff0),
            (0x00_0010, 0xffff_fff0, 0x0000_0010),
            (0xff_fff0, 0x0000_0010, 0xffff_fff0),
            (0x7f_ffff, 0x0100_0000, 0x017f_ffff),
            (0x80_0000, 0x0100_0000, 0x0080_0000),
        ] {
            let header = Header { window, ..Header::default() };
            assert_eq!(header.window_near(near), means, "{window:06x} near {near:08x}");
        }
    }
}
