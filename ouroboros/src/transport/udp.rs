//! UDP: builder.
use std::{net::IpAddr, sync::Arc};

use super::{IntoTransport, OpenError, Transport};

/// A UDP attachment to be opened (WIRE.md, "UDP").
#[derive(Clone, Debug)]
pub struct Udp {
    address: IpAddr,
    port: Option<u16>,
    remote_port: Option<u16>,
}

impl Udp {
    /// The port of a 0.23 peer unless configured otherwise.
    pub const PORT: u16 = 3435;

    /// Listens on `address`, port 3435.
    pub fn at(address: IpAddr) -> Self {
        Self { address, port: Some(Self::PORT), remote_port: None }
    }

    /// Only connects, from `address` (which may be unspecified): there is no
    /// management socket and no fixed port, and nobody can allocate a flow to
    /// here.
    pub fn connect_only(address: IpAddr) -> Self {
        Self { address, port: None, remote_port: None }
    }

    /// Listens on `port` instead of 3435, and reaches peers there too unless
    /// [`remote_port`](Self::remote_port) says otherwise. On a transport that
    /// only connects this is the peers' port.
    pub fn port(mut self, port: u16) -> Self {
        match &mut self.port {
            Some(own) => *own = port,
            None => self.remote_port = Some(port),
        }
        self
    }

    /// The port at which peers that the resolver finds listen.
    pub fn remote_port(mut self, port: u16) -> Self {
        self.remote_port = Some(port);
        self
    }
}

impl IntoTransport for Udp {
    fn open(self) -> Result<Arc<dyn Transport>, OpenError> {
        Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into())
    }
}
