//! A table of a TOML file, value by value: each has a type and a line, and all that is
//! wrong is collected. Not here: which tables and keys there are.

use std::{cell::RefCell, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Something in a file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flaw {
    /// The line, from 1.
    pub line: usize,
    /// The reason why it cannot be used.
    pub reason: String,
}

/// The text of a file, and what is wrong in it.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    text: &'t str,
    flaws: RefCell<Vec<Flaw>>,
}

impl<'t> Source<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, flaws: RefCell::default() }
    }

    /// The line that `place` begins in.
    pub(crate) fn line(&self, place: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(place.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn wrong(&self, place: &Range<usize>, reason: impl Into<String>) {
        let flaw = Flaw { line: self.line(place), reason: reason.into() };
        self.flaws.borrow_mut().push(flaw);
    }

    /// Adds the errors of the text as TOML.
    pub(crate) fn collect(&self, errors: Vec<toml::de::Error>) {
        for error in errors {
            let place = error.span().unwrap_or_default();
            self.wrong(&place, error.message().replace('\n', " "));
        }
    }

    pub(crate) fn has_flaws(&self) -> bool {
        !self.flaws.borrow().is_empty()
    }

    /// Returns the flaws, in the order of the lines.
    pub(crate) fn into_flaws(self) -> Vec<Flaw> {
        let mut flaws = self.flaws.into_inner();
        flaws.sort();
        flaws
    }
}

/// A value, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Range<usize>,
}

/// A table that is called `title`, such as `[udp.wan]`.
pub(super) struct Table<'s, 't> {
    source: &'s Source<'t>,
    title: String,
    pub(super) place: Range<usize>,
    entries: Vec<(&'s str, Range<usize>, &'s Spanned<DeValue<'s>>)>,
    asked: Vec<&'static str>,
}

impl<'s, 't> Table<'s, 't> {
    pub(super) fn new(
        source: &'s Source<'t>,
        title: String,
        place: Range<usize>,
        table: &'s DeTable<'s>,
    ) -> Self {
        let entry = |(key, value): (&'s Spanned<_>, _)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.as_ref(), key.span(), value)
        };
        let entries = table.iter().map(entry).collect();
        Self { source, title, place, entries, asked: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.asked.push(key);
        let at = self.entries.iter().position(|(known, ..)| *known == key)?;
        Some(self.entries.remove(at).2)
    }

    fn take_as<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        of: impl FnOnce(&'s DeValue<'s>) -> Option<T>,
    ) -> Option<Placed<T>> {
        let found = self.take(key)?;
        let place = found.span();
        let value = of(found.get_ref());
        if value.is_none() {
            let is = found.get_ref().type_str();
            self.source.wrong(&place, format!("{key}: expected {kind}, not this {is}"));
        }
        Some(Placed { value: value?, place })
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<Placed<String>> {
        self.take_as(key, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.take_as(key, "true or false", DeValue::as_bool).is_some_and(|flag| flag.value)
    }

    pub(super) fn number(&mut self, key: &'static str, range: Range<u32>) -> Option<u16> {
        let number = self.take_as(key, "a number", DeValue::as_integer)?;
        let parsed = u32::from_str_radix(number.value.as_str(), number.value.radix()).ok();
        let fits = parsed.filter(|parsed| range.contains(parsed));
        if fits.is_none() {
            let (least, most) = (range.start, range.end - 1);
            self.source.wrong(&number.place, format!("{key}: not a number from {least} to {most}"));
        }
        u16::try_from(fits?).ok()
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<Placed<String>> {
        let kind = "a list of texts in quotes";
        let Some(list) = self.take_as(key, kind, DeValue::as_array) else { return Vec::new() };
        let mut texts = Vec::new();
        for item in list.value.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Placed { value: text.to_owned(), place: item.span() }),
                None => self.source.wrong(&item.span(), format!("{key}: expected {kind}")),
            }
        }
        texts
    }

    /// A key that 0.23 knows and this daemon cannot follow.
    pub(super) fn refuse(&mut self, key: &'static str, reason: &str) {
        let entry = self.entries.iter().position(|(known, ..)| *known == key);
        if let Some((_, place, _)) = entry.map(|at| self.entries.remove(at)) {
            self.source.wrong(&place, format!("{key}: {reason}"));
        }
    }

    /// Complains of every key that nobody has asked for.
    pub(super) fn end(self) {
        let known = self.asked.join(", ");
        for (key, place, _) in self.entries {
            let (key, title) = (key.escape_debug(), &self.title);
            self.source.wrong(&place, format!("{key}: not a key of {title}, which has {known}"));
        }
    }
}
