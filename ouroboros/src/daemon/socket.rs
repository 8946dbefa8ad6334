//! The daemon's Unix socket, both sides: datagrams of JSON, and a descriptor
//! with one where a flow is handed over.

use std::{
    env, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use async_io::{Async, Timer};
use rustix::{
    fs::{Mode, fchmod},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix,
        SocketFlags, SocketType, accept_with, bind, connect, listen, recv, recvmsg, sendmsg,
        shutdown, socket_with, sockopt,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::protocol::LARGEST_DATAGRAM;

/// Returns where the daemon listens: `OUROBOROS_SOCKET`, or `/run/ouroboros/irmd.sock`.
pub fn socket_path() -> PathBuf {
    env::var_os("OUROBOROS_SOCKET")
        .filter(|path| !path.is_empty())
        .map_or_else(|| PathBuf::from("/run/ouroboros/irmd.sock"), PathBuf::from)
}

/// More bytes than a message with a key has.
const FLOW_MESSAGE: usize = 4096;
/// Connections that the kernel holds until they are accepted, at most (less if
/// net.core.somaxconn says so).
const BACKLOG: i32 = 4096;
/// How often to try again while so many wait.
const BUSY_RETRY: Duration = Duration::from_millis(5);
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?)
}

/// The listening socket of a daemon.
#[derive(Debug)]
pub struct Listener(Async<OwnedFd>);

impl Listener {
    /// Listens at `path`, which must not exist. Only this user can connect, from the first
    /// moment on, until the path is given other permissions.
    ///
    /// # Errors
    ///
    /// Those of fchmod(2), bind(2) and listen(2).
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        // Linux gives the path the permissions of the socket, less the umask, which is the
        // whole process's and stays as it is.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, BACKLOG)?;
        Ok(Self(Async::new_nonblocking(socket)?))
    }

    /// Waits for an application.
    ///
    /// # Errors
    ///
    /// Those of accept(2).
    pub async fn accept(&self) -> io::Result<Connection> {
        // `read_with` would try again whenever the task is woken for something else.
        loop {
            self.0.readable().await?;
            match accept_with(self.0.get_ref(), FLAGS) {
                Ok(socket) => return Ok(Connection(Async::new_nonblocking(socket)?)),
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A connection between an application and a daemon.
#[derive(Debug)]
pub struct Connection(Async<OwnedFd>);

impl Connection {
    /// Connects to the daemon at `path`. Waits, without an end of its own, while
    /// more connections than the kernel holds wait to be accepted.
    ///
    /// # Errors
    ///
    /// Those of connect(2).
    pub async fn open(path: &Path) -> io::Result<Self> {
        let (socket, address) = (seqpacket()?, SocketAddrUnix::new(path)?);
        // A Unix socket has no event for room in the backlog.
        while let Err(error) = connect(&socket, &address) {
            if error != Errno::AGAIN {
                return Err(error.into());
            }
            Timer::after(BUSY_RETRY).await;
        }
        Ok(Self(Async::new_nonblocking(socket)?))
    }

    /// The process at the other end, when it connected.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn peer_process(&self) -> io::Result<u32> {
        let credentials = sockopt::socket_peercred(self.0.get_ref())?;
        Ok(credentials.pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// The user of the process at the other end, when it connected: nothing
    /// that it does or runs later changes this.
    ///
    /// # Errors
    ///
    /// Those of getsockopt(2).
    pub fn peer_user(&self) -> io::Result<u32> {
        Ok(sockopt::socket_peercred(self.0.get_ref())?.uid.as_raw())
    }

    /// Sends one message, with a descriptor if there is one.
    ///
    /// # Errors
    ///
    /// The message is too long, or the other end is gone.
    pub async fn send(
        &self,
        message: &impl Serialize,
        descriptor: Option<&OwnedFd>,
    ) -> io::Result<()> {
        // It may hold a key: room for a flow from the start, since a buffer
        // that grows leaves its contents behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(FLOW_MESSAGE));
        serde_json::to_writer(&mut *bytes, message)?;
        if bytes.len() > LARGEST_DATAGRAM {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes is too long: {LARGEST_DATAGRAM} at most",
                    bytes.len()
                ),
            ));
        }
        self.0
            .write_with(|socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let descriptors = descriptor.map(AsFd::as_fd);
                let descriptors = descriptors.as_slice();
                if !descriptors.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
                }
                let parts = [IoSlice::new(&bytes)];
                Ok(sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?)
            })
            .await?;
        Ok(())
    }

    /// Receives one message, and the descriptor that came with it.
    ///
    /// # Errors
    ///
    /// The other end is gone (`UnexpectedEof`), or said no such message
    /// (`InvalidData`).
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Option<OwnedFd>)> {
        let mut bytes = Zeroizing::new(vec![0; LARGEST_DATAGRAM]);
        let (size, whole, descriptor) = self
            .0
            .read_with(|socket| {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let mut parts = [IoSliceMut::new(&mut bytes)];
                let flags = RecvFlags::CMSG_CLOEXEC;
                let message = recvmsg(socket, &mut parts, &mut ancillary, flags)?;
                let descriptor = ancillary.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
                    _ => None,
                });
                let whole = !message.flags.contains(ReturnFlags::TRUNC);
                Ok((message.bytes, whole, descriptor))
            })
            .await?;
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
        }
        Ok((serde_json::from_slice(&bytes[..size])?, descriptor))
    }

    /// Sends a datagram as it is, of the parts in order, if there is room for it
    /// now.
    pub(super) fn try_send_datagram(&self, parts: &[&[u8]]) -> io::Result<()> {
        send_parts(self.0.get_ref(), parts)
    }

    /// Sends a datagram as it is, of the parts in order.
    pub(super) async fn send_datagram(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.0.write_with(|socket| send_parts(socket, parts)).await
    }

    /// Receives a datagram as it is. Says how long it was, which may be more
    /// than the buffer holds; 0 if the other end is gone.
    pub(super) async fn receive_datagram(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_with(|socket| Ok(recv(socket, &mut *buffer, RecvFlags::TRUNC)?.1)).await
    }

    /// Ends the connection, whoever else holds it.
    pub(super) fn end(&self) {
        // It fails if the connection has ended.
        let _ = shutdown(self.0.get_ref(), Shutdown::Both);
    }

    /// Waits until the other end hangs up, or says something out of turn.
    ///
    /// # Errors
    ///
    /// The reactor fails.
    pub async fn hung_up(&self) -> io::Result<()> {
        let peek = |socket: &OwnedFd| Ok(recv(socket, &mut [0; 1], RecvFlags::PEEK)?);
        self.0.read_with(peek).await.map(drop)
    }
}

fn send_parts(socket: &OwnedFd, parts: &[&[u8]]) -> io::Result<()> {
    let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
    Ok(())
}
