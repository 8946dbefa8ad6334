//! FRCT's packets: how they are sealed and leave. Not here: what is sent when
//! (`proto::frct`).

use std::{io, time::Duration};

use crate::{
    flow::pool::{self, Pooled},
    proto::{
        frct::{Frct, Transmit},
        protection::{Content, Sealer},
    },
    transport::{Path, SendBatch},
};

/// FRCT, and what of it has not left.
pub(super) struct FrctOrder {
    pub(super) frct: Frct,
    /// Frames that the transport has not taken yet.
    pub(super) unsent: Option<Pooled<SendBatch>>,
    /// The format has empty frames.
    pub(super) nudges: bool,
}

impl FrctOrder {
    /// Sends what is to be sent; returns `true` if anything left.
    pub(super) fn transmit(&mut self, now: Duration, sealer: &mut Sealer, path: &dyn Path) -> bool {
        let (head, tail) = (sealer.headroom(), sealer.tailroom());
        let mut sent = false;
        loop {
            let batch = self.unsent.get_or_insert_with(|| pool::send_batch(path.headroom()));
            if batch.is_empty() {
                let room = path.largest_frame();
                while batch.fits(room) {
                    let Some(transmit) = self.frct.poll_transmit(now) else { break };
                    let packet = match transmit {
                        Transmit::Keepalive if !self.nudges => continue,
                        Transmit::Keepalive => {
                            batch.push(0);
                            continue;
                        }
                        packet @ Transmit::Packet { .. } => packet,
                    };
                    let size = packet.size();
                    // Where the path has come to carry less, the packet is lost.
                    let Some(frame) = batch.push(head + size + tail) else { continue };
                    packet.write(&mut frame[head..head + size]);
                    if sealer.seal(frame, Content::Packet).is_err() {
                        batch.pop();
                    }
                }
            }
            if batch.is_empty() {
                self.unsent = None;
                return sent;
            }
            match path.send(batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                // Lost like any other.
                Ok(()) | Err(_) => {
                    batch.clear();
                    sent = true;
                }
            }
        }
    }
}
