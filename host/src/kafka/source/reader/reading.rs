//! The reading of one partition: its queue, its state, and what becomes of each record.

use super::Work;
use crate::ack::{Ack, RangeAck, SettlementReceiver};
use crate::aggregates::{self, Unaccepted};
use crate::kafka::context::Context;
use crate::kafka::record::{self, Incoming};
use crate::kafka::source::completions::{AssignmentId, Completions};
use crate::kafka::source::destination::{Delivery, Destination, Refused};
use crate::kafka::source::discovery::{RECREATED, Request};
use crate::kafka::source::partition_state::PartitionState;
use crate::kafka::source::topics::TopicPartition;
use crate::kafka::source::view::Until;
use crate::model::{Command, DeadLetter, Origin, Outcome, Record};
use crate::store;
use crate::subscriptions::RecordRun;
use crossbeam_channel::Sender;
use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Largest number of records of one partition in a turn.
const TURN: usize = 512;

/// A partition that this host reads.
pub(super) struct PartitionReading {
    pub(super) partition: TopicPartition,
    pub(super) id: AssignmentId,
    pub(super) state: PartitionState,
    /// Records that are handed on together when their turn ends. They follow what the partition's state holds.
    run: Option<RecordRun>,
    /// Receiver of the settlements of records.
    receiver: SettlementReceiver,
    /// The queue of the partition. It is `None` when the partition is no longer read and only waits for records in
    /// flight.
    queue: Option<PartitionQueue<Context>>,
    /// `Health::recreations` from before the topic's id was asked for.
    recreations: u64,
    /// Whether librdkafka has the partition in its assignment.
    pub(super) is_assigned: bool,
    /// Whether the view shows an error of the partition.
    shows_error: bool,
}

/// Result of a partition's turn.
#[derive(PartialEq, Eq)]
pub(super) enum Turn {
    /// There was no record or no room, or nothing may be handed on.
    Idle,
    Moved,
    /// The partition must be opened again, for this reason.
    Reopen(String),
}

impl PartitionReading {
    pub(super) fn new(
        partition: TopicPartition,
        id: AssignmentId,
        state: PartitionState,
        queue: PartitionQueue<Context>,
        recreations: u64,
        completions: &Arc<Completions>,
    ) -> Self {
        let (queue, receiver) = (Some(queue), completions.receiver(id));
        Self { partition, id, state, run: None, receiver, queue, recreations, is_assigned: true, shows_error: false }
    }

    pub(super) fn is_read(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns whether it was left to be opened again and nothing is in flight.
    pub(super) fn is_ended(&self) -> bool {
        !self.is_assigned && self.state.in_flight() == 0
    }

    pub(super) fn turn(&mut self, work: &mut Work) -> Turn {
        let Some(queue) = self.queue.take() else { return Turn::Idle };
        let turn = self.turn_with(&queue, work);
        self.queue = Some(queue);
        turn
    }

    fn turn_with(&mut self, queue: &PartitionQueue<Context>, work: &mut Work) -> Turn {
        if let Some(offer) = self.state.held()
            && !self.offer(work, offer)
        {
            return Turn::Idle;
        }
        let turn = self.read(queue, work);
        self.hand_run_on(work);
        turn
    }

    fn read(&mut self, queue: &PartitionQueue<Context>, work: &mut Work) -> Turn {
        let mut turn = Turn::Idle;
        for _ in 0..TURN {
            if self.state.in_flight() >= work.config.in_flight_max
                || self.state.is_held()
                || work.bytes_in_flight.load(Ordering::Relaxed) >= work.config.in_flight_bytes_max
            {
                break;
            }
            match queue.poll(Duration::ZERO) {
                None => break,
                // The record may be one of the recreated topic, at an offset of the old one.
                Some(Ok(_)) if work.recreations() != self.recreations => return Turn::Reopen(RECREATED.to_owned()),
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

    fn take(&mut self, work: &mut Work, record: &BorrowedMessage<'_>) {
        if std::mem::take(&mut self.shows_error) {
            work.view.no_error(&self.partition);
        }
        let offset = record.offset() as u64;
        let Some(first) = self.state.take(offset) else { return };
        let record = Incoming::new(&self.partition.topic, record, &work.config.drop_headers);
        let origin = Origin { ledger: self.state.ledger_name().clone(), first, last: offset };
        let mapping = match &mut work.destination {
            Destination::Commands(mapping, _) => mapping,
            &mut Destination::Records(run_max, _) => {
                let (record, wrong) = record.into_owned();
                let bytes = record.size();
                self.state.weighs(bytes);
                return match wrong {
                    None => self.add(work, first, record, run_max),
                    Some(reason) => {
                        self.dead_letter(work, record::dead_letter(&work.config.name, record, reason), origin, bytes);
                    }
                };
            }
        };
        let bytes = record.payload.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
        self.state.weighs(bytes);
        match mapping.take(record, origin.clone()) {
            Ok(command) => {
                let ack = RangeAck::new(self.receiver.clone(), first, offset, bytes);
                self.offer(work, Delivery::command(command, ack));
            }
            Err(letter) => self.dead_letter(work, letter, origin, bytes),
        }
    }

    /// Dead-letters a record that can't be handed on.
    fn dead_letter(&mut self, work: &Work, letter: Box<DeadLetter>, origin: Origin, bytes: usize) {
        tracing::warn!(source = &*letter.consumer, place = letter.place, "dead-lettered: {}", letter.reason);
        let ack = RangeAck::new(self.receiver.clone(), origin.first, origin.last, bytes);
        work.store.dead_letter(
            *letter,
            Some(origin),
            Ack::new(move |result: Result<(), store::Error>| ack.give(result.as_ref().copied())),
        );
    }

    /// Adds a record to the run, or begins the next run with it.
    fn add(&mut self, work: &Work, first: u64, record: Record, run_max: usize) {
        let refused = match &mut self.run {
            Some(run) => run.push(first, record).err(),
            None => Some(record),
        };
        if let Some(record) = refused {
            self.hand_run_on(work);
            self.run = Some(RecordRun::new(self.state.ledger_name().clone(), first, record, self.receiver.clone()));
        }
        if self.run.as_ref().is_some_and(|run| run.len() >= run_max) {
            self.hand_run_on(work);
        }
    }

    /// Hands the run on, unless something before it is held.
    fn hand_run_on(&mut self, work: &Work) {
        if !self.state.is_held()
            && let Some(run) = self.run.take()
        {
            self.offer(work, Delivery::Records(run));
        }
    }

    /// Hands something on, or holds it.
    fn offer(&mut self, work: &Work, delivery: Delivery) -> bool {
        match work.destination.offer(delivery) {
            Ok(()) => return true,
            Err(Refused::Records(run)) => self.state.hold(Delivery::Records(run)),
            Err(Refused::Command(Unaccepted::Full(command, ack))) => self.state.hold(Delivery::Command(command, ack)),
            Err(Refused::Command(Unaccepted::InvalidId { reason, command, ack })) => {
                dead_letter(work, &command, reason, ack);
                return true;
            }
            Err(Refused::Command(Unaccepted::NoSuchAggregate { known, command, ack })) => {
                let (aggregate, known) = (&command.stream.aggregate_type, known.join(", "));
                if work.destination.is_addressed_by_records() {
                    let reason =
                        format!("no plugin serves aggregate {aggregate}, which the record names; served are: {known}");
                    dead_letter(work, &command, reason, ack);
                    return true;
                }
                if !std::mem::replace(&mut self.shows_error, true) {
                    let source = &work.config.name;
                    let error = format!(
                        "no plugin serves aggregate {aggregate}; served are: {known}; set `aggregate` of [sources.{source}]"
                    );
                    tracing::error!(source = &**source, "{error}");
                    work.view.error(&self.partition, error, Until::Record);
                }
                self.state.hold(Delivery::Command(command, ack));
            }
        }
        false
    }

    /// Returns the reason to open the partition again if an error in its queue requires that. From any other error
    /// librdkafka recovers by itself.
    fn refused(&mut self, work: &Work, error: &KafkaError) -> Option<String> {
        use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
        if let Some(AutoOffsetReset | OffsetOutOfRange) = error.rdkafka_error_code() {
            return Some("the offset to read from is not there".into());
        }
        let partition = &self.partition;
        tracing::warn!(source = &*work.config.name, "{partition}: {error}");
        work.view.error(partition, format!("{partition}: {error}"), Until::Answer);
        self.shows_error = true;
        None
    }

    /// Stops reading the partition, which stays in the assignment until it is given back. Records that are only held
    /// were never handed on, so the next reader of the partition reads them again.
    pub(super) fn leave(&mut self) {
        self.queue = None;
        drop((self.state.held(), self.run.take()));
    }

    /// Stops reading so that the partition is opened again when nothing is in flight.
    pub(super) fn stop_reading(&mut self, work: &Work, reason: &str) {
        if self.leave_to_open_again(work, reason) {
            let partition = &self.partition;
            work.view.error(partition, format!("{partition}: {reason}"), Until::Settled);
        }
    }

    /// Has the partition read again because a record at this offset was not settled.
    pub(super) fn unsettled(&mut self, work: &Work, offset: u64, why: Option<&str>) {
        let reason =
            format!("offset {offset} is not settled: {}; it is read again", why.unwrap_or("it was not handled"));
        self.leave_to_open_again(work, &reason);
        let partition = &self.partition;
        work.view.unsettled(partition, offset, format!("{partition}: {reason}"), why.is_some());
    }

    /// Stops reading and unassigns the partition. Returns false if it was left before.
    fn leave_to_open_again(&mut self, work: &Work, reason: &str) -> bool {
        if self.queue.take().is_none() {
            return false;
        }
        let partition = &self.partition;
        tracing::warn!(source = &*work.config.name, "opens {partition} again: {reason}");
        drop((self.state.held(), self.run.take()));
        work.unassign(partition);
        self.is_assigned = false;
        self.shows_error = true;
        work.completions.wake();
        true
    }
}

/// Dead-letters a command that no aggregate can take.
fn dead_letter(work: &Work, command: &Command, reason: String, ack: Ack<Outcome>) {
    let origin = command.origin.clone().expect("commands of sources have one");
    let letter = DeadLetter::of_command(work.config.name.to_string(), origin.place(), reason.clone(), command.clone());
    tracing::warn!(source = &*letter.consumer, place = letter.place, "dead-lettered: {reason}");
    work.store.dead_letter(letter, Some(origin), aggregates::when_recorded(reason, ack));
}

impl Work {
    /// Splits off a partition's queue, then assigns the partition. In the other order records would come through the
    /// main queue. It never seeks: the assignment has the offset.
    pub(super) fn queue(&self, partition: &TopicPartition, offset: u64) -> Result<PartitionQueue<Context>, KafkaError> {
        let queue = self.consumer.split_partition_queue(&partition.topic, partition.partition);
        let mut queue = queue.ok_or_else(|| KafkaError::Subscription("no such partition".into()))?;
        let waker = self.completions.clone();
        queue.set_nonempty_callback(move || waker.wake());
        let mut assignment = TopicPartitionList::new();
        partition.add_to(&mut assignment, Some(offset));
        self.consumer.incremental_assign(&assignment)?;
        Ok(queue)
    }

    fn recreations(&self) -> u64 {
        self.consumer.context().health().recreations()
    }

    pub(super) fn unassign(&self, partition: &TopicPartition) {
        let mut assignment = TopicPartitionList::new();
        partition.add_to(&mut assignment, None);
        if let Err(error) = self.consumer.incremental_unassign(&assignment) {
            tracing::debug!("{partition} was not assigned: {error}");
        }
    }

    pub(super) fn give_back(&self, discovery: &Sender<Request>, partition: &TopicPartition, reason: &str) {
        self.view.close(partition);
        self.view.error(partition, format!("{partition}: {reason}"), Until::Record);
        let _ = discovery.send(Request::Reopen);
    }
}

impl TopicPartition {
    /// Adds the partition to a list, with an offset if it needs one.
    pub(in crate::kafka::source) fn add_to(&self, list: &mut TopicPartitionList, offset: Option<u64>) {
        match offset {
            None => _ = list.add_partition(&self.topic, self.partition),
            Some(offset) => {
                let offset = Offset::Offset(i64::try_from(offset).expect("Kafka's offsets are signed"));
                list.add_partition_offset(&self.topic, self.partition, offset).expect("an offset that is a number");
            }
        }
    }
}
