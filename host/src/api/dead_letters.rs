//! `/v1/dead-letters`: lists, shows, replays and discards dead letters.

use super::Server;
use super::answer::{self, HttpError, Numbered};
use super::problem::ProblemType;
use crate::host::Unreplayed;
use crate::model::{
    Callback, CallbackContent, DeadLetterContent, Header, HttpAnswer, HttpResponse, KeptCallback, KeptDeadLetter,
    KeptRequest, SubscriptionName,
};
use crate::status::{DeadLetterItem, DeadLetters, Replayed};
use crate::store::{DeadLetterQuery, Discard};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use base64::Engine;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::convert::Infallible;

/// The default and the largest number of letters in an answer.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// The number of letters that one transaction of the store discards.
const DISCARDED_AT_ONCE: u64 = 5_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The source or subscription that dead-lettered them, or `schedule/NAME`.
    consumer: Option<String>,
    /// The number before which dead letters are listed.
    before: Option<u64>,
    /// The maximum number of dead letters; 100 by default, at most 1,000.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(server): State<Server>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<DeadLetters>, HttpError> {
    let Query(Wanted { consumer, before, limit }) = wanted?;
    refuse_segment(consumer.as_deref())?;
    let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let found = server.host.read(move |reader| {
        let wanted = DeadLetterQuery { consumer: consumer.as_deref(), before, limit };
        reader.dead_letters(&wanted)
    });
    let (letters, total) = found.await?;
    Ok(Json(DeadLetters { total, letters: letters.into_iter().map(DeadLetterItem::from).collect() }))
}

/// Refuses the name of a segment: no dead letter has it.
fn refuse_segment(consumer: Option<&str>) -> Result<(), HttpError> {
    let Some(consumer) = consumer else { return Ok(()) };
    let whole = SubscriptionName::parse(consumer).whole().to_string();
    match whole == consumer {
        true => Ok(()),
        false => Err(HttpError::malformed(format!(
            "dead letters have the name of the whole subscription, `{whole}`, whichever segment they are of: ask for that"
        ))),
    }
}

pub(super) async fn show(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Value>, HttpError> {
    let Path(number) = number?;
    match server.host.read(move |reader| reader.dead_letter(number)).await? {
        Some(kept) => Ok(Json(whole(kept))),
        None => Err(HttpError::no_such_name(format!("there is no dead letter {number}"))),
    }
}

pub(super) async fn replay(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Replayed>, HttpError> {
    let Path(number) = number?;
    server.host.replay(number).await.map(Json).map_err(|unreplayed| match unreplayed {
        Unreplayed::Impossible(text) => HttpError::new(ProblemType::NotPossibleNow, text),
        Unreplayed::Again(text) => HttpError::new(ProblemType::ReplayFailed, text),
        Unreplayed::Busy(text) => HttpError::new(ProblemType::NoRoom, text),
        Unreplayed::Store(error) => error.into(),
    })
}

pub(super) async fn discard(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Numbered>, HttpError> {
    let Path(number) = number?;
    server.host.change(move |store, done| store.discard_dead_letter(number, done)).await?;
    Ok(Json(Numbered { number }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Discarded {
    /// The source or subscription that dead-lettered them, or `schedule/NAME`; by default all are discarded.
    consumer: Option<String>,
}

/// Discards all current letters, oldest first. The answer has a line of JSON for each step. The last line has
/// `"done":true` or the error.
pub(super) async fn discard_all(
    State(server): State<Server>,
    which: Result<Query<Discarded>, QueryRejection>,
) -> Result<Response, HttpError> {
    let Query(Discarded { consumer }) = which?;
    refuse_segment(consumer.as_deref())?;
    let wanted = consumer.clone();
    let newest = DeadLetterQuery { consumer: None, before: None, limit: 1 };
    let (newest, total) = server
        .host
        .read(move |reader| {
            let (letters, _) = reader.dead_letters(&newest)?;
            let (_, total) =
                reader.dead_letters(&DeadLetterQuery { consumer: wanted.as_deref(), before: None, limit: 0 })?;
            Ok((letters.first().map_or(0, |kept| kept.number), total))
        })
        .await?;
    let (lines, answers) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        let mut discarded = 0;
        let ended = loop {
            let which = Discard { consumer: consumer.clone(), last: newest, limit: DISCARDED_AT_ONCE };
            let step = server.host.discard_dead_letters(which).await;
            match step {
                Ok(0) => break DiscardStep { discarded, of: total, done: true, error: None },
                Ok(count) => discarded += count,
                Err(error) => {
                    break DiscardStep { discarded, of: total, done: false, error: Some(error.to_string()) };
                }
            }
            // If the client no longer listens, the letters are discarded nevertheless, as it requested.
            let _ = lines.send(Ok(line(&DiscardStep { discarded, of: total, done: false, error: None }))).await;
        };
        tracing::info!(consumer, "discarded {discarded} of {total} dead letters, as a client requested");
        let _ = lines.send(Ok(line(&ended))).await;
    });
    Ok(answer::lines(answers))
}

/// A line of the answer to a request that discards dead letters.
#[derive(Serialize, JsonSchema)]
pub(super) struct DiscardStep {
    /// The number of dead letters that are discarded.
    discarded: u64,
    /// The number of those to discard.
    of: u64,
    /// That all of them are discarded. Only the last line has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    done: bool,
    /// Why the others are not discarded. Only the last line has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn line(step: &DiscardStep) -> Bytes {
    (json!(step).to_string() + "\n").into()
}

/// Returns the schema of a dead letter with its content.
pub(super) fn whole_schema(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<DeadLetterItem>();
    json_schema!({
        "allOf": [item],
        "required": ["kind", "content"],
        "properties": {
            "kind": {
                "description": "What was dead-lettered.",
                "enum": [
                    "gone", "event", "record", "command", "message", "outcome", "timer", "response", "http_request"
                ],
            },
            "content": { "description": "Its content, whose members depend on the kind; null if it is gone." },
        },
    })
}

/// Formats a letter with its content.
fn whole(kept: KeptDeadLetter) -> Value {
    let (kind, content) = content(&kept.letter.content);
    let mut whole = json!(DeadLetterItem::from(kept));
    whole["kind"] = kind.into();
    whole["content"] = content;
    whole
}

fn content(content: &DeadLetterContent) -> (&'static str, Value) {
    match content {
        DeadLetterContent::Gone => ("gone", Value::Null),
        DeadLetterContent::Event(position) => ("event", json!({ "position": position })),
        DeadLetterContent::Record(record) => {
            let shown = json!({
                "topic": record.topic, "partition": record.partition, "offset": record.offset,
                "time_ms": record.time_ms, "key": record.key.as_deref().map(bytes_shown),
                "headers": headers_shown(&record.headers), "payload": record.payload.as_deref().map(bytes_shown),
            });
            ("record", shown)
        }
        DeadLetterContent::Command(command) => {
            let shown = json!({
                "type": command.stream.aggregate_type, "aggregate_id": command.stream.aggregate_id,
                "name": command.name, "id": command.id, "time_ms": command.time_ms,
                "correlation_id": command.correlation_id, "causation_id": command.causation_id,
                "headers": headers_shown(&command.headers), "payload": bytes_shown(&command.payload),
            });
            ("command", shown)
        }
        DeadLetterContent::Message(sink, message) => {
            let shown = json!({
                "sink": sink, "topic": message.topic, "partition": message.partition, "id": message.id,
                "time_ms": message.time_ms, "key": message.key.as_deref().map(bytes_shown),
                "correlation_id": message.correlation_id, "causation_id": message.causation_id,
                "headers": headers_shown(&message.headers), "payload": message.payload.as_deref().map(bytes_shown),
            });
            ("message", shown)
        }
        DeadLetterContent::Callback(kept) => {
            let Callback { key, correlation_id, causation_id, .. } = &kept.callback;
            let shown = json!({
                "name": kept.name(), "id": kept.id(), "time_ms": kept.time_ms, "key": key.as_deref().map(bytes_shown),
                "correlation_id": correlation_id, "causation_id": causation_id, "payload": bytes_shown(kept.payload()),
                "outcome": kept.ending(), "response": response_shown(kept),
            });
            let kind = match &kept.callback.content {
                CallbackContent::Outcome { .. } => "outcome",
                CallbackContent::Response(_) => "response",
                _ => "timer",
            };
            (kind, shown)
        }
        DeadLetterContent::Http(KeptRequest { attempts, interrupted, request, .. }) => {
            let shown = json!({
                "id": request.id, "endpoint": request.endpoint, "method": request.method, "path": request.path,
                "headers": headers_shown(&request.headers), "body": bytes_shown(&request.body),
                "time_ms": request.time_ms, "key": request.key.as_deref().map(bytes_shown),
                "correlation_id": request.correlation_id, "causation_id": request.causation_id,
                "attempts": attempts, "interrupted": interrupted,
            });
            ("http_request", shown)
        }
    }
}

/// Formats the answer to an HTTP request, if a callback has one.
fn response_shown(kept: &KeptCallback) -> Value {
    let CallbackContent::Response(response) = &kept.callback.content else { return Value::Null };
    let HttpResponse { request_id, endpoint, method, path, attempts, answer, .. } = &**response;
    let mut shown = json!({
        "request_id": request_id, "endpoint": endpoint, "method": method, "path": path, "attempts": attempts,
    });
    match answer {
        HttpAnswer::Response { status, headers, body } => {
            let header = |(name, value): &(String, Vec<u8>)| json!({ "name": name, "value": bytes_shown(value) });
            shown["status"] = (*status).into();
            shown["headers"] = headers.iter().map(header).collect();
            shown["body"] = bytes_shown(body);
        }
        HttpAnswer::Failed(reason) => shown["failed"] = reason.as_str().into(),
        HttpAnswer::Refused(reason) => shown["refused"] = reason.as_str().into(),
    }
    shown
}

fn headers_shown(headers: &[Header]) -> Vec<Value> {
    let shown = |header: &Header| json!({ "name": header.name, "value": header.value.as_deref().map(bytes_shown) });
    headers.iter().map(shown).collect()
}

/// Formats bytes as text if they are UTF-8: a payload that did not decode is usually JSON with a mistake in it.
fn bytes_shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeadLetter, Record};

    #[test]
    fn what_a_letter_holds_is_shown_as_text_or_as_base64() {
        let record = Record {
            topic: "baskets".into(),
            partition: 3,
            offset: 17,
            time_ms: 5,
            key: Some(vec![0xff]),
            headers: vec![Header { name: "trace".into(), value: None }],
            payload: Some(b"{\"a\":".to_vec()),
        };
        let letter = DeadLetter {
            consumer: "till".into(),
            place: "topic baskets partition 3 offset 17".into(),
            key: None,
            reason: "the key is not UTF-8".into(),
            time_ms: Some(5),
            content: DeadLetterContent::Record(record),
        };
        assert_eq!(
            whole(KeptDeadLetter { number: 7, dead_lettered_ms: 6, letter, waiting: 2 }),
            json!({
                "number": 7, "consumer": "till", "place": "topic baskets partition 3 offset 17", "key": null,
                "reason": "the key is not UTF-8", "time_ms": 5, "dead_lettered_ms": 6, "waiting": 2, "kind": "record",
                "content": {
                    "topic": "baskets", "partition": 3, "offset": 17, "time_ms": 5, "key": { "base64": "/w==" },
                    "headers": [{ "name": "trace", "value": null }], "payload": "{\"a\":",
                },
            })
        );
    }
}
