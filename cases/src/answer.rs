//! What must come of an input, what came of it, and the comparison of both. It is the same for aggregates, subscribers and
//! sagas.

use crate::difference::contains;
use std::fmt;

/// What must come of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Then<E> {
    /// It is handled, with this result.
    Decided(E),
    /// It is refused with a reason that contains this text.
    Refused(Refusal),
}

/// What came of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<D> {
    /// It was handled, with this result.
    Decided(D),
    /// It was refused for this reason.
    Refused(Refusal),
    /// The code failed, or a host would never get so far, for this reason. No case expects that.
    Failed(String),
}

/// How an input is refused, with the reason or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A business rule refuses it.
    Rejected(String),
    /// It does not decode.
    Malformed(String),
    /// It is to be tried again later.
    Retry(String),
}

/// Something that can be shown in a sentence after "expected" or "got".
pub(crate) trait Described {
    fn described(&self) -> String;
}

/// Compares what came of an input with what must come of it. `compare` compares the results if it was to be handled and was
/// handled.
pub(crate) fn check<E: Described, D: Described>(
    then: &Then<E>,
    answer: &Answer<D>,
    compare: impl FnOnce(&E, &D) -> Result<(), String>,
) -> Result<(), String> {
    match (then, answer) {
        (Then::Decided(expected), Answer::Decided(actual)) => compare(expected, actual),
        (Then::Refused(expected), Answer::Refused(actual)) if expected.kind() == actual.kind() => {
            contains(expected.kind(), expected.text(), actual.text())
        }
        _ => Err(format!("expected {}, got {}", then.described(), answer.described())),
    }
}

impl Refusal {
    fn kind(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "a rejection",
            Self::Malformed(_) => "a malformed input",
            Self::Retry(_) => "a retry",
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Rejected(text) | Self::Malformed(text) | Self::Retry(text) => text,
        }
    }
}

/// Shows how the input is refused, and why.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), self.text())
    }
}

impl<E: Described> Described for Then<E> {
    fn described(&self) -> String {
        match self {
            Self::Decided(expected) => expected.described(),
            Self::Refused(refusal) => format!("{} with `{}`", refusal.kind(), refusal.text()),
        }
    }
}

impl<D: Described> Described for Answer<D> {
    fn described(&self) -> String {
        match self {
            Self::Decided(actual) => actual.described(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::Failed(reason) => format!("a failure: {reason}"),
        }
    }
}

/// Makes what must come of an input from the keys of a file's `then`. `decided` is what the other keys say, or none if they
/// are absent.
pub(crate) fn then<E>(
    decided: Option<E>,
    [rejected, malformed, retry]: [Option<String>; 3],
    keys: &str,
) -> Result<Then<E>, String> {
    let refusals = [rejected.map(Refusal::Rejected), malformed.map(Refusal::Malformed), retry.map(Refusal::Retry)];
    let mut refusals = refusals.into_iter().flatten();
    match (decided, refusals.next(), refusals.next()) {
        (Some(decided), None, None) => Ok(Then::Decided(decided)),
        (None, Some(refusal), None) => Ok(Then::Refused(refusal)),
        (None, None, _) => Err(format!("`then` is empty: add {keys}, `rejected`, `malformed` or `retry`")),
        _ => Err(format!("an input ends in one way: `then` has {keys}, or one of `rejected`, `malformed` and `retry`")),
    }
}
