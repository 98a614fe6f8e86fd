//! The thread of a transform: it joins the group, and in each step reads a batch, processes it and commits it.
//!
//! A step is bounded by time as well as by number. It commits the records that were processed in time, and the rest
//! stays for the next step. So a slow subscriber never keeps a transaction open until its coordinator ends it, and each
//! step polls the group. If a record must be retried, the records before it are committed. Then nothing is read until
//! its pause is over, while the member still polls, and the record is read again.
//!
//! While the messages of a batch are in flight, the next batch is already read and processed. Rebalances are answered
//! only between two steps, so a partition leaves after its work in progress is committed. Its next member then reads
//! again what was read ahead. After trouble with a transaction nothing is read for a while. Then the thread resumes
//! from the committed offsets with a new producer, which ends the transaction of the old one. It stays a member
//! meanwhile, because a static member that leaves during a rebalance could leave some partitions to nobody.

use super::assignment::{Assignment, Owned, add};
use super::batch::RecordBatch;
use super::guard::Guard;
use super::retries::{Decision, Retries};
use super::{Broken, Config, TransformView};
use crate::backoff::{Pauses, backoff};
use crate::kafka::context::Context;
use crate::kafka::message::CloudEvents;
use crate::kafka::record::Incoming;
use crate::kafka::rivalry::{Rivalry, member_was_fenced};
use crate::kafka::source::{Rebalance, Rebalances, TopicPartition};
use crate::kafka::transaction::Transactions;
use crate::kafka::{Connection, Error, client_error, watermarks};
use crate::model::Record;
use crate::subscriptions::{Transforming, Untransformed};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientConfig, Message as _, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time for which a poll waits for a record.
const WAIT: Duration = Duration::from_millis(100);
/// Largest number of records in a part. The messages of a part are sent before the next one is processed.
const PART: usize = 128;
/// Number of records in the first part, before it is known how long a record takes.
const FIRST_PART: usize = 16;
/// Approximate time in which the subscriber processes a part.
const PART_TIME: Duration = Duration::from_millis(250);
/// Longest time for processing the records of one transaction.
const STEP_MAX: Duration = Duration::from_secs(1);
const AGAIN_FIRST: Duration = Duration::from_millis(100);

/// The state of a transform's thread.
pub(super) struct TransformWorker {
    config: Arc<Config>,
    consumer_config: ClientConfig,
    transactions: Transactions<Arc<TransformView>>,
    transformer: Box<dyn Transforming>,
    view: Arc<TransformView>,
    guard: Guard,
    retries: Retries,
    /// Fences of this member's `group.instance.id`.
    rivalry: Rivalry,
    /// Number of records in the next part: as many as take [`PART_TIME`] at the speed of the last part.
    part: usize,
    /// If true, no transaction is open while records are processed, because there was trouble or it is not known how
    /// long they take.
    careful: bool,
}

/// A member of the group, which leaves it when dropped.
struct Member {
    consumer: BaseConsumer<Context>,
    rebalances: Rebalances,
    /// Names of topics, shared so that a record needs no copy.
    topics: Vec<Arc<str>>,
    owned: Owned,
    /// `Health::recreations`, up to the last recreation that was dealt with.
    recreations: u64,
    /// Records that are read and not committed. Some of them may be processed already.
    ahead: RecordBatch,
}

/// Reason for which no more records were processed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All records are processed, or the time is over.
    InTime,
    /// One of the next records fails, and a transaction is open.
    Stuck,
    /// The next record is retried after this time.
    Waits(Duration),
}

impl Drop for Member {
    fn drop(&mut self) {
        // librdkafka answers the group while it closes the consumer.
        self.rebalances.end();
    }
}

impl TransformWorker {
    pub(super) fn new(
        config: Arc<Config>,
        connection: &Connection,
        identity: &str,
        cloud_events: CloudEvents,
        transformer: Box<dyn Transforming>,
        view: Arc<TransformView>,
        guard: Guard,
    ) -> Result<Self, Error> {
        let instance = format!("wasmill-{}-{identity}", config.name);
        let consumer_config = connection.member(&config.name, &config.group, Some(&instance), &config.written)?;
        let transactional_id = format!("wasmill-transform-{}-{identity}", config.name);
        let settings = super::producer_config(&config.name, connection, &transactional_id);
        let (client, health) = (format!("source {}", config.name), view.health.clone());
        let remedy = "two hosts run on copies of one data folder; stop one of them, then restart this host".to_owned();
        let transactions = Transactions::new(client, settings, health, cloud_events, view.clone(), remedy)?;
        let (retries, rivalry, part, careful) = (Retries::default(), Rivalry::default(), FIRST_PART, true);
        Ok(Self { config, consumer_config, transactions, transformer, view, guard, retries, rivalry, part, careful })
    }

    /// Restarts after a panic: a new member with a new producer reads again what was not committed.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.view.left();
        self.transformer.replace();
        Ok(())
    }

    pub(super) fn run(&mut self) {
        let mut pauses = Pauses::new(AGAIN_FIRST);
        while !self.view.is_stopping() {
            let broken = self.work().unwrap_or_else(|broken| broken);
            self.transactions.end();
            self.view.left();
            let reason = match broken {
                Broken::Stopped => return,
                Broken::GiveUp(reason) => return self.view.fatal(&self.config.name, reason),
                Broken::Again(reason) | Broken::StartOver(reason) => reason,
                Broken::Fenced => match self.fenced() {
                    Ok(reason) => reason,
                    Err(reason) => return self.view.fatal(&self.config.name, reason),
                },
            };
            self.view.trouble(&self.config.name, reason);
            self.rest(pauses.after_failure());
        }
    }

    /// Decides after a fence: returns the reason to join again, or as an error the reason to stop.
    fn fenced(&mut self) -> Result<String, String> {
        let fenced = member_was_fenced(&self.config.group);
        match self.rivalry.fenced(Instant::now()) {
            None => Ok(format!("{fenced}; it joins again")),
            Some(often) => Err(format!(
                "{fenced}; {often}: two hosts run on copies of one data folder; stop one of them, then restart this host"
            )),
        }
    }

    /// Works as a member of the group, and returns why that ended.
    fn work(&mut self) -> Result<Broken, Broken> {
        self.transactions.take_over()?;
        let mut member = self.join().map_err(|error| Broken::StartOver(error.to_string()))?;
        self.guard.fix_starts(&member.consumer)?;
        let mut attempt = 0;
        while !self.view.is_stopping() {
            crate::supervise::round();
            match self.step(&mut member) {
                Ok(true) => attempt = 0,
                Ok(false) => {}
                Err(Broken::Again(reason)) => self.recover(&mut member, &mut attempt, reason)?,
                Err(broken) => return Err(broken),
            }
        }
        Ok(Broken::Stopped)
    }

    /// Recovers from trouble with a transaction: pauses, has a new producer end the open transaction, and resumes from
    /// the committed offsets.
    fn recover(&mut self, member: &mut Member, attempt: &mut u32, reason: String) -> Result<(), Broken> {
        self.careful = true;
        self.view.trouble(&self.config.name, reason);
        self.transactions.end();
        loop {
            *attempt += 1;
            self.hold(member, backoff(AGAIN_FIRST, *attempt))?;
            match self.transactions.take_over().map_err(Broken::from) {
                Ok(()) => return self.assignment(member).resume(),
                Err(Broken::Again(reason)) => self.view.trouble(&self.config.name, reason),
                Err(broken) => return Err(broken),
            }
        }
    }

    /// Does one step and returns whether there was anything to do.
    fn step(&mut self, member: &mut Member) -> Result<bool, Broken> {
        let mut batch = std::mem::take(&mut member.ahead);
        if batch.records.is_empty() {
            self.read(member, &mut batch, WAIT, self.config.deliveries.batch_max)?;
        }
        let any = !batch.records.is_empty();
        if any {
            self.view.works_on(batch.records.len());
            if let Some(pause) = self.transform(batch, member)? {
                self.hold(member, pause)?;
                self.assignment(member).resume()?;
            }
        } else {
            self.pass_markers(member);
        }
        self.answer_group(member)?;
        Ok(any)
    }

    /// Reads nothing for a while and answers the group.
    fn hold(&self, member: &mut Member, pause: Duration) -> Result<(), Broken> {
        self.view.works_on(0);
        // What was read ahead is read again.
        member.ahead = RecordBatch::default();
        self.assignment(member).hold()?;
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match member.consumer.poll(left.min(WAIT)) {
                // A record that was fetched before is read again.
                None | Some(Ok(_)) => {}
                Some(Err(error)) => match self.refused(&error) {
                    Ok(()) | Err(Broken::Again(_)) => {}
                    Err(broken) => return Err(broken),
                },
            }
            self.answer_group(member)?;
            if self.view.is_stopping() {
                return Err(Broken::Stopped);
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    fn assignment<'a>(&'a self, member: &'a mut Member) -> Assignment<'a> {
        let Member { consumer, owned, .. } = member;
        Assignment { config: &self.config, consumer, view: &self.view, guard: &self.guard, owned }
    }

    fn join(&self) -> Result<Member, Error> {
        let client = format!("source {}", self.config.name);
        let context = Context::new(client.as_str(), self.view.health.clone());
        let rebalances = context.rebalances().clone();
        let failed = |error| client_error(&client, error);
        let consumer: BaseConsumer<Context> = self.consumer_config.create_with_context(context).map_err(failed)?;
        let topics: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(failed)?;
        let (topics, owned, ahead) = Default::default();
        Ok(Member { consumer, rebalances, topics, owned, recreations: self.view.health.recreations(), ahead })
    }

    /// Adds up to `max` available records to a batch. It returns early if a rebalance must be answered, and waits only
    /// for the first record of a batch.
    fn read(&self, member: &mut Member, batch: &mut RecordBatch, wait_max: Duration, max: usize) -> Result<(), Broken> {
        let full = batch.records.len() + max;
        while batch.records.len() < full && !member.rebalances.is_waiting() {
            let wait = if batch.records.is_empty() { wait_max } else { Duration::ZERO };
            match member.consumer.poll(wait) {
                None => break,
                // The record may be one of a recreated topic, at an offset of the old one, so the topics are checked.
                Some(Ok(_)) if member.recreations != self.view.health.recreations() => {
                    member.recreations = self.view.health.recreations();
                    return Err(Broken::Again("a topic was deleted and recreated".into()));
                }
                Some(Ok(found)) => {
                    let topic = interned(&mut member.topics, found.topic());
                    batch.add(&self.config, Incoming::new(&topic, &found, &self.config.drop_headers));
                }
                Some(Err(error)) => self.refused(&error)?,
            }
        }
        Ok(())
    }

    /// Answers rebalances: gives partitions back and takes new ones.
    fn answer_group(&self, member: &mut Member) -> Result<(), Broken> {
        if member.rebalances.is_waiting() && !std::mem::take(&mut member.ahead).records.is_empty() {
            // The records that were read ahead may be of partitions that leave. Those of the others are read again.
            self.assignment(member).hold()?;
            self.answer_group(member)?;
            return self.assignment(member).resume();
        }
        while let Some(rebalance) = member.rebalances.next() {
            let mut assignment = self.assignment(member);
            match rebalance {
                Rebalance::Assign(partitions) => assignment.take(&partitions)?,
                Rebalance::Revoke { partitions, .. } => assignment.give_back(&partitions)?,
            }
            self.view.rebalanced();
        }
        Ok(())
    }

    /// Processes records for a while and commits their messages and offsets, all or nothing. If the next record must be
    /// retried, it returns the pause before that.
    fn transform(&mut self, mut batch: RecordBatch, member: &mut Member) -> Result<Option<Duration>, Broken> {
        self.transformer.renew();
        let group = member.consumer.group_metadata();
        let group = group.ok_or_else(|| Broken::Again("the group does not know this member".into()))?;
        let began = Instant::now();
        // The next records are read before these are sent, because the coordinator still ends the last transaction. It
        // would refuse a new one until then, and librdkafka asks again only after 20 ms. If there are enough records,
        // or after trouble, only one more is read, so that the consumer is polled and stays a member.
        let batch_max = self.config.deliveries.batch_max;
        let more = if self.careful || batch.records.len() > batch_max { 1 } else { batch_max };
        let mut next = RecordBatch::default();
        self.read(member, &mut next, Duration::ZERO, more)?;

        let ended = self.handle(&mut batch)?;
        let mut rest = batch.split_off_unhandled();
        if rest.records.is_empty() {
            // The messages of the first batch are in flight meanwhile.
            self.handle_ahead(&mut next);
        }
        rest.append(next);
        if !batch.records.is_empty() {
            self.commit(&mut batch, member, &group)?;
        }
        self.careful |= ended != Ended::InTime || began.elapsed() > STEP_MAX;
        member.ahead = rest;
        Ok(match ended {
            Ended::Waits(pause) => Some(pause),
            Ended::InTime | Ended::Stuck => None,
        })
    }

    /// Commits the messages of a batch and its offsets. Messages may have been sent already.
    fn commit(
        &mut self,
        batch: &mut RecordBatch,
        member: &mut Member,
        group: &rdkafka::consumer::ConsumerGroupMetadata,
    ) -> Result<(), Broken> {
        if self.transactions.open_for().is_none() {
            self.send_all(batch)?;
        }
        let mut failed = self.transactions.wait_for_all()?;
        while !failed.is_empty() {
            self.transactions.abort()?;
            batch.dead_letter_refused(&self.config, &failed).map_err(Broken::Again)?;
            self.send_all(batch)?;
            failed = self.transactions.wait_for_all()?;
        }
        let offsets = batch.offsets();
        let mut list = TopicPartitionList::new();
        offsets.iter().for_each(|(partition, next)| add(&mut list, partition, *next));
        self.transactions.commit(&list, group)?;
        self.careful = false;
        offsets.iter().for_each(|(partition, next)| {
            member.owned.reached(partition, *next);
            self.retries.passed(partition, *next);
        });
        self.view.reached(offsets.iter().map(|(partition, next)| (partition, *next)));
        Ok(())
    }

    fn send_all(&mut self, batch: &RecordBatch) -> Result<(), Broken> {
        self.transactions.begin()?;
        for (number, (message, envelope)) in batch.messages().enumerate() {
            self.transactions.send(number, message, envelope)?;
        }
        Ok(())
    }

    /// Has the subscriber process records until the time is over or one of them must be retried later. The messages of
    /// each part are sent at once, so they are in flight while the next part is processed.
    fn handle(&mut self, batch: &mut RecordBatch) -> Result<Ended, Broken> {
        let (started, step_max) = (Instant::now(), self.step_max());
        let mut sent = 0;
        if batch.handled > 0 && !self.careful {
            self.send_handled(batch, 0, &mut sent)?;
        }
        let mut part = self.part;
        while batch.handled < batch.records.len() && started.elapsed() < step_max {
            let at = batch.handled;
            match self.handle_part(batch, part) {
                Ok(()) if self.careful => {}
                Ok(()) => self.send_handled(batch, at, &mut sent)?,
                // Finding the record that fails may take longer than a transaction may be open.
                Err(_) if self.transactions.open_for().is_some() => return Ok(Ended::Stuck),
                Err(Untransformed::Fewer(fewer)) => {
                    part = fewer;
                    continue;
                }
                Err(failed) => {
                    if let Some(pause) = self.decide(batch, failed)? {
                        return Ok(Ended::Waits(pause));
                    }
                }
            }
            part = self.part;
        }
        Ok(Ended::InTime)
    }

    /// Returns the longest time for processing the records of one transaction.
    fn step_max(&self) -> Duration {
        STEP_MAX.min(self.transactions.timeout() / 4)
    }

    /// Sends the messages of the processed records from an index on. It begins a transaction if none is open.
    fn send_handled(&mut self, batch: &RecordBatch, from: usize, sent: &mut usize) -> Result<(), Broken> {
        if self.transactions.open_for().is_none() {
            self.transactions.begin()?;
        }
        for (message, envelope) in batch.messages_of(from..batch.handled) {
            self.transactions.send(*sent, message, envelope)?;
            *sent += 1;
        }
        Ok(())
    }

    /// Processes records that follow those of the open transaction, up to the first failure.
    fn handle_ahead(&mut self, next: &mut RecordBatch) {
        let step_max = self.step_max();
        while next.handled < next.records.len() && self.transactions.open_for().is_some_and(|open| open < step_max) {
            if self.handle_part(next, self.part).is_err() {
                return;
            }
        }
    }

    /// Has the subscriber process the next records of a batch. If one of them fails, nothing changes.
    fn handle_part(&mut self, batch: &mut RecordBatch, count: usize) -> Result<(), Untransformed> {
        let at = batch.handled;
        let part = batch.part(at, self.transformer.list(count.min(batch.records.len() - at)));
        if part.start > at || part.is_empty() {
            // These were dead-lettered when they were read.
            batch.handled = part.start;
            return Ok(());
        }
        let end = part.end;
        let records: Vec<&Record> = batch.records[part].iter().collect();
        let started = Instant::now();
        let messages = self.transformer.messages(&records)?;
        let each = started.elapsed() / u32::try_from(end - at).unwrap_or(u32::MAX).max(1);
        let fitting = PART_TIME.as_nanos() / each.as_nanos().max(1);
        self.part = usize::try_from(fitting).unwrap_or(PART).clamp(1, PART);
        messages.into_iter().for_each(|(index, message)| batch.lead_to(at + index, message));
        batch.handled = end;
        Ok(())
    }

    /// Decides about the next record, which failed alone: returns the pause before it is retried, or dead-letters it.
    fn decide(&mut self, batch: &mut RecordBatch, failed: Untransformed) -> Result<Option<Duration>, Broken> {
        let at = batch.handled;
        match self.retries.failed(&batch.records[at], failed, &self.config.deliveries) {
            Decision::Wait(pause, reason) => {
                let place = batch.records[at].place();
                self.view.trouble(&self.config.name, format!("{place} is tried again: {reason}"));
                Ok(Some(pause))
            }
            Decision::DeadLetter(reason) => {
                batch.dead_letter(&self.config, at, reason);
                batch.handled += 1;
                Ok(None)
            }
            Decision::Trouble(reason) => Err(Broken::Again(reason)),
        }
    }

    /// Commits past offsets without a record, such as the markers of transactions at the end of a partition, so that
    /// tools show no lag when there is nothing to do.
    fn pass_markers(&self, member: &mut Member) {
        let Ok(positions) = member.consumer.position() else { return };
        let mut passed = Vec::new();
        for found in positions.elements() {
            let partition = TopicPartition { topic: found.topic().into(), partition: found.partition() };
            if let Offset::Offset(next) = found.offset()
                && let Ok(next) = u64::try_from(next)
                && member.owned.is_behind(&partition, next)
            {
                passed.push((partition, next));
            }
        }
        for found in positions.elements() {
            // The high watermark includes records of open transactions.
            let end = watermarks::high(member.consumer.client(), found.topic(), found.partition());
            let partition = TopicPartition { topic: found.topic().into(), partition: found.partition() };
            end.into_iter().for_each(|end| self.view.ends_at(&partition, end));
        }
        if passed.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        passed.iter().for_each(|(partition, next)| add(&mut list, partition, *next));
        if let Err(error) = member.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(source = &*self.config.name, "markers at the end are not committed over yet: {error}");
            return;
        }
        passed.iter().for_each(|(partition, next)| member.owned.reached(partition, *next));
        self.view.passed(passed.into_iter());
    }

    /// Decides what follows from an error of the consumer.
    fn refused(&self, error: &KafkaError) -> Result<(), Broken> {
        use RDKafkaErrorCode as Code;
        let (group, name) = (&self.config.group, &self.config.name);
        if let KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) = error {
            return Err(Broken::Fenced);
        }
        match error.rdkafka_error_code() {
            // Retention has overtaken the member, which must find out what was lost before it reads again.
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                return Err(Broken::Again("the offset to read from is not there".into()));
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                let text = format!("{error}; create the topic, or list it as [kafka.topics.NAME] in the manifest");
                self.view.trouble(name, text);
            }
            Some(Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed) => {
                self.view.trouble(name, format!("group {group}: {error}; grant this principal Read on both"));
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                return Err(Broken::StartOver(error.to_string()));
            }
            _ => tracing::debug!(source = &**name, "{error}"),
        }
        Ok(())
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.view.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}

/// Returns the shared name of a topic.
fn interned(topics: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(topic) = topics.iter().find(|topic| ***topic == *name) {
        return topic.clone();
    }
    topics.push(name.into());
    topics[topics.len() - 1].clone()
}
