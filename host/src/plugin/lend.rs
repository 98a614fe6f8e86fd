//! Events and records as guests take them: lent, not copied. What has no place in them to be lent from (the text of
//! an id, the list of headers) is kept here for the call.

use super::bindings::wasmill::plugin::types;
use crate::model::{Header, Record, RecordedEvent};

/// Events ready to be lent to a guest.
pub(super) struct Lender<'e> {
    events: &'e [RecordedEvent],
    ids: Vec<String>,
    headers: Vec<Vec<types::HeaderParam<'e>>>,
}

impl<'e> Lender<'e> {
    pub(super) fn new(events: &'e [RecordedEvent]) -> Self {
        Self {
            events,
            ids: events.iter().map(|event| event.id.to_string()).collect(),
            headers: events.iter().map(|event| lend_headers(&event.headers)).collect(),
        }
    }

    /// For aggregates and projections.
    pub(super) fn events(&self) -> Vec<types::RecordedEvent<'_>> {
        self.each(|event, metadata| types::RecordedEvent {
            position: event.position.0,
            aggregate_type: &event.stream.aggregate_type,
            aggregate_id: &event.stream.aggregate_id,
            version: event.version.0,
            name: &event.name,
            payload: &event.payload,
            metadata,
        })
    }

    /// For subscribers.
    pub(super) fn deliveries(&self) -> Vec<types::Delivery<'_>> {
        self.each(|event, metadata| types::Delivery {
            name: &event.name,
            key: Some(event.stream.aggregate_id.as_bytes()),
            payload: Some(&event.payload),
            metadata,
            origin: types::Origin::Event(types::EventOrigin {
                position: event.position.0,
                aggregate_type: &event.stream.aggregate_type,
                aggregate_id: &event.stream.aggregate_id,
                version: event.version.0,
            }),
        })
    }

    fn each<'a, T>(&'a self, lend: impl Fn(&'a RecordedEvent, types::Metadata<'a>) -> T) -> Vec<T> {
        let with_metadata = |((event, id), headers): ((&'a RecordedEvent, &'a String), &'a Vec<_>)| {
            let metadata = types::Metadata {
                id,
                time: event.time_ms,
                correlation_id: &event.correlation_id,
                causation_id: &event.causation_id,
                headers,
            };
            lend(event, metadata)
        };
        self.events.iter().zip(&self.ids).zip(&self.headers).map(with_metadata).collect()
    }
}

/// Records of a source ready to be lent to a subscriber.
pub(super) struct RecordLender<'r> {
    source: &'r str,
    records: &'r [&'r Record],
    ids: Vec<String>,
    headers: Vec<Vec<types::HeaderParam<'r>>>,
}

impl<'r> RecordLender<'r> {
    pub(super) fn new(source: &'r str, records: &'r [&'r Record]) -> Self {
        Self {
            source,
            records,
            ids: records.iter().map(|record| record.id()).collect(),
            headers: records.iter().map(|record| lend_headers(&record.headers)).collect(),
        }
    }

    pub(super) fn deliveries(&self) -> Vec<types::Delivery<'_>> {
        let of_each = self.records.iter().zip(&self.ids).zip(&self.headers);
        of_each.map(|((record, id), headers)| self.delivery(record, id, headers)).collect()
    }

    fn delivery<'a>(
        &'a self,
        record: &'a Record,
        id: &'a str,
        headers: &'a [types::HeaderParam<'r>],
    ) -> types::Delivery<'a> {
        types::Delivery {
            name: self.source,
            key: record.key.as_deref(),
            payload: record.payload.as_deref(),
            metadata: types::Metadata {
                id,
                time: record.time_ms,
                correlation_id: record.correlation_id().unwrap_or(id),
                causation_id: id,
                headers,
            },
            origin: types::Origin::Kafka(types::KafkaOrigin {
                topic: &record.topic,
                partition: record.partition,
                offset: record.offset,
            }),
        }
    }
}

/// Most have none, and an empty vector costs nothing.
pub(super) fn lend_headers(headers: &[Header]) -> Vec<types::HeaderParam<'_>> {
    headers.iter().map(|header| types::HeaderParam { name: &header.name, value: header.value.as_deref() }).collect()
}
