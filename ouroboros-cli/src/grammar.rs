//! The words of `irm`: each may be cut to any unambiguous prefix, keyword pairs
//! come in any order. Words in, a typed command out; no file is read and no
//! daemon asked here.

mod command;
mod commands;
mod entry;
mod name;
mod read;
mod words;

pub use self::command::{Command, Shell, UsageError};
use self::commands::COMMANDS;

type Words<'a> = &'a [String];

/// The command that `words`, those behind `irm`, say.
///
/// # Errors
///
/// As [`UsageError`] says.
pub fn parse(words: Words<'_>) -> Result<Command, UsageError> {
    entry::parse(COMMANDS, words)
}

/// What help says of the command that `words` begin with; `None` of no words.
///
/// # Errors
///
/// They begin with none.
pub fn help(words: Words<'_>) -> Result<Option<String>, UsageError> {
    match entry::walk(COMMANDS, words) {
        Ok((path, entry)) => Ok(entry.map(|entry| entry.help(&path))),
        Err((_, error)) => Err(error),
    }
}

/// The command that `words` begin with, as far as it is one: `irm ipcp bootstrap`.
#[must_use]
pub fn command_of(words: Words<'_>) -> String {
    match entry::walk(COMMANDS, words) {
        Ok((path, _)) | Err((path, _)) => path,
    }
}

/// All commands, as the help of `irm` lists them.
#[must_use]
pub fn list() -> String {
    entry::list(COMMANDS, "irm")
}

/// The words that may stand behind `words`, where it is one of a few: what the
/// parser would have had there.
pub fn expected(words: Words<'_>) -> Vec<String> {
    match parse(&[words, &[String::new()]].concat()) {
        Err(UsageError::Unknown { word, expected }) if word.is_empty() => {
            // "the end of the command" is no word.
            let words = expected.split(", ").filter(|word| !word.contains(' '));
            words.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
