//! A flow: packets to and from one program of a peer.
//!
//! [`Flow`] is the async handle; [`Flow::split`] gives the blocking, batched
//! pair that a tunnel's threads use. Sealing and opening happen in the calling
//! thread; who calls drives the flow, and the background thread while nobody
//! does (`drive`). Not here: how a flow comes to be (`ipcp`), what keeps it alive
//! and ends it (`proto::connection`).

mod batched;
mod drive;
mod handles;
mod info;
mod memory;
mod order;
mod packets;
mod pool;
mod readiness;
mod reliable;
mod shared;
mod spec;
mod stream;

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::SeqCst},
    task::{Context, Poll, ready},
    time::Duration,
};

use event_listener::EventListener;
use futures_lite::future;
use rustix::event::PollFlags;

pub(crate) use self::{
    batched::Received,
    order::reserved_after,
    readiness::{Interest, Readiness},
};
use self::{
    batched::Sends,
    drive::Taken,
    order::{Order, Owner},
    shared::{CLOSED, Inbox, Parts, Shared, Waiting},
};
pub use self::{
    batched::{FlowReceiver, FlowSender},
    handles::{FlowCloser, FlowWatcher},
    info::{FlowInfo, FlowState, FlowStatistics, RawFlow, WatchOffPath},
    memory::{buffered_bytes, set_buffer_budget},
    packets::Packets,
    spec::FlowSpec,
    stream::{FlowReadHalf, FlowStream, FlowWriteHalf},
};
use crate::{
    crypto::{AeadBackend, SystemEntropy},
    driver,
    error::{AllocateError, FlowError},
    proto::{
        connection::{Connection, ConnectionConfig},
        native::{Capabilities, KeyLimits},
        protection::{Protection, protection},
        reliable::Statistics as ReliableStatistics,
    },
    sync::lock,
    transport::PathOffload,
};

/// A flow to a program of a peer: packets that may be lost and may come in
/// another order, unless its quality of service says otherwise
/// ([`QosSpec`](crate::wire::QosSpec)). Dropping it ends it; what was sent in order
/// and has to arrive is repeated in the background until it has, for as long as the
/// process lives. The peer of a native flow is told; the
/// 0.23 format has no message for that, so that its peer learns of it by silence.
///
/// All methods take `&self`: tasks and threads may share a flow, each packet goes
/// to one of those that receive.
///
/// # While nobody receives
///
/// The flow goes on: keys change, the peer's pings are answered, a peer that
/// moves is followed. Up to 128 KiB of data wait to be received; beyond that, data
/// is dropped ([`FlowStatistics::dropped_unread`]), as a full socket drops it.
pub struct Flow {
    sender: Mutex<FlowSender>,
    readiness: Readiness,
    /// Who was told by a `poll_` form to wait, and is to know of the flow's end.
    pollers: Pollers,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Pollers {
    receive: Mutex<Option<EventListener>>,
    send: Mutex<Option<EventListener>>,
    finish: Mutex<Option<EventListener>>,
}

impl Flow {
    /// A flow over an allocated path, with packets protected by its keys. For
    /// those who carry flows between processes; others allocate or accept.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn new(raw: RawFlow) -> io::Result<Self> {
        Self::with_backend(raw, AeadBackend::default())
    }

    /// Like [`new`](Self::new), with the AEAD implementation chosen.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_backend(raw: RawFlow, backend: AeadBackend) -> io::Result<Self> {
        Self::with_limits(raw, backend, KeyLimits::default())
    }

    /// Like [`with_backend`](Self::with_backend), with keys that may do as much
    /// as `limits` says before the next are agreed. Of no effect on a flow in
    /// the 0.23 format.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_limits(raw: RawFlow, backend: AeadBackend, limits: KeyLimits) -> io::Result<Self> {
        let RawFlow { path, info, keys, early, strays, off_path, closer, release } = raw;
        let (ends, checks_errors) = ((info.local, info.remote), info.qos.checks_errors());
        let Protection { sealer, opener, channel } =
            protection(keys, ends, checks_errors, backend, limits, &mut SystemEntropy);
        let native = channel.is_some();
        let fragments =
            channel.as_ref().is_some_and(|it| it.capabilities().contains(Capabilities::FRAGMENTS));
        let config = ConnectionConfig {
            timeout: Duration::from_millis(info.qos.timeout.into()),
            largest_frame: path.largest_frame(),
        };
        let connection = Connection::new(driver::now(), &mut SystemEntropy, channel, config);
        let readiness = Readiness::new(path.clone());
        let (order, sends) = match Order::new(&info, sealer, native) {
            Err(sealer) => (None, Sends::Sealed(sealer)),
            Ok(order) => {
                let overhead = order.overhead();
                let sends = match order.message_limit() {
                    None => Sends::InOrder { overhead },
                    Some(limit) => Sends::Messages { limit },
                };
                (Some(order), sends)
            }
        };
        let parts = Parts {
            path,
            info,
            connection,
            order,
            opener,
            early,
            strays,
            release,
            native,
            fragments,
        };
        let shared = Arc::new(Shared::new(parts));
        shared.start(off_path);
        if let Some(take) = closer {
            take(FlowCloser::new(&shared));
        }
        let owner = shared.order.is_some().then(|| Arc::new(Owner(shared.clone())));
        let sender = Mutex::new(FlowSender::new(shared.clone(), sends, owner));
        Ok(Self { sender, readiness, pollers: Pollers::default(), shared })
    }

    /// A flow that was allocated within `timeout`, and can be used by then.
    pub(crate) async fn begin(raw: RawFlow, timeout: Duration) -> Result<Self, AllocateError> {
        let flow = Self::new(raw)?;
        let late = async {
            driver::sleep_until(driver::monotonic().checked_add(timeout)).await;
            Err(AllocateError::TimedOut)
        };
        let ready = async {
            flow.ready().await.map_err(|error| match error {
                FlowError::Transport(error) => AllocateError::Transport(error),
                FlowError::ClosedByPeer => AllocateError::Gone,
                _ => AllocateError::TimedOut,
            })
        };
        future::or(ready, late).await?;
        Ok(flow)
    }

    /// Returns `true` if packets that do not fit a frame may travel in fragments, in a
    /// tunnel.
    pub(crate) fn takes_fragments(&self) -> bool {
        self.shared.fragments
    }

    /// Sends one packet. Returns when the transport has taken it; the network
    /// may still lose it.
    ///
    /// Cancel safe: a packet whose future is dropped is sent or is not sent;
    /// nothing else is lost.
    ///
    /// # Errors
    ///
    /// The packet is empty or too large, the flow has ended, or the transport has
    /// failed.
    pub async fn send(&self, packet: &[u8]) -> Result<(), FlowError> {
        self.ready().await?;
        if self.shared.order.is_some() {
            lock(&self.sender).check_size(packet.len())?;
            while !self.shared.write_in_order(packet)? {
                self.writable().await?;
            }
            return Ok(());
        }
        while !self.push(packet)? {
            self.writable().await?;
        }
        self.flush().await
    }

    /// Sends packets, many with one system call; how many. Returns when the
    /// transport has taken them; the network may still lose some.
    ///
    /// Cancel safe: of packets whose future is dropped, the first ones are sent;
    /// nothing else is lost.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), of the first packet that cannot be sent. Those
    /// before it have been sent, or will be with the next.
    pub async fn send_many<P: AsRef<[u8]>>(
        &self,
        packets: impl IntoIterator<Item = P>,
    ) -> Result<usize, FlowError> {
        self.ready().await?;
        let mut packets = packets.into_iter();
        if self.shared.order.is_some() {
            let mut count = 0;
            for packet in packets {
                self.send(packet.as_ref()).await?;
                count += 1;
            }
            return Ok(count);
        }
        let (mut count, mut next) = (0, packets.next());
        while next.is_some() {
            {
                let mut sender = lock(&self.sender);
                while let Some(packet) = &next {
                    if !self.push_to(&mut sender, packet.as_ref())? {
                        break;
                    }
                    count += 1;
                    next = packets.next();
                }
            }
            self.flush().await?;
        }
        Ok(count)
    }

    /// Sends one packet if that is possible at once. `false`: the transport is
    /// full, or the flow's first keys are not agreed yet, and nothing was sent.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn try_send(&self, packet: &[u8]) -> Result<bool, FlowError> {
        if !self.is_ready()? {
            return Ok(false);
        }
        let mut sender = lock(&self.sender);
        if self.shared.order.is_some() {
            sender.check_size(packet.len())?;
            return self.shared.write_in_order(packet);
        }
        if !sender.try_flush()? || !self.push_to(&mut sender, packet)? {
            return Ok(false);
        }
        let sent = sender.try_flush()?;
        if !sent {
            // The caller still has it.
            sender.discard();
        }
        Ok(sent)
    }

    /// [`send`](Self::send) as a poll function, for one task at a time.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn poll_send(
        &self,
        context: &mut Context<'_>,
        packet: &[u8],
    ) -> Poll<Result<(), FlowError>> {
        loop {
            if self.try_send(packet)? {
                return Poll::Ready(Ok(()));
            }
            let changed = self.poll_changes(&self.pollers.send, context);
            if self.shared.order.is_some() {
                // Not the socket, but the peer's window has to open.
                if !changed {
                    return match self.try_send(packet)? {
                        true => Poll::Ready(Ok(())),
                        false => Poll::Pending,
                    };
                }
            } else if self.is_ready()? {
                if !changed && self.readiness.poll(context, Interest::Writable)?.is_pending() {
                    return Poll::Pending;
                }
            } else if !changed {
                return Poll::Pending;
            }
        }
    }

    /// Receives one packet into `buffer` and returns its size in bytes. What else
    /// is there is read with the same system call, and handed out by later calls.
    ///
    /// Cancel safe: no packet is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// The flow has ended, and what came before the peer closed it was received;
    /// the buffer is too small, and the packet is lost; the transport has failed.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, FlowError> {
        self.receive(|inbox| copy_first(inbox, buffer)).await?
    }

    /// Receives one packet.
    ///
    /// Cancel safe: no packet is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub async fn recv_vec(&self) -> Result<Vec<u8>, FlowError> {
        self.receive(|inbox| {
            let packet = inbox.packets.first().map(|(bytes, _)| bytes.to_vec());
            inbox.packets.remove_first();
            packet.unwrap_or_default()
        })
        .await
    }

    /// Receives what is there, at least one packet, into `packets`, which lose
    /// what they held; how many there are then.
    ///
    /// Cancel safe: no packet is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub async fn recv_many(&self, packets: &mut Packets) -> Result<usize, FlowError> {
        packets.clear();
        self.receive(|inbox| {
            std::mem::swap(&mut inbox.packets, packets);
            packets.len()
        })
        .await
    }

    /// Receives one packet into `buffer` if there is one; its size in bytes.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn try_recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, FlowError> {
        match self.shared.take(|inbox| copy_first(inbox, buffer))? {
            Taken::Packets(size) => size.map(Some),
            Taken::Nothing | Taken::Busy => Ok(None),
        }
    }

    /// [`recv`](Self::recv) as a poll function, for one task at a time.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, FlowError>> {
        Poll::Ready(ready!(self.poll_receive(context, |inbox| copy_first(inbox, buffer)))?)
    }

    /// Reads into `buffer`, whatever packets it is of; at least one byte, if `buffer`
    /// has room for it.
    fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, FlowError>> {
        self.poll_receive(context, |inbox| inbox.packets.read(buffer))
    }

    /// Writes as much of `data` as there is room for, as packets of any size. What makes
    /// room is read by the background thread, or who reads.
    fn poll_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, FlowError>> {
        let mut listens = false;
        loop {
            if self.is_ready()? {
                match self.shared.write_stream(data)? {
                    0 => {}
                    count => return Poll::Ready(Ok(count)),
                }
            }
            if listens {
                return Poll::Pending;
            }
            listens = !self.poll_changes(&self.pollers.send, context);
        }
    }

    /// Says that nothing more is written; ready when the peer has all that was.
    fn poll_finish(&self, context: &mut Context<'_>) -> Poll<Result<(), FlowError>> {
        let mut listens = false;
        loop {
            if self.shared.finish_order()? {
                return Poll::Ready(Ok(()));
            }
            self.shared.check()?;
            if listens {
                return Poll::Pending;
            }
            listens = !self.poll_changes(&self.pollers.finish, context);
        }
    }

    /// Says that nothing more will be sent, and waits until the peer's end of the flow
    /// has everything; its program need not have received it yet. Receiving goes on, and
    /// the peer that has received everything gets [`FlowError::EndOfStream`]. Towards a
    /// 0.23 peer, whose protocol cannot say that, this only waits.
    ///
    /// For one task at a time. Cancel safe: what was said stays said.
    ///
    /// # Errors
    ///
    /// The flow has ended before the peer had everything, or the peer wants no more.
    pub async fn finish(&self) -> Result<(), FlowError> {
        future::poll_fn(|context| self.poll_finish(context)).await
    }

    /// Ends the flow at once: what the peer has not received is dropped, and it is told
    /// `code` ([`FlowError::Aborted`]), if the flow is reliable and in the native
    /// profile.
    pub fn abort(&self, code: u32) {
        self.shared.abort_order(code);
        self.shared.end(CLOSED);
    }

    /// Says that nothing more will be sent, waits until the peer's end of the flow has
    /// everything, and closes the flow. The peer receives everything, and then
    /// [`FlowError::ClosedWith`] `code` and `reason` (of which the first 128 bytes are
    /// sent). A 0.23 peer, and that of a plain flow, gets neither code nor reason.
    ///
    /// Cancel safe: what was said stays said, and the flow is open still.
    ///
    /// ```
    /// # use ouroboros::{FlowError, FlowSpec, Irm, transport::memory::Network};
    /// # futures_lite::future::block_on(async {
    /// # let network = Network::new();
    /// # let (server, client) = (Irm::new(), Irm::new());
    /// # server.bootstrap("l", network.station()).await?.register("echo").await?;
    /// # client.bootstrap("l", network.station()).await?;
    /// # let spec = FlowSpec::reliable().encrypted();
    /// # let both = futures_lite::future::zip(server.accept("echo"), client.allocate("echo", spec));
    /// # let (accepted, flow) = both.await;
    /// # let (accepted, flow) = (accepted?, flow?);
    /// flow.send(b"the last message").await?;
    /// flow.close_with(7, "done").await?;
    /// assert_eq!(accepted.recv_vec().await?, b"the last message");
    /// let Err(FlowError::ClosedWith(why)) = accepted.recv_vec().await else { panic!() };
    /// assert_eq!((why.code, &why.reason[..]), (7, &b"done"[..]));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish): the peer may not have all that was sent. The flow is
    /// closed all the same.
    pub async fn close_with(&self, code: u32, reason: impl AsRef<[u8]>) -> Result<(), FlowError> {
        let finished = match self.shared.finish_order_with(code, reason.as_ref()) {
            Ok(_) => self.finish().await,
            Err(error) => Err(error),
        };
        self.close();
        finished
    }

    /// Says that nothing more will be received, for the reason `code`: what has not been
    /// received is dropped, and sending fails at the peer with [`FlowError::Stopped`].
    /// Of no effect on a flow that is not in the reliable profile.
    pub fn stop(&self, code: u32) {
        self.shared.stop_order(code);
    }

    /// Gives `take` an inbox with a packet in it, when there is one: for one task at a
    /// time.
    fn poll_receive<T>(
        &self,
        context: &mut Context<'_>,
        mut take: impl FnMut(&mut Inbox) -> T,
    ) -> Poll<Result<T, FlowError>> {
        self.shared.polled.store(true, SeqCst);
        let polled = self.poll_taken(context, &mut take);
        if polled.is_ready() {
            self.shared.polled.store(false, SeqCst);
            self.shared.stopped_waiting();
        }
        polled
    }

    fn poll_taken<T>(
        &self,
        context: &mut Context<'_>,
        take: &mut impl FnMut(&mut Inbox) -> T,
    ) -> Poll<Result<T, FlowError>> {
        for _ in 0..LOOKS {
            // The end first: what changes after this is seen.
            let changed = self.poll_changes(&self.pollers.receive, context);
            match self.shared.take(&mut *take)? {
                Taken::Packets(taken) => return Poll::Ready(Ok(taken)),
                Taken::Busy => continue,
                Taken::Nothing if changed => continue,
                Taken::Nothing => {}
            }
            if self.readiness.poll(context, Interest::Readable)?.is_pending() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns `true` if the flow has changed since the last call; wakes
    /// `context` when it does.
    fn poll_changes(
        &self,
        listener: &Mutex<Option<EventListener>>,
        context: &mut Context<'_>,
    ) -> bool {
        let mut listener = lock(listener);
        let listening = listener.get_or_insert_with(|| self.shared.changes());
        let changed = pin!(listening).poll(context).is_ready();
        if changed {
            *listener = None;
        }
        changed
    }

    /// [`send`](Self::send) for threads that may block.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_blocking(&self, packet: &[u8]) -> Result<(), FlowError> {
        if self.shared.order.is_some() {
            return async_io::block_on(self.send(packet));
        }
        if !self.is_ready()? {
            future::block_on(self.ready())?;
        }
        while !self.push(packet)? {
            batched::wait(&self.shared, PollFlags::OUT)?;
        }
        while !lock(&self.sender).try_flush()? {
            batched::wait(&self.shared, PollFlags::OUT)?;
        }
        Ok(())
    }

    /// [`recv`](Self::recv) for threads that may block.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_blocking(&self, buffer: &mut [u8]) -> Result<usize, FlowError> {
        if self.shared.order.is_some() {
            return async_io::block_on(self.recv(buffer));
        }
        let _waiting = Waiting::new(&self.shared, true);
        loop {
            match self.shared.take(|inbox| copy_first(inbox, buffer))? {
                Taken::Packets(size) => return size,
                Taken::Busy => {}
                Taken::Nothing => batched::wait(&self.shared, PollFlags::IN)?,
            }
        }
    }

    /// Largest packet that can be sent now, in bytes.
    #[must_use]
    pub fn largest_packet(&self) -> usize {
        lock(&self.sender).largest_sent()
    }

    /// What was agreed.
    #[must_use]
    pub fn info(&self) -> &FlowInfo {
        &self.shared.info
    }

    /// What went over the flow so far.
    #[must_use]
    pub fn statistics(&self) -> FlowStatistics {
        self.shared.statistics()
    }

    /// Figures of a flow in the reliable profile now: round trip, congestion window,
    /// losses, credit. `None` of any other flow.
    ///
    /// They are told as an event of the level TRACE, too, once a second while the flow is in use.
    #[must_use]
    pub fn reliable_statistics(&self) -> Option<ReliableStatistics> {
        self.shared.order_statistics()
    }

    /// A handle that watches the flow from elsewhere.
    #[must_use]
    pub fn watcher(&self) -> FlowWatcher {
        FlowWatcher::new(&self.shared)
    }

    /// A handle that closes the flow from elsewhere.
    #[must_use]
    pub fn closer(&self) -> FlowCloser {
        FlowCloser::new(&self.shared)
    }

    /// Ends the flow; the peer of a native flow is told. Calls that wait return
    /// [`FlowError::Closed`].
    pub fn close(&self) {
        self.shared.end(CLOSED);
    }

    /// Waits until the flow has ended, or the peer has said why it closes it and has sent
    /// everything; why it did. What the peer sent before can
    /// still be received.
    ///
    /// Cancel safe.
    pub async fn closed(&self) -> FlowError {
        loop {
            let changed = self.shared.changes();
            if let Err(error) = self.shared.check() {
                return error;
            }
            if let Some(error) = self.shared.closed_with() {
                return error;
            }
            changed.await;
        }
    }

    /// Waits until packets may pass: until the keys are agreed that have to be
    /// before them. Sending waits for the same.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// The flow has ended, and nothing was received before.
    pub async fn ready(&self) -> Result<(), FlowError> {
        if self.is_ready()? {
            return Ok(());
        }
        loop {
            let changed = self.shared.changes();
            if self.is_ready()? {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Returns `true` if packets may pass, or have passed.
    ///
    /// # Errors
    ///
    /// The flow has ended, and nothing was received before.
    pub(crate) fn is_ready(&self) -> Result<bool, FlowError> {
        let ready = self.shared.ready.load(SeqCst);
        match self.shared.check() {
            Ok(()) => Ok(ready),
            Err(FlowError::ClosedByPeer) if ready && self.has_unread() => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn has_unread(&self) -> bool {
        !lock(&self.shared.inbox).packets.is_empty() || self.shared.is_readable_in_order()
    }

    /// Puts a packet into the sender's batch; `false`: it is full.
    fn push(&self, packet: &[u8]) -> Result<bool, FlowError> {
        let mut sender = lock(&self.sender);
        Ok(self.push_to(&mut sender, packet)?
            || (sender.try_flush()? && self.push_to(&mut sender, packet)?))
    }

    fn push_to(&self, sender: &mut FlowSender, packet: &[u8]) -> Result<bool, FlowError> {
        sender.check_size(packet.len())?;
        let Some(slot) = sender.push(packet.len()) else { return Ok(false) };
        slot.copy_from_slice(packet);
        Ok(true)
    }

    async fn flush(&self) -> Result<(), FlowError> {
        while !lock(&self.sender).try_flush()? {
            self.writable().await?;
        }
        Ok(())
    }

    async fn writable(&self) -> Result<(), FlowError> {
        let changed = self.shared.changes();
        self.shared.check()?;
        if self.shared.order.is_some() {
            return self.writable_in_order(changed).await;
        }
        let ready = self.readiness.wait(Interest::Writable);
        future::or(async { Ok(ready.await?) }, async {
            changed.await;
            Ok(())
        })
        .await
    }

    /// Waits until a packet may be written in order, and reads meanwhile what the
    /// peer says of that.
    async fn writable_in_order(&self, changed: EventListener) -> Result<(), FlowError> {
        let _waiting = Waiting::new(&self.shared, false);
        self.shared.read_unread();
        if self.shared.is_writable_in_order() {
            return Ok(());
        }
        let ready = self.readiness.wait(Interest::Readable);
        future::or(async { Ok(ready.await?) }, async {
            changed.await;
            Ok(())
        })
        .await
    }

    /// Gives `take` an inbox with a packet in it, when there is one.
    async fn receive<T>(&self, take: impl FnOnce(&mut Inbox) -> T) -> Result<T, FlowError> {
        let mut take = Some(take);
        let mut attempt = || self.shared.take(|inbox| take.take().map(|take| take(inbox)));
        let _waiting = Waiting::new(&self.shared, false);
        loop {
            match attempt()? {
                Taken::Packets(Some(taken)) => return Ok(taken),
                Taken::Packets(None) | Taken::Nothing => {}
                Taken::Busy => {
                    future::yield_now().await;
                    continue;
                }
            }
            let changed = self.shared.changes();
            if self.shared.check().is_err()
                || self.shared.off_path_any.load(SeqCst)
                || self.shared.is_readable_in_order()
            {
                continue;
            }
            let ready = self.readiness.wait(Interest::Readable);
            future::or(ready, async {
                changed.await;
                Ok(())
            })
            .await?;
        }
    }

    /// Ends the flow with [`FlowError::Down`] when the peer, asked whether it
    /// is there, does not say so within `patience`. It is asked when packets
    /// have left for a while and none has come. Without this only the flow's own
    /// timeout ends it. No effect on a flow in the 0.23 format.
    pub fn expect_answers_within(&self, patience: Duration) {
        lock(&self.shared.connection).expect_answers_within(patience);
        self.shared.call_driver();
    }

    /// Says that packets of this flow go to an IP stack, which finishes partial
    /// checksums by itself.
    pub(crate) fn take_partial_checksums(&self) {
        self.shared.announce_partial_checksums();
    }

    /// Leaves no more than this to the kernel; all that it has by default.
    pub(crate) fn limit_offload(&self, offload: PathOffload) {
        self.shared.path.limit_offload(offload);
    }

    /// What the kernel does in super-packets at the flow's socket now.
    #[must_use]
    pub fn offload(&self) -> PathOffload {
        self.shared.path.offload()
    }

    /// The blocking, batched pair of ends for two threads, each with a batch of
    /// its own. The flow ends when both are gone.
    #[must_use]
    pub fn split(self) -> (FlowSender, FlowReceiver) {
        let (mut sender, receiver) = self.split_for_many();
        sender.keep_batch();
        (sender, receiver)
    }

    /// As [`split`](Self::split), for who has many flows: the ends keep no batch
    /// while they are idle, if the receiver is told to
    /// [release](FlowReceiver::release) its own.
    pub(crate) fn split_for_many(self) -> (FlowSender, FlowReceiver) {
        let Self { sender, readiness, shared, .. } = self;
        drop(readiness);
        let sender = sender.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Made now rather than when a thread is about to block. If there is none
        // to be had, it is tried again then.
        let _ = shared.wake();
        let owner = sender.owner();
        (sender, FlowReceiver::new(shared, owner))
    }
}

/// Times that one poll looks for a packet among what is not for the application.
const LOOKS: usize = 4;

fn copy_first(inbox: &mut Inbox, buffer: &mut [u8]) -> Result<usize, FlowError> {
    let Some((packet, _)) = inbox.packets.first() else { return Ok(0) };
    let size = packet.len();
    let copied = match buffer.get_mut(..size) {
        Some(slot) => {
            slot.copy_from_slice(packet);
            Ok(size)
        }
        None => Err(FlowError::BufferTooSmall { size, buffer: buffer.len() }),
    };
    inbox.packets.remove_first();
    copied
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("info", &self.shared.info).finish_non_exhaustive()
    }
}
