//! `/v1/queries/PROJECTION/QUERY`: one query to a read model, which may first wait for a position. It is sent by POST, or by GET
//! for browsers and caches.

use super::answer::{HttpError, json};
use super::body::Whole;
use super::problem::ProblemType;
use super::{Server, WAIT_MS_MAX};
use crate::host::QueryError;
use crate::model::Position;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// The default time that a query waits for its position.
const TIMEOUT_MS: u64 = 5_000;

/// The bytes of the digest in an `ETag`.
const TAG_BYTES: usize = 16;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// The position up to which the read model must contain everything.
    position: Option<u64>,
    /// The longest wait for it, in ms; 5,000 by default, at most 3,600,000.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The parameters of the query, as JSON; by default `null`.
    params: Option<String>,
    /// The position up to which the read model must contain everything.
    position: Option<u64>,
    /// The longest wait for it, in ms; 5,000 by default, at most 3,600,000.
    timeout_ms: Option<u64>,
}

pub(super) async fn query(
    State(server): State<Server>,
    path: Result<Path<(String, String)>, PathRejection>,
    wait: Result<Query<Wait>, QueryRejection>,
    body: Result<Whole, HttpError>,
) -> Result<Response, HttpError> {
    let (Path((projection, query)), Query(wait), Whole(body)) = (path?, wait?, body?);
    ask(&server, &projection, &query, body.into(), wait).await.map(json)
}

/// `GET /v1/queries/PROJECTION/QUERY`.
pub(super) async fn get(
    State(server): State<Server>,
    path: Result<Path<(String, String)>, PathRejection>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let (Path((projection, query)), Query(Asked { params, position, timeout_ms })) = (path?, asked?);
    let params = params.unwrap_or_default().into_bytes();
    let answer = ask(&server, &projection, &query, params, Wait { position, timeout_ms }).await?;
    let tag = tag(&answer);
    let mut response = match is_known(&headers, &tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => json(answer),
    };
    response.headers_mut().insert(header::ETAG, tag);
    // A cache may keep it, and must ask whether it is still the answer.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

async fn ask(
    server: &Server,
    projection: &str,
    query: &str,
    params: Vec<u8>,
    wait: Wait,
) -> Result<Vec<u8>, HttpError> {
    let params = if params.is_empty() { b"null".to_vec() } else { params };
    let timeout = timeout(wait.timeout_ms, TIMEOUT_MS)?;
    let asking = server.host.query(projection, query, params, wait.position.map(Position), timeout);
    server.unless_closing(asking).await?.map_err(|error| refusal(error, projection))
}

/// Returns the `ETag` of an answer, which depends on its bytes alone.
fn tag(answer: &[u8]) -> HeaderValue {
    let digest = base16ct::lower::encode_string(&Sha256::digest(answer)[..TAG_BYTES]);
    format!("\"{digest}\"").parse().expect("hexadecimal digits are a header's value")
}

/// Whether the client has an answer with this tag.
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // The tags of this API have no commas.
    let mut tags = known.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == tag.as_bytes())
}

/// Returns how long a request may wait: the time that it asks for, within the limit, or the default.
pub(super) fn timeout(asked_ms: Option<u64>, default_ms: u64) -> Result<Duration, HttpError> {
    match asked_ms.unwrap_or(default_ms) {
        ms if ms <= WAIT_MS_MAX => Ok(Duration::from_millis(ms)),
        ms => Err(HttpError::malformed(format!("timeout_ms must be at most {WAIT_MS_MAX}, found {ms}"))),
    }
}

fn refusal(error: QueryError, projection: &str) -> HttpError {
    match error {
        QueryError::UnknownProjection { known } => HttpError::unknown("projection", projection, &known),
        QueryError::UnknownQuery(text) => HttpError::no_such_name(text),
        QueryError::Malformed(text) => HttpError::new(ProblemType::MalformedQuery, text),
        QueryError::TimedOut(text) => HttpError::new(ProblemType::PositionNotReached, text),
        QueryError::Unavailable(text) => HttpError::new(ProblemType::NotCaughtUp, text),
        QueryError::Failed(text) => HttpError::new(ProblemType::QueryFailed, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_tag() {
        let tag = tag(b"{}");
        assert_eq!(tag, "\"44136fa355b3678a1146ad16f7e8649e\"");
        let ours = tag.to_str().unwrap();
        for (value, expected) in [
            (ours.to_owned(), true),
            (format!("W/{ours}"), true),
            (format!("\"a\", {ours}"), true),
            ("*".to_owned(), true),
            ("\"a\"".to_owned(), false),
            (ours.trim_matches('"').to_owned(), false),
            (String::new(), false),
        ] {
            let headers = [(header::IF_NONE_MATCH, value.parse().unwrap())].into_iter().collect();
            assert_eq!(is_known(&headers, &tag), expected, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }
}
