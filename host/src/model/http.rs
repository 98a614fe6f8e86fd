//! HTTP requests that subscribers and sagas ask for, on their way to a server.

use super::{
    Callback, CallbackContent, CallbackKey, DeadLetter, DeadLetterContent, Header, SubscriptionName, key_text,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A request that is an effect of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRequest {
    /// Its id, which is its idempotency key. A delivery that is handled again gives the same id.
    pub id: Arc<str>,
    /// The name of the endpoint in the manifest.
    pub endpoint: Arc<str>,
    /// The method.
    pub method: String,
    /// The path and query below the endpoint's URL.
    pub path: String,
    /// The headers of the guest, with placeholders in the place of secrets.
    pub headers: Vec<Header>,
    /// The body.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
    /// The bytes that come back with the answer. If it is none, the answer is not delivered.
    #[serde(with = "serde_bytes")]
    pub response: Option<Vec<u8>>,
    /// The key of the delivery that asked for it. The requests of one key to one endpoint keep their order, except those
    /// without a key.
    #[serde(with = "serde_bytes")]
    pub key: CallbackKey,
    /// The id that everything from one first cause shares.
    pub correlation_id: Arc<str>,
    /// The id of the delivery that asked for it.
    pub causation_id: Arc<str>,
    /// The number of subscribers in its chain of causes.
    pub hops: u32,
    /// The time of the step, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub first_ms: u64,
    /// The trace context.
    pub trace: Vec<Header>,
}

impl HttpRequest {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The bytes besides its content.
        const FIXED: usize = 320;
        let headers = self.headers.iter().map(Header::bytes).sum::<usize>();
        FIXED + self.path.len() + self.body.len() + headers + self.response.as_ref().map_or(0, Vec::len)
    }

    /// Returns what it is, as text.
    pub fn place(&self) -> String {
        format!("HTTP request {} ({self})", self.id)
    }

    /// Makes the delivery of its answer, if the subscription asked for that.
    pub fn answered(&self, attempts: u32, answer: HttpAnswer) -> Option<Callback> {
        let attachment = self.response.clone()?;
        Some(Callback {
            key: self.key.clone(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            hops: self.hops,
            first_ms: self.first_ms,
            headers: self.trace.clone(),
            content: CallbackContent::Response(Box::new(HttpResponse {
                request_id: self.id.clone(),
                endpoint: self.endpoint.clone(),
                method: self.method.clone(),
                path: self.path.clone(),
                attempts,
                answer,
                attachment,
            })),
        })
    }
}

/// Shows the method, the endpoint and the path.
impl fmt::Display for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.method, self.endpoint, self.path)
    }
}

/// The answer to a request, with what the subscriber needs to recognise it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpResponse {
    /// The id of the request.
    pub request_id: Arc<str>,
    /// The endpoint of the request.
    pub endpoint: Arc<str>,
    /// The method of the request.
    pub method: String,
    /// The path of the request.
    pub path: String,
    /// The number of attempts that were begun.
    pub attempts: u32,
    /// The answer.
    pub answer: HttpAnswer,
    /// The bytes that were given with the request.
    #[serde(with = "serde_bytes")]
    pub attachment: Vec<u8>,
}

impl HttpResponse {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        let answer = match &self.answer {
            HttpAnswer::Response { headers, body, .. } => {
                body.len() + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            }
            HttpAnswer::Failed(reason) | HttpAnswer::Refused(reason) => reason.len(),
        };
        self.path.len() + self.attachment.len() + answer
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpAnswer {
    /// The server responded.
    Response {
        /// The status.
        status: u16,
        /// The names, in lower case, and the values of the headers, in their order.
        headers: Vec<(String, Vec<u8>)>,
        /// The body.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
    /// No attempt got a response that can be used, for this reason. The server may have handled the request.
    Failed(String),
    /// It was not sent, because it is not granted or breaks a rule, for this reason.
    Refused(String),
}

impl HttpAnswer {
    /// Returns why the request did not succeed: a status that is not 200 to 299 is a reason too.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Response { status: 200..=299, .. } => None,
            Self::Response { status, .. } => Some(format!("the server answered with status {status}")),
            Self::Failed(reason) | Self::Refused(reason) => Some(reason.clone()),
        }
    }
}

/// A request in the store, with its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRequest {
    /// Its number. No number is used twice.
    pub number: u64,
    /// The subscription that asked for it.
    pub subscription: Arc<str>,
    /// The number of attempts that were begun.
    pub attempts: u32,
    /// The number of attempts in the middle of which a host ended. Nobody knows what became of them.
    pub interrupted: u32,
    /// The request.
    pub request: HttpRequest,
}

impl KeptRequest {
    /// Makes a request without an attempt. It has no number yet.
    pub fn new(subscription: Arc<str>, request: HttpRequest) -> Self {
        Self { number: 0, subscription, attempts: 0, interrupted: 0, request }
    }

    /// Says that the last attempt was interrupted.
    pub fn interruption(&self) -> String {
        format!(
            "subscription {}: attempt {} at {} was interrupted, and nobody knows whether the server has handled it: the next attempt has \
             the same idempotency key",
            self.subscription,
            self.attempts,
            self.request.place()
        )
    }

    /// Makes the dead letter of a request that did not succeed.
    pub fn dead_letter(self, reason: String) -> DeadLetter {
        let request = &self.request;
        DeadLetter {
            consumer: SubscriptionName::parse(&self.subscription).whole().to_string(),
            place: request.place(),
            key: key_text(request.key.as_deref()),
            reason,
            time_ms: Some(request.time_ms),
            content: DeadLetterContent::Http(self),
        }
    }
}
