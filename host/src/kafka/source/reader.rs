//! The thread that reads: records from the partitions' queues, commands to the aggregates, completions back.
//!
//! It never blocks on the brokers and never spins: with nothing to do it rests until a completion, a record or at
//! most [`REST_MAX`]. The last is the guarantee, the wake-ups are hints (librdkafka may lose one).

use super::completions::{Completion, Completions, Ticket};
use super::lane::Lane;
use super::scout::{Opening, Request};
use super::view::{Lasts, View};
use super::{Config, Context};
use crate::aggregates::{Inbox, Reply, Unaccepted};
use crate::kafka::record::Mapping;
use crate::model::{Command, Outcome};
use crate::store::EventStore;
use crossbeam_channel::{Receiver, Sender};
use rdkafka::Message;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REST_MAX: Duration = Duration::from_millis(50);
/// The rest while a command waits for room that other senders took: nothing of ours completes then.
const CROWDED_REST: Duration = Duration::from_millis(2);
/// Records of one partition before the next one's turn.
const TURN: usize = 512;
/// Events served from the main queue in a turn; each is an error or a line of the log.
const EVENTS: usize = 4;
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Ways to and from the scout.
pub(super) struct Ends {
    pub(super) scout: Sender<Request>,
    pub(super) findings: Receiver<Opening>,
    /// Dropped once nothing is in flight any more: the source's `stop` waits for it.
    pub(super) draining: Sender<()>,
}

/// See the module.
pub(super) struct Reader {
    work: Work,
    ends: Ends,
    /// By partition number.
    partitions: Vec<Option<Reading>>,
    completed: Vec<Completion>,
    at_rest: Vec<i32>,
    commit_due: Instant,
    committed: u64,
}

/// What every partition needs to hand a record on.
struct Work {
    config: Arc<Config>,
    consumer: Arc<BaseConsumer<Context>>,
    mapping: Mapping,
    store: Arc<dyn EventStore>,
    inbox: Arc<dyn Inbox>,
    view: Arc<View>,
    completions: Arc<Completions>,
}

struct Reading {
    partition: i32,
    lane: Lane,
    /// `None` once it is given back: what is in flight ends, then the scout opens it again.
    queue: Option<PartitionQueue<Context>>,
    /// The view shows an error of it.
    shows_error: bool,
}

/// What became of a partition's turn.
#[derive(PartialEq, Eq)]
enum Turn {
    /// No record, no room, or nothing may be handed on.
    Idle,
    Moved,
    /// It can't go on from where it is.
    Reopen(String),
}

impl Reader {
    #[expect(clippy::too_many_arguments, reason = "called once, next to the parts' making")]
    pub(super) fn new(
        config: Arc<Config>,
        consumer: Arc<BaseConsumer<Context>>,
        mapping: Mapping,
        store: Arc<dyn EventStore>,
        inbox: Arc<dyn Inbox>,
        view: Arc<View>,
        completions: Arc<Completions>,
        ends: Ends,
    ) -> Self {
        let work = Work { config, consumer, mapping, store, inbox, view, completions };
        let commit_due = Instant::now() + COMMIT_EVERY;
        let (partitions, completed, at_rest) = Default::default();
        Self { work, ends, partitions, completed, at_rest, commit_due, committed: 0 }
    }

    pub(super) fn run(mut self) {
        while !self.work.view.is_stopping() {
            let mut moved = self.open();
            moved |= self.complete();
            self.serve_events();
            moved |= self.read();
            self.show();
            if !moved {
                self.skip_gaps();
                self.rest();
            }
        }
        self.drain();
        self.close();
    }

    /// Starts the partitions that the scout found.
    fn open(&mut self) -> bool {
        let mut opened = false;
        while let Ok(Opening { partition, ledger_name, ledger }) = self.ends.findings.try_recv() {
            let lane = Lane::new(ledger_name, ledger);
            let slot = partition as usize;
            if self.partitions.len() <= slot {
                self.partitions.resize_with(slot + 1, || None);
            }
            match self.work.queue(partition, lane.next()) {
                Ok(queue) => {
                    tracing::info!(source = &*self.work.config.name, partition, from = lane.next(), "reads");
                    let reading = Reading { partition, lane, queue: Some(queue), shows_error: false };
                    self.partitions[slot] = Some(reading);
                }
                Err(error) => self.work.give_back(&self.ends.scout, partition, &error.to_string()),
            }
            opened = true;
        }
        opened
    }

    fn complete(&mut self) -> bool {
        self.work.completions.take(&mut self.completed);
        let any = !self.completed.is_empty();
        for Completion { partition, first, last, settled } in self.completed.drain(..) {
            let Some(reading) = &mut self.partitions[partition as usize] else { continue };
            reading.lane.end(first, last, settled);
            if !settled && reading.queue.is_some() {
                reading.stop_reading(&self.work, &format!("offset {last} could not be stored; it is tried again"));
            }
        }
        for slot in &mut self.partitions {
            if let Some(reading) = slot.take_if(|reading| reading.queue.is_none() && reading.lane.in_flight() == 0) {
                self.work.view.close(reading.partition);
                let _ = self.ends.scout.send(Request::Reopen);
            }
        }
        any
    }

    /// Errors and lines of the log come through the main queue; records must not.
    fn serve_events(&mut self) {
        for _ in 0..EVENTS {
            match self.work.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    self.work.view.fatal(format!("Kafka refuses this client for good: {code}; restart the host"));
                }
                Some(Err(error)) => tracing::debug!(source = &*self.work.config.name, "{error}"),
                Some(Ok(record)) => {
                    // It was fetched before its queue was split off: read the partition again.
                    let slot = self.partitions.get_mut(record.partition() as usize).and_then(Option::as_mut);
                    if let Some(reading) = slot {
                        reading.stop_reading(&self.work, "a record came out of turn; it is read again");
                    }
                }
            }
        }
    }

    fn read(&mut self) -> bool {
        let mut moved = false;
        for reading in self.partitions.iter_mut().flatten() {
            match reading.turn(&mut self.work) {
                Turn::Idle => {}
                Turn::Moved => moved = true,
                Turn::Reopen(reason) => {
                    reading.stop_reading(&self.work, &reason);
                    // With nothing in flight no completion would come to have it opened again.
                    moved = true;
                }
            }
        }
        moved
    }

    /// Shows progress, and commits for lag tools.
    fn show(&mut self) {
        let readings = self.partitions.iter().flatten();
        let lanes = readings.map(|reading| (reading.partition, reading.lane.next(), reading.lane.in_flight()));
        self.work.view.settled(lanes, &mut self.at_rest);
        if Instant::now() >= self.commit_due {
            self.commit();
            self.commit_due = Instant::now() + COMMIT_EVERY;
        }
    }

    /// At the end of a partition there may be offsets that hold no record, such as transaction markers: the consumer's
    /// position is past them, and no record will come whose origin covers them.
    fn skip_gaps(&mut self) {
        if self.at_rest.is_empty() {
            return;
        }
        let Ok(positions) = self.work.consumer.position() else { return };
        for &partition in &self.at_rest {
            let Some(reading) = self.partitions[partition as usize].as_mut() else { continue };
            let position = positions.find_partition(&self.work.config.topic, partition).map(|found| found.offset());
            let Some(Offset::Offset(position)) = position else { continue };
            if reading.queue.is_some() && reading.lane.skip_to(position as u64) {
                let ledger = reading.lane.ledger_name().clone();
                let failed = move |result: Result<(), crate::store::Error>| {
                    if let Err(error) = result {
                        tracing::debug!("offsets without records are not settled yet: {error}");
                    }
                };
                self.work.store.start_ledger(&ledger, position as u64, Box::new(failed));
            }
        }
    }

    /// Without waiting, and nobody reads it but lag tools.
    fn commit(&mut self) {
        let sum = self.partitions.iter().flatten().map(|reading| reading.lane.next()).sum();
        if sum == self.committed {
            return;
        }
        let mut offsets = TopicPartitionList::new();
        for reading in self.partitions.iter().flatten() {
            let offset = Offset::Offset(reading.lane.next() as i64);
            let _ = offsets.add_partition_offset(&self.work.config.topic, reading.partition, offset);
        }
        match self.work.consumer.commit(&offsets, CommitMode::Async) {
            Ok(()) => self.committed = sum,
            Err(error) => tracing::debug!("offsets for lag tools were not committed: {error}"),
        }
    }

    fn rest(&self) {
        let crowded = |reading: &Reading| reading.lane.is_held();
        let any_crowded = self.partitions.iter().flatten().any(crowded);
        std::thread::park_timeout(if any_crowded { CROWDED_REST } else { REST_MAX });
    }

    /// Waits for what is handed on. What is only held goes back: it was never handed on.
    fn drain(&mut self) {
        let deadline = Instant::now() + self.work.config.drain_max;
        for reading in self.partitions.iter_mut().flatten() {
            reading.queue = None;
            drop(reading.lane.held());
        }
        loop {
            self.work.completions.take(&mut self.completed);
            for Completion { partition, first, last, settled } in self.completed.drain(..) {
                if let Some(reading) = &mut self.partitions[partition as usize] {
                    reading.lane.end(first, last, settled);
                }
            }
            let in_flight: usize = self.partitions.iter().flatten().map(|reading| reading.lane.in_flight()).sum();
            let now = Instant::now();
            if in_flight == 0 || now >= deadline {
                if in_flight > 0 {
                    tracing::warn!(source = &*self.work.config.name, in_flight, "stopped before all was settled");
                }
                return;
            }
            std::thread::park_timeout((deadline - now).min(REST_MAX));
        }
    }

    fn close(mut self) {
        self.at_rest.clear();
        let readings = self.partitions.iter().flatten();
        let lanes = readings.map(|reading| (reading.partition, reading.lane.next(), reading.lane.in_flight()));
        self.work.view.settled(lanes, &mut self.at_rest);
        // Sent on its way; closing the consumer sees it through.
        self.commit();
        drop(self.ends.draining);
        let _ = self.work.consumer.unassign();
    }
}

impl Reading {
    fn turn(&mut self, work: &mut Work) -> Turn {
        let Some(queue) = self.queue.take() else { return Turn::Idle };
        let turn = self.turn_with(&queue, work);
        self.queue = Some(queue);
        turn
    }

    fn turn_with(&mut self, queue: &PartitionQueue<Context>, work: &mut Work) -> Turn {
        if let Some((command, reply)) = self.lane.held()
            && !self.offer(work, command, reply)
        {
            return Turn::Idle;
        }
        let mut turn = Turn::Idle;
        for _ in 0..TURN {
            if self.lane.in_flight() >= work.config.in_flight_max || self.lane.is_held() {
                break;
            }
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(record)) => self.take(work, &record),
                Some(Err(error)) => match self.refused(work, &error) {
                    Some(reason) => return Turn::Reopen(reason),
                    None => continue,
                },
            }
            turn = Turn::Moved;
        }
        turn
    }

    fn take<M: Message>(&mut self, work: &mut Work, record: &M) {
        if std::mem::take(&mut self.shows_error) {
            work.view.no_error(self.partition);
        }
        let Some(origin) = self.lane.take(record.offset() as u64) else { return };
        let ticket = Ticket::new(&work.completions, self.partition, origin.first, origin.last);
        match work.mapping.command(record, origin.clone()) {
            Ok(command) => {
                let reply: Reply = Box::new(move |outcome| ticket.end(is_settled(&outcome)));
                self.offer(work, command.into(), reply);
            }
            Err(letter) => {
                tracing::warn!(source = &*letter.consumer, place = letter.place, "parked: {}", letter.reason);
                work.store.park(*letter, Some(origin), Box::new(move |result| ticket.end(result.is_ok())));
            }
        }
    }

    /// Hands a command on, or holds it.
    fn offer(&mut self, work: &Work, command: Arc<Command>, reply: Reply) -> bool {
        match work.inbox.offer(command, reply) {
            Ok(()) => return true,
            Err(Unaccepted::Full(command, reply)) => self.lane.hold(command, reply),
            Err(Unaccepted::NoSuchAggregate { known, command, reply }) => {
                if !std::mem::replace(&mut self.shows_error, true) {
                    let aggregate = &command.stream.aggregate_type;
                    let error = format!(
                        "no plugin serves aggregate {aggregate}; served are: {}; set `aggregate` of [sources.{}]",
                        known.join(", "),
                        work.config.name
                    );
                    tracing::error!(source = &*work.config.name, "{error}");
                    work.view.error(self.partition, error, Lasts::UntilRecord);
                }
                self.lane.hold(command, reply);
            }
        }
        false
    }

    /// What an error in the partition's queue means: a reason to open it anew, or librdkafka goes on by itself.
    fn refused(&mut self, work: &Work, error: &KafkaError) -> Option<String> {
        use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
        if let Some(AutoOffsetReset | OffsetOutOfRange) = error.rdkafka_error_code() {
            return Some("the offset to read from is not there".into());
        }
        let (topic, partition) = (&work.config.topic, self.partition);
        tracing::warn!(source = &*work.config.name, partition, "{error}");
        work.view.error(partition, format!("topic {topic} partition {partition}: {error}"), Lasts::UntilAnswer);
        self.shows_error = true;
        None
    }

    /// Gives the queue back. Opened again once nothing is in flight.
    fn stop_reading(&mut self, work: &Work, reason: &str) {
        if self.queue.take().is_none() {
            return;
        }
        let partition = self.partition;
        tracing::warn!(source = &*work.config.name, partition, "opens the partition again: {reason}");
        drop(self.lane.held());
        work.unassign(partition);
        work.view.error(
            partition,
            format!("topic {} partition {partition}: {reason}", work.config.topic),
            Lasts::UntilRecord,
        );
        self.shows_error = true;
        work.completions.wake();
    }
}

impl Work {
    /// Assigns a partition and splits off its queue. In this order: split, then assign, never seek.
    fn queue(&self, partition: i32, offset: u64) -> Result<PartitionQueue<Context>, KafkaError> {
        let queue = self.consumer.split_partition_queue(&self.config.topic, partition);
        let mut queue = queue.ok_or_else(|| KafkaError::Subscription("no such partition".into()))?;
        let waker = self.completions.clone();
        queue.set_nonempty_callback(move || waker.wake());
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.config.topic, partition, Offset::Offset(offset as i64))?;
        self.consumer.incremental_assign(&assignment)?;
        Ok(queue)
    }

    fn unassign(&self, partition: i32) {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition(&self.config.topic, partition);
        if let Err(error) = self.consumer.incremental_unassign(&assignment) {
            tracing::debug!(partition, "was not assigned: {error}");
        }
    }

    fn give_back(&self, scout: &Sender<Request>, partition: i32, reason: &str) {
        self.view.close(partition);
        self.view.error(
            partition,
            format!("topic {} partition {partition}: {reason}", self.config.topic),
            Lasts::UntilRecord,
        );
        let _ = scout.send(Request::Reopen);
    }
}

/// Everything but a failure of the host is settled in the ledger, with its outcome.
fn is_settled(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed { .. } | Outcome::Busy { .. })
}
