//! Lines about a flow: text on standard output; where the journal is behind that, an entry with
//! the fields by which irmd's entries about the same flow are found. Not here: which lines.

use ouroboros::{FlowInfo, wire::Name};

use crate::journal;

/// The name, the flow, the peer, the device and what else a line is about, as fields of the
/// journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject(Vec<(&'static str, String)>);

impl Subject {
    /// The flow with a client of this server.
    pub(super) fn client(info: &FlowInfo) -> Self {
        Self::flow(info, "client")
    }

    /// The flow with this client's server.
    pub(super) fn server(info: &FlowInfo) -> Self {
        Self::flow(info, "key")
    }

    /// A name, and no flow to it yet.
    pub(super) fn name(name: &Name) -> Self {
        Self(vec![("name", name.to_string())])
    }

    /// The same, and one more field.
    pub(super) fn with(&self, field: &'static str, value: impl ToString) -> Self {
        let Self(mut fields) = self.clone();
        fields.push((field, value.to_string()));
        Self(fields)
    }

    fn flow(info: &FlowInfo, key: &'static str) -> Self {
        let Self(mut fields) = Self::name(&info.name);
        fields.push(("peer", info.peer.to_string()));
        fields.extend(info.identity.as_ref().map(|peer| (key, peer.fingerprint.to_string())));
        Self(fields)
    }

    /// Prints a line.
    pub(super) fn print(&self, line: &str) {
        let is_warning = line.starts_with("Warning:");
        let level = if is_warning { tracing::Level::WARN } else { tracing::Level::INFO };
        if !journal::tell(level, line, &self.0) {
            println!("{line}");
        }
    }
}

/// Prints a line about a [`Subject`].
macro_rules! tell {
    ($subject:expr, $($text:tt)*) => { $subject.print(&::std::format!($($text)*)) };
}
pub(super) use tell;
