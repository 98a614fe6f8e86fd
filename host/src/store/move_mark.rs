//! The mark of a move, by which a store is known not to start: as one that was moved, or as the target of a move that has not ended.
//!
//! It is a fact of the store. Both stores of a move have the same id in it, so they are recognised whatever their names are.

use super::Error;
use super::content::MARK;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is known of a store that takes part in a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The id of the move, a UUID.
    pub(super) id: String,
    pub(super) side: Side,
    /// The other store, as a person names it. It has no password.
    pub(super) other: String,
}

/// The side of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Side {
    /// The target, whose content is not complete.
    Unfinished,
    /// The source, once its content is in the other store.
    Moved,
}

impl Mark {
    /// Returns the name of the fact.
    pub(super) fn name() -> &'static str {
        MARK
    }

    /// Makes the mark of a target whose source is the other store.
    pub(super) fn unfinished(other: &str) -> Self {
        Self { id: Uuid::now_v7().to_string(), side: Side::Unfinished, other: other.to_owned() }
    }

    /// Reads the value of the fact.
    pub(super) fn read(shown: &str, value: Option<&str>) -> Result<Option<Self>, Error> {
        let mark = value.map(serde_json::from_str).transpose();
        mark.map_err(|error| {
            Error::Failed(format!(
                "the store {shown} takes part in a move that this wasmill can't read ({error}): run a newer wasmill on it"
            ))
        })
    }

    /// Returns the value of the fact.
    pub(super) fn text(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Invalid(format!("can't encode the mark of a move: {error}")))
    }

    /// Says why the store with this mark does not start, and which command resolves it.
    pub(super) fn refusal(&self, shown: &str) -> String {
        let (other, command) = (&self.other, command(&self.other, shown));
        match self.side {
            Side::Unfinished => {
                format!(
                    "the store {shown} is not complete, because its move from {other} has not ended: end it with {command}"
                )
            }
            Side::Moved => format!(
                "the store {shown} was moved to {other}: use that one, with `store.url` or `data` of the manifest, or move it back \
                 with {command}"
            ),
        }
    }
}

/// Fails if a store has a mark, by the value of its fact.
pub(super) fn refuse(shown: &str, value: Option<&str>) -> Result<(), Error> {
    match Mark::read(shown, value)? {
        Some(mark) => Err(Error::Invalid(mark.refusal(shown))),
        None => Ok(()),
    }
}

/// Fails if a store is the target of a move that has not ended, so that its content is not complete.
pub(super) fn refuse_unfinished(shown: &str, value: Option<&str>) -> Result<(), Error> {
    match Mark::read(shown, value)? {
        Some(mark) if mark.side == Side::Unfinished => Err(Error::Invalid(mark.refusal(shown))),
        _ => Ok(()),
    }
}

/// Returns the command that moves a store, for a shell.
pub(super) fn command(from: &str, to: &str) -> String {
    let quoted = |word| shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned);
    format!("`wasmill store migrate --from {} --to {}`", quoted(from), quoted(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Location;
    use std::path::Path;

    #[test]
    fn each_side_says_where_the_other_is_and_what_to_type() {
        let mark = Mark::unfinished("/data/events.sqlite");
        let read = Mark::read("s", Some(&mark.text().expect("it is text"))).expect("it reads back");
        assert_eq!(read.as_ref(), Some(&mark));
        let said =
            refuse("postgres://u@h/d?schema=s", Some(&mark.text().expect("it is text"))).unwrap_err().to_string();
        assert!(said.contains("not complete"), "{said}");
        assert!(
            said.ends_with("`wasmill store migrate --from /data/events.sqlite --to 'postgres://u@h/d?schema=s'`"),
            "{said}"
        );
        let moved = Mark { side: Side::Moved, ..mark };
        assert!(refuse_unfinished("s", Some(&moved.text().expect("it is text"))).is_ok());
        let said = moved.refusal("postgres://u@h/d");
        assert!(said.contains("was moved to /data/events.sqlite") && said.contains("--to postgres://u@h/d`"), "{said}");
        let said = moved.refusal(&Location::of_folder(Path::new("data")).in_command());
        let here = std::env::current_dir().expect("a folder").join("data/events.sqlite");
        assert!(said.contains(&format!("--to {}`", here.display())), "the command works in any folder: {said}");
        assert!(
            refuse("s", Some("{}")).unwrap_err().to_string().contains("newer wasmill") && refuse("s", None).is_ok()
        );
    }
}
