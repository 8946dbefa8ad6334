//! The order of the packets of one direction of an ordered flow, by their numbers
//! (PROTOCOL.md, "Ordered flows"). Driven by who opens packets, a batch at a time. Not
//! here: the replay window, which has let go of repetitions before.

use super::Opened;

/// The numbers that were delivered of an ordered flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketOrder {
    /// Packets with lower numbers are late.
    next: u64,
}

impl PacketOrder {
    /// Nothing was handed over.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    /// Puts packets of the application that came together in order, and removes those
    /// that are late; returns how many were.
    pub fn handle(&mut self, packets: &mut Vec<Opened>) -> usize {
        if !packets.is_sorted_by_key(|packet| packet.number) {
            packets.sort_by_key(|packet| packet.number);
        }
        let late = packets.partition_point(|packet| packet.number < self.next);
        packets.drain(..late);
        if let Some(last) = packets.last() {
            self.next = last.number.saturating_add(1);
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(order: &mut PacketOrder, numbers: &[u64]) -> (Vec<u64>, usize) {
        let opened = |&number| Opened { number, ..Opened::packet(0, 0..1) };
        let mut packets: Vec<_> = numbers.iter().map(opened).collect();
        let late = order.handle(&mut packets);
        (packets.iter().map(|packet| packet.number).collect(), late)
    }

    #[test]
    fn what_comes_together_is_put_in_order_and_what_is_late_is_removed() {
        let order = &mut PacketOrder::new();
        assert_eq!(take(order, &[]), (vec![], 0));
        assert_eq!(take(order, &[0]), (vec![0], 0));
        assert_eq!(take(order, &[5, 3, 4]), (vec![3, 4, 5], 0));
        assert_eq!(take(order, &[2]), (vec![], 1));
        assert_eq!(take(order, &[9, 1, 4, 8]), (vec![8, 9], 2));
        assert_eq!(take(order, &[u64::MAX, 7]), (vec![u64::MAX], 1));
    }
}
