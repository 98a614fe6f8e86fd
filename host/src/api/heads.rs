//! The heads of the requests of a connection: whether one is being sent, and for how long it may be.
//!
//! A client may leave a connection open between two requests for a long time, but once a request has begun, its head must come
//! soon. Otherwise clients that send a byte now and then would hold connections for ever.

use axum::body::{Body, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// What the reader of a connection's bytes and the service of its requests know of each other.
#[derive(Default)]
pub(super) struct Heads {
    /// The number of requests that the service has taken, and that it has answered completely.
    taken: AtomicU64,
    answered: AtomicU64,
    /// Whether requests are read at all. Bytes of a TLS handshake belong to none.
    reads: AtomicBool,
    /// Whether a head took too long.
    is_late: AtomicBool,
    /// Whether bytes have come that belong to no complete head, or to a handshake.
    has_begun: AtomicBool,
    /// Whether bytes of an answer wait until the client reads.
    has_unsent: AtomicBool,
    /// When the last answer was complete, in milliseconds since the connection was accepted.
    answered_ms: AtomicU64,
    accepted: OnceLock<Instant>,
    /// Tells the connection to make room for another one.
    leave: Notify,
}

impl Heads {
    /// Notes that the connection is accepted.
    pub(super) fn accepted() -> Arc<Self> {
        let heads = Self::default();
        heads.accepted.get_or_init(Instant::now);
        Arc::new(heads)
    }

    /// Requests are read from now on.
    pub(super) fn begin(&self) {
        self.has_begun.store(false, Ordering::Release);
        self.reads.store(true, Ordering::Release);
    }

    /// Returns for how long the client has sent nothing and waited for nothing. `None` if it does either.
    pub(super) fn idle(&self) -> Option<Duration> {
        let is_busy = self.taken.load(Ordering::Acquire) != self.answered.load(Ordering::Acquire);
        if is_busy || self.has_begun.load(Ordering::Acquire) || self.has_unsent.load(Ordering::Acquire) {
            return None;
        }
        let since = Duration::from_millis(self.answered_ms.load(Ordering::Acquire));
        Some(self.age().saturating_sub(since))
    }

    /// Notes that bytes of an answer wait until the client reads.
    pub(super) fn waits_for_reader(&self) {
        self.has_unsent.store(true, Ordering::Release);
    }

    /// Notes that everything is sent.
    pub(super) fn is_sent(&self) {
        if self.has_unsent.swap(false, Ordering::AcqRel) {
            self.answered_ms.store(self.age().as_millis() as u64, Ordering::Release);
        }
    }

    fn age(&self) -> Duration {
        self.accepted.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Has the connection end, to make room for another one.
    pub(super) fn ask_to_leave(&self) {
        self.leave.notify_one();
    }

    /// Waits until the connection is to make room.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Whether a head took too long.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Acquire)
    }

    /// Notes that the head of a request is complete. Its answer is complete when the returned value is dropped.
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        self.taken.fetch_add(1, Ordering::AcqRel);
        self.has_begun.store(false, Ordering::Release);
        Taken(self.clone())
    }
}

/// A request whose answer is not complete.
pub(super) struct Taken(Arc<Heads>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.answered_ms.store(self.0.age().as_millis() as u64, Ordering::Release);
        self.0.answered.fetch_add(1, Ordering::AcqRel);
    }
}

/// The body of an answer, which is complete when it is dropped.
pub(super) struct Answering {
    body: Body,
    _request: Taken,
}

impl Answering {
    pub(super) fn new(body: Body, request: Taken) -> Self {
        Self { body, _request: request }
    }
}

impl HttpBody for Answering {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The time for a head, as the reader of the bytes keeps it.
pub(super) struct HeadTime {
    heads: Arc<Heads>,
    time_max: Duration,
    /// The deadline of the head that is being sent, and the number of requests that were taken when it began.
    deadline: Option<(Pin<Box<Sleep>>, u64)>,
}

impl HeadTime {
    pub(super) fn new(heads: Arc<Heads>, time_max: Duration) -> Self {
        Self { heads, time_max, deadline: None }
    }

    /// Returns what the connection knows of its requests.
    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Notes that bytes have come.
    pub(super) fn came(&mut self) {
        let taken = self.heads.taken.load(Ordering::Acquire);
        if taken == self.heads.answered.load(Ordering::Acquire) {
            self.heads.has_begun.store(true, Ordering::Release);
        }
        let is_head = self.heads.reads.load(Ordering::Acquire) && taken == self.heads.answered.load(Ordering::Acquire);
        match &self.deadline {
            Some((_, begun)) if *begun == taken => {}
            _ => self.deadline = is_head.then(|| (Box::pin(tokio::time::sleep(self.time_max)), taken)),
        }
    }

    /// Returns whether the head that is being sent takes too long. Otherwise the task is woken when it does.
    pub(super) fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((deadline, begun)) = &mut self.deadline else { return false };
        if *begun != self.heads.taken.load(Ordering::Acquire) {
            self.deadline = None;
            return false;
        }
        let is_late = deadline.as_mut().poll(cx).is_ready();
        if is_late {
            self.heads.is_late.store(true, Ordering::Release);
        }
        is_late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn a_connection_is_idle_between_two_requests() {
        let heads = Heads::accepted();
        let mut time = HeadTime::new(heads.clone(), Duration::from_secs(1));
        assert!(heads.idle().is_some(), "it is silent");
        heads.has_begun.store(true, Ordering::Release);
        assert!(heads.idle().is_none(), "a handshake has begun");
        heads.begin();
        assert!(heads.idle().is_some());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { time.came() });
        assert!(heads.idle().is_none(), "a head has begun");
        let request = heads.take();
        assert!(heads.idle().is_none(), "a request is being answered");
        drop(request);
        assert!(heads.idle().is_some());
        heads.waits_for_reader();
        assert!(heads.idle().is_none(), "the client has not read its answer");
        heads.is_sent();
        assert!(heads.idle().is_some());
    }

    /// Longer than a head may take here.
    const LONG: Duration = Duration::from_millis(60);

    async fn is_late_after(time: &mut HeadTime, pause: Duration) -> bool {
        tokio::time::sleep(pause).await;
        poll_fn(|cx| Poll::Ready(time.is_late(cx))).await
    }

    #[tokio::test]
    async fn only_a_head_that_has_begun_has_little_time() {
        let heads = Arc::new(Heads::default());
        let mut time = HeadTime::new(heads.clone(), Duration::from_millis(30));
        time.came();
        assert!(!is_late_after(&mut time, LONG).await, "a handshake is no head");
        heads.begin();
        assert!(!is_late_after(&mut time, LONG).await, "nothing has begun");
        time.came();
        let request = heads.take();
        time.came();
        assert!(!is_late_after(&mut time, LONG).await, "a body has its own time");
        drop(request);
        assert!(!is_late_after(&mut time, LONG).await, "a connection may wait for its next request");
        time.came();
        tokio::time::sleep(LONG).await;
        time.came();
        assert!(is_late_after(&mut time, Duration::ZERO).await, "more bytes do not give more time");
        assert!(heads.is_late());
    }
}
