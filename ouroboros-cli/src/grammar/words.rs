//! Words of a command line: prefixes, keyword pairs, values. Not here: which
//! words make which command.

use std::ops::RangeInclusive;

use ouroboros::wire::Name;

use super::{UsageError, Words, entry::Arguments};

/// Keywords whose values are paths, and may be any bytes
/// ([`text_of_path`](ouroboros::daemon::protocol::text_of_path)).
const PATHS: [&str; 8] = ["program", "sencpath", "cencpath", "clients", "ca", "key", "cert", "in"];

/// The candidate that `word` is, or is an unambiguous beginning of.
pub(super) fn matching(
    word: &str,
    candidates: &[&'static str],
) -> Result<&'static str, UsageError> {
    text(word)?;
    if let Some(whole) = candidates.iter().find(|candidate| **candidate == word) {
        return Ok(whole);
    }
    let found: Vec<_> = candidates.iter().filter(|c| c.starts_with(word)).copied().collect();
    match (word, &found[..]) {
        ("", _) | (_, []) => {
            Err(UsageError::Unknown { word: word.to_owned(), expected: candidates.join(", ") })
        }
        (_, [one]) => Ok(one),
        _ => Err(UsageError::Ambiguous { word: word.to_owned(), candidates: found.join(" or ") }),
    }
}

pub(super) fn one_of(
    keyword: &'static str,
    value: String,
    candidates: &[&'static str],
    reason: &'static str,
) -> Result<&'static str, UsageError> {
    matching(&value, candidates).map_err(|error| match error {
        UsageError::Unknown { .. } => UsageError::Value { keyword, value, reason },
        other => other,
    })
}

/// Fails if a word is not UTF-8.
fn text(word: &str) -> Result<(), UsageError> {
    if word.contains('\0') { Err(UsageError::NotUtf8(word.to_owned())) } else { Ok(()) }
}

/// The text, if it is a name that flows can be allocated to.
pub(super) fn flow_name(value: String) -> Result<String, UsageError> {
    text(&value)?;
    match value.parse::<Name>() {
        Ok(_) => Ok(value),
        Err(_) => {
            let reason = "1 to 255 bytes without control characters make a name";
            Err(UsageError::Value { keyword: "name", value, reason })
        }
    }
}

pub(super) fn take<'a>(
    words: Words<'a>,
    candidates: &[&'static str],
) -> Result<(&'static str, Words<'a>), UsageError> {
    let (word, rest) =
        words.split_first().ok_or_else(|| UsageError::Missing(candidates.join(", ")))?;
    Ok((matching(word, candidates)?, rest))
}

pub(super) fn value<'a>(words: Words<'a>, what: &str) -> Result<(String, Words<'a>), UsageError> {
    let (word, rest) = words.split_first().ok_or_else(|| UsageError::Missing(what.to_owned()))?;
    Ok((word.clone(), rest))
}

/// A name that stands without its keyword.
pub(super) fn named(words: Words<'_>) -> Result<(String, Words<'_>), UsageError> {
    let (name, rest) = value(words, "a name")?;
    Ok((flow_name(name)?, rest))
}

pub(super) fn nothing_more(words: Words<'_>) -> Result<(), UsageError> {
    match words.first() {
        None => Ok(()),
        Some(word) => Err(UsageError::Unknown {
            word: word.clone(),
            expected: "the end of the command".to_owned(),
        }),
    }
}

/// Keywords with their values.
pub(super) struct Pairs(Vec<(&'static str, String)>);

impl Pairs {
    /// Those of a command: any of its keywords, in any order.
    pub(super) fn parse(mut words: Words<'_>, arguments: &Arguments) -> Result<Self, UsageError> {
        let (keywords, flags) = arguments.keywords();
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        let candidates = [&keywords[..], &flags[..]].concat();
        while !words.is_empty() {
            let (keyword, rest) = take(words, &candidates)?;
            let (value, rest) = match flags.contains(&keyword) {
                true => (String::new(), rest),
                false => value(rest, &format!("a value behind {keyword}"))?,
            };
            if !PATHS.contains(&keyword) {
                text(&value)?;
            }
            if pairs.iter().any(|(known, _)| *known == keyword) {
                return Err(UsageError::Twice(keyword));
            }
            pairs.push((keyword, value));
            words = rest;
        }
        Ok(Self(pairs))
    }

    pub(super) fn take(&mut self, keyword: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == keyword)?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn need(&mut self, keyword: &'static str) -> Result<String, UsageError> {
        self.take(keyword).ok_or_else(|| UsageError::Missing(format!("{keyword} and its value")))
    }

    /// A number of those, in hexadecimal with 0x in front.
    pub(super) fn number<T: TryFrom<u32>>(
        &mut self,
        keyword: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<T>, UsageError> {
        let Some(value) = self.take(keyword) else { return Ok(None) };
        let number = match value.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        };
        match number.filter(|number| range.contains(number)).and_then(|n| T::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => {
                let (least, most) = range.into_inner();
                Err(UsageError::Number { keyword, value, least, most })
            }
        }
    }

    pub(super) fn end(&self, expected: &str) -> Result<(), UsageError> {
        match self.0.first() {
            None => Ok(()),
            Some((keyword, _)) => Err(UsageError::Unknown {
                word: (*keyword).to_owned(),
                expected: expected.to_owned(),
            }),
        }
    }
}
