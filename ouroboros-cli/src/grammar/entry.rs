//! What a command of `irm` consists of: its word, its keywords, how its other words are
//! read, and what help says of it. The grammar, help, the man page and completions all have
//! it from here. Not here: which commands there are (`commands`).

use std::fmt::Write;

use super::{Command, UsageError, Words, words::matching};

/// Columns of help.
const WIDTH: usize = 90;

/// A command, or a group of commands.
pub(super) struct Entry {
    /// Its word.
    pub(super) word: &'static str,
    /// A beginning of the word that means this entry, though others begin so, too.
    pub(super) short: Option<&'static str>,
    /// What it does, in a few words.
    pub(super) about: &'static str,
    /// What stands behind its word.
    pub(super) behind: Behind,
}

/// What stands behind a word.
pub(super) enum Behind {
    /// The word of another entry.
    Entries(&'static [Entry]),
    /// All that a command needs.
    Arguments(Arguments),
}

/// What a command needs.
pub(super) struct Arguments {
    /// Words without a keyword, as help shows them.
    pub(super) operands: &'static str,
    /// Keywords, in any order.
    pub(super) keywords: &'static [Keyword],
    /// A command that works somewhere.
    pub(super) example: &'static str,
    /// Makes a command of the words behind the entry's.
    pub(super) parse: fn(Words<'_>, &Arguments) -> Result<Command, UsageError>,
}

/// A keyword.
pub(super) struct Keyword {
    /// Its word.
    pub(super) word: &'static str,
    /// What its value is, as help shows it; empty if it stands alone.
    pub(super) value: &'static str,
    /// The command makes no sense without it.
    pub(super) required: bool,
    /// What it means.
    pub(super) about: &'static str,
}

impl Keyword {
    pub(super) const fn required(
        word: &'static str,
        value: &'static str,
        about: &'static str,
    ) -> Self {
        Self { word, value, required: true, about }
    }

    pub(super) const fn optional(
        word: &'static str,
        value: &'static str,
        about: &'static str,
    ) -> Self {
        Self { word, value, required: false, about }
    }

    /// One that stands without a value.
    pub(super) const fn flag(word: &'static str, about: &'static str) -> Self {
        Self { word, value: "", required: false, about }
    }

    /// The word, and the value if it has one.
    fn pair(&self) -> String {
        format!("{} {}", self.word, self.value).trim_end().to_owned()
    }

    fn usage(&self) -> String {
        if self.required { self.pair() } else { format!("[{}]", self.pair()) }
    }
}

impl Arguments {
    /// The words of the keywords that have a value, and of those that have none.
    pub(super) fn keywords(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let (flags, pairs): (Vec<_>, Vec<_>) =
            self.keywords.iter().partition(|keyword| keyword.value.is_empty());
        let words = |keywords: Vec<&Keyword>| keywords.iter().map(|keyword| keyword.word).collect();
        (words(pairs), words(flags))
    }
}

/// The entry that the first of `words` means, and the words behind it.
///
/// # Errors
///
/// It means none, or several.
pub(super) fn find<'a>(
    entries: &'static [Entry],
    words: Words<'a>,
) -> Result<(&'static Entry, Words<'a>), UsageError> {
    let all: Vec<_> = entries.iter().map(|entry| entry.word).collect();
    let (word, rest) = words.split_first().ok_or_else(|| UsageError::Missing(all.join(", ")))?;
    let short = entries.iter().find(|entry| entry.short == Some(word.as_str()));
    let found = match short {
        Some(entry) => entry,
        None => {
            let whole = matching(word, &all)?;
            let entry = entries.iter().find(|entry| entry.word == whole);
            entry.ok_or_else(|| UsageError::Missing(all.join(", ")))?
        }
    };
    Ok((found, rest))
}

/// The command that `words` say.
///
/// # Errors
///
/// As [`UsageError`] says.
pub(super) fn parse(entries: &'static [Entry], words: Words<'_>) -> Result<Command, UsageError> {
    let (entry, rest) = find(entries, words)?;
    match &entry.behind {
        Behind::Entries(entries) => parse(entries, rest),
        Behind::Arguments(arguments) => (arguments.parse)(rest, arguments),
    }
}

/// The path of the entry that the beginning of `words` means, and the entry; `None` in front
/// of the first word.
///
/// # Errors
///
/// A word where an entry's is expected is none.
pub(super) fn walk(
    mut entries: &'static [Entry],
    mut words: Words<'_>,
) -> Result<(String, Option<&'static Entry>), (String, UsageError)> {
    let (mut path, mut last) = ("irm".to_owned(), None);
    while !words.is_empty() {
        let (entry, rest) = find(entries, words).map_err(|error| (path.clone(), error))?;
        let _ = write!(path, " {}", entry.word);
        last = Some(entry);
        match &entry.behind {
            Behind::Entries(behind) => (entries, words) = (behind, rest),
            Behind::Arguments(_) => break,
        }
    }
    Ok((path, last))
}

impl Entry {
    /// What help says of the entry at `path`.
    pub(super) fn help(&self, path: &str) -> String {
        let mut help = format!("{path}\n    {}\n", wrapped(self.about, 4));
        match &self.behind {
            Behind::Entries(entries) => {
                let _ = write!(help, "\nUSAGE:\n    {path} COMMAND\n\nCOMMANDS:\n");
                let shown = entries.iter().map(|entry| (entry.word.to_owned(), entry.about));
                help.push_str(&table(shown));
                let _ = write!(help, "\n{path} COMMAND --help says more of one.\n");
            }
            Behind::Arguments(arguments) => {
                let usage = wrapped(&arguments.usage(path), 8);
                let _ = write!(help, "\nUSAGE:\n    {usage}\n");
                if !arguments.keywords.is_empty() {
                    let shown = arguments.keywords.iter();
                    let shown = shown.map(|keyword| (keyword.pair(), keyword.about));
                    let _ = write!(help, "\nKEYWORDS, in any order:\n{}", table(shown));
                }
                let _ = write!(help, "\nEXAMPLE:\n    {}\n", arguments.example);
                help.push_str(
                    "\nWords may be cut to any unambiguous beginning. irm --help lists all commands.\n",
                );
            }
        }
        help
    }
}

impl Arguments {
    fn usage(&self, path: &str) -> String {
        let keywords = self.keywords.iter().map(Keyword::usage);
        let words = [path.to_owned(), self.operands.to_owned()].into_iter().chain(keywords);
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// All commands with their usage, as the help of the whole tool lists them.
pub(super) fn list(entries: &[Entry], path: &str) -> String {
    entries.iter().fold(String::new(), |mut text, entry| {
        let path = format!("{path} {}", entry.word);
        match &entry.behind {
            Behind::Entries(entries) => text.push_str(&list(entries, &path)),
            Behind::Arguments(arguments) => {
                let (usage, about) = (wrapped(&arguments.usage(&path), 8), wrapped(entry.about, 8));
                let _ = write!(text, "    {usage}\n        {about}\n");
            }
        }
        text
    })
}

/// Lines of a word and what it means.
fn table(rows: impl Iterator<Item = (String, &'static str)>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (word, about)| {
        let _ = writeln!(text, "    {word:width$}  {}", wrapped(about, width + 6));
        text
    })
}

/// The text in lines of which all but the first begin with `indent` spaces. What is in
/// brackets stays in one line.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let (mut column, mut open) = (indent, false);
    for word in text.split(' ') {
        // A pair in brackets is broken before it only.
        let length = match word.strip_prefix('[') {
            Some(_) => {
                text[text.find(word).unwrap_or(0)..].find(']').map_or(word.len(), |at| at + 1)
            }
            None => word.len(),
        };
        if column > indent && !open && column + 1 + length > WIDTH {
            let _ = write!(lines, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += word.len();
        open = (open || word.starts_with('[')) && !word.contains(']');
    }
    lines
}
