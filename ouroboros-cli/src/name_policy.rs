//! The security of a name as a request to the daemon: files of algorithms are read here,
//! other files are the daemon's to read. Not here: what it means (`irmd::policy`).

use std::{
    fs, io,
    path::{Path, PathBuf, absolute},
};

use ouroboros::daemon::{
    protocol::{Request, Security, path_from_text, text_of_path},
    security::Authentication,
};

use crate::{
    enc_conf::{self, BadLine},
    grammar::{Auth, NameSecurity},
};

/// A file that is named cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadPolicy {
    /// Environment: it cannot be read.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Misuse: a line of it makes no sense.
    #[error("{0}: {1}")]
    Line(PathBuf, #[source] BadLine),
}

/// The request that creates `name` with `security`, whose paths are relative to `folder`.
///
/// # Errors
///
/// As [`BadPolicy`] says.
pub fn request(name: String, security: NameSecurity, folder: &Path) -> Result<Request, BadPolicy> {
    let place = |path: Option<String>| -> Result<Option<String>, BadPolicy> {
        let Some(path) = path.map(|path| folder.join(path_from_text(&path))) else {
            return Ok(None);
        };
        let absolute = absolute(&path).map_err(|error| BadPolicy::Io(path, error))?;
        Ok(Some(text_of_path(absolute)))
    };
    let encryption = |path: Option<String>| -> Result<Option<Security>, BadPolicy> {
        let Some(path) = path.map(|path| folder.join(path_from_text(&path))) else {
            return Ok(None);
        };
        let text = fs::read_to_string(&path).map_err(|error| BadPolicy::Io(path.clone(), error))?;
        enc_conf::parse(&text).map(Some).map_err(|error| BadPolicy::Line(path, error))
    };
    let authentication = match (security.clients, security.ca, security.auth) {
        (Some(file), ..) => Authentication::Keys(place(Some(file))?.unwrap_or_default()),
        (None, ca, Some(Auth::Server)) => Authentication::Server(place(ca)?),
        (None, ca @ Some(_), _) | (None, ca, Some(Auth::Both)) => {
            Authentication::Authorities(place(ca)?)
        }
        (None, None, Some(Auth::None)) => Authentication::None,
        (None, None, None) => Authentication::Offered,
    };
    Ok(Request::CreateName {
        name,
        server: encryption(security.server)?,
        client: encryption(security.client)?,
        authentication,
        native: security.native,
        key: place(security.key)?,
        certificate: place(security.certificate)?,
    })
}
