//! Lists of what a daemon has, asked for by type: each answer has the type asked for, or is an
//! error. Not here: how it is asked (`client`).

use super::{
    Client, DaemonError,
    protocol::{ClientRow, FlowEntry, IpcpEntry, KeyEntry, NameEntry, Request, Response},
};
use crate::{error::LayerError, wire::Name};

/// As [`Client::ask`]: cancel safe, and with its errors; an answer to another request is
/// [`DaemonError::Unexpected`].
impl Client {
    /// The IPCPs, and the layers that they are in.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn ipcps(&self) -> Result<Vec<IpcpEntry>, LayerError> {
        match self.ask(&Request::ListIpcps).await? {
            Response::Ipcps(ipcps) => Ok(ipcps),
            _ => Err(DaemonError::Unexpected.into()),
        }
    }

    /// The names.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn names(&self) -> Result<Vec<NameEntry>, LayerError> {
        match self.ask(&Request::ListNames).await? {
            Response::Names(names) => Ok(names),
            _ => Err(DaemonError::Unexpected.into()),
        }
    }

    /// The flows that applications have.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn flows(&self) -> Result<Vec<FlowEntry>, LayerError> {
        match self.ask(&Request::ListFlows).await? {
            Response::Flows(flows) => Ok(flows),
            _ => Err(DaemonError::Unexpected.into()),
        }
    }

    /// The clients of `name`, or of all names whose clients are in a file; only those with
    /// the key of the fingerprint `key`, if there is one.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn clients(
        &self,
        name: Option<String>,
        key: Option<String>,
    ) -> Result<Vec<ClientRow>, LayerError> {
        match self.ask(&Request::ListClients { name, key }).await? {
            Response::Clients(rows) => Ok(rows),
            _ => Err(DaemonError::Unexpected.into()),
        }
    }

    /// The key of `name`, or the daemon's, made first if need be.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn key(&self, name: Option<&Name>) -> Result<KeyEntry, LayerError> {
        match self.ask(&Request::ShowKey { name: name.map(ToString::to_string) }).await? {
            Response::Key(key) => Ok(key),
            _ => Err(DaemonError::Unexpected.into()),
        }
    }
}
