//! The journal of systemd: events with their fields, over its own socket (systemd's "Native
//! Journal Protocol"); where that is not to be had, lines of a stream ([`stream`]). Not here:
//! which events are logged.

pub(crate) mod stream;

use std::{
    env,
    fmt::{self, Write},
    io::{self, IoSlice},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fd::AsFd,
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    net::{
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
    },
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";
/// In front of the names of events' fields, so that they meet no field of others.
const PREFIX: &str = "OUROBOROS_";

/// Sends events to the journal, with all of their fields.
pub(crate) struct Journal {
    socket: UnixDatagram,
    /// Looked up for each event: the journal may be started again.
    journal: SocketAddrUnix,
    identifier: String,
}

impl Journal {
    /// The one of this machine, or of `OUROBOROS_JOURNAL`.
    ///
    /// # Errors
    ///
    /// Nobody serves its socket, or no socket can be had.
    pub(crate) fn open() -> io::Result<Self> {
        let path = env::var_os("OUROBOROS_JOURNAL").map_or_else(|| SOCKET.into(), PathBuf::from);
        Self::at(&path)
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // Whether there is one. A connection would end with it.
        UnixDatagram::unbound()?.connect(path)?;
        // A journal that does not read costs lines, not the program.
        socket.set_nonblocking(true)?;
        let program = env::args_os().next().map(PathBuf::from).unwrap_or_default();
        let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { socket, journal: SocketAddrUnix::new(path)?, identifier: program })
    }

    /// Sends a line with the fields that are given.
    fn tell(
        &self,
        level: Level,
        line: &str,
        fields: &[(&'static str, String)],
    ) -> rustix::io::Result<()> {
        let mut entry = self.entry(level, line);
        for (name, value) in fields {
            put(&mut entry, &format!("{PREFIX}{}", journal_name(name)), value);
        }
        self.send(&entry)
    }

    /// The beginning of an entry: its line, and what every entry has.
    fn entry(&self, level: Level, line: &str) -> Vec<u8> {
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "MESSAGE", line);
        put(&mut entry, "PRIORITY", &stream::priority(level).to_string());
        put(&mut entry, "SYSLOG_IDENTIFIER", &self.identifier);
        entry
    }

    /// Sends the fields; in a sealed file if they are too long for a datagram.
    fn send(&self, fields: &[u8]) -> rustix::io::Result<()> {
        match sendto(&self.socket, fields, SendFlags::NOSIGNAL, &self.journal) {
            Err(Errno::MSGSIZE | Errno::NOBUFS) => {}
            outcome => return outcome.map(drop),
        }
        let file = memfd_create(c"journal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut rest = fields;
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        fcntl_add_seals(
            &file,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
        )?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Errno::NOBUFS);
        }
        let nothing = [IoSlice::new(&[])];
        let flags = SendFlags::NOSIGNAL;
        sendmsg_addr(&self.socket, &self.journal, &nothing, &mut control, flags).map(drop)
    }
}

/// Sends a line of standard output with fields, if the journal is behind it. `false`: it is to
/// be printed.
pub(crate) fn tell(level: Level, line: &str, fields: &[(&'static str, String)]) -> bool {
    static OF_OUTPUT: OnceLock<Option<Journal>> = OnceLock::new();
    let open = || stream::is_behind(io::stdout()).then(Journal::open)?.ok();
    let journal = OF_OUTPUT.get_or_init(open);
    journal.as_ref().is_some_and(|journal| journal.tell(level, line, fields).is_ok())
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut entry = self.entry(*metadata.level(), &(fields.message + &fields.pairs));
        put(&mut entry, &format!("{PREFIX}TARGET"), metadata.target());
        entry.extend(fields.entries);
        // Nobody else could be told.
        let _ = self.send(&entry);
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    /// The others as text behind the message, for people.
    pairs: String,
    /// The others as the journal takes them.
    entries: Vec<u8>,
}

impl Fields {
    fn record(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        let _ = write!(self.pairs, " {}={value}", field.name());
        put(&mut self.entries, &format!("{PREFIX}{}", journal_name(field.name())), value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &format!("{value:?}"));
    }
}

/// A name that the journal takes: capital letters, digits and underscores.
fn journal_name(field: &str) -> String {
    field
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect()
}

/// Adds a field, whose value may have several lines.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests;
