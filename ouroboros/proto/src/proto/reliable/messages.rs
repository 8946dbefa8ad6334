//! Messages over a [`Stream`]: each with its length in front (PROTOCOL.md,
//! "Messages"). What a flow drives: it writes and reads messages here, and sends
//! and handles packets through [`stream`](Messages::stream_mut).

use std::time::Duration;

use bytes::Bytes;

use super::{Config, Packet, Read, SendState, Stream};
use crate::wire::management::Malformed;

/// The code of STOP and ABORT to a peer whose lengths make no sense.
const BAD_LENGTH: u32 = 1;
/// Longest length field in bytes.
const MAX_HEAD: usize = 8;
/// A message that is longer than this is taken out of the stream's window while the
/// rest of it is still on its way: it may be longer than the window.
const WHOLE: u64 = 16 * 1024;

/// The state of the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// A whole message of this size in bytes, or what was not read of one:
    /// [`Messages::read`] it.
    Message(usize),
    /// None now.
    Blocked,
    /// None will come: the peer has finished, and all that it wrote was read.
    End,
    /// None will come: the peer has aborted with this code.
    Aborted(u32),
    /// None will come: a length made no sense, the end came inside of a message, or the peer
    /// has acknowledged what was never sent.
    Malformed,
}

/// A message cannot be written, whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {size} bytes is too large: {largest} at most")]
pub struct TooLarge {
    /// Its size in bytes.
    pub size: usize,
    /// Largest message in bytes.
    pub largest: usize,
}

/// Both directions of a reliable flow, as messages.
#[derive(Debug)]
pub struct Messages {
    stream: Stream,
    /// Largest message that the peer takes, and that this end does, in bytes.
    send_limit: usize,
    receive_limit: usize,
    /// The size of the message at the front, once its head was read.
    size: Option<usize>,
    /// The part of it that was taken out of the stream before it was whole, and how much of
    /// that was read.
    begun: Vec<u8>,
    begun_read: usize,
    malformed: bool,
}

impl Messages {
    /// Messages over a new stream, of at most these sizes in bytes: to the peer, and
    /// from it.
    pub fn new(now: Duration, config: Config, (send_limit, receive_limit): (usize, usize)) -> Self {
        let stream = Stream::new(now, config);
        let (begun, begun_read, malformed) = (Vec::new(), 0, false);
        Self { stream, send_limit, receive_limit, size: None, begun, begun_read, malformed }
    }

    /// The stream below: for its packets, its clock and its ends.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream below, to be driven.
    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Largest message that can be written, in bytes.
    pub fn largest(&self) -> usize {
        self.send_limit
    }

    /// Takes a message to be sent, whole; `false`: there is no room now, or nothing
    /// is to be written any more ([`Stream::send_state`] tells).
    ///
    /// # Errors
    ///
    /// The peer takes none of this size. An empty one is none.
    pub fn write(&mut self, message: &[u8]) -> Result<bool, TooLarge> {
        self.check_size(message.len())?;
        let mut head = [0; MAX_HEAD];
        let head = encode_length(message.len(), &mut head);
        Ok(self.stream.write_whole(&[head, message]))
    }

    /// As [`write`](Self::write), without copying the message.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn write_owned(&mut self, message: Bytes) -> Result<bool, TooLarge> {
        self.check_size(message.len())?;
        let mut head = [0; MAX_HEAD];
        let head = encode_length(message.len(), &mut head);
        Ok(self.stream.write_owned(head, message))
    }

    fn check_size(&self, size: usize) -> Result<(), TooLarge> {
        let largest = self.send_limit;
        if size == 0 || size > largest { Err(TooLarge { size, largest }) } else { Ok(()) }
    }

    /// Returns `true` if a message can be written.
    pub fn is_writable(&self) -> bool {
        self.stream.writable() > 0
    }

    /// Handles a packet of the peer's whose number was not there before.
    ///
    /// # Errors
    ///
    /// It is malformed; nothing of it counts.
    pub fn handle(&mut self, now: Duration, packet: Packet<'_>) -> Result<(), Malformed> {
        self.stream.handle(now, packet)?;
        self.read_head();
        // One that does not fit the window would never be whole.
        if let Some(size) = self.size
            && size as u64 > WHOLE.min(self.stream.window / 2)
        {
            self.take_out(size);
        }
        Ok(())
    }

    /// The state of the first message.
    pub fn front(&mut self) -> Front {
        self.read_head();
        if self.malformed || self.stream.is_deceived() {
            return Front::Malformed;
        }
        if let Some(size) = self.size
            && self.begun().len() as u64 + self.stream.readable() >= size as u64
        {
            return Front::Message(size);
        }
        match self.stream.peek(&mut [0; 1]) {
            Read::Aborted(code) => Front::Aborted(code),
            Read::End if self.size.is_none() => Front::End,
            Read::End => Front::Malformed,
            Read::Data(_) if self.stream.is_complete() => Front::Malformed,
            Read::Data(_) | Read::Blocked => Front::Blocked,
        }
    }

    /// Reads the message at the front, which is whole, into `out`, which has its size or,
    /// to read a part of it, less.
    pub fn read(&mut self, out: &mut [u8]) {
        let begun = self.begun();
        let count = begun.len().min(out.len());
        let (front, rest) = out.split_at_mut(count);
        front.copy_from_slice(&begun[..count]);
        self.begun_read += count;
        if !rest.is_empty() {
            self.stream.read(rest);
        }
        self.size = self.size.and_then(|size| size.checked_sub(out.len())).filter(|size| *size > 0);
        if self.size.is_none() {
            (self.begun, self.begun_read) = (Vec::new(), 0);
        }
    }

    /// Reads the whole messages at the front one behind the other, the last one as far as
    /// `out` has room; how many were read to their ends, and how many bytes.
    pub fn read_bytes(&mut self, out: &mut [u8]) -> (u64, usize) {
        let (mut ends, mut done) = (0, 0);
        while done < out.len()
            && let Front::Message(size) = self.front()
        {
            let count = size.min(out.len() - done);
            self.read(&mut out[done..done + count]);
            ends += u64::from(count == size);
            done += count;
        }
        (ends, done)
    }

    /// Returns what was taken out of the stream and not read.
    fn begun(&self) -> &[u8] {
        &self.begun[self.begun_read..]
    }

    fn read_head(&mut self) {
        if self.size.is_some() || self.malformed {
            return;
        }
        let mut bytes = [0; MAX_HEAD];
        let Read::Data(count) = self.stream.peek(&mut bytes) else { return };
        let Some((length, size)) = parse_length(&bytes[..count]) else { return };
        match usize::try_from(length).ok().filter(|size| (1..=self.receive_limit).contains(size)) {
            Some(message) => {
                self.stream.consume(size);
                self.size = Some(message);
            }
            None => {
                self.malformed = true;
                self.stream.stop(BAD_LENGTH);
                self.stream.abort(BAD_LENGTH);
            }
        }
    }

    /// Moves what there is of the message at the front out of the stream, so that the
    /// peer gets credit for the rest.
    fn take_out(&mut self, size: usize) {
        let missing = size - self.begun().len();
        let available = usize::try_from(self.stream.readable()).unwrap_or(usize::MAX);
        if available >= missing {
            // It is whole: read from where it is.
            return;
        }
        let start = self.begun.len();
        self.begun.resize(start + available, 0);
        self.stream.read(&mut self.begun[start..]);
    }

    /// Bytes of memory that hold data, in both directions.
    pub fn memory(&self) -> u64 {
        self.stream.memory() + self.begun.capacity() as u64
    }

    /// Returns how far this end's direction is.
    pub fn send_state(&self) -> SendState {
        self.stream.send_state()
    }
}

/// A length as RFC 9000, section 16, has it, in front of a message.
fn encode_length(size: usize, out: &mut [u8; MAX_HEAD]) -> &[u8] {
    let (bytes, mark) = match size {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    *out = (size as u64).to_be_bytes();
    let head = &mut out[MAX_HEAD - bytes..];
    head[0] |= mark;
    head
}

/// The length at the front of `bytes` and how many bytes it takes; `None`: it is cut
/// short.
fn parse_length(bytes: &[u8]) -> Option<(u64, usize)> {
    let size = 1 << (bytes.first()? >> 6);
    let mut number = [0; MAX_HEAD];
    number[MAX_HEAD - size..].copy_from_slice(bytes.get(..size)?);
    number[MAX_HEAD - size] &= 0x3f;
    Some((u64::from_be_bytes(number), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_rfc_9000() {
        // RFC 9000, appendix A.1.
        assert_eq!(
            parse_length(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
            Some((151_288_809_941_952_652, 8))
        );
        assert_eq!(parse_length(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(parse_length(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(parse_length(&[0x25]), Some((37, 1)));
        assert_eq!(parse_length(&[0x40, 0x25]), Some((37, 2)), "not the shortest, and taken");
        assert_eq!(parse_length(&[0x9d, 0x7f, 0x3e]), None);
        assert_eq!(parse_length(&[]), None);
        for size in [1, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000] {
            let mut head = [0; MAX_HEAD];
            let head = encode_length(size, &mut head);
            assert_eq!(parse_length(head), Some((size as u64, head.len())));
        }
    }

    /// Carries what `from` has to send to `to` over a link that loses nothing.
    fn carry(from: &mut Messages, to: &mut Messages, number: &mut u64, now: Duration) -> bool {
        let mut any = false;
        while let Some(transmit) = from.stream_mut().poll_transmit(now) {
            let mut bytes = vec![0; transmit.size];
            from.stream().write_body(&transmit, &mut bytes);
            *number += 1;
            from.stream_mut().on_packet_sent(now, *number);
            let packet =
                Packet { number: *number, marked: false, body: transmit.body, bytes: &bytes };
            to.handle(now, packet).expect("well-formed");
            any = true;
        }
        any
    }

    fn pair(limit: usize) -> [Messages; 2] {
        let config = Config { initial_rtt: Duration::from_micros(100), ..Config::default() };
        [(); 2].map(|()| Messages::new(Duration::ZERO, config, (limit, limit)))
    }

    #[test]
    fn messages_keep_their_boundaries_also_those_that_are_larger_than_the_window() {
        let [mut one, mut other] = pair(1 << 20);
        let sizes = [1, 63, 64, 5_000, 16_384, 300_000, 2, 1 << 20, 7];
        let message = |index: usize| vec![index as u8; sizes[index]];
        let (mut next, mut read, mut numbers) = (0, 0, [0, 0]);
        let mut now = Duration::ZERO;
        while read < sizes.len() {
            while next < sizes.len() && one.write(&message(next)).expect("within the limit") {
                next += 1;
            }
            now += Duration::from_millis(1);
            carry(&mut one, &mut other, &mut numbers[0], now);
            while let Front::Message(size) = other.front() {
                let mut bytes = vec![0; size];
                other.read(&mut bytes);
                assert!(bytes == message(read), "message {read}, {size} bytes");
                read += 1;
            }
            carry(&mut other, &mut one, &mut numbers[1], now);
            one.stream_mut().handle_timeout(now);
            other.stream_mut().handle_timeout(now);
            assert!(now < Duration::from_secs(60), "{read} were read");
        }
        one.stream_mut().finish();
        carry(&mut one, &mut other, &mut numbers[0], now);
        assert_eq!(other.front(), Front::End);
        assert_eq!(one.write(b"more"), Ok(false), "nothing is written behind the end");
    }

    #[test]
    fn messages_are_read_as_bytes_whatever_their_sizes() {
        let [mut one, mut other] = pair(1 << 20);
        let sizes = [1, 5_000, 300_000, 70, 16_384, 2];
        let message = |index: usize| vec![index as u8; sizes[index]];
        let (mut written, mut numbers, mut now) = (0, [0, 0], Duration::ZERO);
        let (mut all, mut ends, mut out) = (Vec::new(), 0, vec![0; 6_999]);
        while ends < sizes.len() as u64 {
            while written < sizes.len() && one.write(&message(written)).expect("within the limit") {
                written += 1;
            }
            now += Duration::from_millis(1);
            carry(&mut one, &mut other, &mut numbers[0], now);
            loop {
                let (ended, count) = other.read_bytes(&mut out);
                ends += ended;
                all.extend_from_slice(&out[..count]);
                if count < out.len() {
                    break;
                }
            }
            carry(&mut other, &mut one, &mut numbers[1], now);
            one.stream_mut().handle_timeout(now);
            other.stream_mut().handle_timeout(now);
            assert!(now < Duration::from_secs(60), "{ends} were read");
        }
        assert!(all == (0..sizes.len()).flat_map(message).collect::<Vec<_>>());
        assert_eq!(other.read_bytes(&mut out), (0, 0));
        one.write(&[8; 10]).expect("within the limit");
        carry(&mut one, &mut other, &mut numbers[0], now);
        assert_eq!(other.read_bytes(&mut out[..4]), (0, 4));
        assert_eq!(other.front(), Front::Message(6), "what was not read of it");
        other.read(&mut out[..6]);
        assert_eq!(other.front(), Front::Blocked);
    }

    #[test]
    fn an_answer_takes_the_acknowledgement_along_and_none_leaves_beside_it() {
        let [mut one, mut other] = pair(100);
        let (mut numbers, mut now) = ([0, 0], Duration::ZERO);
        for _ in 0..20 {
            now += Duration::from_micros(400);
            one.stream_mut().handle_timeout(now);
            one.write(&[7; 64]).expect("within the limit");
            carry(&mut one, &mut other, &mut numbers[0], now);
            other.read(&mut [0; 64]);
            now += Duration::from_micros(400);
            other.stream_mut().handle_timeout(now);
            other.write(&[7; 64]).expect("within the limit");
            carry(&mut other, &mut one, &mut numbers[1], now);
            one.read(&mut [0; 64]);
        }
        assert_eq!(numbers, [20, 20], "one packet for a request, one for an answer");
        now += Config::default().max_ack_delay - Duration::from_micros(1);
        assert!(!carry(&mut one, &mut other, &mut numbers[0], now), "another may follow");
        now += Duration::from_micros(1);
        assert!(carry(&mut one, &mut other, &mut numbers[0], now), "none has");
    }

    #[test]
    fn a_window_that_is_smaller_than_a_message_does_not_hold_it_up() {
        for (window, size) in [(4_096, 10_000), (16_384, 16_383), (1, 5_000), (0, 3)] {
            let rtt = Duration::from_micros(100);
            let peer_window = window;
            let config = Config { initial_rtt: rtt, window, peer_window, ..Config::default() };
            let new = || Messages::new(Duration::ZERO, config, (1 << 20, 1 << 20));
            let [mut one, mut other] = [new(), new()];
            other.stream_mut().set_memory_limit(0);
            one.write(&vec![7; size]).expect("within the limit");
            let (mut numbers, mut now) = ([0, 0], Duration::ZERO);
            while other.front() != Front::Message(size) {
                now += Duration::from_millis(1);
                assert!(now < Duration::from_secs(60), "window {window}, message of {size}");
                for end in [&mut one, &mut other] {
                    end.stream_mut().handle_timeout(now);
                }
                carry(&mut one, &mut other, &mut numbers[0], now);
                carry(&mut other, &mut one, &mut numbers[1], now);
            }
        }
    }

    #[test]
    fn a_message_above_the_limit_is_not_written_and_not_read() {
        let [mut one, _] = pair(10);
        assert_eq!(one.write(&[0; 11]), Err(TooLarge { size: 11, largest: 10 }));
        assert!(one.write(&[]).is_err(), "an empty message is none");
        let [mut one, _] = pair(100);
        let [mut other, _] = pair(10);
        assert_eq!(one.write(&[0; 11]), Ok(true));
        let now = Duration::from_millis(1);
        carry(&mut one, &mut other, &mut 0, now);
        assert_eq!(other.front(), Front::Malformed);
        carry(&mut other, &mut one, &mut 0, now);
        assert_eq!(one.send_state(), SendState::Stopped(BAD_LENGTH));
        assert_eq!(one.front(), Front::Aborted(BAD_LENGTH));
    }

    #[test]
    fn an_end_inside_of_a_message_is_no_end() {
        for sent in [&[5, 1, 2][..], &[0x40]] {
            let [mut one, mut other] = pair(10);
            one.stream_mut().write(sent);
            one.stream_mut().finish();
            carry(&mut one, &mut other, &mut 0, Duration::from_millis(1));
            assert_eq!(other.front(), Front::Malformed);
        }
    }
}
