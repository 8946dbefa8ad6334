//! What the words of `irm` come to: a command, or what is wrong with them. Not
//! here: which words.

use std::net::IpAddr;

use ouroboros::daemon::protocol::{TransportSpec, path_from_text};

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `ipcp create`
    CreateIpcp {
        /// The IPCP.
        name: String,
        /// Its type.
        kind: String,
    },
    /// `ipcp bootstrap`
    Bootstrap {
        /// The IPCP.
        name: String,
        /// The layer.
        layer: String,
        /// What it is attached to.
        transport: TransportSpec,
    },
    /// `ipcp destroy`
    DestroyIpcp {
        /// The IPCP.
        name: String,
    },
    /// `ipcp list`
    ListIpcps,
    /// `name create`
    CreateName {
        /// The name.
        name: String,
        /// Its security.
        security: NameSecurity,
    },
    /// `name change`
    ChangeName {
        /// The name.
        name: String,
        /// All of its security from now on.
        security: NameSecurity,
    },
    /// `name destroy`
    DestroyName {
        /// The name.
        name: String,
    },
    /// `name register`
    Register {
        /// The name.
        name: String,
        /// The layer.
        layer: String,
    },
    /// `name unregister`
    Unregister {
        /// The name.
        name: String,
        /// The layer.
        layer: String,
    },
    /// `name dns`
    NameDns {
        /// The name.
        name: String,
        /// The server's addresses; those of the layers otherwise.
        addresses: Vec<IpAddr>,
    },
    /// `name list`
    ListNames,
    /// `key export`
    ExportKey,
    /// `cert authority`
    MakeAuthority {
        /// What it is called.
        name: String,
        /// How long it is valid.
        days: Option<u32>,
        /// Where it is to be, as given.
        folder: Option<String>,
    },
    /// `cert sign`
    SignCertificate {
        /// The file with the public key, as given; this machine's own otherwise.
        key: Option<String>,
        /// Whose it is: the certificate's common name.
        name: String,
        /// How long the certificate is valid.
        days: Option<u32>,
        /// Where the authority is, as given.
        folder: Option<String>,
    },
    /// `config check`
    CheckConfiguration {
        /// The file, as given.
        file: String,
    },
    /// `config diff`
    DiffConfiguration {
        /// The file, as given.
        file: String,
    },
    /// `config save`
    SaveConfiguration {
        /// The file, as given; standard output otherwise.
        file: Option<String>,
        /// In the place of one that is there.
        force: bool,
    },
    /// `flow list`
    ListFlows,
    /// `status`
    Status,
    /// `key show`
    ShowKey,
    /// `key generate`
    GenerateKey {
        /// In the place of one that is there.
        force: bool,
    },
    /// `bind program`, `unbind program`
    Program {
        /// The program, as given.
        program: String,
        /// The name.
        name: String,
        /// Bind or unbind.
        bind: bool,
    },
    /// `bind process`, `unbind process`
    Process {
        /// The process id.
        pid: u32,
        /// The name.
        name: String,
        /// Bind or unbind.
        bind: bool,
    },
    /// `completions`
    Completions(Shell),
}

/// A shell that completes words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// The security of a name. Files are paths, as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameSecurity {
    /// With the server's encryption.
    pub server: Option<String>,
    /// With the client's encryption.
    pub client: Option<String>,
    /// Who proves who they are.
    pub auth: Option<Auth>,
    /// With the keys of clients.
    pub clients: Option<String>,
    /// The folder of authorities.
    pub ca: Option<String>,
    /// With the server's key.
    pub key: Option<String>,
    /// With the server's certificate.
    pub certificate: Option<String>,
    /// Only the native profile.
    pub native: bool,
}

impl NameSecurity {
    /// Whether its parts go together: lists say who proves who they are.
    ///
    /// # Errors
    ///
    /// Two of them exclude each other.
    pub fn check(&self) -> Result<(), UsageError> {
        match (&self.clients, &self.ca, self.auth) {
            (Some(_), Some(_), _) => Err(UsageError::Together("clients", "ca")),
            (Some(_), _, Some(Auth::None | Auth::Server)) => {
                Err(UsageError::Together("clients", "auth none or server"))
            }
            (_, Some(_), Some(Auth::None)) => Err(UsageError::Together("ca", "auth none")),
            _ => Ok(()),
        }
    }
}

/// Who proves who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Nobody.
    None,
    /// The server.
    Server,
    /// The server and the client.
    Both,
}

/// The words make no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// There is one word too few.
    #[error("expected {0}")]
    Missing(String),
    /// A word stands where another was expected.
    #[error("{word}: expected {expected}")]
    Unknown {
        /// The word.
        word: String,
        /// What would have fitted.
        expected: String,
    },
    /// A word is the beginning of several.
    #[error("{word}: may be {candidates}")]
    Ambiguous {
        /// The word.
        word: String,
        /// What it may be.
        candidates: String,
    },
    /// A value makes no sense.
    #[error("{keyword} {value}: {reason}")]
    Value {
        /// Its keyword.
        keyword: &'static str,
        /// The value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// Bytes that are not UTF-8, as
    /// [`text_of_path`](ouroboros::daemon::protocol::text_of_path) has them, where text
    /// is meant.
    #[error("{}: not UTF-8", path_from_text(.0).display())]
    NotUtf8(String),
    /// Two keywords exclude each other.
    #[error("{0} and {1}: one of them")]
    Together(&'static str, &'static str),
    /// A keyword stands twice.
    #[error("{0}: given twice")]
    Twice(&'static str),
}
