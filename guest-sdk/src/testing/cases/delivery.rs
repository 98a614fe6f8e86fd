//! Deliveries of cases, as the SDK has them.

use crate::bindings::types;
use crate::subscriber::{Delivery, Ending};
use crate::testing::envelope;
use std::collections::BTreeMap;
use wasmill_cases::RecordedEvent;
use wasmill_cases::delivery as cases;
use wasmill_cases::delivery::RequestEnding;

/// Makes the delivery of a case. `key` is the key of an outcome, a timer or a response that does not say its own.
pub(super) fn of(delivery: &cases::Delivery, key: Option<&str>) -> Delivery {
    match delivery {
        cases::Delivery::Event(event) => of_event(event),
        cases::Delivery::Record(record) => of_record(record),
        cases::Delivery::Outcome(outcome) => {
            let cases::Outcome { to, command, ending, attachment, key: own, time_ms } = outcome;
            let made = envelope::outcome(&to.aggregate_type, &to.aggregate_id, command, ending_of(ending), attachment);
            of_callback(made, own.as_deref().or(key), *time_ms)
        }
        cases::Delivery::Timer(cases::Timer { name, payload, key: own, time_ms }) => {
            of_callback(envelope::timer(name, payload), own.as_deref().or(key), *time_ms)
        }
        cases::Delivery::Response(response) => {
            let cases::Response { endpoint, method, path, answer, attachment, key: own, time_ms } = response;
            let made = match answer {
                RequestEnding::Answered(answer) => {
                    envelope::response(endpoint, method, path, answer.clone(), attachment)
                }
                RequestEnding::Refused(reason) => envelope::refused_request(endpoint, method, path, reason, attachment),
            };
            of_callback(made, own.as_deref().or(key), *time_ms)
        }
    }
}

fn of_event(event: &RecordedEvent) -> Delivery {
    let on = &event.on;
    let payload = event.payload.to_string();
    let mut made = envelope::event_json(&on.aggregate_type, &on.aggregate_id, &event.name, &payload).at(event.time_ms);
    if let (types::Origin::Event(origin), Some(version)) = (&mut made.0.origin, event.version) {
        origin.version = version;
    }
    with_headers(made, &event.headers)
}

fn of_record(record: &cases::Record) -> Delivery {
    let cases::Record { source, topic, partition, offset, key, value, time_ms, headers } = record;
    let made = envelope::record(topic, key.as_deref().map(str::as_bytes), value.as_deref());
    let mut made = made.from_place(*partition, *offset).at(*time_ms);
    made.0.name.clone_from(source);
    with_headers(made, headers)
}

fn of_callback(made: Delivery, key: Option<&str>, time_ms: u64) -> Delivery {
    let made = made.at(time_ms);
    match key {
        Some(key) => made.with_key(key),
        None => made,
    }
}

fn with_headers(made: Delivery, headers: &BTreeMap<String, String>) -> Delivery {
    headers.iter().fold(made, |made, (name, value)| made.with_header(name, value.as_bytes()))
}

fn ending_of(ending: &cases::Ending) -> Ending<'_> {
    match ending {
        cases::Ending::Accepted { version, position } => Ending::Accepted { version: *version, position: *position },
        cases::Ending::Rejected(reason) => Ending::Rejected(reason),
        cases::Ending::Malformed(reason) => Ending::Malformed(reason),
        cases::Ending::Conflict(actual) => Ending::Conflict { actual: *actual },
        cases::Ending::Archived(reason) => Ending::Archived(reason),
        cases::Ending::Unserved(reason) => Ending::Unserved(reason),
        cases::Ending::Exhausted(reason) => Ending::Exhausted(reason),
    }
}
