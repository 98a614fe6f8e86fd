//! The thread of a transform: join, read a batch, transform it, commit it, and again.
//!
//! While the messages of a batch are on their way the next one is read and handled already. The group's wishes are
//! answered between two batches only, so that a partition goes when what is begun of it is committed; what was read
//! ahead is then read again by whoever has it. After trouble with a transaction nothing is read for a while, and then
//! again from what is committed, with a new producer, which ends what the old one had begun. The member stays one: a
//! static member that leaves while the group shares partitions out could leave some of them to nobody.

use super::assignment::{Assignment, Owned, add};
use super::batch::Batch;
use super::producer::{Broken, Producer, Transaction};
use super::{Config, View};
use crate::follow::backoff;
use crate::kafka::context::Context;
use crate::kafka::source::{Rebalance, Rebalances, TopicPartition};
use crate::kafka::{Connection, Error, client_error, record};
use crate::manifest::Deliveries;
use crate::model::Record;
use crate::subscriptions::{Transformer, Untransformed};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use rdkafka::{ClientConfig, Message as _, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for a record before looking at other things.
const WAIT: Duration = Duration::from_millis(100);
/// Records that are handled before what comes of them is sent.
const PART: usize = 128;
/// A batch that takes longer leaves the next one to be handled before its transaction begins: Kafka ends transactions
/// that are open for long.
const OPEN_MAX: Duration = Duration::from_secs(1);
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// How long one record may be tried again and again: the group must hear of the member before its
/// `max.poll.interval.ms`, five minutes by default, is over.
const TRIES_MAX: Duration = Duration::from_secs(120);

/// See the module.
pub(super) struct Worker {
    config: Arc<Config>,
    connection: Connection,
    consumer_config: ClientConfig,
    transactional_id: String,
    transformer: Transformer,
    view: Arc<View>,
    /// Nothing is handled while a transaction is open: the last one was open for too long, or there was trouble.
    careful: bool,
}

/// A member of the group. Dropped, it leaves.
struct Member {
    consumer: BaseConsumer<Context>,
    rebalances: Rebalances,
    /// Topics by name, so that a record's costs nothing.
    topics: Vec<Arc<str>>,
    owned: Owned,
    /// Read while the batch before it was on its way, and handled as far as that was easy.
    ahead: Option<Batch>,
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
        connection: Connection,
        identity: &str,
        transformer: Transformer,
        view: Arc<View>,
    ) -> Result<Self, Error> {
        let instance = format!("wasmill-{}-{identity}", config.name);
        let consumer_config = connection.member(&config.name, &config.group, &instance)?;
        let transactional_id = format!("wasmill-transform-{}-{identity}", config.name);
        Ok(Self { config, connection, consumer_config, transactional_id, transformer, view, careful: false })
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
            self.view.left();
            match broken {
                Broken::Stopped => return,
                Broken::GiveUp(reason) => return self.view.fatal(&self.config.name, reason),
                Broken::Again(reason) | Broken::StartOver(reason) => {
                    self.view.trouble(&self.config.name, reason);
                    attempt = if started.elapsed() > TRIES_MAX { 1 } else { attempt + 1 };
                    self.rest(backoff(AGAIN_FIRST, attempt));
                }
            }
        }
    }

    /// A life as a member of the group. Ends with the reason.
    fn work(&mut self) -> Result<Broken, Broken> {
        let mut producer = self.producer()?;
        let mut member = self.join().map_err(|error| Broken::StartOver(error.to_string()))?;
        let mut attempt = 0;
        while !self.view.is_stopping() {
            crate::supervise::round();
            match self.step(&producer, &mut member) {
                Ok(true) => attempt = 0,
                Ok(false) => {}
                Err(Broken::Again(reason)) => {
                    attempt += 1;
                    self.careful = true;
                    self.view.trouble(&self.config.name, reason);
                    producer.end();
                    self.hold(&mut member, backoff(AGAIN_FIRST, attempt))?;
                    // Also after a fatal error: it ends whatever the one before it has begun.
                    producer = self.producer()?;
                    self.assignment(&mut member).resume()?;
                }
                Err(broken) => {
                    producer.end();
                    return Err(broken);
                }
            }
        }
        Ok(Broken::Stopped)
    }

    /// Whether there was anything to do.
    fn step(&mut self, producer: &Producer, member: &mut Member) -> Result<bool, Broken> {
        let batch = match member.ahead.take() {
            Some(ahead) => ahead,
            None => self.read(member, WAIT)?,
        };
        let any = !batch.records.is_empty();
        if any {
            self.view.works_on(batch.records.len());
            self.transform(batch, producer, member)?;
        } else {
            self.show_positions(member);
        }
        self.answer_group(member)?;
        Ok(any)
    }

    fn producer(&self) -> Result<Producer, Broken> {
        let producer = Producer::new(&self.config, &self.connection, &self.transactional_id, &self.view);
        let producer = producer.map_err(|error| Broken::StartOver(error.to_string()))?;
        producer.take_over()?;
        Ok(producer)
    }

    /// Reads nothing for a while, and answers the group.
    fn hold(&self, member: &mut Member, pause: Duration) -> Result<(), Broken> {
        self.view.works_on(0);
        // It is read again.
        member.ahead = None;
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
        Assignment { config: &self.config, consumer, view: &self.view, owned }
    }

    fn join(&self) -> Result<Member, Error> {
        let client = format!("source {}", self.config.name);
        let context = Context::new(client.as_str(), self.view.health.clone());
        let rebalances = context.rebalances().clone();
        let failed = |error| client_error(&client, error);
        let consumer: BaseConsumer<Context> = self.consumer_config.create_with_context(context).map_err(failed)?;
        let topics: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(failed)?;
        Ok(Member { consumer, rebalances, topics: Vec::new(), owned: Owned::default(), ahead: None })
    }

    /// What is there, up to a batch; nothing after a while, or when the group wants something.
    fn read(&self, member: &mut Member, wait_max: Duration) -> Result<Batch, Broken> {
        let mut batch = Batch::default();
        while batch.records.len() < self.config.deliveries.batch_max && !member.rebalances.is_waiting() {
            let wait = if batch.records.is_empty() { wait_max } else { Duration::ZERO };
            match member.consumer.poll(wait) {
                None => break,
                Some(Ok(found)) => {
                    let topic = interned(&mut member.topics, found.topic());
                    batch.add(record::owned(&topic, &found));
                }
                Some(Err(error)) => self.refused(&error)?,
            }
        }
        Ok(batch)
    }

    /// Gives back and takes, as the group wishes.
    fn answer_group(&self, member: &mut Member) -> Result<(), Broken> {
        if member.rebalances.is_waiting() && member.ahead.take().is_some() {
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

    /// A batch, its messages and its offsets: all of it or nothing.
    fn transform(&mut self, mut batch: Batch, producer: &Producer, member: &mut Member) -> Result<(), Broken> {
        self.transformer.renew();
        let offsets = batch.offsets();
        let mut list = TopicPartitionList::new();
        offsets.iter().for_each(|(partition, next)| add(&mut list, partition, *next));
        let group = member.consumer.group_metadata();
        let group = group.ok_or_else(|| Broken::Again("the group does not know this member".into()))?;
        let began = Instant::now();
        // The next batch is read before this one is sent: meanwhile the coordinator ends the last transaction. A new one
        // would be refused until then, and librdkafka asks again only after 20 ms.
        let next = if self.careful { Batch::default() } else { self.read(member, Duration::ZERO)? };
        let transaction = self.handle_and_send(&mut batch, producer)?;
        // Kafka takes the messages meanwhile.
        self.handle_ahead(next, member);
        let mut failed = transaction.commit(&list, &group)?;
        while !failed.is_empty() {
            batch.mend(&self.config, &failed).map_err(Broken::Again)?;
            failed = send(producer, &batch)?.commit(&list, &group)?;
        }
        self.careful = began.elapsed() > OPEN_MAX;
        offsets.iter().for_each(|(partition, next)| member.owned.reached(partition, *next));
        self.view.reached(offsets.iter().map(|(partition, next)| (partition, *next)));
        Ok(())
    }

    /// Has the subscriber handle all records, and sends what comes of some while it handles the next ones: Kafka need
    /// not wait. Where one fails, what is sent is taken back until all are handled: its tries may take longer than a
    /// transaction may be open.
    fn handle_and_send<'p>(&mut self, batch: &mut Batch, producer: &'p Producer) -> Result<Transaction<'p>, Broken> {
        if self.careful {
            self.handle(batch, batch.handled)?;
            return send(producer, batch);
        }
        let mut transaction = producer.begin()?;
        transaction.add(batch.messages_of(0..batch.handled))?;
        while batch.handled < batch.records.len() {
            let at = batch.handled;
            if !self.handle_part(batch) {
                transaction.abort()?;
                self.handle(batch, at)?;
                return send(producer, batch);
            }
            transaction.add(batch.messages_of(at..batch.handled))?;
        }
        Ok(transaction)
    }

    /// Handles the next batch up to the first trouble.
    fn handle_ahead(&mut self, mut ahead: Batch, member: &mut Member) {
        while ahead.handled < ahead.records.len() && self.handle_part(&mut ahead) {}
        member.ahead = Some(ahead).filter(|ahead| !ahead.records.is_empty());
    }

    /// Has the subscriber handle the next records of a batch; false, and nothing done, where one of them fails.
    fn handle_part(&mut self, batch: &mut Batch) -> bool {
        let at = batch.handled;
        let end = at + self.transformer.list(PART.min(batch.records.len() - at));
        let records: Vec<&Record> = batch.records[at..end].iter().collect();
        let Ok(messages) = self.transformer.messages(&records) else { return false };
        messages.into_iter().for_each(|(index, message)| batch.lead_to(at + index, message));
        batch.handled = end;
        true
    }

    /// Has the subscriber handle all records from one on: whole, or where that fails what comes before the failing
    /// record, then that record alone, then the rest.
    fn handle(&mut self, batch: &mut Batch, mut at: usize) -> Result<(), Broken> {
        let all = batch.records.len();
        let mut count = self.transformer.list(all - at);
        while at < all {
            let part: Vec<&Record> = batch.records[at..at + count].iter().collect();
            match self.transformer.messages(&part) {
                Ok(messages) => {
                    messages.into_iter().for_each(|(index, message)| batch.lead_to(at + index, message));
                    at += count;
                }
                Err(Untransformed::Fewer(fewer)) => {
                    count = fewer;
                    continue;
                }
                Err(failed) => {
                    self.handle_alone(batch, at, failed)?;
                    at += 1;
                }
            }
            count = self.transformer.list(all - at);
        }
        Ok(())
    }

    /// Tries a record until it succeeds or its tries are used up; then puts it aside.
    fn handle_alone(&mut self, batch: &mut Batch, at: usize, mut failed: Untransformed) -> Result<(), Broken> {
        let (started, place) = (Instant::now(), batch.records[at].place());
        for attempt in 1.. {
            let (reason, wait) = match failed {
                Untransformed::Again(reason, wait) => (reason, wait),
                Untransformed::Command(reason) | Untransformed::Host(reason) => return Err(Broken::Again(reason)),
                Untransformed::Refused(reason) => {
                    batch.put_aside(&self.config, at, reason);
                    return Ok(());
                }
                Untransformed::Fewer(_) => unreachable!("one record can't be fewer"),
            };
            let Deliveries { attempts_max, backoff_ms, .. } = self.config.deliveries;
            let pause = backoff(Duration::from_millis(backoff_ms), attempt).max(wait);
            if attempt >= attempts_max || started.elapsed() + pause > TRIES_MAX {
                batch.put_aside(&self.config, at, format!("{reason} (tried {attempt} times)"));
                return Ok(());
            }
            self.view.trouble(&self.config.name, format!("{place} is tried again: {reason}"));
            self.rest(pause);
            if self.view.is_stopping() {
                return Err(Broken::Stopped);
            }
            self.transformer.renew();
            match self.transformer.messages(&[&batch.records[at]]) {
                Ok(messages) => {
                    messages.into_iter().for_each(|(_, message)| batch.lead_to(at, message));
                    return Ok(());
                }
                Err(again) => failed = again,
            }
        }
        Ok(())
    }

    /// At the end of a partition there may be offsets that hold no record, such as transaction markers.
    fn show_positions(&self, member: &Member) {
        let Ok(positions) = member.consumer.position() else { return };
        let elements = positions.elements();
        let known = elements.iter().filter_map(|found| match found.offset() {
            Offset::Offset(next) => {
                let partition = TopicPartition { topic: found.topic().into(), partition: found.partition() };
                Some((partition, u64::try_from(next).ok()?))
            }
            _ => None,
        });
        self.view.passed(known);
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

/// Sends all messages of a batch in a new transaction.
fn send<'p>(producer: &'p Producer, batch: &Batch) -> Result<Transaction<'p>, Broken> {
    let mut transaction = producer.begin()?;
    transaction.add(batch.messages())?;
    Ok(transaction)
}

/// One text for each topic.
fn interned(topics: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(topic) = topics.iter().find(|topic| ***topic == *name) {
        return topic.clone();
    }
    topics.push(name.into());
    topics[topics.len() - 1].clone()
}
