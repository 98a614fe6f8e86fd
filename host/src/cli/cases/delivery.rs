//! Deliveries of cases, as the runtime gives them to guests.

use super::{of_headers, recorded_of};
use crate::model::{
    Callback, CallbackContent, Ending, ExpectedVersion, HttpAnswer, HttpResponse, KeptCallback, Position, Record,
    RecordedEvent, StreamId, Undecided, Version,
};
use std::sync::Arc;
use wasmill_cases::delivery::{self, Delivery, RequestEnding};
use wasmill_cases::flows::http::{ServerAnswer, ServerResponse};

/// What a guest gets.
pub(super) enum Input {
    /// An event.
    Event(RecordedEvent),
    /// A record of the source of this name.
    Record(String, Record),
    /// An outcome, a timer or a response.
    Callback(KeptCallback),
}

/// Makes what a guest gets. `key` is the key of an outcome, a timer or a response that does not say its own.
pub(super) fn of(delivery: &Delivery, key: Option<&str>) -> Input {
    match delivery {
        Delivery::Event(of_case) => Input::Event(event(of_case)),
        Delivery::Record(of_case) => Input::Record(of_case.source.clone(), record(of_case)),
        Delivery::Outcome(outcome) => {
            let delivery::Outcome { to, command, ending, attachment, key: own, time_ms } = outcome;
            let content = CallbackContent::Outcome {
                stream: StreamId::new(to.aggregate_type.as_str(), to.aggregate_id.as_str()),
                name: command.as_str().into(),
                ending: of_ending(ending),
                attachment: attachment.to_string().into_bytes(),
            };
            callback(content, None, own.as_deref().or(key), *time_ms)
        }
        Delivery::Timer(delivery::Timer { name, payload, key: own, time_ms }) => {
            let name: Arc<str> = name.as_str().into();
            let content = CallbackContent::Wake { name: name.clone(), payload: payload.to_string().into_bytes() };
            callback(content, Some(name), own.as_deref().or(key), *time_ms)
        }
        Delivery::Response(of_case) => {
            let content = CallbackContent::Response(Box::new(response(of_case)));
            callback(content, None, of_case.key.as_deref().or(key), of_case.time_ms)
        }
    }
}

/// Makes an event, by default the first one of its stream.
pub(super) fn event(event: &wasmill_cases::RecordedEvent) -> RecordedEvent {
    recorded_of(event, (1, event.version.unwrap_or(1)))
}

fn record(record: &delivery::Record) -> Record {
    let delivery::Record { source: _, topic, partition, offset, key, value, time_ms, headers } = record;
    Record {
        topic: topic.as_str().into(),
        partition: *partition,
        offset: *offset,
        time_ms: *time_ms,
        key: key.as_ref().map(|key| key.clone().into_bytes()),
        headers: of_headers(headers),
        payload: value.clone(),
    }
}

fn callback(content: CallbackContent, timer: Option<Arc<str>>, key: Option<&str>, time_ms: u64) -> Input {
    let callback = Callback {
        key: key.map(|key| key.as_bytes().to_vec()),
        correlation_id: "test".into(),
        causation_id: "test".into(),
        hops: 0,
        first_ms: time_ms,
        headers: Vec::new(),
        content,
    };
    Input::Callback(KeptCallback { number: 1, timer, time_ms, callback })
}

fn of_ending(ending: &delivery::Ending) -> Ending {
    let undecided = match ending {
        delivery::Ending::Accepted { version, position } => {
            return Ending::Accepted { version: Version(*version), position: Position(*position) };
        }
        delivery::Ending::Rejected(reason) => return Ending::Rejected(reason.clone()),
        delivery::Ending::Malformed(reason) => return Ending::Malformed(reason.clone()),
        delivery::Ending::Conflict(actual) => {
            Undecided::Conflict { actual: Version(*actual), expected: ExpectedVersion::Exact(Version(0)) }
        }
        delivery::Ending::Archived(reason) => Undecided::Archived(reason.clone()),
        delivery::Ending::Unserved(reason) => Undecided::Unserved(reason.clone()),
        delivery::Ending::Exhausted(reason) => Undecided::Exhausted(reason.clone()),
    };
    Ending::Undecided(undecided)
}

fn response(response: &delivery::Response) -> HttpResponse {
    let delivery::Response { endpoint, method, path, answer, attachment, .. } = response;
    let (attempts, answer) = match answer {
        RequestEnding::Answered(ServerAnswer::Response(ServerResponse { status, headers, body })) => {
            (1, HttpAnswer::Response { status: *status, headers: headers.clone(), body: body.clone() })
        }
        RequestEnding::Answered(ServerAnswer::Failed(reason)) => (1, HttpAnswer::Failed(reason.clone())),
        RequestEnding::Refused(reason) => (0, HttpAnswer::Refused(reason.clone())),
    };
    HttpResponse {
        request_id: "test".into(),
        endpoint: endpoint.as_str().into(),
        method: method.clone(),
        path: path.clone(),
        attempts,
        answer,
        attachment: attachment.to_string().into_bytes(),
    }
}
