//! Typed access to a TOML document. It notes every problem with its place instead of stopping at the first one.
//!
//! A [`Section`] is asked for its keys one by one. Those are the keys that it allows, and [`Section::finish`] refuses
//! all others. Nothing here knows the keys of a manifest.

use super::error::Problem;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most problems that are noted. A person fixes these first.
const PROBLEMS_MAX: usize = 100;

/// The longest text of a problem. Without a limit, the keys and values in it could be as long as the document.
const PROBLEM_BYTES_MAX: usize = 2_000;

/// A document, and the problems that were found so far.
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, problems: RefCell::default() }
    }

    /// Returns the path that the text was read from.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn problem(&self, span: Range<usize>, mut text: String) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        if text.len() > PROBLEM_BYTES_MAX {
            text.truncate(text.floor_char_boundary(PROBLEM_BYTES_MAX));
            text.push('…');
        }
        problems.push(Problem::at(self.path, self.text, span.start, text));
    }

    /// Returns all problems, in the order of the text.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// A key's value, with its dotted path for messages.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) path: String,
    pub(super) key_span: Range<usize>,
    pub(super) value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Entry<'a> {
    /// Notes that the value is not what the key expects.
    pub(super) fn expected(&self, expected: &str) {
        let text = format!("`{}` must be {expected}, found {}", self.path, describe(self.value.get_ref()));
        self.document.problem(self.value.span(), text);
    }

    /// Returns a text on one line. Control characters are refused: at a NUL a path would be cut off, and others would
    /// break the log that shows it.
    pub(super) fn text(&self, expected: &str) -> Option<&'a str> {
        self.text_without(expected, char::is_control)
    }

    /// Returns a text that may have several lines, such as an argument of a program or a certificate.
    pub(super) fn long_text(&self, expected: &str) -> Option<&'a str> {
        self.text_without(expected, |found| found == '\0')
    }

    fn text_without(&self, expected: &str, is_refused: impl Fn(char) -> bool) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) if !text.is_empty() => match text.chars().find(|found| is_refused(*found)) {
                None => Some(text),
                Some(found) => {
                    self.note(&format!("has the control character {found:?} in it: remove it"));
                    None
                }
            },
            _ => {
                self.expected(expected);
                None
            }
        }
    }

    /// Returns a text that `parse` accepts. The error of `parse` says what the value `must be`.
    pub(super) fn parse<T>(&self, expected: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        parse(self.text(expected)?).map_err(|cause| self.note(&cause)).ok()
    }

    /// Reads each item of a list. All items are read, so that each problem is noted.
    pub(super) fn each<T>(&self, expected: &str, read: impl Fn(&Entry<'a>) -> Option<T>) -> Option<Vec<T>> {
        let DeValue::Array(items) = self.value.get_ref() else {
            self.expected(expected);
            return None;
        };
        let item = |(index, value)| read(&Entry { value, path: format!("{}[{index}]", self.path), ..self.clone() });
        let items: Vec<Option<T>> = items.iter().enumerate().map(item).collect();
        items.into_iter().collect()
    }

    /// Notes a problem with the value. The cause completes a sentence about the key.
    pub(super) fn note(&self, cause: &str) {
        self.document.problem(self.value.span(), format!("`{}` {cause}", self.path));
    }

    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.value.get_ref() {
            DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.expected(&format!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn section(&self) -> Option<Section<'a>> {
        match self.value.get_ref() {
            DeValue::Table(table) => {
                let (document, path, span) = (self.document, self.path.clone(), self.key_span.clone());
                Some(Section { document, path, span, table, keys: Vec::new() })
            }
            _ => {
                self.expected("a section");
                None
            }
        }
    }
}

/// A table of the document.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    path: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    keys: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn root(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self { document, path: String::new(), span: 0..0, table, keys: Vec::new() }
    }

    /// Returns the last part of its path, for a section whose key is a name without dots.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Returns the value of an optional key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.keys.push(key);
        self.table.get_key_value(key).map(|(key, value)| self.entry(key.get_ref(), key.span(), value))
    }

    /// Returns the value of a key that was read before.
    pub(super) fn again(&self, key: &str) -> Option<Entry<'a>> {
        self.table.get_key_value(key).map(|(key, value)| self.entry(key.get_ref(), key.span(), value))
    }

    /// Returns the value of a required key.
    pub(super) fn need(&mut self, key: &'static str, what: &str) -> Option<Entry<'a>> {
        let entry = self.get(key);
        if entry.is_none() {
            self.missing(key, what);
        }
        entry
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &str, what: &str) {
        self.document.problem(self.span.clone(), format!("`{}` is missing: {what}", self.dotted(key)));
    }

    /// Returns one of a few choices, or the default.
    pub(super) fn choice<T: Copy + Default>(&mut self, key: &'static str, choices: &[(&str, T)]) -> T {
        let Some(entry) = self.get(key) else { return T::default() };
        let found = match entry.value.get_ref() {
            DeValue::String(text) => choices.iter().find(|(word, _)| word == text),
            _ => None,
        };
        if found.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            let (last, first) = words.split_last().expect("there are choices");
            entry.expected(&format!("{} or {last}", first.join(", ")));
        }
        found.map(|(_, choice)| *choice).unwrap_or_default()
    }

    /// Returns a whole number in a range, or the default.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, key: &'static str, range: RangeInclusive<u64>, default: T) -> T {
        let number = self.get(key).and_then(|entry| entry.number(range));
        number.and_then(|number| T::try_from(number).ok()).unwrap_or(default)
    }

    /// Returns the section under a key.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.get(key)?.section()
    }

    /// Notes a problem with the whole section. The cause completes a sentence about its key.
    pub(super) fn problem(&self, cause: &str) {
        self.document.problem(self.span.clone(), format!("`{}` {cause}", self.path));
    }

    /// Returns all entries, for a section whose keys are names that the author chose.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Entry<'a>)> {
        self.table.iter().map(|(key, value)| {
            let name: &str = key.get_ref();
            (name, self.entry(name, key.span(), value))
        })
    }

    fn entry(&self, name: &str, key_span: Range<usize>, value: &'a Spanned<DeValue<'a>>) -> Entry<'a> {
        Entry { document: self.document, path: self.dotted(name), key_span, value }
    }

    fn dotted(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let key = if bare { key.to_owned() } else { format!("{key:?}") };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Refuses the keys that were not read.
    pub(super) fn finish(self) {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if !self.keys.contains(&name) {
                let hint = nearest(name, &self.keys).map_or(String::new(), |near| format!("did you mean `{near}`? "));
                let text = format!("unknown key `{}`; {hint}valid keys: {}", self.dotted(name), self.keys.join(", "));
                self.document.problem(key.span(), text);
            }
        }
    }
}

/// Returns the candidate that is closest to `name`, if one is close enough to be what the author meant.
pub(crate) fn nearest<'k>(name: &str, candidates: &[&'k str]) -> Option<&'k str> {
    let likeness = |candidate: &&str| (strsim::jaro_winkler(name, candidate) * 1000.0) as u32;
    candidates.iter().copied().max_by_key(likeness).filter(|near| likeness(near) >= 750)
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(digits) => digits.to_string(),
        DeValue::Float(digits) => digits.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}
