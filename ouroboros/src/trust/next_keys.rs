//! Keys that servers have announced to be their next ones, inside flows that their present
//! keys have authenticated: until a server has shown its next key, either is taken for it,
//! and then only that one. Not here: the names whose servers are known (`known`), and the
//! announcement (`proto::hub`).

use std::path::{Path, PathBuf};

use super::{
    TrustError,
    file::{self, Guard},
};
use crate::{crypto::identity::Fingerprint, wire::Name};

/// Longest file in bytes: some ten thousand announcements.
const LARGEST: u64 = 1 << 20;
/// The first line of a file that was made here.
const HEADING: &str = "# A server's name, its key, and the next one, as the server announced it.\n";
/// The last word of a line whose next key the server has shown.
const SHOWN: &str = "shown";

/// A file of lines `NAME o7s:KEY o7s:NEXT`, with `shown` behind once the server has shown the
/// next key. Lines that make no sense are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextKeys(PathBuf);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Announcement {
    name: Name,
    key: Fingerprint,
    next: Fingerprint,
    shown: bool,
}

impl NextKeys {
    /// The file at `path`, whether or not there is one.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The keys to take for those of the server of `name`, where `keys` are trusted: with the
    /// next ones that it has announced, and without those that it has left.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or others can change it.
    pub fn accepted(
        &self,
        name: &Name,
        keys: &[Fingerprint],
    ) -> Result<Vec<Fingerprint>, TrustError> {
        let mut accepted = keys.to_vec();
        for line in self.read()?.iter().filter_map(|line| Announcement::parse(line)) {
            let Announcement { key, next, shown, .. } = line;
            if line.name != *name || !accepted.contains(&key) {
                continue;
            }
            if shown {
                accepted.retain(|accepted| *accepted != key);
            }
            if !accepted.contains(&next) {
                accepted.push(next);
            }
        }
        Ok(accepted)
    }

    /// Writes down what the server of `name`, whose key is `key`, has announced: its next key,
    /// or that there is none any more. Returns `true` if that is new.
    ///
    /// # Errors
    ///
    /// The name cannot be written down; the file cannot be read or written, or others can
    /// change it.
    pub fn announce(
        &self,
        name: &Name,
        key: Fingerprint,
        next: Option<Fingerprint>,
    ) -> Result<bool, TrustError> {
        let new = next.map(|next| Announcement { name: name.clone(), key, next, shown: false });
        if let Some(new) = &new
            && Announcement::parse(new.to_string().trim_end()).as_ref() != Some(new)
        {
            return Err(TrustError::Name(name.to_string()));
        }
        self.edit(|lines| {
            let open = |line: &Announcement| line.name == *name && line.key == key && !line.shown;
            let same = |line: &String| Announcement::parse(line) == new;
            if new.is_some() && lines.iter().any(same) {
                return false;
            }
            let before = lines.len();
            lines.retain(|line| !Announcement::parse(line).is_some_and(|line| open(&line)));
            lines.extend(new.iter().map(ToString::to_string));
            new.is_some() || lines.len() != before
        })
    }

    /// The server of `name` has shown `key`. Returns `true` if that was announced as its next
    /// one and shows for the first time: what it had before is not accepted any more.
    ///
    /// # Errors
    ///
    /// As for [`announce`](Self::announce).
    pub fn shown(&self, name: &Name, key: Fingerprint) -> Result<bool, TrustError> {
        let opens = |line: &String| {
            let parsed = Announcement::parse(line)?;
            (parsed.name == *name && parsed.next == key && !parsed.shown).then_some(parsed)
        };
        if !self.read()?.iter().any(|line| opens(line).is_some()) {
            return Ok(false);
        }
        self.edit(|lines| {
            let mut changed = false;
            for line in lines {
                if let Some(announcement) = opens(line) {
                    *line = Announcement { shown: true, ..announcement }.to_string();
                    changed = true;
                }
            }
            changed
        })
    }

    /// The lines.
    fn read(&self) -> Result<Vec<String>, TrustError> {
        let text = file::read(&self.0, Guard::Public, LARGEST)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Has the lines changed, all or nothing; what `change` returns: whether it has.
    fn edit(&self, change: impl Fn(&mut Vec<String>) -> bool) -> Result<bool, TrustError> {
        let mut none = self.read()?;
        if !self.0.exists() {
            if !change(&mut none) {
                return Ok(false);
            }
            file::make_folder(&self.0)?;
            file::create(&self.0, HEADING.as_bytes(), false)?;
        }
        file::edit(&self.0, LARGEST, || {
            let mut lines = self.read()?;
            let changed = change(&mut lines);
            let text = || lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            Ok((changed.then(|| text().into_bytes()), changed))
        })
    }
}

impl Announcement {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let (line, shown) = match line.strip_suffix(SHOWN) {
            Some(rest) => (rest.trim_end(), true),
            None => (line, false),
        };
        let (line, next) = line.rsplit_once(' ')?;
        let (name, key) = line.rsplit_once(' ')?;
        let comment = name.starts_with('#');
        let name = name.parse().ok().filter(|_| !comment)?;
        Some(Self { name, key: key.parse().ok()?, next: next.parse().ok()?, shown })
    }
}

impl std::fmt::Display for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, key, next, shown } = self;
        write!(f, "{name} {key} {next}")?;
        if *shown { write!(f, " {SHOWN}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use ouroboros_testing::Folder;

    use super::*;
    use crate::crypto::{SystemEntropy, identity::IdentityKey};

    fn key() -> Fingerprint {
        IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint()
    }

    #[test]
    fn either_key_is_accepted_until_the_next_one_was_shown() {
        let folder = Folder::new();
        let keys = NextKeys::at(folder.path().join("new/next_keys"));
        let (office, other): (Name, Name) =
            ("of fice".parse().expect("a name"), "other".parse().expect("a name"));
        let [first, second, third, stranger] = [key(), key(), key(), key()];
        let accepted = |name: &Name, known: Fingerprint| {
            keys.accepted(name, &[known]).expect("the file can be read")
        };
        assert!(!keys.announce(&office, first, None).expect("nothing to do"));
        assert!(!keys.shown(&office, first).expect("nothing to do") && !keys.path().exists());
        assert!(keys.announce(&office, first, Some(stranger)).expect("written"));
        // Another one in its place, which is told again.
        assert!(keys.announce(&office, first, Some(second)).expect("written"));
        assert!(!keys.announce(&office, first, Some(second)).expect("written"));
        assert_eq!(accepted(&office, first), [first, second]);
        assert_eq!(accepted(&other, first), [first]);
        assert_eq!(accepted(&office, stranger), [stranger]);
        assert!(!keys.shown(&office, first).expect("read"));
        assert!(keys.shown(&office, second).expect("written"));
        assert!(!keys.shown(&office, second).expect("read"), "once");
        assert_eq!(accepted(&office, first), [second]);
        // The next one, which is not to be any more.
        assert!(keys.announce(&office, second, Some(third)).expect("written"));
        assert_eq!(accepted(&office, first), [second, third]);
        assert!(keys.announce(&office, second, None).expect("written"));
        assert_eq!(accepted(&office, first), [second]);
        assert!(keys.announce(&office, second, Some(third)).expect("written"));
        assert!(keys.shown(&office, third).expect("written"));
        assert_eq!(accepted(&office, first), [third]);
        let comment: Name = "# x".parse().expect("a name");
        assert!(matches!(keys.announce(&comment, first, Some(second)), Err(TrustError::Name(_))));
    }
}
