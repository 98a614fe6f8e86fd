//! The content of a store, in the form that both stores have: tables of rows with plain values.
//!
//! Names are texts here, whatever number a store has for them, and encoded columns stay bytes. What only one store has is left out:
//! the stream index, numbers of rows that nobody refers to, who owns the store, and snapshots, which are a cache. So a store is
//! verified by one verifier, and is moved by copying rows and comparing them.

use super::{Error, PAGE_BYTES_MAX};
use uuid::Uuid;

/// The most rows of a page. A page ends before, once its rows have about [`PAGE_BYTES_MAX`].
pub(super) const PAGE_ROWS_MAX: usize = 2_000;

/// The bytes of a row beside its texts and bytes.
pub(super) const ROW_BYTES: usize = 320;

/// The fact that a store was moved, or that it is the target of a move. It is about one of two stores, so it is no content.
pub(super) const MARK: &str = "move";

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    /// No column of a store has such values, but a damaged file may.
    Real(f64),
    /// A text, which is not UTF-8 if it is damaged.
    Text(Vec<u8>),
    Bytes(Vec<u8>),
}

/// A row, in the order of the table's columns.
pub(super) type Row = Vec<Value>;

impl Value {
    /// Returns a number, or 0 if it is none.
    pub(super) fn int(&self) -> i64 {
        if let Self::Int(number) = self { *number } else { 0 }
    }

    /// Returns a number that is not negative, or 0 if it is none.
    pub(super) fn count(&self) -> u64 {
        self.int().max(0).unsigned_abs()
    }

    /// Returns the bytes of a text or of bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        if let Self::Text(bytes) | Self::Bytes(bytes) = self { bytes } else { &[] }
    }

    /// Returns a text, with marks in the place of what is not UTF-8.
    pub(super) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// Returns how much of a page the value takes.
    pub(super) fn size(&self) -> usize {
        self.bytes().len()
    }
}

/// What a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that may be negative.
    Int,
    /// A number that is not negative.
    Count,
    /// A text that has no NUL, because the host has checked it.
    Name,
    /// A text that may have any character.
    Text,
    Bytes,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_optional: bool,
}

/// The form of a table. Its first columns are the key, by which rows are ordered.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) key: usize,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, is_optional: false }
}

const fn optional(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, is_optional: true }
}

/// A table of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Events,
    Ledgers,
    Checkpoints,
    HeldKeys,
    Outbox,
    Callbacks,
    HttpRequests,
    Sinks,
    Outcomes,
    /// The same rows as [`Self::Outcomes`], the oldest first. In this order they are copied, because the embedded store finds the
    /// oldest ones by the order in which they were inserted.
    OutcomesByAge,
    Tallies,
    DeadLetters,
    ArchivedStreams,
    Facts,
}

impl Table {
    /// All tables with content, each once. Archived streams come after events, whose types they refer to.
    pub(super) const ALL: [Self; 13] = [
        Self::Events,
        Self::Ledgers,
        Self::Checkpoints,
        Self::HeldKeys,
        Self::Outbox,
        Self::Callbacks,
        Self::HttpRequests,
        Self::Sinks,
        Self::Outcomes,
        Self::Tallies,
        Self::DeadLetters,
        Self::ArchivedStreams,
        Self::Facts,
    ];

    /// Returns all tables but that of events, which never change.
    pub(super) fn but_events() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|table| *table != Self::Events)
    }

    /// Returns the table whose order is the one in which rows are copied.
    pub(super) fn to_copy(self) -> Self {
        if self == Self::Outcomes { Self::OutcomesByAge } else { self }
    }

    pub(super) fn layout(self) -> &'static Layout {
        match self {
            Self::Events => &EVENTS,
            Self::Ledgers => &LEDGERS,
            Self::Checkpoints => &CHECKPOINTS,
            Self::HeldKeys => &HELD_KEYS,
            Self::Outbox => &OUTBOX,
            Self::Callbacks => &CALLBACKS,
            Self::HttpRequests => &HTTP_REQUESTS,
            Self::Sinks => &SINKS,
            Self::Outcomes | Self::OutcomesByAge => &OUTCOMES,
            Self::Tallies => &TALLIES,
            Self::DeadLetters => &DEAD_LETTERS,
            Self::ArchivedStreams => &ARCHIVED_STREAMS,
            Self::Facts => &FACTS,
        }
    }

    /// Names a row for people.
    pub(super) fn place(self, row: &[Value]) -> String {
        match self {
            Self::Events => format!("the event at position {}", row[0].int()),
            Self::Ledgers => format!("ledger {}", row[0].text()),
            Self::Checkpoints => format!("the checkpoint of subscription {}", row[0].text()),
            Self::HeldKeys => {
                let [subscription, aggregate_type, id] = [&row[0], &row[1], &row[2]].map(Value::text);
                format!(
                    "key {aggregate_type}/{id} of subscription {subscription}, held from version {} on",
                    row[3].int()
                )
            }
            Self::Outbox => {
                let (kind, queue, first, last) = (row[0].text(), row[1].text(), row[2].int(), row[3].int());
                let of = if queue.is_empty() { String::new() } else { format!(" of subscription {queue}") };
                format!("{kind} {first} to {last}{of}")
            }
            Self::Callbacks => format!("callback {}", row[0].int()),
            Self::HttpRequests => format!("HTTP request {}", row[0].int()),
            Self::Sinks => format!("the position of sink {}", row[0].text()),
            Self::Outcomes | Self::OutcomesByAge => format!("the outcome of command {}", row[0].text()),
            Self::Tallies => format!("the counts of {} to {}", row[1].text(), row[0].text()),
            Self::DeadLetters => format!("dead letter {}", row[0].int()),
            Self::ArchivedStreams => format!("the archived stream {}/{}", row[0].text(), row[1].text()),
            Self::Facts => format!("the fact {}", row[0].text()),
        }
    }

    /// Describes the first value of a row that its column can't have, if there is one.
    pub(super) fn misfit(self, row: &[Value]) -> Option<String> {
        let wrong = self.layout().columns.iter().zip(row).find_map(|(column, value)| {
            let found = match (column.kind, value) {
                (_, Value::Null) if column.is_optional => return None,
                (Kind::Int, Value::Int(_)) | (Kind::Bytes, Value::Bytes(_)) => return None,
                (Kind::Count, Value::Int(number)) if *number >= 0 => return None,
                (Kind::Name | Kind::Text, Value::Text(text)) if std::str::from_utf8(text).is_ok() => return None,
                (_, Value::Null) => "is missing".to_owned(),
                (_, Value::Int(number)) => format!("is {number}"),
                (_, Value::Real(number)) => format!("is {number}"),
                (_, Value::Text(_)) if matches!(column.kind, Kind::Name | Kind::Text) => "is not UTF-8".to_owned(),
                (_, Value::Text(_)) => "is a text".to_owned(),
                (_, Value::Bytes(_)) => "is bytes".to_owned(),
            };
            Some(format!("its `{}` {found}", column.name))
        });
        wrong.map(|wrong| format!("{}: {wrong}", self.place(row)))
    }
}

use Kind::{Bytes, Count, Int, Name, Text};

static EVENTS: Layout = Layout {
    name: "events",
    columns: &[
        column("position", Count),
        column("aggregate_type", Name),
        column("event", Name),
        column("aggregate_id", Text),
        column("version", Count),
        column("id", Bytes),
        column("time_ms", Count),
        column("correlation_id", Text),
        column("causation_id", Text),
        optional("headers", Bytes),
        column("payload", Bytes),
    ],
    key: 1,
};

static LEDGERS: Layout =
    Layout { name: "ledgers", columns: &[column("name", Name), column("next", Count), column("ahead", Bytes)], key: 1 };

static CHECKPOINTS: Layout = Layout {
    name: "checkpoints",
    columns: &[column("subscription", Name), column("position", Count), column("commands", Count)],
    key: 1,
};

static HELD_KEYS: Layout = Layout {
    name: "held_keys",
    columns: &[
        column("subscription", Name),
        column("aggregate_type", Name),
        column("aggregate_id", Text),
        column("version", Count),
        optional("dead_letter", Count),
    ],
    key: 3,
};

static OUTBOX: Layout = Layout {
    name: "outbox",
    columns: &[
        column("kind", Name),
        column("queue", Name),
        column("first", Count),
        column("last", Count),
        column("body", Bytes),
    ],
    key: 4,
};

static CALLBACKS: Layout = Layout {
    name: "callbacks",
    columns: &[
        column("number", Count),
        column("subscription", Name),
        optional("timer", Text),
        optional("key", Bytes),
        column("time_ms", Count),
        column("due_ms", Int),
        column("body", Bytes),
    ],
    key: 1,
};

static HTTP_REQUESTS: Layout = Layout {
    name: "http_requests",
    columns: &[
        column("number", Count),
        column("subscription", Name),
        column("endpoint", Name),
        optional("key", Bytes),
        column("correlation_id", Text),
        column("due_ms", Count),
        column("attempts", Count),
        column("interrupted", Count),
        optional("begun_ms", Count),
        optional("error", Text),
        column("body", Bytes),
    ],
    key: 1,
};

static SINKS: Layout = Layout { name: "sinks", columns: &[column("name", Name), column("position", Count)], key: 1 };

static OUTCOMES: Layout = Layout {
    name: "outcomes",
    columns: &[
        column("id", Text),
        column("fingerprint", Bytes),
        column("outcome", Bytes),
        column("time_ms", Count),
        column("running_ms", Count),
    ],
    key: 1,
};

static TALLIES: Layout = Layout {
    name: "tallies",
    columns: &[
        column("aggregate_type", Name),
        column("command", Text),
        column("accepted", Count),
        column("rejected", Count),
        column("malformed", Count),
    ],
    key: 2,
};

static DEAD_LETTERS: Layout = Layout {
    name: "dead_letters",
    columns: &[
        column("number", Count),
        column("consumer", Name),
        column("place", Text),
        optional("key", Text),
        column("reason", Text),
        optional("time_ms", Count),
        column("dead_lettered_ms", Count),
        column("running_ms", Count),
        column("bytes", Count),
        column("content", Bytes),
    ],
    key: 1,
};

static ARCHIVED_STREAMS: Layout = Layout {
    name: "archived_streams",
    columns: &[column("aggregate_type", Name), column("aggregate_id", Text), column("time_ms", Count)],
    key: 2,
};

static FACTS: Layout = Layout { name: "facts", columns: &[column("name", Name), column("value", Text)], key: 1 };

/// What a store has once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) identity: Uuid,
    /// The position of the newest event, and its id. Later ids continue after it.
    pub(super) position: u64,
    pub(super) newest_id: Option<Vec<u8>>,
    /// The newest numbers that were ever assigned.
    pub(super) message: u64,
    pub(super) dead_letter: u64,
    pub(super) callback: u64,
    pub(super) http_request: u64,
    /// How many dead letters there are, their bytes, and how many were dropped.
    pub(super) dead_letters: u64,
    pub(super) dead_letter_bytes: u64,
    pub(super) dead_letters_dropped: u64,
    /// How long hosts have run on the store, and the wall's time when that was noted last.
    pub(super) running_ms: u64,
    pub(super) wall_ms: u64,
}

/// A store whose content can be read. Nobody else writes to it meanwhile.
pub(super) trait Content {
    /// Returns whether a failure to read may be a damage of the store, so that other parts may still be readable. Otherwise it is
    /// a failure of the connection.
    fn may_be_damaged(&self) -> bool;

    fn head(&mut self) -> Result<Head, Error>;

    /// Returns the rows after one, in their order. There is at least one if there are any. They end at [`PAGE_ROWS_MAX`] or at
    /// [`PAGE_BYTES_MAX`].
    fn page(&mut self, table: Table, after: Option<&[Value]>) -> Result<Vec<Row>, Error>;
}

/// The rows of a table, read page by page.
pub(super) struct Rows {
    table: Table,
    page: std::vec::IntoIter<Row>,
    last: Option<Row>,
    has_ended: bool,
}

impl Rows {
    pub(super) fn of(table: Table) -> Self {
        Self { table, page: Vec::new().into_iter(), last: None, has_ended: false }
    }

    /// Returns the next row.
    pub(super) fn next(&mut self, content: &mut dyn Content) -> Result<Option<Row>, Error> {
        if self.page.len() == 0 && !self.has_ended {
            let page = content.page(self.table, self.last.as_deref())?;
            self.has_ended = page.is_empty();
            self.last = page.last().cloned();
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}

/// Counts what fits on a page.
#[derive(Default)]
pub(super) struct PageRoom {
    bytes: usize,
    rows: usize,
}

impl PageRoom {
    /// Adds a row, and returns whether the page is full with it.
    pub(super) fn is_full_with(&mut self, row: &[Value]) -> bool {
        self.rows += 1;
        self.bytes += ROW_BYTES + row.iter().map(Value::size).sum::<usize>();
        self.rows >= PAGE_ROWS_MAX || self.bytes >= PAGE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_its_column_can_not_have_is_named_with_its_row() {
        let row = |position: Value, reason: &[u8]| {
            vec![Value::Text(b"feed".to_vec()), position, Value::Text(reason.to_vec())]
        };
        assert_eq!(Table::Sinks.misfit(&row(Value::Int(3), b"")[..2]), None);
        for (value, found) in [
            (Value::Int(-3), "is -3"),
            (Value::Null, "is missing"),
            (Value::Real(1.5), "is 1.5"),
            (Value::Text(b"3".to_vec()), "is a text"),
            (Value::Bytes(vec![3]), "is bytes"),
        ] {
            let said = Table::Sinks.misfit(&row(value, b"")[..2]);
            assert_eq!(said.as_deref(), Some(&*format!("the position of sink feed: its `position` {found}")));
        }
        let torn = [Value::Text(b"f".to_vec()), Value::Text(vec![0xff])];
        assert_eq!(Table::Facts.misfit(&torn).as_deref(), Some("the fact f: its `value` is not UTF-8"));
    }

    #[test]
    fn every_table_has_its_key_first_and_no_column_twice() {
        for table in Table::ALL {
            let Layout { name, columns, key } = table.layout();
            assert!((1..=columns.len()).contains(key), "{name}");
            assert!(columns[..*key].iter().all(|column| !column.is_optional), "{name}");
            let mut names: Vec<_> = columns.iter().map(|column| column.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), columns.len(), "{name}");
        }
    }
}
