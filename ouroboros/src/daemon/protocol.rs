//! Messages of applications and tools to `irmd`, and its answers: one JSON object in each
//! datagram of a Unix seqpacket socket, one request a connection. Lists come in as many
//! datagrams as they need, the last of them with an empty list. A flow that is accepted is
//! offered first, and granted when it is taken ([`Request::Take`]). Not here: sockets
//! (`client`), what the daemon does.

use serde::{Deserialize, Serialize};

use super::{
    Failure,
    security::{FlowSecurity, NameDemands, NamePolicy},
};
pub use super::{
    entries::{ClientRow, FlowEntry, IpcpEntry, KeyEntry, NameEntry, ReportedFlow, TransportSpec},
    grant::{BadGrant, DataPath, FlowGrant},
    path_text::{path_from_text, text_of_path},
};
use crate::{transport::ServerHost, wire::QosSpec};

/// Longest request or response in bytes.
pub const LARGEST_DATAGRAM: usize = 64 * 1024;
/// Bytes of a list that are put into one datagram.
const LARGEST_PART: usize = 32 * 1024;

/// A request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// Makes an IPCP that is not attached yet.
    CreateIpcp {
        /// Its name.
        name: String,
        /// Its type, such as `udp`.
        kind: String,
    },
    /// Attaches an IPCP, made first if need be, and puts it into a layer.
    BootstrapIpcp {
        /// Its name.
        name: String,
        /// The layer.
        layer: String,
        /// The transport it is attached to.
        transport: TransportSpec,
    },
    /// Destroys an IPCP.
    DestroyIpcp {
        /// Its name.
        name: String,
    },
    /// Lists the IPCPs.
    ListIpcps,
    /// Creates a name with its policy.
    CreateName {
        /// The name.
        name: String,
        /// Its policy.
        policy: NamePolicy,
    },
    /// Replaces the policy of a name: its registrations and bindings stay, and flows that
    /// do not fit any more end.
    ChangeName {
        /// The name.
        name: String,
        /// All of its policy from now on.
        policy: NamePolicy,
    },
    /// Tells a key: the daemon's, made first if need be, or that of a name.
    ShowKey {
        /// The name.
        name: Option<String>,
    },
    /// Makes the key that is to take the place of the present one. Answered with
    /// [`Response::Key`].
    GenerateNextKey {
        /// Whose key it is; the daemon's otherwise.
        name: Option<String>,
        /// Takes the place of a next key that is there.
        force: bool,
    },
    /// Puts the next key in the place of the present one. Answered with [`Response::Key`].
    PromoteKey {
        /// Whose key it is; the daemon's otherwise.
        name: Option<String>,
    },
    /// A server has announced its next key inside a flow.
    AnnounceNextKey {
        /// Its name.
        name: String,
        /// The fingerprint of the key that it has shown.
        key: String,
        /// The fingerprint of the next one; `None`: there is none any more.
        next: Option<String>,
    },
    /// Makes a key for the daemon.
    GenerateKey {
        /// Whether it takes the place of one that is there.
        force: bool,
    },
    /// Forgets a name and its bindings.
    DestroyName {
        /// The name.
        name: String,
    },
    /// Registers a name in a layer.
    Register {
        /// The name.
        name: String,
        /// The layer.
        layer: String,
    },
    /// Takes a name out of a layer.
    Unregister {
        /// The name.
        name: String,
        /// The layer.
        layer: String,
    },
    /// Lists the names.
    ListNames,
    /// Lists the flows that applications have.
    ListFlows,
    /// Tells what the daemon has, as its configuration file would say it.
    ShowConfiguration {
        /// Instead, what it has taken from that file.
        from_file: bool,
    },
    /// Lists the clients of a name whose clients are in a file; of all such names without
    /// one.
    ListClients {
        /// The name.
        name: Option<String>,
        /// Only those with the key of this fingerprint.
        #[serde(default)]
        key: Option<String>,
    },
    /// Serves a name to the clients of a file beside the daemon's key, which is made if
    /// there is none, and registers it in every layer. A name that was created is as it
    /// was.
    ServeClients {
        /// The name.
        name: String,
    },
    /// Gives a client another name in that file. The name may be left out, here and below,
    /// if there is one such only.
    RenameClient {
        /// The name that it is a client of.
        name: Option<String>,
        /// The client's name or key.
        client: String,
        /// Its name from now on.
        to: String,
    },
    /// Removes a client or an invitation from that file: its flows end.
    RevokeClient {
        /// The name that it is a client of.
        name: Option<String>,
        /// The client's name or key.
        client: String,
    },
    /// Adds an invitation to that file.
    InviteClient {
        /// The name that it is to be a client of.
        name: Option<String>,
        /// The client's name.
        client: String,
        /// The fingerprint of the invitation's key.
        key: String,
        /// Until when, in seconds since 1970.
        until: u64,
        /// The client's addresses, and the networks behind it.
        #[serde(default)]
        prefixes: Vec<String>,
    },
    /// Binds a program, or takes the binding back.
    Program {
        /// The executable, as an absolute path ([`text_of_path`]).
        path: String,
        /// The name.
        name: String,
        /// Whether to bind.
        bind: bool,
    },
    /// Binds a process, or takes the binding back.
    Process {
        /// The process id.
        pid: u32,
        /// The name.
        name: String,
        /// Whether to bind.
        bind: bool,
    },
    /// Waits for a flow to a name bound to this process or its program.
    Accept {
        /// Only this name.
        name: Option<String>,
        /// Its executable, as an absolute path ([`text_of_path`]). Who may ask could also bind, so
        /// it is believed, and the daemon needs no right to look for itself.
        program: Option<String>,
        /// Demands on flows beyond those of the names, in force as long as this process lives.
        #[serde(default)]
        demands: Vec<NameDemands>,
    },
    /// The answer to [`Response::Offered`], on the same connection: the flow is
    /// wanted. Who does not say so has not got it.
    Take,
    /// Tells of a flow that has outlived the daemon that granted it. After [`Response::Done`]
    /// the connection stays open for as long as the flow lasts, and the daemon may revoke the
    /// flow on it.
    ReportFlow(Box<ReportedFlow>),
    /// Allocates a flow.
    Allocate {
        /// Whom to.
        name: String,
        /// The quality of service asked for.
        qos: QosSpec,
        /// How it must be encrypted, and with whom; `None`: as the daemon has it
        /// for the name.
        security: Option<FlowSecurity>,
        /// How long it may take, in milliseconds.
        timeout: u64,
        /// Where the server is, if not where the name is looked up.
        #[serde(default)]
        server: Option<ServerHost>,
    },
}

/// An answer of the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Response {
    /// It is done.
    Done,
    /// The IPCPs.
    Ipcps(Vec<IpcpEntry>),
    /// The names.
    Names(Vec<NameEntry>),
    /// The flows.
    Flows(Vec<FlowEntry>),
    /// The clients.
    Clients(Vec<ClientRow>),
    /// A client is invited.
    Invited {
        /// The name that it is to be a client of.
        name: String,
        /// The fingerprint of the server's key.
        server_key: String,
    },
    /// A configuration: the lines of a JSON text that `irm` knows.
    Configuration(Vec<String>),
    /// The daemon's key.
    Key(KeyEntry),
    /// A flow; its data path's descriptor comes with the datagram.
    Flow(Box<FlowGrant>),
    /// A flow has come for who waits: it is the application's if it takes it.
    Offered,
    /// It cannot be done, and why.
    Error(Failure),
}

impl Response {
    /// The response in parts that fit a datagram each: a list is cut, and ended by
    /// an empty one.
    pub fn parts(self) -> Vec<Self> {
        match self {
            Self::Ipcps(list) => cut(list).into_iter().map(Self::Ipcps).collect(),
            Self::Names(list) => cut(list).into_iter().map(Self::Names).collect(),
            Self::Flows(list) => cut(list).into_iter().map(Self::Flows).collect(),
            Self::Clients(list) => cut(list).into_iter().map(Self::Clients).collect(),
            Self::Configuration(lines) => cut(lines).into_iter().map(Self::Configuration).collect(),
            other => vec![other],
        }
    }

    /// Adds the next part of a list; whether it was the last, or `None` if it is
    /// no part of this list.
    pub(super) fn extend(&mut self, part: Self) -> Option<bool> {
        fn append<T>(list: &mut Vec<T>, part: Vec<T>) -> Option<bool> {
            let last = part.is_empty();
            list.extend(part);
            Some(last)
        }
        match (self, part) {
            (Self::Ipcps(list), Self::Ipcps(part)) => append(list, part),
            (Self::Names(list), Self::Names(part)) => append(list, part),
            (Self::Flows(list), Self::Flows(part)) => append(list, part),
            (Self::Clients(list), Self::Clients(part)) => append(list, part),
            (Self::Configuration(lines), Self::Configuration(part)) => append(lines, part),
            _ => None,
        }
    }

    /// Returns `true` if more parts follow.
    pub(super) fn continues(&self) -> bool {
        match self {
            Self::Ipcps(list) => !list.is_empty(),
            Self::Names(list) => !list.is_empty(),
            Self::Flows(list) => !list.is_empty(),
            Self::Clients(list) => !list.is_empty(),
            Self::Configuration(lines) => !lines.is_empty(),
            _ => false,
        }
    }
}

/// Cuts a list where its encoding would be longer than [`LARGEST_PART`].
fn cut<T: Serialize>(list: Vec<T>) -> Vec<Vec<T>> {
    let (mut parts, mut part, mut length) = (Vec::new(), Vec::new(), 0);
    for entry in list {
        let size = serde_json::to_string(&entry).map_or(0, |text| text.len() + 1);
        if length + size > LARGEST_PART && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            length = 0;
        }
        length += size;
        part.push(entry);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts.push(Vec::new());
    parts
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;
    use crate::{crypto::Suite, daemon::security::Authentication};

    #[test]
    fn a_long_list_is_the_same_after_it_was_cut() {
        let entry = |number: usize| IpcpEntry {
            name: format!("{number}").repeat(50),
            layer: "l".to_owned(),
            attachment: "udp".to_owned(),
            transport: None,
        };
        for count in [0, 1, 2000] {
            let list: Vec<_> = (0..count).map(entry).collect();
            let mut parts = Response::Ipcps(list.clone()).parts().into_iter();
            for part in Response::Ipcps(list.clone()).parts() {
                assert!(serde_json::to_vec(&part).expect("encoded").len() < LARGEST_DATAGRAM);
            }
            let mut whole = parts.next().expect("one at least");
            let mut more = whole.continues();
            while more {
                more = !whole.extend(parts.next().expect("not the last")).expect("of the list");
            }
            assert!(parts.next().is_none());
            assert!(matches!(whole, Response::Ipcps(had) if had == list));
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        let transport = TransportSpec::Udp {
            ip: "fe80::1%eth0".parse().expect("an address"),
            port: Some(3435),
        };
        for request in [
            Request::ListIpcps,
            Request::BootstrapIpcp { name: "n".into(), layer: "l".into(), transport },
            Request::CreateName {
                name: "n".into(),
                policy: NamePolicy {
                    server: Some(Suite::default().into()),
                    client: None,
                    authentication: Authentication::Keys("/etc/friends".into()),
                    native: true,
                    key: Some(OsStr::from_bytes(b"/etc/\xff.pem").into()),
                    certificate: None,
                },
            },
            Request::ChangeName {
                name: "n".into(),
                policy: NamePolicy {
                    authentication: Authentication::Server(Some("/etc/authorities".into())),
                    ..NamePolicy::default()
                },
            },
            Request::Accept { name: None, program: Some("/bin/p".into()), demands: Vec::new() },
            Request::Take,
            Request::Allocate {
                name: "n".into(),
                qos: QosSpec::RAW,
                security: Some(FlowSecurity {
                    asked: Suite::default().into(),
                    manager_identity: true,
                }),
                timeout: u64::MAX,
                server: Some("vpn.example.org:4000".parse().expect("a host")),
            },
        ] {
            let bytes = serde_json::to_vec(&request).expect("encoded");
            let decoded: Request = serde_json::from_slice(&bytes).expect("decoded");
            assert_eq!(decoded, request);
        }
    }
}
