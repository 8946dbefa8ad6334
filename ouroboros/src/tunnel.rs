//! An IP tunnel: a TUN device at this end of a flow.
//!
//! Two threads move packets, one each way, in batches and without a queue
//! between them: a thread takes what is there, seals or opens it, passes it on,
//! and only then sleeps. Not here: how the flow came to be, and what becomes of
//! the tunnel when it ends (the caller's).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    error::FlowError,
    flow::{Flow, FlowCloser, FlowReceiver, FlowSender},
    tun::{Device, DeviceError, InterfaceAddress},
};

/// MTU of a device that has no flow yet, in bytes.
const IDLE_MTU: u16 = 1280;

/// A tunnel cannot be built, or ended by a failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// Environment: the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The flow went down, or its transport failed.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// Environment: no threads can be started, or the device cannot be read.
    #[error("tunnel: {0}")]
    Io(#[from] io::Error),
}

/// What a tunnel will be.
#[derive(Clone, Debug, Default)]
pub struct TunnelBuilder {
    addresses: Vec<InterfaceAddress>,
    name: Option<String>,
    mtu: Option<u16>,
}

impl TunnelBuilder {
    /// Gives the device an address. May be called again, for one of the other
    /// family.
    #[must_use]
    pub fn address(mut self, address: InterfaceAddress) -> Self {
        self.addresses.push(address);
        self
    }

    /// Names the device; the kernel picks `tun0`, `tun1`, … otherwise.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Fixes the MTU, in bytes; it follows from the flow otherwise.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// As [`DeviceError`] says: most often, this user may not.
    pub fn build(self) -> Result<Tunnel, TunnelError> {
        let mtu = self.mtu.unwrap_or(IDLE_MTU);
        let device = Device::open(self.name.as_deref(), &self.addresses, mtu)?;
        Ok(Tunnel { device: Arc::new(device), mtu: self.mtu, counters: Arc::default() })
    }
}

/// What went through a tunnel. Bytes are those of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelStatistics {
    /// Packets from the device into the flow.
    pub sent_packets: u64,
    /// Bytes from the device into the flow.
    pub sent_bytes: u64,
    /// Packets from the flow into the device.
    pub received_packets: u64,
    /// Bytes from the flow into the device.
    pub received_bytes: u64,
    /// What came out of the flow and was no IP packet.
    pub not_ip: u64,
    /// Packets that the device did not take.
    pub not_taken: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent_packets: AtomicU64,
    sent_bytes: AtomicU64,
    received_packets: AtomicU64,
    received_bytes: AtomicU64,
    not_ip: AtomicU64,
    not_taken: AtomicU64,
}

/// A TUN device, and a flow's packets through it while [`run`](Self::run)
/// runs. The device goes away with this value.
///
/// ```no_run
/// # async fn example(flow: ouroboros::Flow) -> Result<(), Box<dyn std::error::Error>> {
/// use ouroboros::Tunnel;
/// let tunnel = Tunnel::builder().address("10.0.0.1/24".parse()?).build()?;
/// println!("{} is up", tunnel.interface_name());
/// tunnel.run(flow).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tunnel {
    device: Arc<Device>,
    mtu: Option<u16>,
    counters: Arc<Counters>,
}

impl Tunnel {
    /// A tunnel to be described.
    pub fn builder() -> TunnelBuilder {
        TunnelBuilder::default()
    }

    /// The device's name, such as `tun0`.
    pub fn interface_name(&self) -> &str {
        self.device.name()
    }

    /// What went through so far.
    pub fn statistics(&self) -> TunnelStatistics {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        TunnelStatistics {
            sent_packets: of(&self.counters.sent_packets),
            sent_bytes: of(&self.counters.sent_bytes),
            received_packets: of(&self.counters.received_packets),
            received_bytes: of(&self.counters.received_bytes),
            not_ip: of(&self.counters.not_ip),
            not_taken: of(&self.counters.not_taken),
        }
    }

    /// Moves packets both ways until the flow ends. The device's MTU becomes
    /// the flow's largest packet. Dropping the future closes the flow.
    ///
    /// # Errors
    ///
    /// The flow went down or failed; that it was closed is none.
    pub async fn run(&self, flow: Flow) -> Result<(), TunnelError> {
        let largest = flow.largest_packet();
        let mtu = self.mtu.unwrap_or_else(|| clamp(largest));
        self.device.set_mtu(mtu)?;
        if mtu < IDLE_MTU {
            tracing::warn!(mtu, "the flow's packets are too small for IPv6 in the tunnel");
        }
        let end = EndOnDrop(flow.closer());
        let (sender, receiver) = flow.split();
        let (done, ended) = async_channel::bounded(2);
        let (device, counters) = (self.device.clone(), self.counters.clone());
        let follows = self.mtu.is_none();
        let both = done.clone();
        thread::Builder::new().name("tunnel-out".to_owned()).spawn(move || {
            let _ = both.try_send(outbound(&device, sender, mtu, follows, &counters));
        })?;
        let (device, counters) = (self.device.clone(), self.counters.clone());
        thread::Builder::new().name("tunnel-in".to_owned()).spawn(move || {
            let _ = done.try_send(inbound(&device, receiver, &counters));
        })?;
        let first = ended.recv().await;
        end.0.close();
        let _ = ended.recv().await;
        match first {
            Ok(Ok(()) | Err(TunnelError::Flow(FlowError::Closed))) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("a packet thread ended unexpectedly").into()),
        }
    }
}

struct EndOnDrop(FlowCloser);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn clamp(largest: usize) -> u16 {
    u16::try_from(largest).unwrap_or(u16::MAX)
}

/// From the device into the flow.
fn outbound(
    device: &Device,
    mut sender: FlowSender,
    mut mtu: u16,
    follows: bool,
    counters: &Counters,
) -> Result<(), TunnelError> {
    loop {
        let mut fds = [
            PollFd::new(device, PollFlags::IN),
            PollFd::from_borrowed_fd(sender.end(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let (mut packets, mut bytes) = (0, 0);
        while let Some(slot) = sender.push(mtu.into()) {
            match device.read(slot) {
                Ok(size) => {
                    sender.shrink(size);
                    packets += 1;
                    bytes += size as u64;
                }
                Err(error) => {
                    sender.pop();
                    if error.kind() == io::ErrorKind::WouldBlock {
                        break;
                    }
                    return Err(error.into());
                }
            }
        }
        sender.flush()?;
        counters.sent_packets.fetch_add(packets, Relaxed);
        counters.sent_bytes.fetch_add(bytes, Relaxed);
        let largest = clamp(sender.largest_packet());
        if follows && largest != mtu {
            mtu = largest;
            device.set_mtu(mtu)?;
        }
    }
}

/// From the flow into the device.
fn inbound(
    device: &Device,
    mut receiver: FlowReceiver,
    counters: &Counters,
) -> Result<(), TunnelError> {
    loop {
        let count = receiver.receive()?;
        let (mut packets, mut bytes) = (0, 0);
        for index in 0..count {
            let packet = receiver.packet(index);
            if !matches!(packet.first().map(|byte| byte >> 4), Some(4 | 6)) {
                counters.not_ip.fetch_add(1, Relaxed);
                continue;
            }
            // The device takes no part of a packet and keeps no error: one that
            // it does not take is lost as on any link.
            match device.write(packet) {
                Ok(()) => {
                    packets += 1;
                    bytes += packet.len() as u64;
                }
                Err(_) => {
                    counters.not_taken.fetch_add(1, Relaxed);
                }
            }
        }
        counters.received_packets.fetch_add(packets, Relaxed);
        counters.received_bytes.fetch_add(bytes, Relaxed);
    }
}
