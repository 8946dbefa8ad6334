//! `ovpn.toml`: tunnels, each a table `[tunnel.NAME]` whose keys are the options of the
//! command line. The tables of `irmd.conf` may be in the same file. All that is wrong in a
//! file is told, each with its line. Not here: what the options mean (`arguments`).

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use ouroboros::trust::{ClientName, write_whole};
use structopt::{
    StructOpt,
    clap::{Error as ClapError, ErrorKind},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::arguments::Arguments;
use crate::{
    configuration::{self, BadFile, Flaw, Source, quoted},
    usage,
};

/// The tables of tunnels.
pub(crate) const TUNNELS: &str = "tunnel";
/// The line above a table that a program has written, and may write anew.
const WRITTEN: &str = "# Written by ovpn:";
/// Options whose relative paths are relative to the file's folder.
const PATHS: [&str; 2] = ["ca", "leases"];
/// Options that are for the command line alone.
const NOT_KEYS: [&str; 6] =
    ["config", "save", "help", "version", "generate-man", "generate-completions"];

/// The tunnels of a file.
#[derive(Default)]
pub struct Tunnels {
    tunnels: BTreeMap<String, Arguments>,
    /// The flaws of the file, in the order of the lines. A tunnel whose table has a flaw is not
    /// among the tunnels.
    pub flaws: Vec<Flaw>,
}

impl Tunnels {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or others can write to it.
    pub fn read(path: &Path) -> Result<Self, BadFile> {
        configuration::read(path, |text, folder| Ok(Self::parse(text, folder)))
    }

    /// Parses the text of a file that is in `folder`.
    #[must_use]
    pub fn parse(text: &str, folder: &Path) -> Self {
        let source = Source::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        source.collect(errors);
        let mut found = Self::default();
        // What is left of a text that is no TOML would only add to the confusion.
        if !source.has_flaws() {
            for (kind, tables) in root.get_ref() {
                found.tables(&source, folder, kind, tables);
            }
        }
        found.flaws = source.into_flaws();
        found
    }

    fn tables<'s>(
        &mut self,
        source: &Source<'_>,
        folder: &Path,
        kind: &Spanned<Cow<'s, str>>,
        tables: &'s Spanned<DeValue<'s>>,
    ) {
        let (name, place) = (kind.get_ref().as_ref(), kind.span());
        if configuration::TABLES.contains(&name) {
            return;
        }
        let tables = tables.get_ref().as_table().filter(|_| name == TUNNELS);
        let Some(tables) = tables else {
            let name = name.escape_debug();
            source.wrong(&place, format!("{name}: expected tables [{TUNNELS}.NAME]"));
            return;
        };
        for (name, table) in tables {
            let (name, place) = (name.get_ref().as_ref(), name.span());
            let shown = name.escape_debug();
            let Some(table) = table.get_ref().as_table() else {
                source.wrong(&place, format!("{shown}: expected a table [{TUNNELS}.NAME]"));
                continue;
            };
            if let Err(error) = name.parse::<ClientName>() {
                source.wrong(&place, format!("{shown}: no name of a tunnel here: {error}"));
                continue;
            }
            let table = TunnelTable { source, folder, place, table };
            self.tunnels.extend(table.parse().map(|tunnel| (name.to_owned(), tunnel)));
        }
    }

    /// The tunnels' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tunnels.keys().map(String::as_str)
    }

    /// Takes the tunnel called `name`; the only one if there is no name.
    ///
    /// # Errors
    ///
    /// There is none, or there are several; in one line, what there is.
    pub fn take(&mut self, name: Option<&str>) -> Result<(String, Arguments), String> {
        let known = self.names().collect::<Vec<_>>().join(", ");
        let found = match name {
            Some(name) => self.tunnels.remove_entry(name),
            None if self.tunnels.len() == 1 => self.tunnels.pop_first(),
            None => None,
        };
        found.ok_or_else(|| match name {
            _ if known.is_empty() => format!("there is no tunnel, as a table [{TUNNELS}.NAME]"),
            Some(name) => format!("there is no tunnel {}, but {known}", name.escape_debug()),
            None => format!("there are several tunnels, say which: {known}"),
        })
    }
}

/// A table, and where it stands.
struct TunnelTable<'s, 't> {
    source: &'s Source<'t>,
    folder: &'s Path,
    place: Range<usize>,
    table: &'s DeTable<'s>,
}

impl TunnelTable<'_, '_> {
    /// The tunnel; `None` if something is wrong with it, which is told.
    fn parse(&self) -> Option<Arguments> {
        let mut words = vec!["ovpn".to_owned()];
        let mut sound = true;
        for (key, value) in self.table {
            match self.words(key.get_ref(), value.get_ref()) {
                Ok(more) => words.extend(more),
                Err(reason) => {
                    self.source.wrong(&value.span(), reason);
                    sound = false;
                }
            }
        }
        if !sound {
            return None;
        }
        let failed = |error: ClapError| self.source.wrong(&self.place, usage(&error.message));
        let tunnel = Arguments::from_iter_safe(words).map_err(failed).ok()?;
        let Err(wrong) = tunnel.settings() else { return Some(tunnel) };
        for misuse in wrong {
            let entry = self.table.iter().find(|(key, _)| key.get_ref() == misuse.option);
            let place = entry.map_or(self.place.clone(), |(_, value)| value.span());
            self.source.wrong(&place, format!("{}: {}", misuse.option, misuse.reason));
        }
        None
    }

    /// A key and its value as words of the command line.
    fn words(&self, key: &str, value: &DeValue<'_>) -> Result<Vec<String>, String> {
        let shown = key.escape_debug();
        if NOT_KEYS.contains(&key) || key.len() < 2 || key.starts_with('-') || key.contains('=') {
            return Err(format!("{shown}: not an option of a tunnel (ovpn --help lists them)"));
        }
        let parsed = |word: &str| Arguments::from_iter_safe(["ovpn", word]);
        let alone = format!("--{key}");
        let is_flag = match parsed(&alone) {
            Err(error) if error.kind == ErrorKind::UnknownArgument => {
                return Err(format!("{shown}: not an option of ovpn (ovpn --help lists them)"));
            }
            outcome => outcome.is_ok_and(|given| {
                given.options().iter().any(|(option, values)| *option == key && values.is_empty())
            }),
        };
        let with = |value: &str| {
            let value = match PATHS.contains(&key) {
                true => self.folder.join(value).display().to_string(),
                false => value.to_owned(),
            };
            let word = format!("--{key}={value}");
            match parsed(&word) {
                Ok(_) => Ok(word),
                Err(error) => Err(format!("{shown}: {}", usage(&error.message))),
            }
        };
        let expected =
            |kind: &str| format!("{shown}: expected {kind}, not this {}", value.type_str());
        match value {
            DeValue::Boolean(given) if is_flag => Ok(given.then_some(alone).into_iter().collect()),
            _ if is_flag => Err(expected("true or false")),
            DeValue::String(value) => Ok(vec![with(value)?]),
            DeValue::Integer(value) => Ok(vec![with(value.as_str())?]),
            DeValue::Array(values) => {
                let text = |item: &Spanned<DeValue<'_>>| match item.get_ref().as_str() {
                    Some(value) => with(value),
                    None => Err(format!("{shown}: expected a list of texts in quotes")),
                };
                values.iter().map(text).collect()
            }
            _ => Err(expected("a text in quotes")),
        }
    }
}

/// The file that tunnels are remembered in.
pub(super) struct TunnelsFile(PathBuf);

impl TunnelsFile {
    /// The one of this user.
    pub(super) fn of_user() -> Result<Self, ouroboros::trust::TrustError> {
        let folder = ouroboros::trust::TrustFolder::of_user()?;
        Ok(Self(folder.path().join("ovpn.toml")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns where the tunnel's table would go, with the rest of the file around it.
    ///
    /// # Errors
    ///
    /// There is one that a person has written, or the file cannot be read, in one line.
    pub(super) fn around(&self, tunnel: &ClientName) -> Result<(String, String), String> {
        let path = self.0.display();
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{path}: {error}")),
        };
        if !text.is_empty() {
            let flaws = Tunnels::read(&self.0).map_err(|error| error.to_string())?.flaws;
            if !flaws.is_empty() {
                return Err(BadFile::Flaws(self.0.clone(), flaws).to_string());
            }
        }
        let title = title(tunnel);
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let Some(at) = lines.iter().position(|line| line.trim_end() == title) else {
            let empty = text.is_empty() || text.ends_with("\n\n");
            let space = if empty {
                ""
            } else if text.ends_with('\n') {
                "\n"
            } else {
                "\n\n"
            };
            return Ok((text + space, String::new()));
        };
        let begin = at.checked_sub(1).filter(|above| lines[*above].starts_with(WRITTEN));
        let Some(begin) = begin else {
            return Err(format!(
                "{path}, line {}: there is a tunnel {tunnel} already: remove or rename it first",
                at + 1
            ));
        };
        let is_next = |line: &&str| line.starts_with('[') || line.starts_with('#');
        let end = lines[at + 1..].iter().position(is_next).map_or(lines.len(), |end| at + 1 + end);
        Ok((lines[..begin].concat(), lines[end..].concat()))
    }

    /// Puts a tunnel into the file, in the place of one of that name that was put there.
    pub(super) fn put(
        &self,
        tunnel: &ClientName,
        by: &str,
        options: &Arguments,
    ) -> Result<(), String> {
        let (before, after) = self.around(tunnel)?;
        let mut table = format!("{WRITTEN} {by}.\n{}\n", title(tunnel));
        for (option, values) in options.options() {
            let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
            let value = match &values[..] {
                [] => "true".to_owned(),
                [value] => value.clone(),
                values => format!("[{}]", values.join(", ")),
            };
            table += &format!("{option} = {value}\n");
        }
        let space = if after.is_empty() { "" } else { "\n" };
        let failed = |error: io::Error| format!("{}: {error}", self.0.display());
        if let Some(folder) = self.0.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        write_whole(&self.0, format!("{before}{table}{space}{after}").as_bytes()).map_err(failed)
    }
}

fn title(tunnel: &ClientName) -> String {
    let bare = !tunnel.as_str().contains('.');
    let name = if bare { tunnel.to_string() } else { quoted(tunnel.as_str()) };
    format!("[{TUNNELS}.{name}]")
}

#[cfg(test)]
mod tests {
    use ouroboros_testing::Folder;

    use super::*;

    fn options(tunnel: &Arguments) -> String {
        let option =
            |(option, values): (&str, Vec<String>)| format!("{option}={}", values.join(","));
        tunnel.options().into_iter().map(option).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_table_has_the_options_of_the_command_line() {
        let text = r#"
            [udp.wan]                       # irmd's
            bootstrap = "internet"
            [tunnel.office]
            serve = "office"
            ip = ["10.0.0.1/24", "fd00::1/64"]
            route = "192.168.7.0/24"
            forward = true
            masquerade = false
            lanes = 2
            leases = "leases/office"
            [tunnel."home.net"]
            name = "home"
            ip = "server"
            server = "vpn.example.org:4000"
            accept-routes = true
        "#;
        let mut tunnels = Tunnels::parse(text, Path::new("/etc/o"));
        assert_eq!(tunnels.flaws, []);
        assert!(tunnels.take(None).is_err_and(|why| why.ends_with("which: home.net, office")));
        let (_, office) = tunnels.take(Some("office")).expect("there");
        let expected = "serve=office ip=10.0.0.1/24,fd00::1/64 route=192.168.7.0/24 forward= \
                        leases=/etc/o/leases/office lanes=2";
        assert_eq!(options(&office), expected);
        let (name, home) = tunnels.take(None).expect("the only one left");
        let expected = "name=home ip=server server=vpn.example.org:4000 accept-routes=";
        assert_eq!((name.as_str(), options(&home).as_str()), ("home.net", expected));
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line_and_the_others_are_there() {
        let text = "[tunnel.a]\n\
                    ip = \"10.0.0.1\"\n\
                    timeout = 0\n\
                    [tunnel.b]\n\
                    frob = true\n\
                    ip = 10.0\n\
                    forward = \"yes\"\n\
                    [tunnel.c]\n\
                    name = \"c\"\n\
                    ip = \"10.0.0.1\"\n\
                    route = [\"10.7.0.0/16\", 7]\n\
                    [tunnel.d]\n\
                    name = \"d\"\n\
                    ip = \"10.0.0.300/24\"\n\
                    dns = \"10.0.0.1\"\n\
                    [tunnel.e]\n\
                    crypt = true\n\
                    [tunnel.\"f g\"]\n\
                    [tunel.h]\n\
                    [tunnel.sound]\n\
                    ip = \"10.0.0.1/24\"\n\
                    [tunnel.i]\n\
                    config = \"x\"\n";
        let mut tunnels = Tunnels::parse(text, Path::new("/"));
        let begins = [
            (3, "timeout: Invalid value for '--timeout <SECONDS>': not a number of seconds"),
            (5, "frob: not an option of ovpn"),
            (6, "ip: expected a text in quotes, not this float"),
            (7, "forward: expected true or false, not this string"),
            (11, "route: expected a list of texts in quotes"),
            (14, "ip: 10.0.0.300/24"),
            (15, "dns: this is for servers, and --name d is a client's"),
            (16, "ip: the address of the tunnel's device is missing"),
            (18, "f g: no name of a tunnel"),
            (19, "tunel: expected tables [tunnel.NAME]"),
            (23, "config: not an option of a tunnel"),
        ];
        let found = &tunnels.flaws;
        assert_eq!(found.len(), begins.len(), "{found:#?}");
        for (flaw, (line, begin)) in found.iter().zip(begins) {
            assert!(flaw.line == line && flaw.reason.starts_with(begin), "{begin}: {flaw:?}");
        }
        assert!(tunnels.take(Some("sound")).is_ok());
        for (text, line) in [("[tunnel.a]\nip = x\n", 2), ("[tunnel.a]\n[tunnel.a]\n", 2)] {
            let flaws = Tunnels::parse(text, Path::new("/")).flaws;
            assert_eq!((flaws.len(), flaws[0].line), (1, line), "{flaws:?}");
        }
    }

    #[test]
    fn a_tunnel_is_put_beside_what_people_have_written_and_never_over_it() {
        let folder = Folder::new();
        let file = TunnelsFile(folder.path().join("new/ovpn.toml"));
        let tunnel =
            |words: &str| Arguments::from_iter_safe(words.split_whitespace()).expect("options");
        let (home, other) = ("home".parse().unwrap(), "other.net".parse().unwrap());
        file.put(&home, "join", &tunnel("ovpn -n home --ip server --wait")).expect("put");
        file.put(&other, "join", &tunnel("ovpn -n o --ip 10.0.0.2/24 --ip fd00::2/64"))
            .expect("put");
        let text = fs::read_to_string(file.path()).expect("read");
        fs::write(file.path(), format!("{text}\n# Mine.\n[tunnel.mine]\nip = \"10.1.0.1/24\"\n"))
            .expect("written");
        file.put(&home, "join", &tunnel("ovpn -n home --ip server")).expect("put again");
        let text = fs::read_to_string(file.path()).expect("read");
        let expected = "# Written by ovpn: join.\n[tunnel.home]\nname = \"home\"\nip = \"server\"\n\
                        \n\
                        # Written by ovpn: join.\n[tunnel.\"other.net\"]\nname = \"o\"\n\
                        ip = [\"10.0.0.2/24\", \"fd00::2/64\"]\n\
                        \n\
                        # Mine.\n[tunnel.mine]\nip = \"10.1.0.1/24\"\n";
        assert_eq!(text, expected);
        let refused = file.put(&"mine".parse().unwrap(), "join", &tunnel("ovpn --ip server"));
        assert!(refused.is_err_and(|why| why.contains("line 12: there is a tunnel mine already")));
        assert_eq!(Tunnels::read(file.path()).expect("read").names().count(), 3);
        fs::write(file.path(), "[tunnel\n").expect("written");
        assert!(file.put(&home, "join", &tunnel("ovpn --ip server")).is_err());
    }
}
