//! The thread of a transform: join, read a batch, handle what time allows, commit it, and again.
//!
//! A step is bounded by time as well as by number. What was handled when the time is over is committed, and the rest
//! stays for the next step: so a slow subscriber never holds a transaction open for as long as its coordinator allows, and
//! each step polls the group. Records that come before one that must be tried again are committed too; then nothing is
//! read until it is time, the member goes on polling, and the record is read again.
//!
//! While the messages of a batch are in flight, the next one is read and handled already. The group's wishes are answered
//! between two steps only, so that a partition goes when what is begun of it is committed; what was read ahead is then
//! read again by whichever member has it. After trouble with a transaction nothing is read for a while, and then again
//! from what is committed, with a new producer, which ends what the old one had begun. The member stays one: a static
//! member that leaves during a rebalance could leave some partitions to nobody.

use super::assignment::{Assignment, Owned, add};
use super::batch::Batch;
use super::guard::Guard;
use super::retries::{Decision, Retries};
use super::{Broken, Config, View};
use crate::follow::backoff;
use crate::kafka::context::Context;
use crate::kafka::message::CloudEvents;
use crate::kafka::record::Incoming;
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

/// How long to wait for a record before looking at other things.
const WAIT: Duration = Duration::from_millis(100);
/// The most records that are handled before what comes of them is sent.
const PART: usize = 128;
/// How many records are handled at once before it is known how long they take.
const FIRST_PART: usize = 16;
/// About how long the subscriber may work on a part.
const PART_TIME: Duration = Duration::from_millis(250);
/// How long the records of one transaction may be handled.
const STEP_MAX: Duration = Duration::from_secs(1);
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// A life that lasted so long ended for a reason of its own: the pauses start from the first again.
const CALM: Duration = Duration::from_secs(120);

/// A member of the group with a transactional producer.
pub(super) struct Worker {
    config: Arc<Config>,
    consumer_config: ClientConfig,
    transactions: Transactions<Arc<View>>,
    transformer: Box<dyn Transforming>,
    view: Arc<View>,
    guard: Guard,
    retries: Retries,
    /// How many records a part has: as many as take [`PART_TIME`], by the last part.
    part: usize,
    /// No transaction is open while records are handled: how long they take is not known, or there was trouble.
    careful: bool,
}

/// A member of the group. Dropped, it leaves.
struct Member {
    consumer: BaseConsumer<Context>,
    rebalances: Rebalances,
    /// Topics by name, so that a record's costs nothing.
    topics: Vec<Arc<str>>,
    owned: Owned,
    /// `Health::recreations`, as far as it was heeded.
    recreations: u64,
    /// What is read and not committed. Some of it may be handled already.
    ahead: Batch,
}

/// Why no more records were handled in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All are handled, or the time is over.
    InTime,
    /// One of the next records fails, and a transaction is open.
    Stuck,
    /// The next record is tried again after this time.
    Waits(Duration),
}

impl Drop for Member {
    fn drop(&mut self) {
        // Closing answers the group itself.
        self.rebalances.end();
    }
}

impl Worker {
    pub(super) fn new(
        config: Arc<Config>,
        connection: &Connection,
        identity: &str,
        cloud_events: CloudEvents,
        transformer: Box<dyn Transforming>,
        view: Arc<View>,
        guard: Guard,
    ) -> Result<Self, Error> {
        let instance = format!("wasmill-{}-{identity}", config.name);
        let consumer_config = connection.member(&config.name, &config.group, &instance, &config.written)?;
        let transactional_id = format!("wasmill-transform-{}-{identity}", config.name);
        let settings = super::producer_config(&config.name, connection, &transactional_id);
        let (client, health) = (format!("source {}", config.name), view.health.clone());
        let remedy = "two hosts run on copies of one data folder; stop one of them, then restart this host".to_owned();
        let transactions = Transactions::new(client, settings, health, cloud_events, view.clone(), remedy)?;
        let (retries, part, careful) = (Retries::default(), FIRST_PART, true);
        Ok(Self { config, consumer_config, transactions, transformer, view, guard, retries, part, careful })
    }

    /// After a panic: what was begun is read again, by a new member with a new producer.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.view.left();
        self.transformer.replace();
        Ok(())
    }

    pub(super) fn run(&mut self) {
        let mut attempt = 0;
        while !self.view.is_stopping() {
            let started = Instant::now();
            let broken = self.work().unwrap_or_else(|broken| broken);
            self.transactions.end();
            self.view.left();
            match broken {
                Broken::Stopped => return,
                Broken::GiveUp(reason) => return self.view.fatal(&self.config.name, reason),
                Broken::Again(reason) | Broken::StartOver(reason) => {
                    self.view.trouble(&self.config.name, reason);
                    attempt = if started.elapsed() > CALM { 1 } else { attempt + 1 };
                    self.rest(backoff(AGAIN_FIRST, attempt));
                }
            }
        }
    }

    /// A life as a member of the group. Ends with the reason.
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

    /// After trouble with a transaction: pauses, has a new producer end what is open, and resumes from what is committed.
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

    /// Whether there was anything to do.
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

    /// Reads nothing for a while, and answers the group.
    fn hold(&self, member: &mut Member, pause: Duration) -> Result<(), Broken> {
        self.view.works_on(0);
        // It is read again.
        member.ahead = Batch::default();
        self.assignment(member).hold()?;
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match member.consumer.poll(left.min(WAIT)) {
                // What was fetched before is read again.
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

    /// Adds what is there to a batch, up to so many records; nothing after a while, or when the group wants something.
    fn read(&self, member: &mut Member, batch: &mut Batch, wait_max: Duration, max: usize) -> Result<(), Broken> {
        let full = batch.records.len() + max;
        while batch.records.len() < full && !member.rebalances.is_waiting() {
            let wait = if batch.records.is_empty() { wait_max } else { Duration::ZERO };
            match member.consumer.poll(wait) {
                None => break,
                // The record may be of a topic that was made again, at an offset of the old one: they are looked at again.
                Some(Ok(_)) if member.recreations != self.view.health.recreations() => {
                    member.recreations = self.view.health.recreations();
                    return Err(Broken::Again("a topic was deleted and made again".into()));
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

    /// Gives back and takes, as the group wishes.
    fn answer_group(&self, member: &mut Member) -> Result<(), Broken> {
        if member.rebalances.is_waiting() && !std::mem::take(&mut member.ahead).records.is_empty() {
            // What was read ahead is of partitions that may go: what stays of them is read again.
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

    /// Handles records for a while and commits what comes of them, with their offsets: all of it or nothing. Returns how
    /// long to wait if the first of the rest must be tried again.
    fn transform(&mut self, mut batch: Batch, member: &mut Member) -> Result<Option<Duration>, Broken> {
        self.transformer.renew();
        let group = member.consumer.group_metadata();
        let group = group.ok_or_else(|| Broken::Again("the group does not know this member".into()))?;
        let began = Instant::now();
        // The next records are read before these are sent: meanwhile the coordinator ends the last transaction. A new one
        // would be refused until then, and librdkafka asks again only after 20 ms. While there is enough, one record is
        // read for each that is handled, so that the group hears of the member.
        let batch_max = self.config.deliveries.batch_max;
        let more = if self.careful || batch.records.len() > batch_max { 1 } else { batch_max };
        let mut next = Batch::default();
        self.read(member, &mut next, Duration::ZERO, more)?;

        let ended = self.handle(&mut batch)?;
        let mut rest = batch.split_off_unhandled();
        if rest.records.is_empty() {
            // Kafka takes the messages meanwhile.
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

    /// Commits the messages of a batch and its offsets. The first messages may have been sent already.
    fn commit(
        &mut self,
        batch: &mut Batch,
        member: &mut Member,
        group: &rdkafka::consumer::ConsumerGroupMetadata,
    ) -> Result<(), Broken> {
        if self.transactions.open_for().is_none() {
            self.send_all(batch)?;
        }
        let mut failed = self.transactions.wait_for_all()?;
        while !failed.is_empty() {
            self.transactions.abort()?;
            batch.mend(&self.config, &failed).map_err(Broken::Again)?;
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

    fn send_all(&mut self, batch: &Batch) -> Result<(), Broken> {
        self.transactions.begin()?;
        for (number, (message, envelope)) in batch.messages().enumerate() {
            self.transactions.send(number, message, envelope)?;
        }
        Ok(())
    }

    /// Has the subscriber handle records until the time is over or one of them must be tried again later. What comes of
    /// some records is sent while the next ones are handled: Kafka need not wait.
    fn handle(&mut self, batch: &mut Batch) -> Result<Ended, Broken> {
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
                // To find the record that fails may take longer than a transaction may be open.
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

    /// How long records of one transaction may be handled.
    fn step_max(&self) -> Duration {
        STEP_MAX.min(self.transactions.timeout() / 4)
    }

    /// Sends what the records from one on have led to, in a transaction that is begun if none is open.
    fn send_handled(&mut self, batch: &Batch, from: usize, sent: &mut usize) -> Result<(), Broken> {
        if self.transactions.open_for().is_none() {
            self.transactions.begin()?;
        }
        for (message, envelope) in batch.messages_of(from..batch.handled) {
            self.transactions.send(*sent, message, envelope)?;
            *sent += 1;
        }
        Ok(())
    }

    /// Handles records that come after those of the open transaction, up to the first trouble.
    fn handle_ahead(&mut self, next: &mut Batch) {
        let step_max = self.step_max();
        while next.handled < next.records.len() && self.transactions.open_for().is_some_and(|open| open < step_max) {
            if self.handle_part(next, self.part).is_err() {
                return;
            }
        }
    }

    /// Has the subscriber handle the next records of a batch. Nothing is done if one of them fails.
    fn handle_part(&mut self, batch: &mut Batch, count: usize) -> Result<(), Untransformed> {
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

    /// Decides about the next record, which failed alone: returns how long to wait before it is tried again, or
    /// dead-letters it.
    fn decide(&mut self, batch: &mut Batch, failed: Untransformed) -> Result<Option<Duration>, Broken> {
        let at = batch.handled;
        match self.retries.failed(&batch.records[at], failed, &self.config.deliveries) {
            Decision::Wait(pause, reason) => {
                let place = batch.records[at].place();
                self.view.trouble(&self.config.name, format!("{place} is tried again: {reason}"));
                Ok(Some(pause))
            }
            Decision::Letter(reason) => {
                batch.dead_letter(&self.config, at, reason);
                batch.handled += 1;
                Ok(None)
            }
            Decision::Trouble(reason) => Err(Broken::Again(reason)),
        }
    }

    /// Commits over offsets that hold no record, such as the markers of transactions at the end of a partition, so that
    /// no lag is shown when there is nothing to do.
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
            // What is not committed yet is there too.
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

    /// What an error of the consumer means.
    fn refused(&self, error: &KafkaError) -> Result<(), Broken> {
        use RDKafkaErrorCode as Code;
        let (group, name) = (&self.config.group, &self.config.name);
        if let KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) = error {
            return Err(Broken::GiveUp(format!(
                "group {group}: another host has joined with this one's `group.instance.id`: two hosts run on copies of \
                 one data folder; stop one of them, then restart this host"
            )));
        }
        match error.rdkafka_error_code() {
            // Retention has overtaken the member: before it reads again it finds out what was lost.
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

/// One text for each topic.
fn interned(topics: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(topic) = topics.iter().find(|topic| ***topic == *name) {
        return topic.clone();
    }
    topics.push(name.into());
    topics[topics.len() - 1].clone()
}
