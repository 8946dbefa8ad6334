//! Asks `irmd`: one connection a request.

use std::{io, path::PathBuf};

use super::{
    Connection, DaemonError,
    protocol::{Request, Response},
    relay::RelayPath,
    socket_path,
};
use crate::flow::{FlowSpec, RawFlow};

/// A daemon that can be asked.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The daemon at [`socket_path`]; whether it runs shows when it is asked.
    pub fn new() -> Self {
        Self::at(socket_path())
    }

    /// The daemon at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`DaemonError`] says; [`Response::Error`] becomes
    /// [`DaemonError::Refused`].
    pub async fn ask(&self, request: &Request) -> Result<Response, DaemonError> {
        self.exchange(request).await.map(|(response, _)| response)
    }

    async fn exchange(
        &self,
        request: &Request,
    ) -> Result<(Response, Option<std::os::fd::OwnedFd>), DaemonError> {
        let at = || self.path.display().to_string();
        let connection = Connection::open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                DaemonError::NotRunning(at())
            }
            io::ErrorKind::PermissionDenied => DaemonError::NotPermitted(at()),
            _ => DaemonError::Lost(error),
        })?;
        connection.send(request, None).await?;
        match connection.receive().await? {
            (Response::Error(reason), _) => Err(DaemonError::Refused(reason)),
            answer => Ok(answer),
        }
    }

    /// Waits for a flow to a name that is bound to this process or its
    /// program; only to `name` if there is one.
    ///
    /// # Errors
    ///
    /// As [`DaemonError`] says.
    pub async fn accept(&self, name: Option<&str>) -> Result<RawFlow, DaemonError> {
        self.flow(&Request::Accept { name: name.map(str::to_owned) }).await
    }

    /// Allocates a flow to `name`.
    ///
    /// # Errors
    ///
    /// As [`DaemonError`] says.
    pub async fn allocate(&self, name: &str, spec: FlowSpec) -> Result<RawFlow, DaemonError> {
        self.flow(&Request::Allocate {
            name: name.to_owned(),
            qos: spec.qos(),
            suite: spec.security().map(Into::into),
            timeout: u64::try_from(spec.allocation_timeout().as_millis()).unwrap_or(u64::MAX),
        })
        .await
    }

    async fn flow(&self, request: &Request) -> Result<RawFlow, DaemonError> {
        match self.exchange(request).await? {
            (Response::Flow(grant), Some(descriptor)) => {
                let (info, keys) = grant.open().map_err(io::Error::other)?;
                let path = RelayPath::new(descriptor, grant.largest_frame);
                Ok(RawFlow {
                    path: std::sync::Arc::new(path),
                    info,
                    keys,
                    early: Vec::new(),
                    strays: None,
                    release: None,
                })
            }
            _ => Err(io::Error::other("not the answer to the question").into()),
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}
