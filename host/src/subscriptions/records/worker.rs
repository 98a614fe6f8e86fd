//! The thread that delivers the records of a source.
//!
//! It hands a step to the store and proceeds with the next batch, while up to [`STEPS_MAX`] steps are in flight. The
//! store answers the steps in order. If a step fails, it settles nothing, and neither does any step that follows it.
//! Its records are read again, and all later records of their partitions go back to the source, so none passes them.

use super::key_queues::KeyQueues;
use super::redelivery::RecordRedeliveries;
use super::run::{RecordRun, Runs};
use super::{Ask, RecordLinks, RecordOptions, deferral_key, failed_record, held_record_key};
use crate::ack::Ack;
use crate::framing;
use crate::manifest::OnFailure;
use crate::model::{Callback, CallbackContent, Record};
use crate::plugin::Effects;
use crate::status::State;
use crate::store::{Advanced, CallbackChange, Error, HeldKey, KeyChange, KeyState, PAGE_BYTES_MAX, Reached, Step};
use crate::subscriptions::deferred::{DEFERRED_MAX, DeferredKeys};
use crate::subscriptions::effects::{Outgoing, outgoing};
use crate::subscriptions::handler::{RetryDecision, TakesRecords, Unhandled};
use crate::supervise::{self, Held as _};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Largest number of steps in flight.
const STEPS_MAX: usize = 4;
/// Longest wait for records. After it the worker checks for commands to send again.
const IDLE: Duration = Duration::from_secs(1);
/// Interval at which a paused worker checks whether a person has resumed it.
const LOOK: Duration = Duration::from_millis(100);

/// The worker's ends of its channels.
pub(super) struct Ends {
    pub(super) records: Receiver<RecordRun>,
    /// Number of queued records.
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) asked: Receiver<Ask>,
}

/// The answer of the store to a step.
struct StepAnswer {
    result: Result<Advanced, Error>,
    /// The first record of each of its runs, by ledger.
    firsts: Vec<(Arc<str>, u64)>,
}

/// The state of the thread. It is generic over the code that takes the records, so that tests can script it.
pub(super) struct RecordWorker<H> {
    handler: H,
    options: RecordOptions,
    shared: RecordLinks,
    ends: Ends,
    /// Records that can be processed next, in the order in which they came.
    ready: Runs,
    key_queues: KeyQueues,
    /// Records whose step failed. They must arrive again before later records of their partitions are accepted.
    redeliveries: RecordRedeliveries,
    /// The number of the next step in its sequence.
    number: u64,
    /// Whether a step of this sequence failed. Then all that follow it fail too, and then a new sequence begins.
    is_broken: bool,
    answer: Sender<StepAnswer>,
    answers: Receiver<StepAnswer>,
    stopping: bool,
    /// Whether the shown state is an error of its outbox.
    shows_outbox: bool,
}

impl<H: TakesRecords> RecordWorker<H> {
    pub(super) fn new(handler: H, options: RecordOptions, shared: RecordLinks, ends: Ends) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the steps under way bound it, and the writer must never wait for a worker"
        )]
        let (answer, answers) = crossbeam_channel::unbounded();
        Self {
            handler,
            options,
            shared,
            ends,
            ready: Runs::default(),
            key_queues: KeyQueues::default(),
            redeliveries: RecordRedeliveries::default(),
            number: 0,
            is_broken: false,
            answer,
            answers,
            stopping: false,
            shows_outbox: false,
        }
    }

    /// Restarts after a panic. Records that were taken over go back unsettled to the source, which reads them again.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        // Only when they have ended it is known which records are deferred.
        self.await_all();
        let (ready, gives_back) = (std::mem::take(&mut self.ready), self.key_queues.gives_back());
        self.key_queues = KeyQueues::default();
        if gives_back {
            self.key_queues.give_back();
        }
        drop(ready);
        // Later records in the queue must not pass those that went back.
        while let Ok(run) = self.ends.records.try_recv() {
            self.ends.queued.fetch_sub(run.len(), Ordering::Relaxed);
        }
        self.handler.replace();
        self.shared.load_deferred()
    }

    pub(super) fn run(&mut self) {
        self.is(State::Running, None);
        self.resend();
        while !self.stopping {
            supervise::round();
            self.wait();
            self.give_back_what_would_pass();
            if self.handler.renew() {
                self.key_queues.try_all_now();
            }
            if self.shared.pausing.is_paused() {
                self.stand_still();
            } else {
                self.try_again();
                let batch = self.batch();
                self.deliver(batch);
            }
            if self.in_flight() == 0 && self.shared.outbox.must_resend() {
                self.resend();
            }
            self.show_outbox();
        }
        // Steps in flight become durable in any case, so their commands can be sent now.
        self.await_all();
    }

    /// Processes nothing until a person resumes it or the source ends. The queue fills, and the source stops reading.
    fn stand_still(&mut self) {
        self.is(State::Paused, Some(self.shared.pausing.remedy()));
        while (self.shared.pausing.is_paused() || self.key_queues.gives_back()) && !self.stopping {
            if self.key_queues.gives_back() {
                // The source is about to end and must not wait for records that nobody processes.
                self.ready = Runs::default();
                while let Ok(run) = self.ends.records.try_recv() {
                    self.ends.queued.fetch_sub(run.len(), Ordering::Relaxed);
                }
            }
            match self.ends.asked.recv_timeout(LOOK) {
                Ok(ask) => self.asked(ask),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            while let Ok(answer) = self.answers.try_recv() {
                self.answered(answer);
            }
            if self.in_flight() == 0 && self.shared.outbox.must_resend() {
                self.resend();
            }
        }
        self.is(State::Running, None);
    }

    /// Waits until there is something to do, at most for [`IDLE`].
    fn wait(&mut self) {
        if self.ready.is_empty() {
            let longest = self.key_queues.next_due().map_or(IDLE, |due| due.min(IDLE));
            select! {
                recv(self.ends.records) -> run => match run {
                    Ok(run) => self.take(run),
                    Err(_) => self.stopping = true,
                },
                recv(self.ends.asked) -> ask => self.asked(ask.unwrap_or(Ask::Stop)),
                recv(self.answers) -> answer => self.answered(answer.expect("this thread holds a sender")),
                default(longest) => {}
            }
        }
        while let Ok(ask) = self.ends.asked.try_recv() {
            self.asked(ask);
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.answered(answer);
        }
        while self.ready.len() < self.options.batch_max {
            let Ok(run) = self.ends.records.try_recv() else { break };
            self.take(run);
        }
    }

    fn take(&mut self, run: RecordRun) {
        self.ends.queued.fetch_sub(run.len(), Ordering::Relaxed);
        if !self.redeliveries.is_passed_by(&run, &*self.shared.store) {
            self.ready.push(run);
        }
    }

    /// Recovers from a failed step. When all steps after it have failed too, the records that would pass it go back to
    /// the source, and a new sequence of steps begins.
    fn give_back_what_would_pass(&mut self) {
        if !self.is_broken {
            return;
        }
        self.await_all();
        if let Err(error) = self.shared.load_deferred() {
            // Some keys may seem to wait although they do not. Their records are deferred, which loses no order.
            tracing::warn!("source {}: the records that are deferred can't be read: {error}", self.options.source);
        }
        (self.number, self.is_broken) = (0, false);
        for run in std::mem::take(&mut self.ready).into_runs() {
            if !self.redeliveries.is_before(&run) {
                self.ready.push(run);
            }
        }
        self.key_queues.give_back_after(&self.redeliveries);
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::GiveBack => self.key_queues.give_back(),
            Ask::Stop => self.stopping = true,
        }
    }

    /// Returns the next batch. It has no record of a key that waits for a retry, and at most the bytes of a page of
    /// events.
    fn batch(&mut self) -> Runs {
        let (mut batch, mut bytes) = (Runs::default(), 0);
        while batch.len() < self.options.batch_max && bytes < PAGE_BYTES_MAX {
            let count = self.ready.fitting(self.options.batch_max - batch.len(), PAGE_BYTES_MAX - bytes);
            let Some(run) = self.ready.pop(count) else { break };
            bytes += run.bytes();
            self.key_queues.join(run, &mut batch);
        }
        batch
    }

    /// Processes a batch as a whole. If that fails, it processes the records before the failing one, then that record
    /// alone, then the rest. A call whose records did not all succeed has no effects.
    fn deliver(&mut self, rest: Runs) {
        let mut rest = self.deferred(rest);
        let mut count = self.handler.list(rest.len());
        let mut held_up = 0;
        while !rest.is_empty() && !self.stopping {
            self.handler.hurry(true);
            match self.handle(rest.records().take(count)) {
                Ok(effects) => self.keep(rest.take(count), effects),
                Err(Unhandled::Host(reason)) => {
                    held_up += 1;
                    self.held_up(reason, held_up);
                    continue;
                }
                Err(unhandled) if count == 1 || unhandled.index() == Some(0) => {
                    let failed = rest.pop(1).expect("it was just handled");
                    self.failed(failed, 1, unhandled);
                    let mut free = Runs::default();
                    rest.into_runs().for_each(|run| self.key_queues.join(run, &mut free));
                    rest = self.deferred(free);
                }
                Err(unhandled) => {
                    count = unhandled.fewer(count);
                    continue;
                }
            }
            count = self.handler.list(rest.len());
        }
    }

    /// Defers the records whose keys wait behind a dead letter, in a step of their own. Returns all others.
    fn deferred(&mut self, runs: Runs) -> Runs {
        let waits = |record: &Record, keys: &DeferredKeys| deferral_key(record).is_some_and(|key| keys.waits(&key));
        let (mut free, mut waiting, mut callbacks) = (Runs::default(), Runs::default(), Vec::new());
        {
            let mut keys = self.shared.deferred.keys.held();
            if keys.is_empty() || !runs.records().any(|record| waits(record, &keys)) {
                return runs;
            }
            for run in runs.into_runs().flat_map(RecordRun::singly) {
                match deferral_key(run.head()).filter(|key| keys.waits(key)) {
                    None => free.push(run),
                    Some(key) => {
                        keys.add(&key);
                        callbacks.push(deferred(&key, run.head()));
                        waiting.push(run);
                    }
                }
            }
        }
        self.wait_while_full();
        self.step(waiting, Outgoing { callbacks, ..Outgoing::default() }, None, None);
        free
    }

    /// Waits while too many records are deferred.
    fn wait_while_full(&mut self) {
        while !self.stopping && self.shared.deferred.keys.held().is_full() {
            self.held_up(
                format!(
                    "{DEFERRED_MAX} records wait behind dead letters, the most there may be: replay or discard dead letters with \
                     `wasmill dead-letters`"
                ),
                1,
            );
        }
    }

    /// Waits because the host can't call the subscriber. This does not count as a try of a record.
    fn held_up(&mut self, reason: String, times: u32) {
        tracing::error!("source {}: its subscriber is held up: {reason}", self.options.source);
        self.is(State::Retrying, Some(reason));
        let over = crossbeam_channel::after(self.options.backoff.pause(times));
        while !self.stopping {
            select! {
                recv(self.ends.asked) -> ask => self.asked(ask.unwrap_or(Ask::Stop)),
                recv(self.answers) -> answer => self.answered(answer.expect("this thread holds a sender")),
                recv(over) -> _ => return,
            }
        }
    }

    /// Retries the records whose pause is over, each alone.
    fn try_again(&mut self) {
        while let Some(due) = self.key_queues.due() {
            let (record, attempts, behind) = due.take();
            self.handler.hurry(true);
            match self.handle(std::iter::once(record.head())) {
                Ok(effects) => self.keep(record.into(), effects),
                Err(unhandled) => self.failed(record, attempts + 1, unhandled),
            }
            behind.go_on(&mut self.key_queues, &mut self.ready);
        }
    }

    fn handle<'r>(&mut self, records: impl Iterator<Item = &'r Record>) -> Result<Effects, Unhandled> {
        let records: Vec<&Record> = records.collect();
        self.handler.records(&self.options.source, &records)
    }

    /// Defers a record that takes long, so that it is handled by the thread of callbacks while this one goes on. A record
    /// without a key, or one more than may be deferred, is handled here in the time of its limit.
    fn takes_long(&mut self, record: RecordRun, attempts: u32) {
        let key = deferral_key(record.head()).filter(|_| !self.shared.deferred.keys.held().is_full());
        let Some(key) = key else {
            self.handler.hurry(false);
            return match self.handle(std::iter::once(record.head())) {
                Ok(effects) => self.keep(record.into(), effects),
                Err(unhandled) => self.failed(record, attempts, unhandled),
            };
        };
        tracing::debug!(
            "source {}: {} takes long, so others need not wait for it",
            self.options.source,
            record.head().place()
        );
        self.await_all();
        self.shared.deferred.keys.held().add(&key);
        let callbacks = vec![deferred(&key, record.head())];
        self.step(record.into(), Outgoing { callbacks, ..Outgoing::default() }, None, None);
    }

    /// Schedules a retry of a record, or dead-letters it.
    fn failed(&mut self, record: RecordRun, attempts: u32, unhandled: Unhandled) {
        if let Unhandled::Slow(..) = unhandled {
            return self.takes_long(record, attempts);
        }
        let (source, place) = (&self.options.source, record.head().place());
        match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => {
                let payload = record.head().payload.as_deref().unwrap_or_default();
                let reason = framing::explained(reason, "value", payload);
                self.dead_letter(record, reason);
            }
            RetryDecision::Later(reason) => {
                self.is(State::Retrying, Some(reason));
                self.key_queues.hold(record, attempts - 1, self.options.backoff.pause(attempts));
            }
            RetryDecision::Again(reason, _) if attempts >= self.options.attempts_max => {
                self.dead_letter(record, format!("{reason} (tried {attempts} times)"));
            }
            RetryDecision::Again(reason, wait) => {
                let pause = self.options.bounds.pause(self.options.backoff.pause(attempts), wait);
                tracing::warn!("source {source}: {place} is tried again in {pause:?}: {reason}");
                self.is(State::Retrying, Some(format!("{place}: {reason}")));
                self.key_queues.hold(record, attempts, pause);
            }
        }
    }

    /// Dead-letters a record. Unless later ones of its key may pass it, they are deferred from now on.
    fn dead_letter(&mut self, run: RecordRun, reason: String) {
        self.await_all();
        let (record, on_failure) = (run.head(), self.options.on_failure);
        let place = record.place();
        let letter = failed_record(&self.options.source, record, reason);
        let key = deferral_key(record).filter(|_| on_failure != OnFailure::Pass);
        let change = key.map(|key| {
            self.shared.deferred.keys.held().hold(&key);
            let to = KeyState::BehindDeadLetter(HeldKey::NO_VERSION);
            KeyChange { stream: held_record_key(&key), from: None, to }
        });
        let fact = (on_failure == OnFailure::Stop).then(|| self.shared.pausing.stop_fact(&place));
        let stops = fact.is_some();
        self.step(run.into(), Outgoing { dead_letters: vec![letter], ..Outgoing::default() }, change, fact);
        if stops {
            self.await_all();
            if !self.is_broken {
                self.shared.pausing.has_stopped_behind(&place);
            }
        }
    }

    /// Makes the effects durable and settles the records with them.
    fn keep(&mut self, part: Runs, effects: Effects) {
        let records: Vec<&Record> = part.records().collect();
        let RecordOptions { source, bounds, .. } = &self.options;
        let outgoing = outgoing(source, effects, *bounds, |index| records[index]);
        let outgoing = outgoing.logged(source);
        self.step(part, outgoing, None, None);
    }

    fn step(&mut self, part: Runs, outgoing: Outgoing, key: Option<KeyChange>, fact: Option<(String, String)>) {
        while self.in_flight() >= STEPS_MAX {
            self.await_answer();
        }
        if self.is_broken {
            // The store would refuse the step. The runs are dropped here, so their records count as not settled.
            return part.into_runs().for_each(|run| self.redeliveries.add(run.ledger(), run.head().offset as u64));
        }
        let (records, acks): (Vec<_>, Vec<_>) = part.into_runs().map(RecordRun::settle).unzip();
        let firsts = records.iter().map(|origins| (origins.ledger.clone(), origins.items[0])).collect();
        let reached = Reached::Records { number: self.number, records };
        let step = Step { key, fact, ..outgoing.step(&self.shared.subscription, reached) };
        self.number += 1;
        let answer = self.answer.clone();
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        self.shared.store.advance(
            step,
            Ack::new(move |result: Result<Advanced, Error>| {
                let ended = result.as_ref().map(drop).map_err(ToString::to_string);
                let _ = answer.send(StepAnswer { result, firsts });
                acks.into_iter().for_each(|ack| ack.give(ended.as_ref().copied()));
            }),
        );
    }

    /// Waits until all steps are durable and their commands are sent. A record that another thread may handle from now on must
    /// not pass the commands of earlier records of its key.
    fn await_all(&mut self) {
        while self.in_flight() > 0 {
            self.await_answer();
        }
    }

    fn await_answer(&mut self) {
        let answer = self.answers.recv().expect("this thread holds a sender");
        self.answered(answer);
    }

    fn answered(&mut self, StepAnswer { result, firsts }: StepAnswer) {
        match result {
            Ok(Advanced { commands }) => {
                self.shared.outbox.send(commands);
                if self.key_queues.is_empty() && !self.shared.pausing.is_paused() {
                    self.is(State::Running, None);
                }
            }
            Err(Error::Closed) => self.stopping = true,
            Err(error) => {
                self.is_broken = true;
                firsts.iter().for_each(|(ledger, first)| self.redeliveries.add(ledger, *first));
                // `OutOfRow` says only that an earlier step failed, which was logged then.
                if !matches!(error, Error::OutOfRow { .. }) {
                    tracing::warn!("source {}: records are read again: {error}", self.options.source);
                    self.is(State::Retrying, Some(error.to_string()));
                }
            }
        }
        // This comes after the commands are sent, so that there is no moment at which nothing seems to be in flight.
        self.shared.steps.fetch_sub(1, Ordering::Release);
    }

    fn in_flight(&self) -> usize {
        self.shared.steps.load(Ordering::Relaxed)
    }

    /// Sends the commands that are durable and not settled, in order.
    fn resend(&mut self) {
        if let Err(error) = self.shared.outbox.resend() {
            self.is(State::Retrying, Some(error.to_string()));
        }
    }

    /// Shows why commands are not settled, as long as that lasts.
    fn show_outbox(&mut self) {
        let trouble = self.shared.outbox.trouble();
        match &trouble {
            Some(reason) => self.is(State::Retrying, Some(reason.clone())),
            None if self.shows_outbox => self.is(State::Running, None),
            None => {}
        }
        self.shows_outbox = trouble.is_some();
    }

    fn is(&self, state: State, reason: Option<String>) {
        *self.shared.condition.held() = (state, reason);
    }
}

/// Makes the change that defers a record under a key.
fn deferred(key: &Arc<str>, record: &Record) -> CallbackChange {
    let id = record.id();
    let callback = Callback {
        key: Some(key.as_bytes().to_vec()),
        correlation_id: record.correlation_id().map_or_else(|| id.clone().into(), Into::into),
        causation_id: id.into(),
        hops: record.hops(),
        first_ms: record.time_ms,
        headers: Vec::new(),
        content: CallbackContent::Record(Box::new(record.clone())),
    };
    CallbackChange::Defer { key: held_record_key(key), callback: Box::new(callback) }
}

#[cfg(test)]
mod tests;
