//! Lowering of events and records to the types of the guests' functions. Values are borrowed, not copied. Values that
//! an item does not hold in this form, such as the text of an id or the list of headers, are kept here during the call.

use super::bindings::wasmill::plugin::types;
use crate::model::{
    Callback, CallbackContent, Command, Ending, Header, HttpAnswer, HttpResponse, KeptCallback, Record, RecordedEvent,
    Undecided,
};

/// Events that are ready to be lent to a guest.
pub(super) struct Lender<'e> {
    events: &'e [RecordedEvent],
    ids: Vec<String>,
    headers: Vec<LentHeaders<'e>>,
}

impl<'e> Lender<'e> {
    pub(super) fn new(events: &'e [RecordedEvent]) -> Self {
        Self {
            events,
            ids: events.iter().map(|event| event.id.to_string()).collect(),
            headers: events.iter().map(|event| lend_headers(&event.headers)).collect(),
        }
    }

    /// Returns the events as aggregates and projections take them.
    pub(super) fn events(&self) -> Vec<types::RecordedEvent<'_>> {
        self.each(|event, metadata| types::RecordedEvent {
            position: event.position.0,
            aggregate_type: &event.stream.aggregate_type,
            aggregate_id: &event.stream.aggregate_id,
            version: event.version.0,
            name: &event.name,
            payload: &event.payload,
            recorded_time: event.recorded_ms(),
            first_time: event.first_ms.unwrap_or(event.time_ms),
            metadata,
        })
    }

    /// Returns the events as subscribers take them.
    pub(super) fn deliveries(&self) -> Vec<types::Delivery<'_>> {
        self.each(|event, metadata| types::Delivery {
            name: &event.name,
            key: Some(event.stream.aggregate_id.as_bytes()),
            payload: Some(&event.payload),
            recorded_time: event.recorded_ms(),
            first_time: event.first_ms.unwrap_or(event.time_ms),
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
        let with_metadata = |((event, id), headers): ((&'a RecordedEvent, &'a String), &'a LentHeaders<'e>)| {
            let metadata = types::Metadata {
                id,
                time: event.time_ms,
                cause: types::Cause::Known(types::Causation {
                    correlation_id: &event.correlation_id,
                    causation_id: &event.causation_id,
                }),
                headers: headers.as_deref(),
            };
            lend(event, metadata)
        };
        self.events.iter().zip(&self.ids).zip(&self.headers).map(with_metadata).collect()
    }
}

/// Records of a source that are ready to be lent to a subscriber.
pub(super) struct RecordLender<'r> {
    source: &'r str,
    records: &'r [&'r Record],
    /// The text of all ids; `ends` has the end of each.
    ids: String,
    ends: Vec<usize>,
    headers: Vec<LentHeaders<'r>>,
}

impl<'r> RecordLender<'r> {
    pub(super) fn new(source: &'r str, records: &'r [&'r Record]) -> Self {
        let mut ids = String::new();
        let end_of = |record: &&Record| {
            record.write_id(&mut ids);
            ids.len()
        };
        Self {
            source,
            records,
            ends: records.iter().map(end_of).collect(),
            ids,
            headers: records.iter().map(|record| lend_headers(&record.headers)).collect(),
        }
    }

    pub(super) fn deliveries(&self) -> Vec<types::Delivery<'_>> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let ids = begins.zip(&self.ends).map(|(begin, &end)| &self.ids[begin..end]);
        let of_each = self.records.iter().zip(ids).zip(&self.headers);
        of_each.map(|((record, id), headers)| self.delivery(record, id, headers)).collect()
    }

    fn delivery<'a>(&'a self, record: &'a Record, id: &'a str, headers: &'a LentHeaders<'r>) -> types::Delivery<'a> {
        types::Delivery {
            name: self.source,
            key: record.key.as_deref(),
            payload: record.payload.as_deref(),
            recorded_time: record.time_ms,
            first_time: record.time_ms,
            metadata: types::Metadata {
                id,
                time: record.time_ms,
                cause: record.correlation_id().map_or(types::Cause::First, |sent| uncaused(sent, id)),
                headers: headers.as_deref(),
            },
            origin: types::Origin::Kafka(types::KafkaOrigin {
                topic: &record.topic,
                partition: record.partition,
                offset: record.offset,
            }),
        }
    }
}

/// Callbacks that are ready to be lent to a subscriber.
pub(super) struct CallbackLender<'c> {
    callbacks: &'c [KeptCallback],
    ids: Vec<String>,
    headers: Vec<LentHeaders<'c>>,
    /// The headers of each response; none for everything else.
    response_headers: Vec<Vec<types::HttpHeaderParam<'c>>>,
}

impl<'c> CallbackLender<'c> {
    pub(super) fn new(callbacks: &'c [KeptCallback]) -> Self {
        Self {
            callbacks,
            ids: callbacks.iter().map(KeptCallback::id).collect(),
            headers: callbacks.iter().map(|kept| lend_headers(&kept.callback.headers)).collect(),
            response_headers: callbacks.iter().map(lend_response_headers).collect(),
        }
    }

    pub(super) fn deliveries(&self) -> Vec<types::Delivery<'_>> {
        let of_each = self.callbacks.iter().zip(&self.ids).zip(&self.headers).zip(&self.response_headers);
        of_each.map(|(((kept, id), headers), of_response)| delivery_of(kept, id, headers, of_response)).collect()
    }
}

fn delivery_of<'a>(
    kept: &'a KeptCallback,
    id: &'a str,
    headers: &'a LentHeaders<'_>,
    of_response: &'a [types::HttpHeaderParam<'_>],
) -> types::Delivery<'a> {
    let Callback { key, correlation_id, causation_id, content, .. } = &kept.callback;
    types::Delivery {
        name: kept.name(),
        key: key.as_deref(),
        payload: Some(kept.payload()),
        recorded_time: kept.time_ms,
        first_time: kept.callback.first_ms,
        metadata: types::Metadata {
            id,
            time: kept.time_ms,
            cause: types::Cause::Known(types::Causation { correlation_id, causation_id }),
            headers: headers.as_deref(),
        },
        origin: match content {
            CallbackContent::Outcome { stream, ending, .. } => types::Origin::Outcome(types::OutcomeOrigin {
                command_id: causation_id,
                aggregate_type: &stream.aggregate_type,
                aggregate_id: &stream.aggregate_id,
                ending: lend_ending(ending),
            }),
            CallbackContent::Wake { .. } | CallbackContent::Send(_) => types::Origin::Timer,
            CallbackContent::Response(response) => types::Origin::Response(lend_response(response, of_response)),
            CallbackContent::Event(_) | CallbackContent::Record(_) => {
                unreachable!("what was deferred is lent as what it is")
            }
        },
    }
}

fn lend_response<'a>(
    response: &'a HttpResponse,
    headers: &'a [types::HttpHeaderParam<'_>],
) -> types::ResponseOrigin<'a> {
    let HttpResponse { request_id, method, path, attempts, answer, .. } = response;
    let answer = match answer {
        HttpAnswer::Response { status, body, .. } => {
            types::Answer::Response(types::Response { status: *status, headers, body })
        }
        HttpAnswer::Failed(reason) => types::Answer::Failed(reason),
        HttpAnswer::Refused(reason) => types::Answer::Refused(reason),
    };
    types::ResponseOrigin { request_id, method, path, attempts: *attempts, answer }
}

fn lend_response_headers(kept: &KeptCallback) -> Vec<types::HttpHeaderParam<'_>> {
    match &kept.callback.content {
        CallbackContent::Response(response) => match &response.answer {
            HttpAnswer::Response { headers, .. } => {
                headers.iter().map(|(name, value)| types::HttpHeaderParam { name, value }).collect()
            }
            HttpAnswer::Failed(_) | HttpAnswer::Refused(_) => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn lend_ending(ending: &Ending) -> types::Ending<'_> {
    match ending {
        Ending::Accepted { version, position } => {
            types::Ending::Accepted(types::Accepted { version: version.0, position: position.0 })
        }
        Ending::Rejected(reason) => types::Ending::Rejected(reason),
        Ending::Malformed(reason) => types::Ending::Malformed(reason),
        Ending::Undecided(Undecided::Conflict { actual, .. }) => types::Ending::Conflict(actual.0),
        Ending::Undecided(Undecided::Archived(reason)) => types::Ending::Archived(reason),
        Ending::Undecided(Undecided::Unserved(reason)) => types::Ending::Unserved(reason),
        Ending::Undecided(Undecided::Exhausted(reason)) => types::Ending::Exhausted(reason),
    }
}

/// Returns the cause of a command. A causation id that equals the command's own id means that there is no cause.
pub(super) fn lend_cause(command: &Command) -> types::Cause<'_> {
    let Command { id, correlation_id, causation_id, .. } = command;
    if causation_id == id {
        return uncaused(correlation_id, id);
    }
    types::Cause::Known(types::Causation { correlation_id, causation_id })
}

/// Returns the cause of an item that nothing caused. A correlation id that equals its own id is left out.
fn uncaused<'a>(correlation_id: &'a str, id: &str) -> types::Cause<'a> {
    if correlation_id == id { types::Cause::First } else { types::Cause::Correlated(correlation_id) }
}

/// The headers of one item; `None` for most items, which have no headers.
type LentHeaders<'h> = Option<Vec<types::HeaderParam<'h>>>;

pub(super) fn lend_headers<'h>(headers: &'h [Header]) -> LentHeaders<'h> {
    let lend = |header: &'h Header| types::HeaderParam { name: &header.name, value: header.value.as_deref() };
    (!headers.is_empty()).then(|| headers.iter().map(lend).collect())
}

/// Lends the names and payloads of events.
pub(super) fn lend_payloads<'e>(events: &[&'e RecordedEvent]) -> Vec<types::RecordedPayload<'e>> {
    events.iter().map(|event| types::RecordedPayload { name: &event.name, payload: &event.payload }).collect()
}
