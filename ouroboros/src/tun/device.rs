//! Opens and configures a TUN device, through the `tun` crate and what `sys`
//! adds to it: queues, the vnet header, offloads. A device may be renamed or moved to
//! another network namespace at any time: its descriptor is asked each time. Not here:
//! what packets look like (`offload`), what becomes of a device that was down (`link`),
//! threads (`tunnel`).

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustix::io::Errno;
use tun::AbstractDevice;

use super::{
    InterfaceAddress,
    link::Link,
    offload::{GsoKind, VnetHeader},
};
use crate::{
    sync::lock,
    sys::{
        link,
        namespace::NetworkNamespace,
        route::{self, Change},
        tun::{self as kernel, Shape},
    },
};

/// Pieces of one packet that is written, at most, without its vnet header.
pub(crate) const PIECES: usize = 64;

/// Least MTU in bytes of a device with IPv6 (RFC 8200, section 5).
pub(crate) const LEAST_IPV6: u16 = 1280;

/// The TUN device cannot be had or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Environment: the kernel has no TUN driver, or it is not visible here.
    #[error("/dev/net/tun: not there: load the `tun` module, or make the device visible here")]
    Missing,
    /// Environment: this user may not create devices.
    #[error("/dev/net/tun: permission denied: run as root or grant CAP_NET_ADMIN")]
    NotPermitted,
    /// Environment: a device of that name exists.
    #[error("{0}: the device exists and is in use: choose another name")]
    InUse(String),
    /// Environment: somebody deleted the device while it was in use.
    #[error("the device {0} was deleted")]
    Deleted(String),
    /// Environment: anything else, with what was being done.
    #[error("TUN device: {0}: {1}")]
    Failed(&'static str, io::Error),
}

/// The offloads of a device: what the kernel does in super-packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOffload {
    /// Transport checksums may be partial, both ways.
    pub checksums: bool,
    /// Runs of a TCP stream.
    pub tcp: bool,
    /// Runs of UDP datagrams (from Linux 6.2 on).
    pub udp: bool,
}

impl DeviceOffload {
    /// All that a kernel may have.
    pub const ALL: Self = Self { checksums: true, tcp: true, udp: true };
    /// Packet by packet.
    pub const NONE: Self = Self { checksums: false, tcp: false, udp: false };

    const fn flags(self) -> u32 {
        let mut flags = 0;
        if self.checksums {
            flags |= kernel::CHECKSUM;
        }
        if self.tcp {
            flags |= kernel::TSO4 | kernel::TSO6 | kernel::TSO_ECN;
        }
        if self.udp {
            flags |= kernel::USO;
        }
        flags
    }
}

/// A TUN device that is up. It goes away when dropped.
pub struct Device {
    queues: Vec<Queue>,
    control: Arc<Control>,
    /// Follows what happens to it; `None`: the kernel does not say.
    link: Option<Arc<Link>>,
}

/// The settings that a device is made with.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSettings<'a> {
    /// Its name; the kernel picks `tun0`, `tun1`, … otherwise.
    pub name: Option<&'a str>,
    /// Its addresses.
    pub addresses: &'a [InterfaceAddress],
    /// Its MTU in bytes.
    pub mtu: u16,
    /// How many queues it has. The kernel keeps each connection to one.
    pub queues: usize,
    /// The offloads that the kernel may use.
    pub offload: DeviceOffload,
    /// Packets that wait in each queue, at most.
    pub queue_length: u16,
}

impl Device {
    /// Opens a device.
    ///
    /// # Errors
    ///
    /// As [`DeviceError`] says.
    pub fn open(settings: &DeviceSettings<'_>) -> Result<Self, DeviceError> {
        let wanted = settings.name.unwrap_or("tun%d");
        let vnet = settings.offload != DeviceOffload::NONE;
        let shape = Shape { vnet, several: settings.queues > 1 };
        let (packets, name) =
            kernel::open(wanted, shape).map_err(|error| opening(error, settings.name))?;
        let control = Control {
            descriptor: Mutex::new(Some(packets.try_clone().map_err(|e| failed("queue", e))?)),
            name,
            addresses: settings.addresses.to_vec(),
            routes: Mutex::default(),
        };
        let mut queues = vec![Queue::new(packets, settings.offload, vnet)];
        while queues.len() < settings.queues {
            let (packets, _) =
                kernel::open(&control.name, shape).map_err(|error| failed("queue", error))?;
            queues.push(Queue::new(packets, settings.offload, vnet));
        }
        control.with(|device| {
            device.set_mtu(settings.mtu).map_err(|error| failed("MTU", error.into()))?;
            limit_runs(device, settings.mtu);
            for address in settings.addresses.iter().filter(|address| address.address().is_ipv4()) {
                device.set_address(address.address()).map_err(|e| failed("address", e.into()))?;
                device.set_netmask(address.mask().into()).map_err(|e| failed("mask", e.into()))?;
            }
            let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| failed("socket", error))?;
            let name = device.tun_name().map_err(|error| failed("name", error.into()))?;
            // A longer queue is slower under load, no more: nothing to report.
            let _ = kernel::set_queue_length(&socket, &name, settings.queue_length.into());
            device.enabled(true).map_err(|error| failed("up", error.into()))?;
            add_ipv6(device, settings.addresses).map_err(|error| failed("IPv6 address", error))
        })?;
        let control = Arc::new(control);
        let link = Link::follow(&control);
        Ok(Self { queues, control, link })
    }

    /// The device's name when it was made, such as `tun0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.control.name
    }

    /// The device's name now: it may have been renamed.
    #[must_use]
    pub fn name_now(&self) -> String {
        self.control.name_now().unwrap_or_else(|_| self.name().to_owned())
    }

    /// The queues, at least one.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Returns the device's error for an error of reading.
    pub(crate) fn read_failed(&self, error: io::Error) -> DeviceError {
        self.control.error("read", error)
    }

    /// Changes the MTU as [`set_mtu`](Self::set_mtu) does. Packets go on at the old
    /// one where that fails, and those that are too large are answered with ICMP.
    pub(crate) fn set_mtu_or_warn(&self, mtu: u16) {
        if let Err(error) = self.set_mtu(mtu) {
            let device = self.name_now();
            tracing::warn!(device, mtu, %error, "the device's MTU stays as it is");
        }
    }

    /// The MTU, in bytes.
    ///
    /// # Errors
    ///
    /// The device was deleted, or is in a network namespace that this process may not enter.
    pub fn mtu(&self) -> Result<u16, DeviceError> {
        self.control.with(|device| device.mtu().map_err(|error| failed("MTU", error.into())))
    }

    /// Changes the MTU, in bytes. The kernel takes IPv6 away from a device whose
    /// MTU is less than 1280; its addresses of the beginning are given back when
    /// it is not any more.
    ///
    /// # Errors
    ///
    /// The kernel does not take it; the device was deleted, or is in a network
    /// namespace that this process may not enter.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        self.control.with(|device| {
            let before = device.mtu().map_err(|error| failed("MTU", error.into()))?;
            device.set_mtu(mtu).map_err(|error| failed("MTU", error.into()))?;
            limit_runs(device, mtu);
            if before < LEAST_IPV6
                && mtu >= LEAST_IPV6
                && let Err(error) = add_ipv6(device, &self.control.addresses)
            {
                tracing::warn!(%error, "IPv6 has not come back to the device");
            }
            Ok(())
        })
    }

    /// Routes a network through the device; the route goes with it, and comes back
    /// when it was down and is up again.
    ///
    /// # Errors
    ///
    /// As for [`set_mtu`](Self::set_mtu).
    pub fn add_route(&self, network: IpAddr, prefix: u8) -> Result<(), DeviceError> {
        self.control.change_route(Change::Add, (network, prefix))?;
        lock(&self.control.routes).push((network, prefix));
        Ok(())
    }

    /// Takes such a route away.
    ///
    /// # Errors
    ///
    /// As for [`set_mtu`](Self::set_mtu).
    pub fn remove_route(&self, network: IpAddr, prefix: u8) -> Result<(), DeviceError> {
        lock(&self.control.routes).retain(|route| *route != (network, prefix));
        self.control.change_route(Change::Remove, (network, prefix))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(self.link.take());
        // Waits for who has it open behind our back: it goes away now.
        *lock(&self.control.descriptor) = None;
    }
}

/// The handle that asks and changes a device, whatever its name and namespace become.
pub(super) struct Control {
    /// A descriptor of a queue, beside the queue's own; `None`: the device has been dropped.
    descriptor: Mutex<Option<OwnedFd>>,
    /// When it was made.
    name: String,
    addresses: Vec<InterfaceAddress>,
    /// Through it, as they were asked for.
    routes: Mutex<Vec<(IpAddr, u8)>>,
}

impl Control {
    fn error(&self, step: &'static str, error: io::Error) -> DeviceError {
        if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) {
            return DeviceError::Deleted(self.name.clone());
        }
        failed(step, error)
    }

    fn name_now(&self) -> Result<String, DeviceError> {
        let descriptor = lock(&self.descriptor);
        let descriptor = descriptor.as_ref().ok_or_else(|| self.gone())?;
        kernel::name(descriptor).map_err(|error| self.error("name", error))
    }

    fn gone(&self) -> DeviceError {
        DeviceError::Deleted(self.name.clone())
    }

    /// Does `work` with the device where it is.
    pub(super) fn with<T: Send>(
        &self,
        work: impl FnOnce(&mut tun::Device) -> Result<T, DeviceError> + Send,
    ) -> Result<T, DeviceError> {
        let descriptor = lock(&self.descriptor);
        let descriptor = descriptor.as_ref().ok_or_else(|| self.gone())?;
        let name = kernel::name(descriptor).map_err(|error| self.error("name", error))?;
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(&name);
        configuration.raw_fd(descriptor.as_raw_fd()).close_fd_on_drop(false);
        // Configured step by step, so that an error names its step.
        configuration.platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let work = || {
            let mut device = tun::create(&configuration).map_err(|e| failed("open", e.into()))?;
            work(&mut device)
        };
        match kernel::namespace(descriptor).map(NetworkNamespace::of) {
            Ok(namespace) => namespace
                .run_inside(work)
                .map_err(|error| failed("its network namespace", error))?,
            // An older kernel: it is where it was made, most likely.
            Err(_) => work(),
        }
    }

    fn change_route(&self, change: Change, route: (IpAddr, u8)) -> Result<(), DeviceError> {
        self.with(|device| change_route(device, change, route))
    }

    /// Gives the device what the kernel took away when it went down.
    pub(super) fn restore(&self) -> Result<(), DeviceError> {
        let routes = lock(&self.routes).clone();
        self.with(|device| {
            add_ipv6(device, &self.addresses).map_err(|error| failed("IPv6 address", error))?;
            routes.into_iter().try_for_each(|route| change_route(device, Change::Add, route))
        })
    }
}

fn change_route(
    device: &tun::Device,
    change: Change,
    route: (IpAddr, u8),
) -> Result<(), DeviceError> {
    let name = device.tun_name().map_err(|e| failed("name", e.into()))?;
    let index = device.tun_index().map_err(|e| failed("index", e.into()))?;
    route::change(change, (&name, index), route).map_err(|error| failed("route", error))
}

/// Gives a device its IPv6 addresses. What it has already is no error.
fn add_ipv6(device: &tun::Device, addresses: &[InterfaceAddress]) -> io::Result<()> {
    let v6 = addresses.iter().filter_map(|address| match address.address() {
        IpAddr::V6(v6) => Some((v6, address.prefix())),
        IpAddr::V4(_) => None,
    });
    let mut v6 = v6.peekable();
    if v6.peek().is_none() {
        return Ok(());
    }
    let socket = UdpSocket::bind("[::]:0")?;
    let index = device.tun_index()?.cast_unsigned();
    for (address, prefix) in v6 {
        match kernel::add_ipv6(&socket, index, address, prefix) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    Ok(())
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

/// One queue of a device: packets of the connections that the kernel has
/// assigned to it.
pub struct Queue {
    packets: OwnedFd,
    vnet: bool,
    checksums: AtomicBool,
    tcp: AtomicBool,
    udp: AtomicBool,
}

impl Queue {
    /// Asks for offloads, less and less until the kernel agrees.
    fn new(packets: OwnedFd, wanted: DeviceOffload, vnet: bool) -> Self {
        let lesser = [
            wanted,
            DeviceOffload { udp: false, ..wanted },
            DeviceOffload { udp: false, tcp: false, ..wanted },
        ];
        let taken = lesser.into_iter().filter(|offload| vnet && offload.checksums);
        let taken = taken
            .into_iter()
            .find(|offload| kernel::set_offload(&packets, offload.flags()).is_ok())
            .unwrap_or(DeviceOffload::NONE);
        Self {
            packets,
            vnet,
            checksums: AtomicBool::new(taken.checksums),
            tcp: AtomicBool::new(taken.tcp),
            udp: AtomicBool::new(taken.udp),
        }
    }

    /// Returns the offloads in use here.
    #[must_use]
    pub fn offload(&self) -> DeviceOffload {
        DeviceOffload {
            checksums: self.checksums.load(Relaxed),
            tcp: self.tcp.load(Relaxed),
            udp: self.udp.load(Relaxed),
        }
    }

    /// Does without super-packets of TCP, or of UDP: the kernel refused one.
    pub fn refused(&self, kind: GsoKind) {
        let kind = if kind == GsoKind::Udp { &self.udp } else { &self.tcp };
        kind.store(false, Relaxed);
    }

    /// Reads one packet, or a super-packet as its header says; `WouldBlock` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// Those of readv(2), `InvalidData` for a header that makes no sense.
    pub fn read(&self, packet: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        if !self.vnet {
            return Ok((VnetHeader::default(), rustix::io::read(&self.packets, packet)?));
        }
        let mut header = [0; VnetHeader::LENGTH];
        let mut pieces = [IoSliceMut::new(&mut header), IoSliceMut::new(packet)];
        let size = rustix::io::readv(&self.packets, &mut pieces)?;
        let size = size.checked_sub(VnetHeader::LENGTH).ok_or(io::ErrorKind::InvalidData)?;
        let header = VnetHeader::parse(&header)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok((header, size))
    }

    /// Writes one packet, or a super-packet as `header` says, from at most 64
    /// pieces.
    ///
    /// # Errors
    ///
    /// Those of writev(2): `InvalidInput` if the kernel does not take such a
    /// packet.
    pub fn write<'a>(
        &self,
        header: &[u8; VnetHeader::LENGTH],
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let mut vector: [IoSlice<'_>; PIECES + 1] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        if self.vnet {
            vector[0] = IoSlice::new(header);
            count = 1;
        }
        for piece in pieces.take(PIECES) {
            vector[count] = IoSlice::new(piece);
            count += 1;
        }
        rustix::io::writev(&self.packets, &vector[..count])?;
        Ok(())
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }
}

/// Has super-packets be no larger than what one segmented send takes when each
/// of their packets has become a frame: 65507 bytes (RFC 768), with up to 32 for
/// each frame. Larger ones cost two sends, no more: nothing to report.
fn limit_runs(control: &tun::Device, mtu: u16) {
    const LARGEST_SEND: u32 = 65_507;
    const LARGEST_OVERHEAD: u32 = 32;
    let segments = LARGEST_SEND / (u32::from(mtu) + LARGEST_OVERHEAD);
    if let Ok(index) = control.tun_index() {
        let _ = link::set_largest_run(index, segments.max(1));
    }
}

fn opening(error: io::Error, name: Option<&str>) -> DeviceError {
    match (error.raw_os_error().map(Errno::from_raw_os_error), error.kind()) {
        (_, io::ErrorKind::NotFound) => DeviceError::Missing,
        (_, io::ErrorKind::PermissionDenied) => DeviceError::NotPermitted,
        (Some(Errno::BUSY), _) => DeviceError::InUse(name.unwrap_or("?").to_owned()),
        _ => DeviceError::Failed("open", error),
    }
}

const fn failed(step: &'static str, error: io::Error) -> DeviceError {
    DeviceError::Failed(step, error)
}
