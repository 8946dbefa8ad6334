//! A TUN device whose packets come and go with a header that describes what
//! the kernel left to do (struct virtio_net_hdr): super-packets of TCP and UDP,
//! and transport checksums that are only begun. `main` drives it.
//!
//! Not here: addresses and the MTU, which are whoever's who starts the program.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt};

use rustix::{
    fs::OFlags,
    ioctl::{IntegerSetter, Setter, ioctl, opcode},
};

/// Bytes of the header in front of every packet.
pub(crate) const HEADER: usize = 10;

// linux/if_tun.h
const TUNSETIFF: u32 = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: u32 = opcode::write::<u32>(b'T', 208);
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6.
const TCP: usize = 0x01 | 0x02 | 0x04;
/// TUN_F_USO4, TUN_F_USO6, since Linux 6.2.
const UDP: usize = 0x20 | 0x40;
const NAME: usize = 16;

/// Opens device `name`. Says too whether the kernel does UDP super-packets.
pub(crate) fn open(name: &str) -> io::Result<(File, bool)> {
    if name.len() >= NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the device's name is too long"));
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let device = File::options().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    // struct ifreq: a name, then a union of 24 bytes that begins with the flags.
    let mut request = [0; NAME + 24];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[NAME..NAME + 2].copy_from_slice(&(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
    attach(&device, request)?;
    let udp = offload(&device, TCP | UDP).is_ok();
    if !udp {
        offload(&device, TCP)?;
    }
    Ok((device, udp))
}

#[expect(unsafe_code, reason = "no safe crate attaches a device with this header")]
fn attach(device: &File, request: [u8; NAME + 24]) -> io::Result<()> {
    // SAFETY: TUNSETIFF reads one struct ifreq, which is of this size, holds no
    // pointer with these flags and is alive for the call.
    Ok(unsafe { ioctl(device, Setter::<TUNSETIFF, _>::new(request)) }?)
}

#[expect(unsafe_code, reason = "no safe crate has this call")]
fn offload(device: &File, flags: usize) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    Ok(unsafe { ioctl(device, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }?)
}
