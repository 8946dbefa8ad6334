//! The Internet checksum: whole (RFC 1071) and incremental (RFC 1624).

/// A ones' complement sum of big-endian 16-bit words, not yet folded.
///
/// ```
/// use ouroboros::tun::offload::Sum;
/// // The example of RFC 1071, section 3.
/// let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
/// assert_eq!(sum.fold(), 0xddf2);
/// assert_eq!(sum.checksum(), !0xddf2);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of a TCP or UDP pseudo-header: `addresses` are source and
    /// destination as they stand in the IP header, `length` is that of the
    /// transport header and its payload in bytes (RFC 9293 section 3.1, RFC
    /// 8200 section 8.1).
    #[inline]
    pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        Self(length as u64 + u64::from(protocol)).bytes(addresses)
    }

    /// Adds bytes that begin at an even place; an odd last one counts as if a
    /// zero followed.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // The sum is the same in either byte order, but for the order of its
        // own bytes (RFC 1071 section 2 (B)); and in words of any size, as
        // 2^16 is 1 modulo 2^16 - 1. Halves of 64-bit words are added in lanes
        // of 64 bits, which overflow after 2^32 words and need no carry.
        let (chunks, rest) = bytes.as_chunks::<32>();
        let (mut low, mut high) = ([0_u64; 4], [0_u64; 4]);
        for chunk in chunks {
            for (lane, word) in chunk.as_chunks::<8>().0.iter().enumerate() {
                let word = u64::from_ne_bytes(*word);
                low[lane] += word & 0xffff_ffff;
                high[lane] += word >> 32;
            }
        }
        let mut sum = low.iter().sum::<u64>() + high.iter().sum::<u64>();
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let last = match *rest {
            [first, second, third] => [first, second, third, 0],
            [first, second] => [first, second, 0, 0],
            [first] => [first, 0, 0, 0],
            _ => [0; 4],
        };
        sum += u64::from(u32::from_ne_bytes(last));
        Self(self.0 + u64::from(u16::from_be(fold(sum))))
    }

    /// Adds one word.
    #[inline]
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds the two words of a 32-bit integer.
    #[inline]
    #[must_use]
    pub const fn long(self, long: u32) -> Self {
        Self(self.0 + long as u64)
    }

    /// Takes one word away.
    #[inline]
    #[must_use]
    pub const fn without(self, word: u16) -> Self {
        self.word(!word)
    }

    /// The sum in 16 bits: what a checksum field holds while it is partial.
    #[inline]
    pub const fn fold(self) -> u16 {
        fold(self.0)
    }

    /// The complement of the sum: what a complete checksum field holds.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// As [`checksum`](Self::checksum) for UDP, where a field of zero would say
    /// that there is none (RFC 768).
    #[inline]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Returns `true` if bytes that hold their own checksum were added and are intact.
    #[inline]
    pub const fn is_intact(self) -> bool {
        self.fold() == 0xffff
    }
}

#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A complete checksum after one of the words that it covers has changed (RFC
/// 1624, equation 3).
#[inline]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    Sum(!checksum as u64).without(old).word(new).checksum()
}

/// As [`replace`] for a word that stands at any place, counted in bytes from
/// where the sum begins: at an odd one its bytes belong to two words.
#[inline]
pub const fn replace_at(checksum: u16, place: usize, old: u16, new: u16) -> u16 {
    if place.is_multiple_of(2) {
        replace(checksum, old, new)
    } else {
        replace(checksum, old.swap_bytes(), new.swap_bytes())
    }
}
