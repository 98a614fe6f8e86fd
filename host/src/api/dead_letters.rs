//! `/v1/dead-letters`: what was dead-lettered, one by one, and trying it again or discarding it.

use super::Server;
use super::answer::Refusal;
use crate::host::Unreplayed;
use crate::model::{DeadLetterContent, Header, KeptLetter};
use crate::status::{DeadLetterItem, DeadLetters, Replayed};
use crate::store::{Discard, Letters};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio_stream::wrappers::ReceiverStream;

/// Letters in an answer unless the request says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// Letters that one transaction of the store discards.
const DISCARDED_AT_ONCE: u64 = 5_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    consumer: Option<String>,
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(server): State<Server>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<DeadLetters>, Refusal> {
    let Query(Wanted { consumer, before, limit }) = wanted?;
    let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let found = server.host.read(move |reader| {
        let wanted = Letters { consumer: consumer.as_deref(), before, limit };
        reader.dead_letters(&wanted)
    });
    let (letters, total) = found.await?;
    Ok(Json(DeadLetters { total, letters: letters.into_iter().map(DeadLetterItem::from).collect() }))
}

pub(super) async fn show(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(number) = number?;
    match server.host.read(move |reader| reader.dead_letter(number)).await? {
        Some(kept) => Ok(Json(whole(kept))),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no dead letter {number}"))),
    }
}

pub(super) async fn replay(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Replayed>, Refusal> {
    let Path(number) = number?;
    server.host.replay(number).await.map(Json).map_err(|unreplayed| match unreplayed {
        Unreplayed::Impossible(text) => Refusal::new(StatusCode::CONFLICT, text),
        Unreplayed::Again(text) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text),
        Unreplayed::Busy(text) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text),
        Unreplayed::Store(error) => error.into(),
    })
}

pub(super) async fn discard(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(number) = number?;
    server.host.change(move |store, done| store.discard_letter(number, done)).await?;
    Ok(Json(json!({ "number": number })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Discarded {
    consumer: Option<String>,
}

/// Discards all letters that there are now, oldest first. The answer has a line of JSON for each step, and the last one
/// says `"done":true`, or has the error.
pub(super) async fn discard_all(
    State(server): State<Server>,
    which: Result<Query<Discarded>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(Discarded { consumer }) = which?;
    let wanted = consumer.clone();
    let newest = Letters { consumer: None, before: None, limit: 1 };
    let (newest, total) = server
        .host
        .read(move |reader| {
            let (letters, _) = reader.dead_letters(&newest)?;
            let (_, total) = reader.dead_letters(&Letters { consumer: wanted.as_deref(), before: None, limit: 0 })?;
            Ok((letters.first().map_or(0, |kept| kept.number), total))
        })
        .await?;
    let (lines, answer) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        let mut discarded = 0;
        let ended = loop {
            let which = Discard { consumer: consumer.clone(), last: newest, limit: DISCARDED_AT_ONCE };
            let step = server.host.discard_letters(which).await;
            match step {
                Ok(0) => break json!({ "discarded": discarded, "of": total, "done": true }),
                Ok(count) => discarded += count,
                Err(error) => break json!({ "discarded": discarded, "of": total, "error": error.to_string() }),
            }
            // Who does not listen any more has asked for it all the same.
            let _ = lines.send(Ok(line(&json!({ "discarded": discarded, "of": total })))).await;
        };
        tracing::info!(consumer, "discarded {discarded} of {total} dead letters, as somebody asked for");
        let _ = lines.send(Ok(line(&ended))).await;
    });
    let body = Body::from_stream(ReceiverStream::new(answer));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

/// The letter and what it holds.
fn whole(kept: KeptLetter) -> Value {
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
    }
}

fn headers_shown(headers: &[Header]) -> Vec<Value> {
    let shown = |header: &Header| json!({ "name": header.name, "value": header.value.as_deref().map(bytes_shown) });
    headers.iter().map(shown).collect()
}

/// Text where it is text: what did not decode is most often JSON with a mistake in it.
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
            whole(KeptLetter { number: 7, dead_lettered_ms: 6, letter }),
            json!({
                "number": 7, "consumer": "till", "place": "topic baskets partition 3 offset 17", "key": null,
                "reason": "the key is not UTF-8", "time_ms": 5, "dead_lettered_ms": 6, "kind": "record",
                "content": {
                    "topic": "baskets", "partition": 3, "offset": 17, "time_ms": 5, "key": { "base64": "/w==" },
                    "headers": [{ "name": "trace", "value": null }], "payload": "{\"a\":",
                },
            })
        );
    }
}
