//! The feed of recorded events: those that pass the filter of a `[sinks.NAME]`, as messages to its topic.
//!
//! A message is a CloudEvent. Its id is the event's id, its source is the aggregate's type, and its subject is the
//! aggregate. The message keeps the headers that the event has from its command, except those that describe the
//! command's own message.

use super::feed::{Feed, Head, Page};
use crate::filter::Filter;
use crate::manifest::SinkKey;
use crate::model::{Header, Message, Position, RecordedEvent};
use crate::store::{self, EventStore, Reader};
use crate::upcasts::{Migrates, Tries, Unmigrated, not_upcast};
use serde_json::Value;
use std::sync::Arc;

/// The headers that the command's headers must not override, because they describe the message of the event.
const OWN: [&str; 6] = ["correlation-id", "causation-id", "content-type", "stream", "version", "position"];

/// The feed of events for a topic.
pub(super) struct EventFeed {
    reader: Box<dyn Reader>,
    head: Head,
    sink: Arc<str>,
    filter: Filter,
    topic: String,
    key: SinkKey,
    upcasts: Option<Box<dyn Migrates>>,
}

impl EventFeed {
    pub(super) fn open(
        store: &dyn EventStore,
        sink: Arc<str>,
        filter: Filter,
        topic: String,
        key: SinkKey,
        upcasts: Option<Box<dyn Migrates>>,
    ) -> Result<Self, store::Error> {
        Ok(Self { reader: store.reader()?, head: Head::Positions(store.head()), sink, filter, topic, key, upcasts })
    }

    /// Migrates events to their newest shape, if the sink wants it. Returns for each why it can't be published, if it can't.
    fn migrated(&mut self, events: &mut [RecordedEvent]) -> Result<Vec<Result<(), String>>, store::Error> {
        let Some(upcasts) = &mut self.upcasts else { return Ok(vec![Ok(()); events.len()]) };
        let migrated = upcasts.migrate(events, Tries::Each).into_iter().map(|result| match result {
            Ok(()) => Ok(Ok(())),
            Err(Unmigrated::Event(reason)) => Ok(Err(not_upcast(&reason))),
            Err(Unmigrated::Host(reason)) => Err(store::Error::Failed(format!("upcasting events: {reason}"))),
        });
        migrated.collect()
    }

    fn message(&self, event: RecordedEvent) -> (Message, Result<(), String>) {
        let key = key(&self.key, &event);
        let mut headers = own_headers(&event);
        headers.extend(event.headers.into_iter().filter(|header| is_foreign(&header.name)));
        let message = Message {
            id: event.id.to_string().into(),
            topic: self.topic.clone(),
            key: key.as_ref().ok().cloned().flatten(),
            partition: None,
            headers,
            payload: Some(event.payload),
            time_ms: event.time_ms,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            hops: event.hops + 1,
            source: event.stream.aggregate_type,
        };
        (message, key.map(drop))
    }
}

fn own_headers(event: &RecordedEvent) -> Vec<Header> {
    let header = |name: &str, value: String| Header { name: name.to_owned(), value: Some(value.into_bytes()) };
    vec![
        header("ce_type", format!("{}.{}", event.stream.aggregate_type, event.name)),
        header("ce_subject", event.stream.aggregate_id.to_string()),
        header("stream", event.stream.to_string()),
        header("version", event.version.to_string()),
        header("position", event.position.to_string()),
    ]
}

fn is_foreign(name: &str) -> bool {
    !name.starts_with("ce_") && !crate::bounds::is_hops(name) && !OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Returns the key of an event's record. The error says why it has none.
fn key(wanted: &SinkKey, event: &RecordedEvent) -> Result<Option<Vec<u8>>, String> {
    let field = match wanted {
        SinkKey::None => return Ok(None),
        SinkKey::AggregateId => return Ok(Some(event.stream.aggregate_id.as_bytes().to_vec())),
        SinkKey::Field(field) => field,
    };
    let name = format!("{}.{}", event.stream.aggregate_type, event.name);
    let payload: Value = serde_json::from_slice(&event.payload).map_err(|error| {
        format!("the key can't be taken from the field `{field}` of {name}: it is not JSON ({error})")
    })?;
    match field.split('.').try_fold(&payload, |value, field| value.get(field)) {
        Some(Value::String(text)) => Ok(Some(text.clone().into_bytes())),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string().into_bytes())),
        Some(_) => Err(format!("the field `{field}` of {name} can't be a key: it is neither text nor a number")),
        None => Err(format!(
            "{name} has no field `{field}` to be the key: narrow `events` of the sink to those that have it, or choose \
             another `key`"
        )),
    }
}

impl Feed for EventFeed {
    fn after(&mut self, number: u64, limit: usize) -> Result<Page, store::Error> {
        let mut found = self.reader.read_all(Position(number), &self.filter, limit)?;
        let mut page = Page { reached: found.reached.0, ..Page::default() };
        let migrated = self.migrated(&mut found.events)?;
        for (event, migrated) in found.events.into_iter().zip(migrated) {
            let position = event.position.0;
            let (message, keyed) = self.message(event);
            match migrated.and(keyed) {
                Ok(()) => page.messages.push((position, message)),
                Err(reason) => page.unfit.push((position, message, reason)),
            }
        }
        Ok(page)
    }

    fn head(&mut self) -> &mut Head {
        &mut self.head
    }

    fn place(&self, number: u64, message: &Message) -> String {
        let stream = message.headers.iter().find(|header| header.name == "stream");
        let stream = stream.and_then(|header| header.value.as_deref()).unwrap_or_default();
        format!("event {number} of {} to topic {}", String::from_utf8_lossy(stream), message.topic)
    }

    fn consumer(&self, _: &Message) -> String {
        self.sink.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StreamId;

    fn event(payload: &str) -> RecordedEvent {
        RecordedEvent {
            stream: StreamId::new("order", "b1"),
            payload: payload.as_bytes().to_vec(),
            time_ms: 0,
            causation_id: "e".into(),
            ..RecordedEvent::example()
        }
    }

    #[test]
    fn a_key_is_the_aggregate_a_field_or_nothing() {
        let payload = r#"{"household": {"id": "h1"}, "total": 12, "lines": []}"#;
        let field = |name: &str| SinkKey::Field(name.to_owned());
        for (wanted, expected) in [
            (SinkKey::None, Ok(None)),
            (SinkKey::AggregateId, Ok(Some("b1"))),
            (field("household.id"), Ok(Some("h1"))),
            (field("total"), Ok(Some("12"))),
            (field("lines"), Err("is neither text")),
            (field("basket"), Err("order.OrderCreated has no field `basket`")),
        ] {
            match (key(&wanted, &event(payload)), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected.map(str::as_bytes)),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, expected) => panic!("{wanted:?}: {found:?}, expected {expected:?}"),
            }
        }
        assert!(key(&field("a"), &event("x")).unwrap_err().contains("is not JSON"));
    }

    #[test]
    fn headers_that_are_about_another_message_stay_behind() {
        for (name, expected) in
            [("traceparent", true), ("tenant", true), ("ce_id", false), ("Content-Type", false), ("version", false)]
        {
            assert_eq!(is_foreign(name), expected, "{name}");
        }
    }
}
