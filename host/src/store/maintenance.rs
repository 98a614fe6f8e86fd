//! Maintenance functions of the embedded store. A database server has its own tools for this.

use super::Error;
use crate::names::shown;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The most bytes of the name of a copy in a folder of backups.
const COPY_NAME_BYTES_MAX: usize = 200;

/// The endings of the names of files that SQLite, or the host, keeps beside a database.
const ENDINGS_BESIDE: [&str; 5] = ["-wal", "-shm", "-journal", ".lock", ".part"];

/// The maintenance functions of a store, for its operators.
pub trait Maintenance: Send + Sync {
    /// Copies the store, as it is at one moment, into a new file of a folder, which is created if it is missing. The file is a
    /// complete store. Writes continue meanwhile. It runs on the caller's thread, without a time limit. Nothing outside of the
    /// folder is written, whatever the name is and whatever another process does to the folder meanwhile.
    /// Between two steps it looks whether `is_over` returns true. Then it removes the unfinished file, and fails with
    /// [`Error::Closed`].
    fn backup_in(&self, folder: &Path, name: &CopyName, is_over: &dyn Fn() -> bool) -> Result<Backup, Error>;

    /// Returns statistics. With `count` every event is read, which takes long on a large store.
    fn statistics(&self, count: bool) -> Result<Statistics, Error>;
}

/// The name of a copy in a folder of backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyName {
    /// A name that a client chose. It follows the rule of [`CopyName::parse`].
    Chosen(String),
    /// A name of this time, in milliseconds since 1970-01-01T00:00:00Z, and of the position of the newest event.
    Made {
        /// The time.
        now_ms: u64,
    },
}

impl CopyName {
    /// Reads a name that a client chose. A name is a single component of a path, and can't be mistaken for a file that
    /// belongs to another one. The error completes a sentence that begins with what should be the name.
    ///
    /// ```
    /// use wasmill::store::CopyName;
    ///
    /// assert!(CopyName::parse("before-the-upgrade.sqlite").is_ok());
    /// assert!(CopyName::parse("../events.sqlite").unwrap_err().contains("without `/`"));
    /// ```
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_name = (1..=COPY_NAME_BYTES_MAX).contains(&text.len())
            && !text.starts_with('.')
            && !text.contains(|char: char| matches!(char, '/' | '\\') || char.is_control());
        if !is_name {
            return Err(format!(
                "must be the plain name of a new file in the folder of backups, found {}: 1 to {COPY_NAME_BYTES_MAX} bytes, \
                 without `/`, `\\` and control characters, and not beginning with a dot",
                shown(text)
            ));
        }
        let lower = text.to_lowercase();
        match ENDINGS_BESIDE.iter().find(|ending| lower.ends_with(**ending)) {
            Some(ending) => Err(format!(
                "must not end with `{ending}`, found {}: such a file would be taken for a part of another one",
                shown(text)
            )),
            None => Ok(Self::Chosen(text.to_owned())),
        }
    }
}

/// A copy of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backup {
    /// The path of the copy.
    pub file: String,
    /// The position of its newest event.
    pub position: u64,
    /// The size of the copy.
    pub bytes: u64,
    /// The time that it took to make the copy.
    pub elapsed_ms: u64,
}

/// The statistics of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// The position of the newest event.
    pub position: u64,
    /// The bytes of the store without its write-ahead log.
    pub file_bytes: u64,
    /// The bytes in the store's file that are free for reuse.
    pub free_bytes: u64,
    /// The bytes of the write-ahead log that no WAL checkpoint has copied yet.
    pub log_bytes: u64,
    /// The number of archived streams.
    pub archived_streams: u64,
    /// The number of subscriptions with a checkpoint.
    pub subscriptions: u64,
    /// The number of ledgers: partitions of sources, and commands of subscriptions.
    pub ledgers: u64,
    /// The number of subscriptions' commands in steps that are not completely settled.
    pub outbox_commands: u64,
    /// The number of messages in steps that are not completely published.
    pub outbox_messages: u64,
    /// The number of outcomes, timers and responses that subscriptions have not handled.
    pub callbacks: u64,
    /// The number of HTTP requests that have not ended.
    pub http_requests: u64,
    /// The number of remembered outcomes, which are those of commands whose sender chose the id.
    pub outcomes: u64,
    /// The number of dead letters.
    pub dead_letters: u64,
    /// The statistics that need a read of every event. `None` if they were not requested.
    pub counted: Option<Counted>,
}

/// The statistics that need a read of every event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// The number of streams with events.
    pub streams: u64,
    /// The number of recorded events.
    pub events: u64,
    /// The bytes of their payloads and headers.
    pub bytes: u64,
    /// The counts by aggregate type and event name, in this order.
    pub types: Vec<TypeCount>,
}

/// The events of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TypeCount {
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The event's name.
    pub name: String,
    /// The number of these events.
    pub events: u64,
    /// The bytes of their payloads and headers.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn what_could_leave_the_folder_or_be_taken_for_another_file_is_no_name() {
        let long = "x".repeat(COPY_NAME_BYTES_MAX + 1);
        for text in [
            "",
            ".",
            "..",
            "../x",
            "/etc/x",
            "a/b",
            "a/",
            "a\\b",
            "a\0b",
            "a\nb",
            ".hidden",
            "a\u{1b}[2J",
            "a\u{85}",
            &long,
        ] {
            let refused = CopyName::parse(text).unwrap_err();
            assert!(
                refused.starts_with("must be the plain name") && !refused.chars().any(char::is_control),
                "{refused:?}"
            );
        }
        for text in ["copy.sqlite-wal", "COPY.SQLITE-WAL", "copy-shm", "copy-journal", "events.lock", "x.part"] {
            assert!(CopyName::parse(text).unwrap_err().contains("part of another"), "{text}");
        }
        for text in ["copy.sqlite", "Before the upgrade (2)", "Größe", "~", "-rf", "C:copy", &long[1..]] {
            assert_eq!(CopyName::parse(text), Ok(CopyName::Chosen(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn a_name_is_always_one_component(text in "\\PC{0,12}|[./\\\\a\0-]{0,6}") {
            if CopyName::parse(&text).is_ok() {
                let components: Vec<Component<'_>> = Path::new(&text).components().collect();
                prop_assert_eq!(components, [Component::Normal(text.as_ref())]);
            }
        }
    }
}
