//! Given / when / then test cases for the roles of a plugin, and [`flows`] through several plugins, from files.
//!
//! One file of cases says what an aggregate, a subscriber, a saga or a projection must do. The SDK's test kit runs it against the
//! author's code, natively, and `wasmill test` runs it against the compiled plugin, in the real runtime. This crate has the part
//! that both share: reading the file, and comparing expected and actual results. Nothing here knows how to call a plugin.
//!
//! ```
//! # use wasmill_cases::aggregate::Answer;
//! # use wasmill_cases::{Cases, NewEvent, Refusal, Suite};
//! let suite = Suite::parse("door.toml", r#"
//!     aggregate = "door"
//!
//!     [[case]]
//!     name = "an open door is not opened"
//!     given = [{ name = "Opened", payload = { by = "Ada" } }]
//!     when = { name = "Open", payload = { by = "Bob" } }
//!     then = { rejected = "is open" }
//! "#).unwrap();
//! let Cases::Aggregate(cases) = &suite.cases else { panic!("{}", suite.is_not_for("an aggregate")) };
//! assert!(cases[0].check(&Answer::Refused(Refusal::Rejected("the door is open".into()))).is_ok());
//! let opened = NewEvent { name: "Opened".into(), payload: br#"{"by":"Bob"}"#.to_vec() };
//! let difference = cases[0].check(&Answer::Decided(vec![opened])).unwrap_err();
//! assert!(difference.starts_with("expected a rejection with `is open`, got 1 event"));
//! ```
//!
//! What a case of each role has is described in [`aggregate`], [`subscriber`], [`saga`] and [`projection`].

pub mod aggregate;
pub mod projection;
pub mod saga;
pub mod subscriber;

mod answer;
pub mod delivery;
pub mod effect;
mod event;

pub mod flows;

mod difference;
mod stream;
mod suite;

pub use answer::{Answer, Refusal, Then};
pub use event::{Event, NewEvent, RecordedEvent, versions};
pub use stream::Stream;
pub use suite::{Cases, Suite};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// The reason why a file of cases or flows can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the {what} in {}: {cause}", .file.display())]
pub struct Error {
    what: &'static str,
    file: PathBuf,
    cause: String,
}

/// Reads a file's text. `what` says in the error what the file has.
fn text_of(what: &'static str, file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|cause| Error {
        what,
        file: file.to_owned(),
        cause: format!("they can't be read: {cause}"),
    })
}

/// Decodes text, which is JSON if the file's name ends in `.json`, and TOML otherwise, and checks what it says.
fn decoded<D: DeserializeOwned, T>(
    what: &'static str,
    file: &Path,
    text: &str,
    checked: impl FnOnce(D) -> Result<T, String>,
) -> Result<T, Error> {
    let document = if file.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(text).map_err(|cause| cause.to_string())
    } else {
        toml::from_str(text).map_err(|cause| cause.to_string())
    };
    document.and_then(checked).map_err(|cause| Error { what, file: file.to_owned(), cause })
}

/// Reads a value that may be `null`, which is not the same as no value.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests;
