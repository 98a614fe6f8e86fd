//! HTTP requests in flows: how servers answer them, and which ones must have been sent.
//!
//! ```
//! # use wasmill_cases::flows::FlowFile;
//! # use wasmill_cases::flows::http::{Answers, SentRequest, ServerAnswer};
//! let file = FlowFile::parse("shop.toml", r#"
//!     [[flow]]
//!     name = "a charge that fails cancels the order"
//!     answers = [
//!         { endpoint = "payments", method = "POST", path = "charges", status = 402, json = { error = "no funds" } },
//!         { endpoint = "mail", failed = "no route to the server" },
//!     ]
//!     steps = [
//!         { send = "Place", to = "order/7", payload = { cents = 500 }, then.requests = [
//!             { endpoint = "payments", method = "POST", path = "charges", json = { cents = 500 } },
//!             { endpoint = "mail" },
//!         ] },
//!     ]
//! "#).unwrap();
//! let answers = Answers::new(&file.flows[0].answers);
//! let sent = SentRequest::new("mail", "POST", "send");
//! assert_eq!(answers.answer(&sent), Some(ServerAnswer::failed("no route to the server")));
//! ```

use crate::given;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// The statuses that a server may answer with.
const STATUSES: std::ops::RangeInclusive<u16> = 200..=599;

/// An HTTP request that a subscriber or a saga sent. As text it is the method, the endpoint and the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRequest {
    /// The name of the endpoint.
    pub endpoint: String,
    /// The method.
    pub method: String,
    /// The path and query, below the endpoint's URL.
    pub path: String,
    /// The headers of the plugin, with placeholders in the place of secrets.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl SentRequest {
    /// Makes a request without headers and without a body.
    pub fn new(endpoint: impl Into<String>, method: impl Into<String>, path: impl Into<String>) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self { endpoint: endpoint.into(), method: method.into(), path: path.into(), headers, body }
    }

    /// Returns the value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// Decodes the body as JSON.
    pub fn json<'b, T: Deserialize<'b>>(&'b self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// Returns the error for a request that nothing answers, with what to add to the flow.
    pub fn unanswered(&self) -> String {
        let Self { endpoint, method, path, .. } = self;
        format!(
            "nothing answers {self}: add an answer to `answers` of the flow, such as \
             {{ endpoint = {endpoint:?}, method = {method:?}, path = {path:?}, status = 200 }}"
        )
    }
}

impl fmt::Display for SentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.method, self.endpoint, self.path)
    }
}

/// How a request to a server ends in a test. The answer is the final one: a test has no retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAnswer {
    /// The server responds.
    Response(ServerResponse),
    /// No attempt gets a response, for this reason.
    Failed(String),
}

/// The response of a server in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerResponse {
    /// The status.
    pub status: u16,
    /// The headers. Names are in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl ServerAnswer {
    /// Makes a response with this status, without headers and without a body.
    pub fn status(status: u16) -> Self {
        Self::Response(ServerResponse { status, headers: Vec::new(), body: Vec::new() })
    }

    /// Makes a response with this status and this body as JSON, with the header `content-type: application/json`.
    ///
    /// # Panics
    /// If the body does not encode.
    #[track_caller]
    pub fn json(status: u16, body: &(impl Serialize + ?Sized)) -> Self {
        let body = serde_json::to_vec(body).unwrap_or_else(|error| panic!("the body does not encode: {error}"));
        Self::bytes(status, body).with_header("content-type", "application/json")
    }

    /// Makes a response with this status and these bytes or this text as its body, without headers.
    pub fn bytes(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Response(ServerResponse { status, headers: Vec::new(), body: body.into() })
    }

    /// Makes a failure: no attempt gets a response, for this reason.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }

    /// Adds a header to a response. A failure stays as it is.
    pub fn with_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        if let Self::Response(response) = &mut self {
            response.headers.push((name.to_ascii_lowercase(), value.into()));
        }
        self
    }
}

/// How a server answers requests in a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowAnswer {
    /// The endpoint of the requests.
    pub endpoint: String,
    /// The method of the requests. Without it any method will do.
    pub method: Option<String>,
    /// The path and query of the requests. Without it any path will do.
    pub path: Option<String>,
    /// The number of requests that this answers, at least 1. Later ones go to the next answer that fits. Without it there is no
    /// limit.
    pub times: Option<u32>,
    /// The answer.
    pub answer: ServerAnswer,
}

impl FlowAnswer {
    fn fits(&self, request: &SentRequest) -> bool {
        let is = |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|wanted| wanted == found);
        self.endpoint == request.endpoint && is(&self.method, &request.method) && is(&self.path, &request.path)
    }

    /// Returns whether this answers every request that the other one fits, so that the other one is never used.
    fn hides(&self, other: &Self) -> bool {
        let has_all = |mine: &Option<String>, its: &Option<String>| mine.is_none() || mine == its;
        self.times.is_none()
            && self.endpoint == other.endpoint
            && has_all(&self.method, &other.method)
            && has_all(&self.path, &other.path)
    }
}

/// The answers of a flow at work: the first one that fits a request answers it. It counts the uses of those that have
/// `times`, so each run of a flow needs its own.
#[derive(Debug, Default)]
pub struct Answers(Vec<(FlowAnswer, AtomicU32)>);

impl Answers {
    /// Takes the answers of a flow, of which none is used.
    pub fn new(answers: &[FlowAnswer]) -> Self {
        Self(answers.iter().map(|answer| (answer.clone(), AtomicU32::new(answer.times.unwrap_or_default()))).collect())
    }

    /// Answers a request. If the result is none, the flow has no answer for it and must fail with
    /// [`SentRequest::unanswered`].
    pub fn answer(&self, request: &SentRequest) -> Option<ServerAnswer> {
        let take =
            |left: &AtomicU32| left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let is_it = |(answer, left): &&(FlowAnswer, AtomicU32)| {
            answer.fits(request) && (answer.times.is_none() || take(left).is_ok())
        };
        self.0.iter().find(is_it).map(|(answer, _)| answer.answer.clone())
    }
}

/// A request that must have been sent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowRequest {
    /// The endpoint.
    pub endpoint: String,
    /// The method. Without it any method will do.
    pub method: Option<String>,
    /// The path and query. Without it any path will do.
    pub path: Option<String>,
    /// The body, which is JSON. Without it and without `text` any body will do.
    #[serde(default, deserialize_with = "given")]
    pub json: Option<Json>,
    /// The body, which is text.
    pub text: Option<String>,
}

impl FlowRequest {
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.json, &self.text) {
            (Some(_), Some(_)) => {
                let endpoint = &self.endpoint;
                Err(format!("the request to {endpoint} in `then.requests` has one body: remove `json` or `text`"))
            }
            _ => Ok(()),
        }
    }
}

/// An answer as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerOfFile {
    endpoint: String,
    method: Option<String>,
    path: Option<String>,
    times: Option<u32>,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "given")]
    json: Option<Json>,
    text: Option<String>,
    failed: Option<String>,
}

/// Checks the answers of a flow.
pub(super) fn checked(answers: Vec<AnswerOfFile>) -> Result<Vec<FlowAnswer>, String> {
    let mut checked: Vec<FlowAnswer> = Vec::with_capacity(answers.len());
    for (answer, number) in answers.into_iter().zip(1..) {
        let answer = answer.checked().map_err(|cause| format!("answer {number}: {cause}"))?;
        if let Some(first) = checked.iter().position(|before| before.hides(&answer)) {
            return Err(format!(
                "answer {number} is never used, because answer {} fits all its requests: move it to the front, or give answer \
                 {0} a `method`, a `path` or `times`",
                first + 1
            ));
        }
        checked.push(answer);
    }
    Ok(checked)
}

impl AnswerOfFile {
    fn checked(self) -> Result<FlowAnswer, String> {
        let Self { endpoint, method, path, times, status, headers, json, text, failed } = self;
        if times == Some(0) {
            return Err("`times` must be at least 1".to_owned());
        }
        let answer = server_answer(status, &headers, json, text, failed)?;
        Ok(FlowAnswer { endpoint, method, path, times, answer })
    }
}

/// Makes an answer of the keys of a file.
pub(crate) fn server_answer(
    status: Option<u16>,
    headers: &BTreeMap<String, String>,
    json: Option<Json>,
    text: Option<String>,
    failed: Option<String>,
) -> Result<ServerAnswer, String> {
    let has_content = !headers.is_empty() || json.is_some() || text.is_some();
    let answer = match (status, failed) {
        (None, Some(reason)) if !has_content => ServerAnswer::Failed(reason),
        (Some(status), None) => response(status, headers, json, text)?,
        (None, None) => return Err("`status` is missing, such as 200, or `failed` with a reason".to_owned()),
        (_, Some(_)) => {
            return Err("an answer has `status` with `headers` and `json` or `text`, or `failed`".to_owned());
        }
    };
    Ok(headers.iter().fold(answer, |answer, (name, value)| answer.with_header(name, value.as_str())))
}

/// Makes a response without the headers. A JSON body has its content type, unless the headers have another one.
fn response(
    status: u16,
    headers: &BTreeMap<String, String>,
    json: Option<Json>,
    text: Option<String>,
) -> Result<ServerAnswer, String> {
    if !STATUSES.contains(&status) {
        return Err(format!("`status` must be from {} to {}, found {status}", STATUSES.start(), STATUSES.end()));
    }
    match (json, text) {
        (Some(_), Some(_)) => Err("a response has one body: remove `json` or `text`".to_owned()),
        (Some(json), None) if headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) => {
            Ok(ServerAnswer::bytes(status, json.to_string()))
        }
        (Some(json), None) => Ok(ServerAnswer::json(status, &json)),
        (None, Some(text)) => Ok(ServerAnswer::bytes(status, text)),
        (None, None) => Ok(ServerAnswer::status(status)),
    }
}
