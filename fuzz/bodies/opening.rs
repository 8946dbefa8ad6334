//! A flow's opener before what the network gives it: the frames that the peer
//! sealed, changed, twice, out of order, and what nobody sealed. The bytes: one
//! for the format, then steps.

use ouroboros::{
    crypto::{AeadBackend, Cipher, FlowKey, Suite},
    proto::{
        native::{Capabilities, KeyLimits, NativeKeys, Role},
        protection::{Content, FlowKeys, OpenError, Opened, Opener, Protection, protection},
    },
    transport::ReceiveBatch,
    wire::Eid,
};

use crate::input::{Counting, Input, key};

const MOST_STEPS: usize = 64;
const MOST_BYTES: usize = 9000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Checked,
    Wire023,
    Native,
}

struct Sealed {
    frame: Vec<u8>,
    packet: Vec<u8>,
    content: Content,
    opened: bool,
}

struct Flow {
    format: Format,
    opener: Opener,
    sealed: Vec<Sealed>,
}

pub(crate) fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let format =
        [Format::Plain, Format::Checked, Format::Wire023, Format::Native][usize::from(choice & 3)];
    let backend = if choice & 4 == 0 { AeadBackend::Ring } else { AeadBackend::RustCrypto };
    let cipher = if choice & 8 == 0 { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
    let Protection { mut sealer, .. } = end(format, key(data), cipher, backend, Role::Client);
    let Protection { opener, .. } = end(format, key(data), cipher, backend, Role::Server);
    let mut flow = Flow { format, opener, sealed: Vec::new() };
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        let step = input.byte();
        match step & 3 {
            0 => flow.check(input.bytes()),
            1 => {
                let packet = input.bytes();
                let content = match step >> 2 & 3 {
                    _ if format != Format::Native => Content::Packet,
                    0 => Content::Control,
                    1 => Content::Packet,
                    _ => Content::PartialChecksum,
                };
                let head = sealer.headroom();
                let mut frame = vec![0; head + packet.len() + sealer.tailroom()];
                frame[head..head + packet.len()].copy_from_slice(packet);
                sealer.seal(&mut frame, content).expect("within the key's limits");
                let packet = packet.to_vec();
                flow.sealed.push(Sealed { frame: frame.clone(), packet, content, opened: false });
                if step & 0x10 == 0 {
                    flow.check(&input.changed(&frame));
                }
            }
            2 => {
                if let Some(frame) = flow.frame(&mut input) {
                    flow.check(&input.changed(&frame));
                }
            }
            _ => {
                let frames = (0..step >> 2 & 15).map(|_| match flow.frame(&mut input) {
                    Some(frame) => input.changed(&frame),
                    None => input.bytes().to_vec(),
                });
                let frames: Vec<_> = frames.collect();
                flow.check_batch(&frames);
            }
        }
    }
    // Whatever came before, what the peer seals is opened.
    for number in 0..flow.sealed.len() {
        let frame = flow.sealed[number].frame.clone();
        flow.check(&frame);
    }
}

fn end(
    format: Format,
    key: FlowKey,
    cipher: Cipher,
    backend: AeadBackend,
    role: Role,
) -> Protection {
    let keys = match format {
        Format::Plain | Format::Checked => None,
        Format::Wire023 => Some(FlowKeys::Wire023 { cipher, key }),
        Format::Native => {
            let suite = Suite { cipher, ..Suite::default() };
            Some(FlowKeys::Native(NativeKeys::new(suite, role, Capabilities::NONE, key, [9; 32])))
        }
    };
    let (seed, ends) = match role {
        Role::Client => (1, (Eid(7), Eid(70_000))),
        Role::Server => (2, (Eid(70_000), Eid(7))),
    };
    let (limits, entropy) = (KeyLimits::default(), &mut Counting(seed));
    protection(keys, ends, format == Format::Checked, backend, limits, entropy)
}

impl Flow {
    /// A frame that was sealed before.
    fn frame(&self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let number = usize::from(input.byte()).checked_rem(self.sealed.len())?;
        Some(self.sealed[number].frame.clone())
    }

    fn check(&mut self, frame: &[u8]) {
        let mut bytes = frame.to_vec();
        match self.opener.open(&mut bytes) {
            Ok(opened) => self.accepted(frame, &bytes, &opened),
            Err(error) => self.refused(frame, Some(error)),
        }
    }

    fn check_batch(&mut self, frames: &[Vec<u8>]) {
        let mut batch = ReceiveBatch::new(16 * MOST_BYTES);
        let mut end = 0;
        for frame in frames {
            let frame = &frame[..frame.len().min(MOST_BYTES)];
            batch.buffer_mut()[end..end + frame.len()].copy_from_slice(frame);
            batch.push(end..end + frame.len());
            end += frame.len();
        }
        let given: Vec<_> = (0..batch.len()).map(|index| batch.frame(index).to_vec()).collect();
        let mut opened = Vec::new();
        let tally = self.opener.open_batch(&mut batch, &mut opened);
        assert_eq!(opened.len() + tally.unopened + tally.keepalives, given.len());
        assert!(opened.is_sorted_by_key(|packet| packet.index), "in order");
        let empty = given.iter().filter(|frame| frame.is_empty()).count();
        assert_eq!(tally.keepalives, if self.format == Format::Native { 0 } else { empty });
        let mut opened = opened.iter().peekable();
        for (index, frame) in given.iter().enumerate() {
            match opened.next_if(|packet| packet.index == index) {
                Some(packet) => self.accepted(frame, batch.frame(index), packet),
                None if frame.is_empty() => {}
                None => self.refused(frame, None),
            }
        }
        assert_eq!(opened.next(), None, "one frame gives one packet");
    }

    fn accepted(&mut self, frame: &[u8], bytes: &[u8], opened: &Opened) {
        let body = &bytes[opened.body.clone()];
        match self.format {
            Format::Plain => return assert_eq!(body, frame),
            Format::Checked => {
                let (packet, crc) = frame.split_last_chunk().expect("there is a checksum");
                assert_eq!(body, packet);
                return assert_eq!(u32::from_be_bytes(*crc), crc_32(packet));
            }
            Format::Wire023 | Format::Native => {}
        }
        let sealed = self.sealed.iter_mut().find(|sealed| sealed.frame == frame);
        let sealed = sealed.expect("it was sealed as it came");
        assert_eq!((body, opened.content), (&sealed.packet[..], sealed.content));
        if self.format == Format::Native {
            assert!(!sealed.opened, "nothing is opened twice");
        }
        sealed.opened = true;
    }

    fn refused(&self, frame: &[u8], error: Option<OpenError>) {
        let sealed = self.sealed.iter().find(|sealed| sealed.frame == frame);
        let Some(sealed) = sealed else { return };
        assert!(self.format == Format::Native && sealed.opened, "it is as the peer sealed it");
        assert!(matches!(error, None | Some(OpenError::Replayed)));
    }
}

/// Bit by bit (reflected polynomial of IEEE 802.3).
fn crc_32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
