//! The envelopes of payloads in tests: recorded events, deliveries and their metadata.

use crate::bindings::types;
use crate::codec;
use crate::contract::Contract;
use crate::subscriber::{Delivery, Ending};
use crate::upcast;
use serde::Serialize;
use wasmill_cases::flows::http::{ServerAnswer, ServerResponse};

/// Makes metadata with this id and time, as of a first cause.
pub(super) fn metadata(id: &str, time_ms: u64) -> types::Metadata {
    types::Metadata {
        id: id.to_owned(),
        time: time_ms,
        cause: types::Cause::Known(types::Causation {
            correlation_id: "test".to_owned(),
            causation_id: "test".to_owned(),
        }),
        headers: None,
    }
}

/// Adds a header.
pub(super) fn add_header(metadata: &mut types::Metadata, name: &str, value: Option<&[u8]>) {
    let header = types::Header { name: name.to_owned(), value: value.map(<[u8]>::to_vec) };
    metadata.headers.get_or_insert_default().push(header);
}

/// Makes an event as it is in the store.
pub(super) fn recorded(stream: (&str, &str), place: u64, name: &str, payload: Vec<u8>) -> types::RecordedEvent {
    types::RecordedEvent {
        position: place,
        aggregate_type: stream.0.to_owned(),
        aggregate_id: stream.1.to_owned(),
        version: place,
        name: name.to_owned(),
        payload,
        recorded_time: 0,
        first_time: 0,
        metadata: metadata(&format!("event-{place}"), 0),
    }
}

/// Makes the delivery of an aggregate's event to a subscriber. If the event has [upcasts](crate::upcast), use
/// [`event_of`]: this one has schema version 1.
///
/// # Panics
/// If the event does not encode.
#[track_caller]
pub fn event(aggregate_type: &str, aggregate_id: &str, event: &impl Serialize) -> Delivery {
    let (name, payload) = codec::encode(event).unwrap_or_else(|error| panic!("the event does not encode: {error}"));
    delivery(aggregate_type, aggregate_id, name, payload)
}

/// Makes the delivery of an event of a contract, as the aggregate records it.
///
/// # Panics
/// If the event does not encode.
#[track_caller]
pub fn event_of<C: Contract>(aggregate_id: &str, event: &C::Event) -> Delivery {
    let (name, payload) = encoded::<C>(event);
    delivery(C::TYPE, aggregate_id, name, payload)
}

/// Encodes an event as its aggregate records it.
#[track_caller]
pub(super) fn encoded<C: Contract>(event: &C::Event) -> (&'static str, Vec<u8>) {
    let encoded = upcast::encode(event, C::UPCASTS);
    let encoded = encoded.unwrap_or_else(|error| panic!("the event does not encode: {error}"));
    (encoded.name, encoded.payload)
}

/// Makes the delivery of an aggregate's event to a subscriber, from the event's name and JSON.
pub fn event_json(aggregate_type: &str, aggregate_id: &str, name: &str, payload: &str) -> Delivery {
    delivery(aggregate_type, aggregate_id, name, payload.as_bytes().to_vec())
}

/// Makes the delivery of a Kafka record to a subscriber. Without a payload it is a tombstone.
pub fn record(topic: &str, key: Option<&[u8]>, payload: Option<&[u8]>) -> Delivery {
    Delivery(types::Delivery {
        name: topic.to_owned(),
        key: key.map(<[u8]>::to_vec),
        payload: payload.map(<[u8]>::to_vec),
        recorded_time: 0,
        first_time: 0,
        metadata: metadata(&format!("{topic}:0:0"), 0),
        origin: types::Origin::Kafka(types::KafkaOrigin { topic: topic.to_owned(), partition: 0, offset: 0 }),
    })
}

/// Makes the delivery of a Kafka record to a subscriber, with this key and this value as JSON.
///
/// # Panics
/// If the value does not encode.
#[track_caller]
pub fn record_json(topic: &str, key: &str, value: &impl Serialize) -> Delivery {
    let value = codec::to_json(value).unwrap_or_else(|error| panic!("the value does not encode: {error}"));
    record(topic, Some(key.as_bytes()), Some(&value))
}

/// Makes the delivery of a command's outcome to the subscriber that asked for it with this attachment.
///
/// # Panics
/// If the attachment does not encode.
#[track_caller]
pub fn outcome(
    aggregate_type: &str,
    aggregate_id: &str,
    command: &str,
    ending: Ending<'_>,
    attachment: &(impl Serialize + ?Sized),
) -> Delivery {
    let attachment = codec::to_json(attachment);
    let origin = types::OutcomeOrigin {
        command_id: "test".to_owned(),
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        ending: wit_ending(ending),
    };
    Delivery(types::Delivery {
        name: command.to_owned(),
        key: None,
        payload: Some(attachment.unwrap_or_else(|error| panic!("the attachment does not encode: {error}"))),
        recorded_time: 0,
        first_time: 0,
        metadata: metadata("test:outcome", 0),
        origin: types::Origin::Outcome(origin),
    })
}

fn wit_ending(ending: Ending<'_>) -> types::Ending {
    match ending {
        Ending::Accepted { version, position } => types::Ending::Accepted(types::Accepted { version, position }),
        Ending::Rejected(reason) => types::Ending::Rejected(reason.to_owned()),
        Ending::Malformed(reason) => types::Ending::Malformed(reason.to_owned()),
        Ending::Conflict { actual } => types::Ending::Conflict(actual),
        Ending::Archived(reason) => types::Ending::Archived(reason.to_owned()),
        Ending::Unserved(reason) => types::Ending::Unserved(reason.to_owned()),
        Ending::Exhausted(reason) => types::Ending::Exhausted(reason.to_owned()),
    }
}

/// Makes the delivery of a timer to the subscriber that set it with this payload.
///
/// # Panics
/// If the payload does not encode.
#[track_caller]
pub fn timer(name: &str, payload: &(impl Serialize + ?Sized)) -> Delivery {
    let payload = codec::to_json(payload).unwrap_or_else(|error| panic!("the payload does not encode: {error}"));
    Delivery(types::Delivery {
        name: name.to_owned(),
        key: None,
        payload: Some(payload),
        recorded_time: 0,
        first_time: 0,
        metadata: metadata("timer:1", 0),
        origin: types::Origin::Timer,
    })
}

/// Makes the delivery of a server's answer to the subscriber that sent the request and asked for its response with this
/// attachment.
///
/// # Panics
/// If the attachment does not encode.
#[track_caller]
pub fn response(
    endpoint: &str,
    method: &str,
    path: &str,
    answer: ServerAnswer,
    attachment: &(impl Serialize + ?Sized),
) -> Delivery {
    answered((endpoint, method, path), 1, answer.into(), attachment)
}

/// Makes the delivery that tells a subscriber that the host refused to send its request, for this reason. Otherwise it is like
/// [`response`].
///
/// # Panics
/// If the attachment does not encode.
#[track_caller]
pub fn refused_request(
    endpoint: &str,
    method: &str,
    path: &str,
    reason: &str,
    attachment: &(impl Serialize + ?Sized),
) -> Delivery {
    answered((endpoint, method, path), 0, types::Answer::Refused(reason.to_owned()), attachment)
}

#[track_caller]
fn answered(
    (endpoint, method, path): (&str, &str, &str),
    attempts: u32,
    answer: types::Answer,
    attachment: &(impl Serialize + ?Sized),
) -> Delivery {
    let attachment = codec::to_json(attachment);
    let origin = types::ResponseOrigin {
        request_id: "test".to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        attempts,
        answer,
    };
    Delivery(types::Delivery {
        name: endpoint.to_owned(),
        key: None,
        payload: Some(attachment.unwrap_or_else(|error| panic!("the attachment does not encode: {error}"))),
        recorded_time: 0,
        first_time: 0,
        metadata: metadata("test:response", 0),
        origin: types::Origin::Response(origin),
    })
}

impl From<ServerAnswer> for types::Answer {
    fn from(answer: ServerAnswer) -> Self {
        match answer {
            ServerAnswer::Response(ServerResponse { status, headers, body }) => {
                let headers = headers.into_iter().map(|(name, value)| types::HttpHeader { name, value });
                types::Answer::Response(types::Response { status, headers: headers.collect(), body })
            }
            ServerAnswer::Failed(reason) => types::Answer::Failed(reason),
        }
    }
}

fn delivery(aggregate_type: &str, aggregate_id: &str, name: &str, payload: Vec<u8>) -> Delivery {
    Delivery(types::Delivery {
        name: name.to_owned(),
        key: Some(aggregate_id.as_bytes().to_vec()),
        payload: Some(payload),
        recorded_time: 0,
        first_time: 0,
        metadata: metadata("event-1", 0),
        origin: types::Origin::Event(types::EventOrigin {
            position: 1,
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: aggregate_id.to_owned(),
            version: 1,
        }),
    })
}

/// Methods for tests, which change the time, the place, the key or the headers of a delivery.
impl Delivery {
    /// Sets the key.
    pub fn with_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Sets the partition and the offset.
    ///
    /// # Panics
    /// If this is not a Kafka record.
    #[track_caller]
    pub fn from_place(mut self, partition: i32, offset: i64) -> Self {
        let types::Origin::Kafka(place) = &mut self.0.origin else { panic!("an event has no partition") };
        (place.partition, place.offset) = (partition, offset);
        self.0.metadata.id = format!("{}:{partition}:{offset}", place.topic);
        self
    }

    /// Adds a header without a value.
    pub fn with_empty_header(mut self, name: &str) -> Self {
        add_header(&mut self.0.metadata, name, None);
        self
    }

    /// Sets all times, in milliseconds since 1970-01-01T00:00:00Z: the time of the delivery, the recorded time, and the time
    /// of the first cause.
    pub fn at(mut self, time_ms: u64) -> Self {
        (self.0.metadata.time, self.0.recorded_time, self.0.first_time) = (time_ms, time_ms, time_ms);
        self
    }

    /// Sets the time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn first_at(mut self, time_ms: u64) -> Self {
        self.0.first_time = time_ms;
        self
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &str, value: &[u8]) -> Self {
        add_header(&mut self.0.metadata, name, Some(value));
        self
    }
}
