//! The daemon's side of a flow whose own socket an application has: no packet
//! passes here. What is left to do is to keep the flow's endpoint, to take the
//! frames that were not the flow's, and to notice its end.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use async_io::Timer;
use futures_lite::future;

use super::{
    Connection,
    control::{LARGEST_FRAME, LARGEST_MESSAGE, Message},
    grant::{DataPath, FlowGrant},
};
use crate::{
    flow::RawFlow,
    transport::{HandOver, Handed, OffPathHandler, Stray},
    wire::Eid,
};

/// Messages taken from one application in this time; more of them wait, and
/// where no more can wait the application drops them.
const MESSAGES: u32 = 512;
const PERIOD: Duration = Duration::from_millis(10);
/// Frames from elsewhere that wait to be passed on, at most.
const MAX_PENDING_OFF_PATH: usize = 64;

/// Returns what an application needs to carry `flow` by itself: the grant and the flow's
/// socket. The keys are in the grant, and in `flow` no longer. `None`: the path's socket cannot
/// leave the daemon, or it is a packet socket and `packet_socket` says that the application may
/// not have one.
///
/// # Errors
///
/// The socket cannot be duplicated.
pub fn hand_over(
    flow: &mut RawFlow,
    packet_socket: bool,
) -> io::Result<Option<(FlowGrant, OwnedFd)>> {
    let Some(HandOver { socket, kind }) = flow.path.hand_over().transpose()? else {
        return Ok(None);
    };
    if matches!(kind, Handed::EthDix(_)) && !packet_socket {
        return Ok(None);
    }
    flow.early.retain(|frame| frame.len() <= LARGEST_FRAME);
    let mut grant = FlowGrant::new(flow, DataPath::Socket(kind));
    grant.early = flow.early.len();
    Ok(Some((grant, socket)))
}

/// Tells the application that has a flow on `connection` that it has to end it.
pub fn revoke(connection: &Connection) {
    if let Some((head, _)) = Message::Revoked.encode() {
        // An application that reads nothing is not helped by more of it.
        let _ = connection.try_send_datagram(&[&head]);
    }
}

/// Attends to a flow that was handed over on `connection`, from when the grant
/// has been sent until the application ends it or is gone; then the flow's
/// endpoint is free, and copies of its request are refused.
///
/// # Errors
///
/// The connection failed; the flow has ended all the same.
pub async fn attend(mut flow: RawFlow, connection: &Connection) -> io::Result<()> {
    let peer = flow.info.peer;
    for frame in std::mem::take(&mut flow.early) {
        if let Some((head, frame)) = Message::Frame(peer, &frame).encode() {
            connection.send_datagram(&[&head, frame]).await?;
        }
    }
    let (off_path, pending_off_path) = async_channel::bounded(MAX_PENDING_OFF_PATH);
    // More than can wait are lost, as on any network.
    let take: OffPathHandler = Arc::new(move |from, frame: &mut [u8]| {
        let _ = off_path.try_send((from, frame.to_vec()));
    });
    if let Some(watch) = flow.off_path.take() {
        watch(&take);
    }
    let mut buffer = vec![0; LARGEST_MESSAGE];
    let (mut since, mut taken) = (Instant::now(), 0);
    loop {
        let off_path = async {
            let (from, frame) =
                pending_off_path.recv().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            if let Some((head, frame)) = Message::Frame(from, &frame).encode() {
                // An application that does not read has no use for it.
                let _ = connection.try_send_datagram(&[&head, frame]);
            }
            Ok(None)
        };
        let said = async { connection.receive_datagram(&mut buffer).await.map(Some) };
        let Some(size) = future::or(said, off_path).await? else { continue };
        if size == 0 {
            return Ok(());
        }
        if let Some(Message::Stray(from, frame)) = buffer.get(..size).and_then(Message::parse)
            && let Some(take) = &flow.strays
        {
            // What came from others before the socket was connected can only be
            // management: anything else is another flow's, and an application must
            // not be able to make that up.
            if from == peer || frame.starts_with(&Eid::MANAGEMENT.0.to_be_bytes()) {
                take(Stray { from, frame: frame.to_vec() });
            }
        }
        taken += 1;
        if taken == MESSAGES {
            match PERIOD.checked_sub(since.elapsed()) {
                Some(rest) => drop(Timer::after(rest).await),
                None => future::yield_now().await,
            }
            (since, taken) = (Instant::now(), 0);
        }
    }
}

/// Attends to a flow that has outlived the daemon that handed it over, until the application
/// ends it or is gone. Frames that are not the flow's have nobody to take them here.
///
/// # Errors
///
/// The connection failed; the flow has ended all the same.
pub async fn attend_reported(connection: &Connection) -> io::Result<()> {
    while connection.receive_datagram(&mut [0]).await? > 0 {}
    Ok(())
}
