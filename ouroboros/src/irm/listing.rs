//! Descriptions of a resource manager's layers and IPCPs.

use std::fmt;

use crate::{error::NotEmbedded, layer::Layer, wire::Name};

/// The result of destroying an IPCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destruction {
    /// It is gone.
    Destroyed,
    /// Misuse: there is none of that name.
    NoSuchIpcp,
    /// Misuse: the manager is a handle of a daemon.
    NotEmbedded(NotEmbedded),
}

impl fmt::Display for Destruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destroyed => f.write_str("destroyed"),
            Self::NoSuchIpcp => f.write_str("no such IPCP"),
            Self::NotEmbedded(error) => error.fmt(f),
        }
    }
}

/// A layer, as [`Irm::list_layers`](crate::Irm::list_layers) tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Its name.
    pub name: String,
    /// The names of its IPCPs.
    pub ipcps: Vec<String>,
    /// The names that are registered in it here.
    pub names: Vec<Name>,
}

impl LayerInfo {
    pub(super) fn of(layer: &Layer) -> Self {
        let ipcps = layer.ipcps().iter().map(|ipcp| ipcp.name().to_owned()).collect();
        Self { name: layer.name().to_owned(), ipcps, names: layer.names() }
    }
}
