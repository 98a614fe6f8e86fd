//! Events in cases: those of an aggregate's or a saga's own stream, those that it decides on, and those of other streams.

use crate::Stream;
use crate::answer::Described;
use crate::difference::{count, readable, same};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// An event of the stream under test, given by its name and JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The event's name.
    pub name: String,
    /// The payload. The default is `null`.
    #[serde(default)]
    pub payload: Json,
}

/// An event that was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The event's name.
    pub name: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// An event of an aggregate, as it is in a store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedEvent {
    /// The aggregate.
    pub on: Stream,
    /// The event's name.
    pub name: String,
    /// The payload. The default is `null`.
    #[serde(default)]
    pub payload: Json,
    /// The version. By default it is one more than the number of events of this aggregate before it in the case.
    pub version: Option<u64>,
    /// The time of the event and of its first cause, in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub time_ms: u64,
    /// The headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl Event {
    /// The content as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.payload.to_string().into_bytes()
    }
}

impl RecordedEvent {
    /// The content as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.payload.to_string().into_bytes()
    }

    /// Returns the type and the name as patterns of subscriptions have them.
    pub fn path(&self) -> String {
        format!("{}.{}", self.on.aggregate_type, self.name)
    }

    /// Returns why no host would deliver it: no subscription selects it.
    pub fn not_selected(&self) -> String {
        format!(
            "no subscription selects {}, so a host does not deliver it: correct the event, or subscribe to it",
            self.path()
        )
    }
}

/// Returns a version for each event of a case. Events of one aggregate have increasing versions unless they say otherwise.
pub fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    let mut last: BTreeMap<&Stream, u64> = BTreeMap::new();
    let mut versions = Vec::with_capacity(events.len());
    for RecordedEvent { on, version, .. } in events {
        let last = last.entry(on).or_default();
        *last = version.unwrap_or(*last + 1);
        versions.push(*last);
    }
    versions
}

/// Compares the events that were decided on. Each has its whole payload.
pub(crate) fn same_events(expected: &[Event], actual: &[NewEvent]) -> Result<(), String> {
    let actual: Vec<Event> = actual.iter().map(NewEvent::readable).collect();
    same("the events are", &listed(expected), &listed(&actual))
}

impl NewEvent {
    /// Returns the event in a readable form, with its payload as JSON if it is JSON, and as text otherwise.
    fn readable(&self) -> Event {
        Event { name: self.name.clone(), payload: readable(&self.payload) }
    }
}

/// Lists each event by its name and its indented content.
fn listed(events: &[Event]) -> String {
    events.iter().map(|Event { name, payload }| format!("{name} {payload:#}\n")).collect()
}

impl Described for Vec<Event> {
    fn described(&self) -> String {
        count(self.len(), "event")
    }
}

impl Described for Vec<NewEvent> {
    fn described(&self) -> String {
        let events: Vec<Event> = self.iter().map(NewEvent::readable).collect();
        let events = listed(&events);
        format!("{}{}{}", count(self.len(), "event"), if self.is_empty() { "" } else { ":\n" }, events.trim_end())
    }
}
