//! The heads of the requests of a connection: whether one is being sent, and for how long it may be.
//!
//! A client may leave a connection open between two requests for a long time, but once a request has begun, its head must come
//! soon. Otherwise clients that send a byte now and then would hold connections for ever.

use axum::body::{Body, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep_until};

/// What the reader of a connection's bytes and the service of its requests know of each other.
pub(super) struct Heads {
    /// The number of requests that the service has taken, and that it has answered completely.
    taken: AtomicU64,
    answered: AtomicU64,
    /// Whether requests are read at all. Bytes of a TLS handshake belong to none.
    reads: AtomicBool,
    /// Whether a head took too long.
    is_late: AtomicBool,
    /// Whether the client has read nothing for too long.
    is_stalled: AtomicBool,
    /// Whether bytes have come that belong to no complete head, or to a handshake.
    has_begun: AtomicBool,
    /// Whether bytes of an answer wait until the client reads.
    has_unsent: AtomicBool,
    /// When the last answer was complete, in milliseconds since the connection was accepted.
    answered_ms: AtomicU64,
    accepted: Instant,
    /// Tells the connection to make room for another one.
    leave: Notify,
}

/// What is known of a connection that is accepted now.
impl Default for Heads {
    fn default() -> Self {
        let [taken, answered, answered_ms] = std::array::from_fn(|_| AtomicU64::new(0));
        let [reads, is_late, is_stalled, has_begun, has_unsent] = std::array::from_fn(|_| AtomicBool::new(false));
        let (accepted, leave) = (Instant::now(), Notify::new());
        Self { taken, answered, reads, is_late, is_stalled, has_begun, has_unsent, answered_ms, accepted, leave }
    }
}

impl Heads {
    /// Requests are read from now on.
    pub(super) fn begin(&self) {
        self.has_begun.store(false, Ordering::Release);
        self.reads.store(true, Ordering::Release);
    }

    /// Returns for how long the client has sent nothing and waited for nothing. `None` if it does either.
    pub(super) fn idle(&self) -> Option<Duration> {
        if self.is_busy() || self.has_begun.load(Ordering::Acquire) || self.has_unsent.load(Ordering::Acquire) {
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

    /// Whether a request is taken whose answer is not complete.
    fn is_busy(&self) -> bool {
        self.taken.load(Ordering::Acquire) != self.answered.load(Ordering::Acquire)
    }

    fn age(&self) -> Duration {
        self.accepted.elapsed()
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

    /// Whether the client has read nothing for too long.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Acquire)
    }

    /// Notes that the client has read nothing for too long.
    pub(super) fn stall(&self) {
        self.is_stalled.store(true, Ordering::Release);
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
    /// When the head that is being sent must be complete, and the number of requests that were taken when it began.
    due: Option<(Instant, u64)>,
    /// What wakes the task then.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl HeadTime {
    pub(super) fn new(heads: Arc<Heads>, time_max: Duration) -> Self {
        Self { heads, time_max, due: None, sleep: None }
    }

    /// Returns what the connection knows of its requests.
    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Notes that bytes have come.
    pub(super) fn came(&mut self, now: Instant) {
        if self.heads.is_busy() {
            return;
        }
        self.heads.has_begun.store(true, Ordering::Release);
        // Bytes of a handshake belong to no head.
        if self.due().is_none() && self.heads.reads.load(Ordering::Acquire) {
            self.due = Some((now + self.time_max, self.heads.taken.load(Ordering::Acquire)));
        }
    }

    /// Returns when the head that is being sent must be complete, if one is being sent.
    fn due(&self) -> Option<Instant> {
        let taken = self.heads.taken.load(Ordering::Acquire);
        self.due.and_then(|(due, begun)| (begun == taken).then_some(due))
    }

    /// Returns whether the head that is being sent takes too long. Otherwise the task is woken when it does.
    pub(super) fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.due() else { return false };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due.into())));
        if sleep.deadline() != due.into() {
            sleep.as_mut().reset(due.into());
        }
        let is_late = sleep.as_mut().poll(cx).is_ready();
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
        let heads = Arc::<Heads>::default();
        let mut time = HeadTime::new(heads.clone(), Duration::from_secs(1));
        assert!(heads.idle().is_some(), "it is silent");
        heads.has_begun.store(true, Ordering::Release);
        assert!(heads.idle().is_none(), "a handshake has begun");
        heads.begin();
        assert!(heads.idle().is_some());
        time.came(Instant::now());
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

    #[test]
    fn only_a_head_that_has_begun_has_little_time() {
        const MAX: Duration = Duration::from_secs(10);
        let (heads, first) = (Arc::new(Heads::default()), Instant::now());
        let later = |seconds| first + Duration::from_secs(seconds);
        let mut time = HeadTime::new(heads.clone(), MAX);
        time.came(first);
        assert_eq!(time.due(), None, "a handshake is no head");
        heads.begin();
        assert_eq!(time.due(), None, "nothing has begun");
        time.came(first);
        assert_eq!(time.due(), Some(first + MAX));
        let request = heads.take();
        time.came(later(1));
        assert_eq!(time.due(), None, "a body has its own time");
        drop(request);
        assert_eq!(time.due(), None, "a connection may wait for its next request");
        time.came(later(2));
        time.came(later(9));
        assert_eq!(time.due(), Some(later(2) + MAX), "more bytes do not give more time");
    }

    #[tokio::test]
    async fn a_head_that_is_due_is_late() {
        let heads = Arc::new(Heads::default());
        let mut time = HeadTime::new(heads.clone(), Duration::ZERO);
        heads.begin();
        time.came(Instant::now());
        poll_fn(|cx| if time.is_late(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(heads.is_late());
    }
}
