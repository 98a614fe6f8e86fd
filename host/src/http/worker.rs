//! The thread that sends requests. It decides and records; the attempts themselves are tasks of the runtime.

use super::board::Board;
use super::endpoint::Endpoint;
use super::pace::Pace;
use super::{Answering, Attempted, Server, Unready, answer_of, interrupt};
use crate::ack;
use crate::backoff::{Backoff, Pauses};
use crate::clock::Clock;
use crate::model::{HttpAnswer, KeptRequest};
use crate::store::{AttemptEnd, Error, EventStore, InterruptedOf, Reader, RequestQueue};
use crate::supervise;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// The longest wait for a request. After it the thread reads the clock again, which may have jumped.
const IDLE: Duration = Duration::from_secs(1);

/// The pause before an end is recorded again for which there was no room.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// The first pause after the store has failed.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The requests of a plugin to one endpoint.
pub(super) struct Queue {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) subscriptions: Vec<Arc<str>>,
    server: Box<dyn Server>,
    pace: Pace,
    /// The number of attempts whose end is not recorded.
    under_way: usize,
}

impl Queue {
    pub(super) fn new(endpoint: Arc<Endpoint>, subscriptions: Vec<Arc<str>>, server: Box<dyn Server>) -> Self {
        let pace = Pace::new(endpoint.settings.per_second);
        Self { endpoint, subscriptions, server, pace, under_way: 0 }
    }

    /// Returns how many more attempts may be under way.
    fn free(&self) -> usize {
        self.endpoint.settings.in_flight_max.saturating_sub(self.under_way)
    }
}

/// A request that is gone was given up by a person, or its subscription was forgotten.
fn or_gone<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The state of the thread.
pub(super) struct Worker {
    queues: Vec<Queue>,
    board: Arc<Board>,
    store: Arc<dyn EventStore>,
    reader: Box<dyn Reader>,
    clock: Clock,
    runtime: Handle,
    changed: watch::Receiver<u64>,
    /// Becomes the time until which attempts may end, when the part is to stop.
    stopping: watch::Receiver<Option<Instant>>,
    attempts: JoinSet<End>,
    /// What has ended and is not recorded.
    ends: Vec<End>,
    /// What the store did not take, because there is no room for a dead letter. It is recorded when there is.
    kept_back: Vec<End>,
    /// When that is tried again.
    again_at: Option<Instant>,
}

/// A request whose attempt is ready to begin.
struct Ready {
    number: u64,
    answering: Answering,
}

/// The end of an attempt or of a request.
struct End {
    queue: usize,
    number: u64,
    how: How,
}

enum How {
    /// An attempt of this number has ended.
    Attempt(u32, Attempted),
    /// The request can't be sent, for this reason.
    Refusal(String),
}

impl Worker {
    pub(super) fn new(
        queues: Vec<Queue>,
        board: Arc<Board>,
        store: Arc<dyn EventStore>,
        clock: Clock,
        runtime: Handle,
        stopping: watch::Receiver<Option<Instant>>,
    ) -> Result<Self, Error> {
        let (reader, changed) = (store.reader()?, store.requests_changed());
        let (attempts, ends, kept_back) = Default::default();
        Ok(Self {
            queues,
            board,
            store,
            reader,
            clock,
            runtime,
            changed,
            stopping,
            attempts,
            ends,
            kept_back,
            again_at: None,
        })
    }

    /// Restarts after a panic: attempts under way are given up, and nobody knows what becomes of them.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.attempts = JoinSet::new();
        self.ends.clear();
        self.kept_back.clear();
        self.queues.iter_mut().for_each(|queue| queue.under_way = 0);
        self.board.forget_attempts();
        let subscriptions = self.queues.iter().flat_map(|queue| queue.subscriptions.iter().cloned()).collect();
        let interrupted = interrupt(&*self.store, InterruptedOf::These(subscriptions))?;
        interrupted.iter().for_each(|kept| self.board.interrupted(kept));
        Ok(())
    }

    /// Works until it is stopped.
    pub(super) fn run(&mut self) {
        let mut pauses = Pauses::new(PAUSE_FIRST);
        while self.stopping.borrow().is_none() {
            supervise::round();
            self.changed.mark_unchanged();
            match self.work() {
                Ok(rest) => {
                    self.board.store_works();
                    self.wait(rest);
                }
                Err(Error::Closed) => return,
                Err(error) => {
                    self.board.store_fails(&error);
                    self.wait(pauses.after_failure());
                }
            }
        }
        self.finish();
    }

    /// Records what has ended and begins what is due. Returns the time until there is something to do again.
    fn work(&mut self) -> Result<Duration, Error> {
        self.record()?;
        let mut rest = self.again_at.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        for queue in 0..self.queues.len() {
            // Each subscription is the first one in turn, so none takes all that is free.
            self.queues[queue].subscriptions.rotate_left(1);
            for subscription in self.queues[queue].subscriptions.clone() {
                rest = rest.min(self.begin(queue, &subscription)?);
            }
        }
        Ok(rest)
    }

    /// Begins the attempts of one subscription to one endpoint that are due. Returns the time until the next look.
    fn begin(&mut self, index: usize, subscription: &str) -> Result<Duration, Error> {
        let now = Instant::now();
        let waits: HashSet<u64> =
            self.kept_back.iter().filter(|end| end.queue == index).map(|end| end.number).collect();
        let queue = &self.queues[index];
        let (free, turns) = (queue.free(), queue.pace.turns(now));
        if free == 0 {
            // An attempt that ends is the next thing to happen.
            return Ok(IDLE);
        }
        if turns == 0 {
            return Ok(queue.pace.until_turn(now));
        }
        let of = RequestQueue { subscription, endpoint: &queue.endpoint.name };
        let limit = free.min(turns) + waits.len();
        let due = self.reader.due_requests(of, self.clock.now_ms(), limit)?;
        let is_full = due.len() == limit;
        let Some((ready, refused)) = self.ready(index, due.into_iter().filter(|kept| !waits.contains(&kept.number)))
        else {
            return Ok(IDLE);
        };
        self.begin_all(index, ready)?;
        if refused > 0 || is_full {
            return Ok(self.queues[index].pace.until_turn(now));
        }
        let of = RequestQueue { subscription, endpoint: &self.queues[index].endpoint.name };
        let until_due = self.reader.next_request(of)?.map(|due_ms| due_ms.saturating_sub(self.clock.now_ms()));
        Ok(match until_due {
            // The list was cut short, or something new is due.
            Some(0) if waits.is_empty() => Duration::ZERO,
            Some(0) | None => IDLE,
            Some(ms) => self.clock.wait_max(Duration::from_millis(ms)),
        })
    }

    /// Returns the attempts to make at requests that are due, and how many requests can't be sent and end. It is none if
    /// all of them wait for something of the endpoint.
    fn ready(&mut self, index: usize, due: impl Iterator<Item = KeptRequest>) -> Option<(Vec<Ready>, usize)> {
        let Self { queues, board, ends, .. } = self;
        let queue = &mut queues[index];
        let (mut ready, mut refused) = (Vec::new(), 0);
        for kept in due {
            let number = kept.number;
            match queue.server.attempt(&kept) {
                Ok(answering) => {
                    queue.pace.take(Instant::now());
                    ready.push(Ready { number, answering });
                }
                Err(Unready::Missing(reason)) => {
                    board.waits(index, reason);
                    return (!ready.is_empty() || refused > 0).then_some((ready, refused));
                }
                Err(Unready::Refused(reason)) => {
                    ends.push(End { queue: index, number, how: How::Refusal(reason) });
                    refused += 1;
                }
            }
        }
        Some((ready, refused))
    }

    /// Records that attempts begin, in one transaction or a few, and begins them.
    fn begin_all(&mut self, index: usize, ready: Vec<Ready>) -> Result<(), Error> {
        let asked: Vec<_> = ready
            .into_iter()
            .map(|ready| {
                let (ack, begun) = ack::channel();
                self.store.begin_attempt(ready.number, ack);
                (ready, begun)
            })
            .collect();
        let mut all = Ok(());
        for (Ready { number, answering }, begun) in asked {
            // If one fails, others may have begun, and their attempts must be made.
            match or_gone(self.runtime.block_on(begun).unwrap_or(Err(Error::Closed))) {
                Ok(Some(attempt)) => {
                    self.queues[index].under_way += 1;
                    self.board.begun(index);
                    let end = async move { End { queue: index, number, how: How::Attempt(attempt, answering.await) } };
                    self.attempts.spawn_on(end, &self.runtime);
                }
                Ok(None) => {}
                Err(error) => all = Err(error),
            }
        }
        all
    }

    /// Records what has ended, all of it in one transaction or a few.
    fn record(&mut self) -> Result<(), Error> {
        if self.again_at.is_some_and(|at| at <= Instant::now()) {
            self.ends.append(&mut self.kept_back);
            self.again_at = None;
        }
        let asked: Vec<_> = std::mem::take(&mut self.ends).into_iter().map(|end| self.ask_to_record(end)).collect();
        let mut failed = Ok(());
        for (end, becomes, recorded) in asked {
            match or_gone(self.runtime.block_on(recorded).unwrap_or(Err(Error::Closed))) {
                Ok(_) => self.recorded(&end, &becomes),
                Err(error) => {
                    match error {
                        // Only this attempt and the requests of its key wait. The others go on.
                        Error::Full(reason) => self.board.waits(end.queue, reason),
                        error => failed = Err(error),
                    }
                    self.kept_back.push(end);
                    self.again_at.get_or_insert_with(|| Instant::now() + RECORD_AGAIN);
                }
            }
        }
        failed
    }

    /// Asks the store to record an end. Returns what becomes of the request.
    fn ask_to_record(&self, end: End) -> (End, AttemptEnd, oneshot::Receiver<Result<(), Error>>) {
        let (ack, recorded) = ack::channel();
        let becomes = match &end.how {
            How::Attempt(attempt, attempted) => {
                let becomes = self.after(end.queue, *attempt, attempted);
                self.store.end_attempt(end.number, becomes.clone(), ack);
                becomes
            }
            How::Refusal(reason) => {
                self.store.refuse_request(end.number, reason.clone(), ack);
                AttemptEnd::Ended(HttpAnswer::Refused(reason.clone()))
            }
        };
        (end, becomes, recorded)
    }

    /// Notes that an end is recorded.
    fn recorded(&mut self, End { queue, number, how }: &End, becomes: &AttemptEnd) {
        let Endpoint { plugin, name, .. } = &*self.queues[*queue].endpoint;
        match becomes {
            AttemptEnd::Again { error, .. } => {
                tracing::info!("endpoint {plugin}/{name}: an attempt at HTTP request {number} failed: {error}");
            }
            AttemptEnd::Ended(answer) => match answer.failure() {
                Some(reason) => {
                    tracing::warn!("endpoint {plugin}/{name}: HTTP request {number} did not succeed: {reason}");
                }
                None => tracing::debug!("endpoint {plugin}/{name}: HTTP request {number} succeeded"),
            },
        }
        let was_attempted = matches!(how, How::Attempt(..));
        self.board.ended(*queue, becomes, was_attempted);
        self.queues[*queue].under_way -= usize::from(was_attempted);
    }

    /// Decides what becomes of a request after an attempt.
    fn after(&self, queue: usize, attempt: u32, attempted: &Attempted) -> AttemptEnd {
        let settings = &self.queues[queue].endpoint.settings;
        let (error, asked) = match attempted {
            Attempted::Answered { status, is_temporary: true, retry_after, .. } => {
                (format!("the server answered with status {status}"), retry_after.unwrap_or_default())
            }
            Attempted::Failed(reason) => (reason.clone(), Duration::ZERO),
            Attempted::Answered { .. } | Attempted::Unusable(_) | Attempted::Refused(_) => {
                return AttemptEnd::Ended(answer_of(attempted.clone()));
            }
        };
        if attempt >= settings.attempts_max {
            return AttemptEnd::Ended(answer_of(attempted.clone()));
        }
        let own = Backoff::from_ms(settings.backoff_ms, settings.backoff_max_ms).pause(attempt);
        let pause_ms = u64::try_from(own.max(asked).as_millis()).unwrap_or(u64::MAX);
        AttemptEnd::Again { due_ms: self.clock.now_ms().saturating_add(pause_ms), error }
    }

    /// Waits until an attempt has ended, a request may be due, the part is to stop, or the time is up.
    fn wait(&mut self, rest: Duration) {
        let Self { attempts, changed, stopping, runtime, ends, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                end = attempts.join_next(), if !attempts.is_empty() => ends.extend(end.and_then(Result::ok)),
                _ = changed.changed() => {}
                _ = stopping.changed() => {}
                () = tokio::time::sleep(rest) => {}
            }
        });
        // Whatever else has ended is recorded with it.
        while let Some(end) = attempts.try_join_next() {
            ends.extend(end);
        }
    }

    /// Waits for the attempts under way until the part must have stopped.
    fn finish(&mut self) {
        let deadline = self.stopping.borrow().unwrap_or_else(Instant::now);
        let Self { attempts, runtime, ends, .. } = self;
        runtime.block_on(async {
            let all = async {
                while let Some(end) = attempts.join_next().await {
                    ends.extend(end);
                }
            };
            // Those that have not ended are interrupted.
            let _ = tokio::time::timeout_at(deadline.into(), all).await;
        });
        // What was kept back is tried once more.
        self.again_at = Some(Instant::now());
        if let Err(error) = self.record() {
            tracing::warn!("HTTP requests whose end can't be recorded are sent again after the next start: {error}");
        }
    }
}
