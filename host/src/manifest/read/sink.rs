//! The keys of `[sink]` and `[sinks.NAME]`.

use super::*;
use crate::filter::Filter;
use crate::upcasts::Shape;

const EVENTS: &str = "a list of patterns over `type.EventName`, such as [\"order.*\"]";
const TOPIC: &str = "the topic that the events go to";

pub(super) fn sink(mut section: Section<'_>, has_kafka: bool) -> Sink {
    require_kafka(&section, has_kafka);
    let sink = settings(&mut section);
    section.finish();
    sink
}

/// Checks that no other sink of the host has a name.
pub(super) fn sink_name(entry: &Entry<'_>, text: &str) -> bool {
    let taken = text == "outbox" || text.starts_with("dead-letters-");
    if taken {
        let text = format!("the name {text:?} in `{}` is that of another sink: choose another", entry.path);
        entry.document.problem(entry.key_span.clone(), text);
    }
    !taken && name(entry, text)
}

pub(super) fn event_sink(mut section: Section<'_>, has_kafka: bool) -> Option<EventSink> {
    require_kafka(&section, has_kafka);
    let filter = section.need("events", EVENTS).and_then(|entry| filter(&entry));
    let topic = section
        .need("topic", TOPIC)
        .and_then(|entry| entry.parse(TOPIC, |name| check_topic_name(name).map(|()| name.to_owned())));
    let key = section.get("key").and_then(|entry| key(&entry)).unwrap_or_default();
    let shape = section.choice("shape", &[("recorded", Shape::Recorded), ("newest", Shape::Newest)]);
    let start = section.get("start").and_then(|entry| start(&entry));
    let was = was(&mut section);
    let settings = settings(&mut section);
    section.finish();
    let is_start_written = start.is_some();
    let start = start.unwrap_or_default();
    Some(EventSink { filter: filter?, topic: topic?, key, shape, start, is_start_written, was, settings })
}

fn require_kafka(section: &Section<'_>, has_kafka: bool) {
    if !has_kafka {
        section.problem("publishes to Kafka, but the manifest has no [kafka] section; add one with `brokers`");
    }
}

/// Reads the topic for the dead letters of a source.
pub(super) fn dead_letter_topic(section: &mut Section<'_>) -> Option<String> {
    const TOPIC: &str = "the topic that dead letters go to";
    let entry = section.get("dead_letter_topic")?;
    entry.parse(TOPIC, |name| check_topic_name(name).map(|()| name.to_owned()))
}

fn settings(section: &mut Section<'_>) -> Sink {
    const ID: &str = "a name that no other producer of the cluster has";
    let default = Sink::default();
    let modes = [("transactional", SinkMode::Transactional), ("idempotent", SinkMode::Idempotent)];
    let settings = Sink {
        batch_max: section.number("batch_max", 1..=100_000, default.batch_max),
        batch_wait_ms: section.number("batch_wait_ms", 0..=60_000, default.batch_wait_ms),
        mode: section.choice("mode", &modes),
        transactional_id: section.get("transactional_id").and_then(|entry| entry.text(ID)).map(str::to_owned),
        properties: section.get("properties").map(|entry| properties(&entry)).unwrap_or_default(),
    };
    if settings.mode == SinkMode::Idempotent
        && let Some(entry) = section.again("transactional_id")
    {
        entry.note("has no effect with `mode = \"idempotent\"`: remove one of them");
    }
    settings
}

fn filter(entry: &Entry<'_>) -> Option<Filter> {
    let DeValue::Array(items) = entry.value.get_ref() else {
        entry.expected(EVENTS);
        return None;
    };
    let patterns: Option<Vec<&str>> = items
        .iter()
        .map(|item| match item.get_ref() {
            DeValue::String(text) => Some(&**text),
            _ => None,
        })
        .collect();
    match patterns.filter(|patterns| !patterns.is_empty()).map(Filter::parse) {
        Some(Ok(filter)) => Some(filter),
        Some(Err(error)) => {
            entry.note(&format!("is invalid: {error}"));
            None
        }
        None => {
            entry.expected(EVENTS);
            None
        }
    }
}

fn key(entry: &Entry<'_>) -> Option<SinkKey> {
    match entry.value.get_ref() {
        DeValue::String(text) if text == "aggregate-id" => Some(SinkKey::AggregateId),
        DeValue::String(text) if text == "none" => Some(SinkKey::None),
        DeValue::Table(_) => {
            let mut section = entry.section()?;
            let field =
                section.need("field", "the field of the payload").and_then(|entry| entry.text("a field's name"));
            section.finish();
            field.map(|field| SinkKey::Field(field.to_owned()))
        }
        _ => {
            entry.expected("\"aggregate-id\", \"none\" or { field = \"NAME\" }");
            None
        }
    }
}

/// Refuses sinks with the same transactional id, because they would fence each other.
pub(super) fn refuse_shared_ids(entry: Option<Entry<'_>>, sinks: &BTreeMap<String, Option<EventSink>>, outbox: &Sink) {
    let Some(section) = entry.and_then(|entry| entry.section()) else { return };
    let mut owners = BTreeMap::new();
    owners.extend(outbox.transactional_id.as_deref().map(|id| (id, "sink".to_owned())));
    for (name, entry) in section.entries() {
        let sink = sinks.get(name).and_then(Option::as_ref);
        let Some(id) = sink.and_then(|sink| sink.settings.transactional_id.as_deref()) else { continue };
        if let Some(other) = owners.insert(id, entry.path.clone()) {
            let text = format!(
                "`{}` and `{other}` have the same `transactional_id` {id:?} and would fence each other: give each its own, \
                 or leave it out",
                entry.path
            );
            entry.document.problem(entry.key_span.clone(), text);
        }
    }
}
