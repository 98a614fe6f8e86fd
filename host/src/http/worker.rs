//! The thread that sends requests. It decides and records; the attempts themselves are tasks of the runtime.

use super::board::Board;
use super::endpoint::Endpoint;
use super::pace::Pace;
use super::{Answering, Attempted, Server, Unready, answer_of};
use crate::ack;
use crate::backoff::{Backoff, Pauses};
use crate::clock::Clock;
use crate::model::KeptRequest;
use crate::store::{AttemptEnd, Error, EventStore, Reader, RequestQueue};
use crate::supervise;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The longest wait for a request. After it the thread reads the clock again, which may have jumped.
const IDLE: Duration = Duration::from_secs(1);

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
    attempts: JoinSet<Ended>,
    /// The attempts that have ended and are not recorded.
    unrecorded: Vec<Ended>,
}

/// A request whose attempt is ready to begin.
struct Ready {
    number: u64,
    answering: Answering,
}

/// An attempt that has ended.
struct Ended {
    queue: usize,
    number: u64,
    attempt: u32,
    attempted: Attempted,
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
        let (attempts, unrecorded) = Default::default();
        let mut worker = Self { queues, board, store, reader, clock, runtime, changed, stopping, attempts, unrecorded };
        worker.interrupt()?;
        Ok(worker)
    }

    /// Restarts after a panic: attempts under way are given up, and nobody knows what becomes of them.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.attempts = JoinSet::new();
        self.unrecorded.clear();
        self.queues.iter_mut().for_each(|queue| queue.under_way = 0);
        self.board.forget_attempts();
        self.interrupt()
    }

    /// Ends the attempts in the middle of which a host ended.
    fn interrupt(&mut self) -> Result<(), Error> {
        for kept in ack::wait(|ack| self.store.interrupt_attempts(ack))? {
            let KeptRequest { subscription, attempts, request, .. } = &kept;
            tracing::warn!(
                "subscription {subscription}: attempt {attempts} at {} was interrupted, and nobody knows whether the server has \
                 handled it: the next attempt has the same idempotency key",
                request.place()
            );
            self.board.interrupted(&kept);
        }
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
        // What can't be recorded, because there is no room for a dead letter, holds up its own endpoint alone.
        let recorded = self.record();
        let mut rest = IDLE;
        for queue in 0..self.queues.len() {
            for subscription in self.queues[queue].subscriptions.clone() {
                rest = rest.min(self.begin(queue, &subscription)?);
            }
        }
        recorded.map(|()| rest)
    }

    /// Begins the attempts of one subscription to one endpoint that are due. Returns the time until the next one is.
    fn begin(&mut self, index: usize, subscription: &str) -> Result<Duration, Error> {
        let free = self.queues[index].free();
        if free == 0 {
            return Ok(IDLE);
        }
        let (ready, until_turn) = self.ready(index, subscription, free)?;
        self.begin_all(index, ready)?;
        if self.queues[index].free() == 0 {
            return Ok(IDLE);
        }
        let of = RequestQueue { subscription, endpoint: &self.queues[index].endpoint.name };
        let Some(due_ms) = self.reader.next_request(of)? else { return Ok(IDLE) };
        Ok(match due_ms.saturating_sub(self.clock.now_ms()) {
            // What is due and was not begun waits for its turn.
            0 => until_turn,
            ms => self.clock.wait_max(Duration::from_millis(ms)).min(until_turn),
        })
    }

    /// Returns the requests that are due and have their turn, each with the attempt to make. Those that can't be sent end here.
    fn ready(&mut self, index: usize, subscription: &str, free: usize) -> Result<(Vec<Ready>, Duration), Error> {
        let Self { queues, reader, clock, store, board, .. } = self;
        let queue = &mut queues[index];
        let of = RequestQueue { subscription, endpoint: &queue.endpoint.name };
        let mut ready = Vec::new();
        for kept in reader.due_requests(of, clock.now_ms(), free)? {
            let number = kept.number;
            match queue.server.attempt(&kept) {
                Ok(answering) => match queue.pace.take(Instant::now()) {
                    Ok(()) => ready.push(Ready { number, answering }),
                    Err(until_turn) => return Ok((ready, until_turn)),
                },
                Err(Unready::Missing(reason)) => {
                    board.waits(index, reason);
                    break;
                }
                Err(Unready::Refused(reason)) => {
                    tracing::warn!("subscription {subscription}: HTTP request {number} is refused: {reason}");
                    let refused = ack::wait(|ack| store.refuse_request(number, reason, ack));
                    board.refused(index);
                    or_gone(refused)?;
                }
            }
        }
        Ok((ready, IDLE))
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
                    let attempt = async move { Ended { queue: index, number, attempt, attempted: answering.await } };
                    self.attempts.spawn_on(attempt, &self.runtime);
                }
                Ok(None) => {}
                Err(error) => all = Err(error),
            }
        }
        all
    }

    /// Records the attempts that have ended. Those that the store does not take are recorded later.
    fn record(&mut self) -> Result<(), Error> {
        let ended = std::mem::take(&mut self.unrecorded);
        let asked: Vec<_> = ended
            .into_iter()
            .map(|ended| {
                let end = self.end_of(&ended);
                let (ack, recorded) = ack::channel();
                self.store.end_attempt(ended.number, end.clone(), ack);
                (ended, end, recorded)
            })
            .collect();
        let mut failed = Ok(());
        for (ended, end, recorded) in asked {
            match or_gone(self.runtime.block_on(recorded).unwrap_or(Err(Error::Closed))) {
                Ok(_) => {
                    self.log(&ended, &end);
                    self.board.ended(ended.queue, &end);
                }
                Err(error) => {
                    failed = Err(error);
                    self.unrecorded.push(ended);
                    continue;
                }
            }
            self.queues[ended.queue].under_way -= 1;
        }
        failed
    }

    fn log(&self, Ended { queue, number, attempt, .. }: &Ended, end: &AttemptEnd) {
        let Endpoint { plugin, name, .. } = &*self.queues[*queue].endpoint;
        match end {
            AttemptEnd::Again { error, .. } => {
                tracing::info!("endpoint {plugin}/{name}: attempt {attempt} at HTTP request {number} failed: {error}");
            }
            AttemptEnd::Ended(answer) => match answer.failure() {
                Some(reason) => {
                    tracing::warn!("endpoint {plugin}/{name}: HTTP request {number} did not succeed: {reason}");
                }
                None => {
                    tracing::debug!("endpoint {plugin}/{name}: HTTP request {number} succeeded at attempt {attempt}");
                }
            },
        }
    }

    /// Decides what becomes of a request after an attempt.
    fn end_of(&self, Ended { queue, attempt, attempted, .. }: &Ended) -> AttemptEnd {
        let settings = &self.queues[*queue].endpoint.settings;
        let (error, asked) = match attempted {
            Attempted::Answered { status, is_temporary: true, retry_after, .. } => {
                (format!("the server answered with status {status}"), retry_after.unwrap_or_default())
            }
            Attempted::Failed(reason) => (reason.clone(), Duration::ZERO),
            Attempted::Answered { .. } | Attempted::Unusable(_) | Attempted::Refused(_) => {
                return AttemptEnd::Ended(answer_of(attempted.clone()));
            }
        };
        if *attempt >= settings.attempts_max {
            return AttemptEnd::Ended(answer_of(attempted.clone()));
        }
        let own = Backoff::from_ms(settings.backoff_ms, settings.backoff_max_ms).pause(*attempt);
        let pause_ms = u64::try_from(own.max(asked).as_millis()).unwrap_or(u64::MAX);
        AttemptEnd::Again { due_ms: self.clock.now_ms().saturating_add(pause_ms), error }
    }

    /// Waits until an attempt has ended, a request may be due, the part is to stop, or the time is up.
    fn wait(&mut self, rest: Duration) {
        let Self { attempts, changed, stopping, runtime, unrecorded, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                ended = attempts.join_next(), if !attempts.is_empty() => unrecorded.extend(ended.and_then(Result::ok)),
                _ = changed.changed() => {}
                _ = stopping.changed() => {}
                () = tokio::time::sleep(rest) => {}
            }
        });
        // Whatever else has ended is recorded with it.
        while let Some(ended) = attempts.try_join_next() {
            unrecorded.extend(ended);
        }
    }

    /// Waits for the attempts under way until the part must have stopped.
    fn finish(&mut self) {
        let deadline = self.stopping.borrow().unwrap_or_else(Instant::now);
        let Self { attempts, runtime, unrecorded, .. } = self;
        runtime.block_on(async {
            let all = async {
                while let Some(ended) = attempts.join_next().await {
                    unrecorded.extend(ended);
                }
            };
            // Those that have not ended are interrupted.
            let _ = tokio::time::timeout_at(deadline.into(), all).await;
        });
        if let Err(error) = self.record() {
            tracing::warn!("HTTP requests whose end can't be recorded are sent again after the next start: {error}");
        }
    }
}
