//! The result of parsing the words of `irm`: a command, or what is wrong with them. Not here:
//! the words themselves.

use std::net::IpAddr;

use ouroboros::daemon::{
    protocol::{TransportSpec, path_from_text},
    security::NamePolicy,
};

use crate::name_policy::{AlgorithmFiles, Exclusive};

/// A command of the user.
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
        /// The transport it is attached to.
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
        /// Its policy. Paths are as given.
        policy: NamePolicy,
        /// Where the policy's algorithms are.
        algorithms: AlgorithmFiles,
    },
    /// `name change`
    ChangeName {
        /// The name.
        name: String,
        /// All of its policy from now on. Paths are as given.
        policy: NamePolicy,
        /// Where the policy's algorithms are.
        algorithms: AlgorithmFiles,
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
        /// The layer's name.
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
        file: Option<String>,
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
    ShowKey {
        /// Whose key; this machine's otherwise.
        name: Option<String>,
    },
    /// `key generate next`
    GenerateNextKey {
        /// Whose key; this machine's otherwise.
        name: Option<String>,
        /// Takes the place of a next key that is there.
        force: bool,
    },
    /// `key promote`
    PromoteKey {
        /// Whose key; this machine's otherwise.
        name: Option<String>,
    },
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
        /// The words that would have fitted.
        expected: String,
    },
    /// A word is the beginning of several.
    #[error("{word}: may be {candidates}")]
    Ambiguous {
        /// The word.
        word: String,
        /// The words that it may stand for.
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
    /// A value is no number, or one that is too small or too large.
    #[error("{keyword} {value}: not a number from {least} to {most}")]
    Number {
        /// Its keyword.
        keyword: &'static str,
        /// The value.
        value: String,
        /// The smallest number that makes sense.
        least: u32,
        /// The largest one.
        most: u32,
    },
    /// Bytes that are not UTF-8, as
    /// [`text_of_path`](ouroboros::daemon::protocol::text_of_path) has them, where text
    /// is meant.
    #[error("{}: not UTF-8", path_from_text(.0).display())]
    NotUtf8(String),
    /// Two keywords exclude each other.
    #[error(transparent)]
    Exclusive(#[from] Exclusive),
    /// A keyword stands twice.
    #[error("{0}: given twice")]
    Twice(&'static str),
}
