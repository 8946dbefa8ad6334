//! The file of a server's clients, which people and programs edit: who is a client, who
//! is invited. An edit changes the words that it is about and leaves everything else of
//! the file as it is. Not here: who may have a flow (`list` reads that of the same file).

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
};

use der::DateTime;

use super::{
    TrustError,
    file::{self, Guard},
};
use crate::{
    crypto::identity::Fingerprint,
    proto::{hub::IpNet, negotiation::Invited},
};

/// Longest file in bytes: some twenty thousand clients.
pub(super) const LARGEST: u64 = 1 << 20;
/// Invitations of a file, at most.
const INVITATIONS: usize = 1024;
/// Longest name of a client in bytes.
const LONGEST_NAME: usize = 63;
/// The first line of a file that was made here.
const HEADING: &str = "# A line for each client: its key, a name, its addresses and networks.\n";
/// The first word of a line that is an invitation.
const INVITED: &str = "invited";
const UNTIL: &str = "until=";

/// The name that a server has for a client: 1 to 63 letters, digits, `.`, `_` and `-`, the
/// first of them a letter or a digit.
///
/// ```
/// use ouroboros::trust::ClientName;
/// assert!("alice.laptop-2".parse::<ClientName>().is_ok());
/// assert!("al ice".parse::<ClientName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(String);

/// The text is no name of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client's name is 1 to 63 letters, digits, '.', '_' and '-', a letter or a digit first")]
pub struct InvalidClientName;

impl ClientName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = InvalidClientName;

    fn from_str(text: &str) -> Result<Self, InvalidClientName> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let fits = first && text.len() <= LONGEST_NAME && text.bytes().all(known);
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidClientName) }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A client in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientEntry {
    /// Its line, from 1.
    pub line: usize,
    /// Its key; that of the invitation if it is invited.
    pub key: Fingerprint,
    /// The name behind the key, for people.
    pub name: Option<String>,
    /// The addresses and networks that stand behind its name.
    pub prefixes: Vec<IpNet>,
    /// It is invited, until this time in seconds since 1970, and no client yet.
    pub invited_until: Option<u64>,
}

/// A clients' file cannot be edited as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientsError {
    /// The file cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Misuse: no line is of such a client.
    #[error("{0}: no client of that name or key (ovpn clients list shows all)")]
    NoClient(String),
    /// Misuse: the name is another client's.
    #[error("{0}: the client exists already (ovpn clients list shows all)")]
    NameTaken(ClientName),
    /// Misuse: as many invitations are open as there may be.
    #[error("{INVITATIONS} invitations are open: revoke some (ovpn clients revoke NAME)")]
    TooManyInvitations,
    /// The peer's: the invitation was never given, or is used, revoked or over.
    #[error("the invitation is not open")]
    NotInvited,
}

/// The file of a server's clients. A line is the client's key, a name for it, and the
/// addresses and networks that an `ovpn` server has for it, or `invited`, the key of an invitation, a name and
/// `until=` with a time. Lines that begin with `#`, and what no such word is, are for
/// people.
///
/// ```text
/// # the road warriors
/// o7s:ba3k-…  alice  10.0.0.7
/// o7s:k4zt-…  branch 10.0.0.8 172.16.2.0/24
/// invited o7s:xq2a-… bob until=2026-11-27T10:00:00Z
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientsFile(PathBuf);

impl ClientsFile {
    /// The file at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the file, with no client, if there is none.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn create(&self) -> Result<(), TrustError> {
        file::create(&self.0, HEADING.as_bytes(), false).map(drop)
    }

    /// The clients, in the order of the lines. Lines that make no sense are left out.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or others can change it.
    pub fn entries(&self) -> Result<Vec<ClientEntry>, TrustError> {
        let text = self.read()?;
        let entry = |(index, line)| {
            let parsed = ClientLine::parse(line).ok()??;
            let name = parsed.name.map(|at| String::from_utf8_lossy(&line[at]).into_owned());
            let ClientLine { key, prefixes, invited_until, .. } = parsed;
            Some(ClientEntry { line: index + 1, key, name, prefixes, invited_until })
        };
        Ok(text.split(|byte| *byte == b'\n').enumerate().filter_map(entry).collect())
    }

    /// Gives the clients with this name or key another name.
    ///
    /// # Errors
    ///
    /// There is none, or the name is another's; the file cannot be read or written, or
    /// others can change it.
    pub fn rename(&self, client: &str, name: &ClientName) -> Result<(), ClientsError> {
        self.edit(|lines| {
            let chosen = lines.matching(client)?;
            if lines.named(name.as_str()).iter().any(|taken| !chosen.contains(taken)) {
                return Err(ClientsError::NameTaken(name.clone()));
            }
            for index in chosen {
                lines.change(index, |line, bytes| match &line.name {
                    Some(at) => drop(bytes.splice(at.clone(), name.0.bytes())),
                    None => {
                        let at = line.head.end;
                        bytes.splice(at..at, format!(" {name}").into_bytes());
                    }
                });
            }
            Ok(())
        })
    }

    /// Removes the clients and invitations with this name or key; how many lines that
    /// were.
    ///
    /// # Errors
    ///
    /// There is none; the file cannot be read or written, or others can change it.
    pub fn revoke(&self, client: &str) -> Result<usize, ClientsError> {
        self.edit(|lines| {
            let chosen = lines.matching(client)?;
            chosen.iter().for_each(|index| lines.remove(*index));
            Ok(chosen.len())
        })
    }

    /// Adds an invitation for `name`, which is proved with `invited`'s key, at `now`
    /// (seconds since 1970). Whoever joins by it has `prefixes`: its addresses, and the
    /// networks behind it. Invitations that are over are removed.
    ///
    /// # Errors
    ///
    /// The name is in use, or there are too many invitations; the file cannot be read or
    /// written, or others can change it.
    pub fn invite(
        &self,
        name: &ClientName,
        invited: Invited,
        prefixes: &[IpNet],
        now: u64,
    ) -> Result<(), ClientsError> {
        self.edit(|lines| {
            lines.remove_where(|line| line.invited_until.is_some_and(|until| until <= now));
            if !lines.named(name.as_str()).is_empty() {
                return Err(ClientsError::NameTaken(name.clone()));
            }
            if lines.count(|line| line.invited_until.is_some()) >= INVITATIONS {
                return Err(ClientsError::TooManyInvitations);
            }
            let until = rfc3339(invited.until);
            let key = invited.key;
            let prefixes: String = prefixes.iter().map(|prefix| format!(" {prefix}")).collect();
            lines.append(format!("{INVITED} {key} {name}{prefixes} {UNTIL}{until}\n"));
            Ok(())
        })
    }

    /// Has the client with the key `client` take the place of the invitation with the key
    /// `invitation` at `now` (seconds since 1970). When it returns, that is on the disk. A
    /// client that is there already stays as it is.
    ///
    /// # Errors
    ///
    /// [`NotInvited`](ClientsError::NotInvited); the file cannot be read or written, or
    /// others can change it.
    pub fn join(
        &self,
        invitation: Fingerprint,
        client: Fingerprint,
        now: u64,
    ) -> Result<(), ClientsError> {
        self.edit(|lines| {
            if lines.count(|line| line.invited_until.is_none() && line.key == client) > 0 {
                return Ok(());
            }
            let open = |line: &ClientLine| {
                line.key == invitation && line.invited_until.is_some_and(|until| now < until)
            };
            let found = lines.indices(open);
            let index = *found.first().ok_or(ClientsError::NotInvited)?;
            lines.change(index, |line, bytes| {
                // From the end, so that the places in front stay.
                if let Some(at) = &line.until {
                    bytes.drain(at.clone());
                }
                bytes.splice(line.head.clone(), client.to_string().into_bytes());
            });
            Ok(())
        })
    }

    fn read(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, TrustError> {
        let missing = || TrustError::Io(self.0.clone(), rustix::io::Errno::NOENT.into());
        file::read(&self.0, Guard::Public, LARGEST)?.ok_or_else(missing)
    }

    /// Has the lines changed, all or nothing.
    fn edit<T>(
        &self,
        change: impl Fn(&mut Lines) -> Result<T, ClientsError>,
    ) -> Result<T, ClientsError> {
        file::edit(&self.0, LARGEST, || {
            let mut lines = Lines::of(&self.read()?);
            let outcome = change(&mut lines)?;
            Ok((Some(lines.0.concat()), outcome))
        })
    }
}

/// The lines of a file, each with its end.
struct Lines(Vec<Vec<u8>>);

impl Lines {
    fn of(text: &[u8]) -> Self {
        Self(text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
    }

    fn indices(&self, wanted: impl Fn(&ClientLine) -> bool) -> Vec<usize> {
        let parsed = |line: &Vec<u8>| ClientLine::parse(line).ok().flatten();
        let fits = |line: &Vec<u8>| parsed(line).is_some_and(|line| wanted(&line));
        (0..self.0.len()).filter(|index| fits(&self.0[*index])).collect()
    }

    fn count(&self, wanted: impl Fn(&ClientLine) -> bool) -> usize {
        self.indices(wanted).len()
    }

    /// Those of the clients called `name`.
    fn named(&self, name: &str) -> Vec<usize> {
        let named = |index: &usize| {
            let line = &self.0[*index];
            let parsed = ClientLine::parse(line).ok().flatten();
            parsed.and_then(|parsed| parsed.name).is_some_and(|at| line[at] == *name.as_bytes())
        };
        self.indices(|_| true).into_iter().filter(named).collect()
    }

    /// Those of the client with this name or key; one at least.
    fn matching(&self, client: &str) -> Result<Vec<usize>, ClientsError> {
        let found = match client.parse::<Fingerprint>() {
            Ok(key) => self.indices(|line| line.key == key),
            Err(_) => self.named(client),
        };
        if found.is_empty() { Err(ClientsError::NoClient(client.to_owned())) } else { Ok(found) }
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&ClientLine, &mut Vec<u8>)) {
        let bytes = &mut self.0[index];
        if let Ok(Some(line)) = ClientLine::parse(bytes) {
            change(&line, bytes);
        }
    }

    /// Leaves the indices of the others as they are.
    fn remove(&mut self, index: usize) {
        self.0[index].clear();
    }

    fn remove_where(&mut self, wanted: impl Fn(&ClientLine) -> bool) {
        self.indices(wanted).into_iter().for_each(|index| self.remove(index));
    }

    fn append(&mut self, line: String) {
        let last = self.0.iter_mut().rev().find(|line| !line.is_empty());
        if let Some(last) = last.filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        self.0.push(line.into_bytes());
    }
}

/// A line of a client or an invitation, and where its words are.
pub(super) struct ClientLine {
    pub(super) key: Fingerprint,
    /// `None`: a client.
    pub(super) invited_until: Option<u64>,
    prefixes: Vec<IpNet>,
    /// The key, and what stands in front of it.
    head: Range<usize>,
    name: Option<Range<usize>>,
    /// The time until which it is invited, with the space in front.
    until: Option<Range<usize>>,
}

impl ClientLine {
    /// `None`: the line is empty or a comment.
    pub(super) fn parse(line: &[u8]) -> Result<Option<Self>, &'static str> {
        let mut words = words(line);
        let Some(mut first) = words.next().filter(|at| line[at.start] != b'#') else {
            return Ok(None);
        };
        let begin = first.start;
        let invited = line[first.clone()] == *INVITED.as_bytes();
        if invited {
            first = words.next().ok_or("an invitation without a key")?;
        }
        let text = |at: &Range<usize>| str::from_utf8(&line[at.clone()]).ok();
        let key = text(&first).and_then(|text| text.parse().ok()).ok_or(if invited {
            "no key of an invitation follows its first word"
        } else {
            "it does not begin with a fingerprint"
        })?;
        let mut rest = words.take_while(|at| line[at.start] != b'#');
        let name = rest.next();
        let mut parsed = Self {
            key,
            invited_until: None,
            prefixes: Vec::new(),
            head: begin..first.end,
            name,
            until: None,
        };
        for at in rest {
            let Some(word) = text(&at) else { continue };
            if let (true, Some(time)) = (invited, word.strip_prefix(UNTIL)) {
                let time: DateTime =
                    time.parse().map_err(|_| "its time is none, such as 2026-11-27T10:00:00Z")?;
                parsed.invited_until = Some(time.unix_duration().as_secs());
                let space = line[..at.start].iter().rev().take_while(|b| b.is_ascii_whitespace());
                parsed.until = Some(at.start - space.count()..at.end);
            } else if let Some(prefix) = prefix(word) {
                parsed.prefixes.push(prefix);
            }
        }
        if invited && (parsed.name.is_none() || parsed.invited_until.is_none()) {
            return Err("an invitation without a name, or without until= and a time");
        }
        Ok(Some(parsed))
    }
}

/// Returns where the words of a line are.
fn words(line: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + line[at..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        let length = line[start..].iter().position(u8::is_ascii_whitespace);
        at = length.map_or(line.len(), |length| start + length);
        Some(start..at)
    })
}

fn prefix(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// A time in seconds since 1970, such as 2026-11-27T10:00:00Z.
fn rfc3339(seconds: u64) -> String {
    let time = DateTime::from_unix_duration(std::time::Duration::from_secs(seconds));
    // The last one that there is.
    time.unwrap_or(DateTime::INFINITY).to_string()
}
