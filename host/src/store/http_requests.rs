//! HTTP requests: those that have not ended, and their attempts.

use super::Error;
use crate::ack::Ack;
use crate::model::*;
use std::sync::Arc;
use tokio::sync::watch;

/// The writing side of HTTP requests. A step of a subscription adds them; see [`Step::requests`](super::Step::requests).
pub trait HttpRequests: Send + Sync + 'static {
    /// Records that an attempt at a request begins, and returns the number of attempts that were begun. Fails with
    /// [`Error::NotFound`] if the request is gone, is not due, or has an attempt under way.
    fn begin_attempt(&self, number: u64, ack: Ack<Result<u32, Error>>);

    /// Records how the attempt under way ended. If it was the last one, the answer becomes a callback of the subscription, or a
    /// dead letter if the request did not succeed and the subscription did not ask for the answer. All of it is one
    /// transaction. Fails with [`Error::NotFound`] if no attempt is under way.
    fn end_attempt(&self, number: u64, end: AttemptEnd, ack: Ack<Result<(), Error>>);

    /// Ends the attempts that are under way in the store although nobody makes them, because a host or a part ended in the middle.
    /// Each counts as interrupted, and its request is due at once. Returns the requests.
    fn interrupt_attempts(&self, of: InterruptedOf, ack: Ack<Result<Vec<KeptRequest>, Error>>);

    /// Ends a due request that can't be sent, for this reason, without an attempt. Otherwise it is like the end of the last
    /// attempt.
    fn refuse_request(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>);

    /// Gives up a request for a person, who may wait for its answer in vain. Its answer is a failure with this reason, and it
    /// becomes no dead letter. Fails with [`Error::NotFound`] if there is no such request, and with [`Error::Invalid`] if an
    /// attempt is under way.
    fn give_up_request(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>);

    /// Changes when a request may be due earlier than before.
    fn requests_changed(&self) -> watch::Receiver<u64>;
}

/// The reading side of HTTP requests.
pub trait HttpRequestReader: Send {
    /// Returns the requests of a subscription to an endpoint that are due at a time, in the order in which they are to be sent.
    /// Requests with an attempt under way, and those behind an earlier one of the same key, are not due.
    fn due_requests(&mut self, queue: RequestQueue<'_>, now_ms: u64, limit: usize) -> Result<Vec<KeptRequest>, Error>;

    /// Returns when the next request of a subscription to an endpoint is due, in milliseconds since 1970-01-01T00:00:00Z.
    fn next_request(&mut self, queue: RequestQueue<'_>) -> Result<Option<u64>, Error>;

    /// Returns whether a request of a subscription to an endpoint has not ended.
    fn has_requests(&mut self, queue: RequestQueue<'_>) -> Result<bool, Error>;

    /// Returns how many requests of a subscription to an endpoint have not ended.
    fn count_requests(&mut self, queue: RequestQueue<'_>) -> Result<u64, Error>;

    /// Returns the numbers of the newest HTTP request and of the newest callback that there ever were. While both stay the same, no
    /// request was made and none was answered.
    fn newest_numbers(&mut self) -> Result<(u64, u64), Error>;

    /// Returns the endpoints that the requests of a subscription name.
    fn requested_endpoints(&mut self, subscription: &str) -> Result<Vec<String>, Error>;

    /// Returns requests in the order of their numbers, and the number of all requests of the query's subscription.
    fn requests(&mut self, wanted: &RequestQuery<'_>) -> Result<(Vec<ListedRequest>, u64), Error>;
}

/// The requests of one subscription to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestQueue<'a> {
    /// The subscription.
    pub subscription: &'a str,
    /// The endpoint.
    pub endpoint: &'a str,
}

/// The subscriptions whose attempts are interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterruptedOf {
    /// These.
    These(Vec<Arc<str>>),
    /// All but these.
    Others(Vec<Arc<str>>),
}

impl InterruptedOf {
    /// Returns the names, and whether they are those whose attempts are interrupted.
    pub(super) fn names(&self) -> (&[Arc<str>], bool) {
        match self {
            Self::These(names) => (names, true),
            Self::Others(names) => (names, false),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The request is tried again.
    Again {
        /// When, in milliseconds since 1970-01-01T00:00:00Z.
        due_ms: u64,
        /// Why the attempt failed.
        error: String,
    },
    /// The request has ended.
    Ended(HttpAnswer),
}

/// A selection of requests to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestQuery<'a> {
    /// The subscription, with all of its segments, or a segment. `None` selects those of all.
    pub subscription: Option<&'a str>,
    /// A number that all selected requests are above.
    pub after: u64,
    /// The most requests.
    pub limit: usize,
}

/// A request, with what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRequest {
    /// The request.
    pub kept: KeptRequest,
    /// What it waits for.
    pub waits: RequestWait,
    /// Why the last attempt failed.
    pub error: Option<Arc<str>>,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestWait {
    /// An attempt has been under way since this time.
    Answer(u64),
    /// The next attempt is due at this time.
    Due(u64),
    /// An earlier request of the same key to the same endpoint has not ended.
    Earlier,
}

/// Why the last attempt at a request failed in the middle of which a host ended.
pub(super) const INTERRUPTED: &str =
    "the host ended in the middle of the attempt, so nobody knows whether the server has handled it";

/// Makes the error for a number that has no request.
pub(super) fn absent(number: u64) -> Error {
    Error::NotFound(format!("no HTTP request {number} waits: it has ended, it was given up, or it never existed"))
}
