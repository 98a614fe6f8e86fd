//! The thread that delivers the records of a source.
//!
//! It hands a step to the store and goes on with the next list, up to [`STEPS_MAX`] of them: what comes of a step is
//! told by the store's answer, in order. A step that fails settles nothing, and neither does any that follows it: its
//! records are read again, and all later records of their partitions go back to the source, so that none passes them.

use super::key_queues::KeyQueues;
use super::redelivery::PendingRedeliveries;
use super::run::{RecordRun, Runs};
use super::{Ask, RecordOptions};
use crate::ack::Ack;
use crate::follow::backoff;
use crate::framing;
use crate::model::{DeadLetter, DeadLetterContent, Record};
use crate::plugin::Effects;
use crate::status::State;
use crate::store::{Advanced, Error, EventStore, PAGE_BYTES_MAX, Reached, Step};
use crate::subscriptions::effects::{Outgoing, outgoing};
use crate::subscriptions::handler::{RetryDecision, TakesRecords, Unhandled};
use crate::subscriptions::outbox::Outbox;
use crate::subscriptions::pausing::Pausing;
use crate::supervise::{self, Held as _};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Steps that may be on their way to the disk.
const STEPS_MAX: usize = 4;
/// How long to wait for records before looking for commands to send again.
const IDLE: Duration = Duration::from_secs(1);
/// How often a paused one looks for a person who resumes it.
const LOOK: Duration = Duration::from_millis(100);

/// Ways to the worker.
pub(super) struct Ends {
    pub(super) records: Receiver<RecordRun>,
    /// Records that wait there.
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) asked: Receiver<Ask>,
}

/// The answer of the store to a step.
struct Answer {
    result: Result<Advanced, Error>,
    /// The first record of each of its runs, by ledger.
    firsts: Vec<(Arc<str>, u64)>,
}

/// The state of the thread. Generic over the code that takes the records, so that tests can script it.
pub(super) struct Worker<H> {
    handler: H,
    options: RecordOptions,
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    pausing: Arc<Pausing>,
    condition: Arc<Mutex<(State, Option<String>)>>,
    ends: Ends,
    /// In the order in which they came.
    ready: Runs,
    key_queues: KeyQueues,
    /// Records that failed with their step and come again, before all that follow them.
    redeliveries: PendingRedeliveries,
    /// The number of the next step in its row.
    number: u64,
    /// A step of this row failed: all that follow it fail, and a new row begins once they have.
    is_broken: bool,
    answer: Sender<Answer>,
    answers: Receiver<Answer>,
    /// Steps whose answer is not dealt with, for those who ask whether anything is on its way.
    steps: Arc<AtomicUsize>,
    stopping: bool,
    /// Whether its state is the trouble of its commands.
    shows_outbox: bool,
}

impl<H: TakesRecords> Worker<H> {
    #[expect(clippy::too_many_arguments, reason = "it takes over what `RecordSubscription::start` has prepared")]
    pub(super) fn new(
        handler: H,
        options: RecordOptions,
        subscription: Arc<str>,
        store: Arc<dyn EventStore>,
        outbox: Arc<Outbox>,
        pausing: Arc<Pausing>,
        condition: Arc<Mutex<(State, Option<String>)>>,
        steps: Arc<AtomicUsize>,
        ends: Ends,
    ) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the steps under way bound it, and the writer must never wait for a worker"
        )]
        let (answer, answers) = crossbeam_channel::unbounded();
        Self {
            handler,
            options,
            subscription,
            store,
            outbox,
            pausing,
            condition,
            ends,
            ready: Runs::default(),
            key_queues: KeyQueues::default(),
            redeliveries: PendingRedeliveries::default(),
            number: 0,
            is_broken: false,
            answer,
            answers,
            steps,
            stopping: false,
            shows_outbox: false,
        }
    }

    /// After a panic: what was taken over goes back unsettled to the source, which reads it again.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        let (ready, gives_back) = (std::mem::take(&mut self.ready), self.key_queues.gives_back());
        self.key_queues = KeyQueues::default();
        if gives_back {
            self.key_queues.give_back();
        }
        drop(ready);
        // Those behind it must not pass it.
        while let Ok(run) = self.ends.records.try_recv() {
            self.ends.queued.fetch_sub(run.len(), Ordering::Relaxed);
        }
        self.handler.replace();
        Ok(())
    }

    pub(super) fn run(&mut self) {
        self.is(State::Running, None);
        self.resend();
        while !self.stopping {
            supervise::round();
            self.wait();
            self.mend();
            if self.handler.renew() {
                self.key_queues.try_all_now();
            }
            if self.pausing.is_paused() {
                self.stand_still();
            } else {
                self.try_again();
                let batch = self.batch();
                self.deliver(batch);
            }
            if self.in_flight() == 0 && self.outbox.must_resend() {
                self.resend();
            }
            self.show_outbox();
        }
        // What is on its way to the disk becomes durable in any case: so its commands can go now.
        while self.in_flight() > 0 {
            self.await_answer();
        }
    }

    /// Handles nothing until a person resumes it, or the source ends. Its queue fills, and the source reads no more.
    fn stand_still(&mut self) {
        self.is(State::Paused, Some(self.pausing.remedy()));
        let mut gives_back = false;
        while (self.pausing.is_paused() || gives_back) && !self.stopping {
            if gives_back {
                // The source is about to end: it must not wait for what nobody handles.
                self.ready = Runs::default();
                while let Ok(run) = self.ends.records.try_recv() {
                    self.ends.queued.fetch_sub(run.len(), Ordering::Relaxed);
                }
            }
            match self.ends.asked.recv_timeout(LOOK) {
                Ok(ask) => {
                    gives_back |= matches!(ask, Ask::GiveBack);
                    self.asked(ask);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            while let Ok(answer) = self.answers.try_recv() {
                self.answered(answer);
            }
            if self.in_flight() == 0 && self.outbox.must_resend() {
                self.resend();
            }
        }
        self.is(State::Running, None);
    }

    /// Until there is something to do, at most [`IDLE`].
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
        if !self.redeliveries.is_passed_by(&run, &*self.store) {
            self.ready.push(run);
        }
    }

    /// After a step that failed: once all that followed it have failed too, the source gets back what would pass it, and
    /// a new row of steps begins.
    fn mend(&mut self) {
        if !self.is_broken {
            return;
        }
        while self.in_flight() > 0 {
            self.await_answer();
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

    /// The next list: no record of a key that stands still, and no more bytes than a page of events may have.
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

    /// Handles a list whole, or where that fails what comes before the failing record, then that record alone, then
    /// the rest. A call whose records did not all succeed has no effects.
    fn deliver(&mut self, mut rest: Runs) {
        let mut count = self.handler.list(rest.len());
        let mut held_up = 0;
        while !rest.is_empty() && !self.stopping {
            match self.handle(rest.records().take(count)) {
                Ok(effects) => self.keep(rest.take(count), effects),
                Err(Unhandled::Host(reason)) => {
                    held_up += 1;
                    self.held_up(reason, held_up);
                    continue;
                }
                Err(unhandled) if count == 1 => {
                    let failed = rest.pop(1).expect("it was just handled");
                    self.failed(failed, 1, unhandled);
                    let mut free = Runs::default();
                    rest.into_runs().for_each(|run| self.key_queues.join(run, &mut free));
                    rest = free;
                }
                Err(unhandled) => {
                    count = unhandled.fewer(count);
                    continue;
                }
            }
            count = self.handler.list(rest.len());
        }
    }

    /// Waits because the host can't call the subscriber. No record is charged with that.
    fn held_up(&mut self, reason: String, times: u32) {
        tracing::error!("source {}: its subscriber is held up: {reason}", self.options.source);
        self.is(State::Retrying, Some(reason));
        let over = crossbeam_channel::after(backoff(self.options.backoff, times));
        while !self.stopping {
            select! {
                recv(self.ends.asked) -> ask => self.asked(ask.unwrap_or(Ask::Stop)),
                recv(self.answers) -> answer => self.answered(answer.expect("this thread holds a sender")),
                recv(over) -> _ => return,
            }
        }
    }

    /// The records whose pause is over, each alone.
    fn try_again(&mut self) {
        while let Some(due) = self.key_queues.due() {
            let (record, attempts, behind) = due.take();
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

    /// Tries a record again later, or Dead-letters it.
    fn failed(&mut self, record: RecordRun, attempts: u32, unhandled: Unhandled) {
        let (source, place) = (&self.options.source, record.head().place());
        match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => {
                let payload = record.head().payload.as_deref().unwrap_or_default();
                let reason = framing::explained(reason, "value", payload);
                self.dead_letter(record, reason);
            }
            RetryDecision::Later(reason) => {
                self.is(State::Retrying, Some(reason));
                self.key_queues.hold(record, attempts - 1, backoff(self.options.backoff, attempts));
            }
            RetryDecision::Again(reason, _) if attempts >= self.options.attempts_max => {
                self.dead_letter(record, format!("{reason} (tried {attempts} times)"));
            }
            RetryDecision::Again(reason, wait) => {
                let pause = self.options.bounds.pause(backoff(self.options.backoff, attempts), wait);
                tracing::warn!("source {source}: {place} is tried again in {pause:?}: {reason}");
                self.is(State::Retrying, Some(format!("{place}: {reason}")));
                self.key_queues.hold(record, attempts, pause);
            }
        }
    }

    fn dead_letter(&mut self, run: RecordRun, reason: String) {
        let record = run.head();
        let place = record.place();
        tracing::warn!("source {}: {place} can't be handled: {reason}", self.options.source);
        let letter = DeadLetter {
            consumer: self.options.source.to_string(),
            place,
            key: record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
            reason,
            time_ms: Some(record.time_ms),
            content: DeadLetterContent::Record(record.clone()),
        };
        self.step(run.into(), |progress| progress.dead_letters.push(letter));
    }

    /// Makes the effects durable, and the records settled with them.
    fn keep(&mut self, part: Runs, effects: Effects) {
        let records: Vec<&Record> = part.records().collect();
        let RecordOptions { source, bounds, .. } = &self.options;
        let outgoing = outgoing(source, effects, *bounds, |index| records[index]);
        let Outgoing { commands, messages, dead_letters } = outgoing.logged(source);
        self.step(part, |progress| {
            (progress.commands, progress.messages, progress.dead_letters) = (commands, messages, dead_letters);
        });
    }

    fn step(&mut self, part: Runs, fill: impl FnOnce(&mut Step)) {
        while self.in_flight() >= STEPS_MAX {
            self.await_answer();
        }
        if self.is_broken {
            // It would not be taken. Dropped, its records count as not settled.
            return part.into_runs().for_each(|run| self.redeliveries.add(run.ledger(), run.head().offset as u64));
        }
        let (records, acks): (Vec<_>, Vec<_>) = part.into_runs().map(RecordRun::settle).unzip();
        let firsts = records.iter().map(|origins| (origins.ledger.clone(), origins.items[0])).collect();
        let mut step = Step {
            subscription: self.subscription.clone(),
            reached: Reached::Records { number: self.number, records },
            commands: Vec::new(),
            messages: Vec::new(),
            dead_letters: Vec::new(),
        };
        fill(&mut step);
        self.number += 1;
        let answer = self.answer.clone();
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.store.advance(
            step,
            Ack::new(move |result: Result<Advanced, Error>| {
                let ended = result.as_ref().map(drop).map_err(ToString::to_string);
                let _ = answer.send(Answer { result, firsts });
                acks.into_iter().for_each(|ack| ack.give(ended.as_ref().copied()));
            }),
        );
    }

    fn await_answer(&mut self) {
        let answer = self.answers.recv().expect("this thread holds a sender");
        self.answered(answer);
    }

    fn answered(&mut self, Answer { result, firsts }: Answer) {
        match result {
            Ok(Advanced { commands }) => {
                self.outbox.send(commands);
                if self.key_queues.is_empty() && !self.pausing.is_paused() {
                    self.is(State::Running, None);
                }
            }
            Err(Error::Closed) => self.stopping = true,
            Err(error) => {
                self.is_broken = true;
                firsts.iter().for_each(|(ledger, first)| self.redeliveries.add(ledger, *first));
                // The first step of the row that failed has said why.
                if !matches!(error, Error::OutOfRow { .. }) {
                    tracing::warn!("source {}: records are read again: {error}", self.options.source);
                    self.is(State::Retrying, Some(error.to_string()));
                }
            }
        }
        // Not before the commands are on their way: there must be no moment at which nothing seems to be.
        self.steps.fetch_sub(1, Ordering::Release);
    }

    fn in_flight(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Sends what is durable and not settled, in order.
    fn resend(&mut self) {
        let pending = self.store.reader().and_then(|mut reader| reader.pending_commands(&self.subscription));
        match pending {
            Ok(pending) => {
                if !pending.is_empty() {
                    let (source, count) = (&self.options.source, pending.len());
                    tracing::info!("source {source}: {count} commands of its subscriber are sent again");
                }
                self.outbox.send(pending);
            }
            Err(error) => {
                self.is(State::Retrying, Some(error.to_string()));
                self.outbox.resend_later();
            }
        }
    }

    /// Says why its commands are not settled, as long as that is so.
    fn show_outbox(&mut self) {
        let trouble = self.outbox.trouble();
        match &trouble {
            Some(reason) => self.is(State::Retrying, Some(reason.clone())),
            None if self.shows_outbox => self.is(State::Running, None),
            None => {}
        }
        self.shows_outbox = trouble.is_some();
    }

    fn is(&self, state: State, reason: Option<String>) {
        *self.condition.held() = (state, reason);
    }
}

#[cfg(test)]
mod tests;
