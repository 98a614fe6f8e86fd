//! Comparing what is expected with what happened, and showing the difference. It is the same for cases and flows.

use serde_json::Value as Json;
use similar::TextDiff;

/// Compares two texts line by line. Lines of both begin with a space, lines of only the first with `-`, and lines of
/// only the second with `+`.
pub(crate) fn difference(first: &str, second: &str) -> String {
    let (first, second): (Vec<_>, Vec<_>) = (first.lines().collect(), second.lines().collect());
    let diff = TextDiff::from_slices(&first, &second);
    let lines = diff.iter_all_changes().map(|change| format!("{} {}", change.tag(), change.value()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Compares two texts, and shows the difference if they are not the same. `things` says what they are, with its verb.
pub(crate) fn same(things: &str, expected: &str, actual: &str) -> Result<(), String> {
    if expected == actual {
        return Ok(());
    }
    let difference = difference(expected, actual);
    Err(format!("{things} not the expected ones; missing lines have -, unexpected lines have +:\n{difference}"))
}

/// Compares the answer of a query.
pub(crate) fn same_answer(expected: &Json, actual: &Json) -> Result<(), String> {
    if expected == actual {
        return Ok(());
    }
    let difference = difference(&format!("{expected:#}"), &format!("{actual:#}"));
    Err(format!("the answer is not the expected one; missing lines have -, unexpected lines have +:\n{difference}"))
}

/// Checks that a reason contains a text. `what` says what has the reason.
pub(crate) fn contains(what: &str, part: &str, reason: &str) -> Result<(), String> {
    if reason.contains(part) {
        return Ok(());
    }
    Err(format!("expected {what} with the text after -, got the text after +:\n- {part}\n+ {reason}"))
}

/// Returns a payload in a readable form: as JSON if it is JSON, and as text otherwise.
pub(crate) fn readable(payload: &[u8]) -> Json {
    serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into())
}

/// Returns the number of things in words.
pub(crate) fn count(things: usize, one: &str) -> String {
    match things {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// Something that is expected: its kind, what it is for, and the parts that the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kind: &'static str,
    pub(crate) of: String,
    pub(crate) parts: Vec<(String, String)>,
}

/// Something that happened, with all its parts.
#[derive(Clone, Debug)]
pub(crate) struct Found<'f> {
    pub(crate) kind: &'static str,
    pub(crate) of: String,
    pub(crate) parts: Vec<(String, Part<'f>)>,
}

/// A part of something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Part<'f> {
    /// There is no such part.
    None,
    /// A part that is shown as this text.
    Text(String),
    /// A body of HTTP, which is shown as text if it is expected as text.
    Body(&'f [u8]),
}

/// What stands before a body that is text.
const TEXT: &str = "text ";

impl Wanted {
    /// Makes something that is expected, of the parts that are there.
    pub(crate) fn new<const N: usize>(
        kind: &'static str,
        of: impl ToString,
        parts: [(&'static str, Option<String>); N],
    ) -> Self {
        let parts = parts.into_iter().filter_map(|(name, part)| part.map(|part| (name.to_owned(), part))).collect();
        Self { kind, of: of.to_string(), parts }
    }

    /// Shows the kind and the parts.
    pub(crate) fn shown(&self) -> String {
        shown(self.kind, &self.parts)
    }

    /// Shows the kind, what it is for, and the parts.
    pub(crate) fn line(&self) -> String {
        shown(&format!("{} {}", self.kind, self.of), &self.parts)
    }
}

impl<'f> Found<'f> {
    /// Makes something that happened.
    pub(crate) fn new<const N: usize>(
        kind: &'static str,
        of: impl ToString,
        parts: [(&'static str, Part<'f>); N],
    ) -> Self {
        let parts = parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect();
        Self { kind, of: of.to_string(), parts }
    }

    /// Shows the kind, and the parts that the expected thing says. All parts are shown if none of this kind is expected.
    pub(crate) fn shown(&self, wanted: Option<&Wanted>) -> String {
        self.beginning_with(self.kind, wanted)
    }

    /// Shows what [`shown`](Self::shown) shows, and what it is for.
    pub(crate) fn line(&self, wanted: Option<&Wanted>) -> String {
        self.beginning_with(&format!("{} {}", self.kind, self.of), wanted)
    }

    fn beginning_with(&self, beginning: &str, wanted: Option<&Wanted>) -> String {
        let parts: Vec<(String, String)> = match wanted.filter(|wanted| wanted.kind == self.kind) {
            Some(wanted) => {
                let said = wanted.parts.iter();
                said.map(|(name, part)| (name.clone(), self.part(name).as_expected(part))).collect()
            }
            None => {
                let there = self.parts.iter().filter(|(_, part)| !matches!(part, Part::None));
                there.map(|(name, part)| (name.clone(), part.as_expected(""))).collect()
            }
        };
        shown(beginning, &parts)
    }

    fn part(&self, name: &str) -> &Part<'_> {
        self.parts.iter().find(|(other, _)| *other == name).map_or(&Part::None, |(_, part)| part)
    }
}

impl Part<'_> {
    /// Makes a part of what may be absent.
    pub(crate) fn of(text: Option<String>) -> Self {
        text.map_or(Self::None, Self::Text)
    }

    fn as_expected(&self, expected: &str) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Text(text) => text.clone(),
            Self::Body(body) if expected.starts_with(TEXT) => text_body(&String::from_utf8_lossy(body)),
            Self::Body(body) => match serde_json::from_slice::<Json>(body) {
                Ok(json) => format!("{json:#}"),
                Err(_) => text_body(&String::from_utf8_lossy(body)),
            },
        }
    }
}

/// Shows a body that is text.
pub(crate) fn text_body(text: &str) -> String {
    format!("{TEXT}{text}")
}

fn shown(beginning: &str, parts: &[(String, String)]) -> String {
    let parts: String = parts.iter().map(|(name, part)| format!(" {name} {part}")).collect();
    format!("{beginning}{parts}")
}

/// Compares things one by one, in their order. Of what happened, only those parts count that the expected thing at its place
/// says.
pub(crate) fn same_in_order(things: &str, expected: &[Wanted], actual: &[Found<'_>]) -> Result<(), String> {
    let lines = |lines: Vec<String>| lines.join("\n");
    let wanted = lines(expected.iter().map(Wanted::line).collect());
    let found = actual.iter().enumerate().map(|(place, found)| found.line(expected.get(place)));
    same(things, &wanted, &lines(found.collect()))
}
