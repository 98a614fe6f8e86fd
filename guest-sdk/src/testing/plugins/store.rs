//! What a host keeps in its store: the events with their streams, and the time.

use super::command::Command;
use crate::bindings::types;
use std::collections::{BTreeMap, BTreeSet};
use wasmill_cases::flows::Stream;

/// The most bytes of an event: the default of `store.event_bytes_max`.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// The events, in the order of their positions, and the time.
pub(super) struct Store {
    /// The time, in milliseconds since 1970-01-01T00:00:00Z. It never goes back.
    pub(super) now_ms: u64,
    events: Vec<Recorded>,
    /// The places of each stream's events in the list.
    streams: BTreeMap<Stream, Vec<usize>>,
    archived: BTreeSet<Stream>,
}

/// A recorded event.
#[derive(Clone)]
pub(super) struct Recorded {
    pub(super) event: types::RecordedEvent,
    /// The number of subscribers in its chain of causes.
    pub(super) hops: u32,
}

impl Store {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { now_ms, events: Vec::new(), streams: BTreeMap::new(), archived: BTreeSet::new() }
    }

    /// Returns the event at a place, from 0.
    pub(super) fn event(&self, place: usize) -> Option<&Recorded> {
        self.events.get(place)
    }

    /// Returns the position of the newest event, or 0.
    pub(super) fn position(&self) -> u64 {
        self.events.len() as u64
    }

    /// Returns the version of a stream, which is 0 if it has no events.
    pub(super) fn version(&self, stream: &Stream) -> u64 {
        self.streams.get(stream).map_or(0, |places| places.len() as u64)
    }

    /// Returns the events of a stream.
    pub(super) fn history(&self, stream: &Stream) -> Vec<types::RecordedEvent> {
        let places = self.streams.get(stream).into_iter().flatten();
        places.map(|place| self.events[*place].event.clone()).collect()
    }

    pub(super) fn is_archived(&self, stream: &Stream) -> bool {
        self.archived.contains(stream)
    }

    pub(super) fn archive(&mut self, stream: &Stream) {
        self.archived.insert(stream.clone());
    }

    /// Records the events that a command led to.
    pub(super) fn append(&mut self, command: &Command, events: Vec<types::NewEvent>) {
        for types::NewEvent { name, payload } in events {
            let position = self.position() + 1;
            let places = self.streams.entry(command.stream.clone()).or_default();
            places.push(self.events.len());
            let cause =
                types::Causation { correlation_id: command.correlation_id.clone(), causation_id: command.id.clone() };
            let event = types::RecordedEvent {
                position,
                aggregate_type: command.stream.aggregate_type.clone(),
                aggregate_id: command.stream.aggregate_id.clone(),
                version: places.len() as u64,
                name,
                payload,
                recorded_time: self.now_ms,
                first_time: command.first_ms,
                metadata: types::Metadata {
                    id: format!("event-{position}"),
                    time: command.time_ms,
                    cause: types::Cause::Known(cause),
                    headers: command.headers_or_none(),
                },
            };
            self.events.push(Recorded { event, hops: command.hops });
        }
    }
}

/// Fails if an event is larger than a host records it by default.
pub(super) fn check_sizes(command: &Command, events: &[types::NewEvent]) -> Result<(), String> {
    let of_header = |header: &types::Header| header.name.len() + header.value.as_ref().map_or(0, Vec::len);
    let headers: usize = command.headers.iter().map(of_header).sum();
    let shared = command.stream.aggregate_id.len() + command.id.len() + command.correlation_id.len() + headers;
    let bytes = |event: &types::NewEvent| shared + event.name.len() + event.payload.len();
    match events.iter().find(|event| bytes(event) > EVENT_BYTES_MAX) {
        None => Ok(()),
        Some(event) => Err(format!(
            "event {} of {} has {} bytes, {} of them payload, and the limit is {EVENT_BYTES_MAX}: make it smaller or raise \
             store.event_bytes_max",
            event.name,
            command.stream,
            bytes(event),
            event.payload.len()
        )),
    }
}
