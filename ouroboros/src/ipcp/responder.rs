//! The responder's side of an IPCP: from a request that somebody accepts to a
//! flow whose peer is proved to be there. Until then the flow is half-open
//! (`proto::allocation`): its frames come by the management socket, where there is
//! one for all, or by a path that is read here.
//!
//! Not here: who accepts (`irm`), and what proves a peer (`proto::allocation`).

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Weak},
};

use async_executor::Task;

use super::{Core, EARLY_FRAMES, Notice, Requested, Reserved, with_agreement};
use crate::{
    crypto::SystemEntropy,
    driver::{self, Watch},
    flow::{FlowInfo, RawFlow},
    log::Limited,
    proto::allocation::{Accepted, Refusal, RequestId},
    sync::lock,
    transport::{OffPathHandler, Path},
    wire::{Eid, Name, PeerAddress},
};

static NO_PATH: Limited = Limited::new();

/// Half-open flows with a path of their own, where there has to be one.
const LARGEST_NUMBER_OF_PATHS: usize = 256;
/// Reads of a path that was just opened: what came before it was connected.
const READS: usize = 16;

/// Flows that peers asked for, before anybody has them.
#[derive(Default)]
pub(super) struct Responding {
    half_open: HashMap<RequestId, HalfOpen>,
    /// Established flows of which the management socket may still hold frames.
    settling: HashMap<Eid, RawFlow>,
}

/// The part of a half-open flow that the allocation core does not keep.
struct HalfOpen {
    name: Name,
    from: PeerAddress,
    remote: Eid,
    reserved: Reserved,
    frames: Frames,
}

/// Where the frames of a half-open flow come from.
enum Frames {
    /// The management socket, which calls this.
    Shared(OffPathHandler),
    /// A path of its own, and who reads it.
    Own(Arc<dyn Path>, Task<()>),
}

impl Core {
    /// Accepts a request that waits: the reply leaves, and the flow is half-open.
    /// [`Notice::Confirmed`] tells when it is one.
    pub(crate) fn begin(self: &Arc<Self>, requested: Requested) {
        self.answer(requested);
        // A refusal has to leave, too.
        self.flush();
    }

    /// Like [`begin`](Self::begin), for who flushes.
    pub(crate) fn answer(self: &Arc<Self>, requested: Requested) {
        let Requested { request, name, from, remote, .. } = requested;
        let Some((reserved, frames)) = self.prepare(request, remote, from) else {
            self.allocator().refuse(driver::now(), request, Refusal::Busy);
            return;
        };
        let local = reserved.eid;
        let half_open = HalfOpen { name, from, remote, reserved, frames };
        lock(&self.responding).half_open.insert(request, half_open);
        let accepted = self.allocator().accept(driver::now(), &mut SystemEntropy, request, local);
        if let Err(error) = accepted {
            tracing::debug!(ipcp = self.name, %from, %error, "request not accepted");
            self.forget_half_open(request);
        }
        self.keep_clock();
    }

    /// The endpoint of a flow that is to be half-open, and where its frames come
    /// from; `None` if there is no room.
    fn prepare(
        self: &Arc<Self>,
        request: RequestId,
        remote: Eid,
        from: PeerAddress,
    ) -> Option<(Reserved, Frames)> {
        let mut reserved = self.reserve()?;
        reserved.request = Some(request);
        let local = reserved.eid;
        if self.transport.has_shared_socket() {
            let core = Arc::downgrade(self);
            let take: OffPathHandler = Arc::new(move |from: PeerAddress, frame: &mut [u8]| {
                if let Some(core) = core.upgrade() {
                    core.take_frame(from, local, frame);
                }
            });
            self.transport.watch_off_path(local, &take);
            return Some((reserved, Frames::Shared(take)));
        }
        if lock(&self.responding).half_open.len() >= LARGEST_NUMBER_OF_PATHS {
            return None;
        }
        let path = match self.transport.open_responder(local, remote, from) {
            Ok(path) => path,
            Err(error) => {
                tracing::debug!(ipcp = self.name, %from, %error, "no path to a requester");
                return None;
            }
        };
        let reader = read_half_open(Arc::downgrade(self), path.clone(), from, local);
        Some((reserved, Frames::Own(path, driver::spawn(reader))))
    }

    /// Takes a frame for an endpoint that has no path, or has one that is read
    /// here.
    fn take_frame(self: &Arc<Self>, from: PeerAddress, local: Eid, frame: &[u8]) {
        if self.allocator().handle_frame(driver::now(), from, local, frame) {
            self.flush();
        } else if let Some(flow) = lock(&self.responding).settling.get_mut(&local)
            && flow.info.peer == from
            && flow.early.len() < EARLY_FRAMES
        {
            flow.early.push(frame.to_vec());
        }
    }

    /// The peer of a half-open flow is there: the flow gets its path.
    pub(super) fn establish(
        self: &Arc<Self>,
        request: RequestId,
        accepted: Accepted,
        frame: Vec<u8>,
    ) {
        let half_open = lock(&self.responding).half_open.remove(&request);
        let Some(HalfOpen { name, from, remote, reserved, frames }) = half_open else { return };
        let local = reserved.eid;
        let mut early = vec![frame];
        let path = match &frames {
            Frames::Own(path, _) => path.clone(),
            Frames::Shared(_) => match self.transport.open_responder(local, remote, from) {
                Ok(path) => path,
                Err(error) => {
                    if let Some(times) = NO_PATH.report() {
                        tracing::warn!(ipcp = self.name, %from, %error, times, "no path for a flow");
                    }
                    return;
                }
            },
        };
        if matches!(frames, Frames::Shared(_)) {
            // Before it was connected the socket took what is for the listener.
            for _ in 0..READS {
                let Ok((strays, drained)) = self.receive_early(&*path, &mut early) else { break };
                for stray in strays {
                    self.take_stray(stray, None);
                }
                if drained {
                    break;
                }
            }
        }
        let Accepted { qos, agreed, rtt } = accepted;
        let info = FlowInfo::new(name, from, (local, remote), qos);
        let (mut info, keys) = with_agreement(info, agreed);
        info.allocation_rtt = rtt;
        let mut flow = self.raw_flow(path, info, keys, early, reserved);
        match frames {
            Frames::Shared(take) => {
                let watch = flow.off_path.take();
                // Until the flow takes its place.
                flow.off_path = Some(Box::new(move |handler| {
                    let _until_now = take;
                    if let Some(watch) = watch {
                        watch(handler);
                    }
                }));
                lock(&self.responding).settling.insert(local, flow);
                self.wake.notify(1);
            }
            Frames::Own(_, reader) => {
                lock(&self.responding).settling.insert(local, flow);
                let core = Arc::downgrade(self);
                let hand_over = async move {
                    // One descriptor is watched once.
                    reader.cancel().await;
                    let Some(core) = core.upgrade() else { return };
                    let flow = lock(&core.responding).settling.remove(&local);
                    if let Some(flow) = flow {
                        (core.notices)(Notice::Confirmed(Box::new(flow)));
                    }
                };
                driver::spawn(hand_over).detach();
            }
        }
    }

    /// Hands over the flows that are established: all of which frames have been
    /// read that came before they had their paths.
    pub(super) fn settle(&self) {
        if lock(&self.responding).settling.is_empty() || !self.transport.has_shared_socket() {
            return;
        }
        let settled = std::mem::take(&mut lock(&self.responding).settling);
        for flow in settled.into_values() {
            (self.notices)(Notice::Confirmed(Box::new(flow)));
        }
    }

    pub(super) fn forget_half_open(&self, request: RequestId) {
        let forgotten = lock(&self.responding).half_open.remove(&request);
        drop(forgotten);
    }

    pub(super) fn abandon_half_open(&self) {
        let abandoned = std::mem::take(&mut *lock(&self.responding));
        drop(abandoned);
    }
}

/// Reads the path of a half-open flow until its peer is proved to be there.
async fn read_half_open(core: Weak<Core>, path: Arc<dyn Path>, from: PeerAddress, local: Eid) {
    struct Source(Arc<dyn Path>);
    impl AsFd for Source {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.readiness()
        }
    }
    let watch = Watch::new(Source(path.clone()));
    loop {
        {
            let Some(core) = core.upgrade() else { return };
            let mut frames = Vec::new();
            let _nothing_there = core.receive_early(&*path, &mut frames);
            for frame in &frames {
                core.take_frame(from, local, frame);
            }
        }
        if watch.readable().await.is_err() {
            return;
        }
    }
}
