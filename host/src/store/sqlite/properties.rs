//! Property tests of what the store reads from its own columns: a value is read back unchanged, and damaged bytes are
//! an error. `host/src/properties.rs` says how to repeat a seed.

use super::rows::{decode, encode};
use super::stream_index::{CHUNK_COLUMNS, Chunk};
use crate::model::{Command, DeadLetterContent, Header, Message, Origin, Record, StreamId};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let header = ("(?s:.{0,8})", prop::option::of(bytes())).prop_map(|(name, value)| Header { name, value });
    prop::collection::vec(header, 0..4)
}

fn record() -> impl Strategy<Value = DeadLetterContent> {
    let fields =
        ("(?s:.{0,8})", any::<i32>(), any::<i64>(), any::<u64>(), prop::option::of(bytes()), headers(), bytes());
    fields.prop_map(|(topic, partition, offset, time_ms, key, headers, payload)| {
        let (topic, payload) = (topic.into(), Some(payload));
        DeadLetterContent::Record(Record { topic, partition, offset, time_ms, key, headers, payload })
    })
}

fn command() -> impl Strategy<Value = DeadLetterContent> {
    let fields = ("(?s:.{0,8})", "(?s:.{0,8})", any::<u64>(), bytes(), headers(), any::<bool>());
    fields.prop_map(|(id, name, number, payload, headers, durable_id)| {
        let text: std::sync::Arc<str> = id.as_str().into();
        DeadLetterContent::Command(Command {
            stream: StreamId::new("order", id),
            name: name.into(),
            payload,
            id: text.clone(),
            time_ms: number,
            correlation_id: text.clone(),
            causation_id: text.clone(),
            headers,
            origin: durable_id.then_some(Origin { ledger: text, first: number, last: number }),
            durable_id,
            outcome_use: Default::default(),
            first_ms: None,
            expected: None,
            hops: 3,
        })
    })
}

fn message() -> impl Strategy<Value = DeadLetterContent> {
    let fields = ("(?s:.{0,8})", prop::option::of(bytes()), prop::option::of(any::<i32>()), headers(), any::<u64>());
    fields.prop_map(|(topic, key, partition, headers, time_ms)| {
        let (payload, text): (_, std::sync::Arc<str>) = (key.clone(), topic.as_str().into());
        let (id, correlation_id, causation_id) = (text.clone(), text.clone(), text.clone());
        let message = Message {
            hops: 4,
            id,
            topic,
            key,
            partition,
            headers,
            payload,
            time_ms,
            correlation_id,
            causation_id,
            source: text,
        };
        DeadLetterContent::Message("outbox".into(), message)
    })
}

/// Reads the row of the index that these columns make.
fn chunk(first: (u64, u64), more: Option<&[u8]>) -> Result<Chunk, super::Error> {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    let columns = CHUNK_COLUMNS.split(", ").enumerate().map(|(n, name)| format!("?{} AS {name}", n + 1));
    let select = format!("SELECT {}", columns.collect::<Vec<_>>().join(", "));
    let row = connection.query_row(&select, rusqlite::params![first.0, first.1, more], |row| Ok(Chunk::read(row, 0)));
    row.unwrap()
}

proptest! {
    #[test]
    fn what_was_dead_lettered_comes_back(content in prop_oneof![record(), command(), message()]) {
        let row = encode(&content).unwrap();
        prop_assert_eq!(decode::<DeadLetterContent>("here", &row).unwrap(), content);
    }

    #[test]
    fn a_row_that_is_cut_short_is_an_error(content in prop_oneof![record(), command(), message()], at in any::<prop::sample::Index>()) {
        let row = encode(&content).unwrap();
        let cut = decode::<DeadLetterContent>("dead letter 7", &row[..at.index(row.len())]);
        prop_assert!(cut.unwrap_err().to_string().contains("dead letter 7 does not decode"));
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(row in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<DeadLetterContent>("here", &row);
        let _ = decode::<Vec<Header>>("here", &row);
        let _ = decode::<BTreeSet<u64>>("here", &row);
    }

    #[test]
    fn a_row_of_the_index_has_consecutive_versions(
        first in (1..1_000_000_u64, 1..1_000_000_u64),
        distances in prop::collection::vec(1..1_000_u64, 0..128),
    ) {
        let more = (!distances.is_empty()).then(|| encode(&distances).unwrap());
        let found = chunk(first, more.as_deref()).unwrap();
        let entries: Vec<_> = found.entries().collect();
        prop_assert_eq!(entries.len(), distances.len() + 1);
        prop_assert_eq!(entries[0], first);
        prop_assert!(entries.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1 && pair[1].1 > pair[0].1));
        prop_assert_eq!(entries.last().unwrap().0, found.last_version());
    }

    /// Huge numbers do no harm: nothing overflows, and a row makes no more entries than it has.
    #[test]
    fn a_damaged_row_of_the_index_is_bounded(first in any::<(u32, u32)>(), more in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(found) = chunk((first.0.into(), first.1.into()), Some(&more)) {
            prop_assert!(found.entries().count() <= more.len() + 1);
        }
    }
}
