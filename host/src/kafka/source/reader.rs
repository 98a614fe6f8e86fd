//! The thread that reads: records from the partitions' queues, commands to the aggregates, completions back.
//!
//! It never blocks on the brokers and never spins: with nothing to do it rests until there are some completions, a record,
//! or at most [`REST_MAX`]. The last is the guarantee, the wake-ups are hints (librdkafka may lose one).

mod group;
mod reading;

use super::completions::{AssignmentId, Completion, Completions};
use super::destination::Destination;
use super::discovery::{Finding, Opening, Request};
use super::membership::Rebalances;
use super::partition_state::PartitionState;
use super::topics::TopicPartition;
use super::view::View;
use super::{Config, Context};
use crate::ack::Ack;
use crate::kafka::Error;
use crate::manifest::Membership;
use crate::store::EventStore;
use crate::supervise;
use crossbeam_channel::{Receiver, Sender};
use group::Leaving;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use reading::{Reading, Turn};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

const REST_MAX: Duration = Duration::from_millis(50);
/// The rest while something is in flight, of which a few may complete without a wake-up; and while something waits for
/// room that other senders took: nothing of ours completes then.
const SHORT_REST: Duration = Duration::from_millis(2);
/// Events served from the main queue in a turn; each is an error, a line of the log or a change of the group.
const EVENTS: usize = 4;
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// While it is busy, progress is shown and the main queue looked at in this rhythm: the one wakes all who wait for some,
/// the other costs a dozen looks at the clock.
const SHOW_EVERY: Duration = Duration::from_millis(5);

/// The channels to and from partition discovery.
pub(super) struct Ends {
    pub(super) discovery: Sender<Request>,
    pub(super) findings: Receiver<Finding>,
    /// Dropped once nothing is in flight any more: the source's `stop` waits for it.
    pub(super) draining: Option<Sender<()>>,
}

/// See the module.
pub(super) struct Reader {
    work: Work,
    ends: Ends,
    /// Indexed by [`AssignmentId::number`].
    readings: Vec<Option<Reading>>,
    /// Of the newest assignment.
    epoch: u64,
    leaving: Option<Leaving>,
    completed: Vec<Completion>,
    at_rest: Vec<usize>,
    show_due: Instant,
    commit_due: Instant,
    committed: u64,
}

/// What every partition needs to hand a record on.
pub(super) struct Work {
    pub(super) config: Arc<Config>,
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) rebalances: Rebalances,
    pub(super) destination: Destination,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) view: Arc<View>,
    pub(super) completions: Arc<Completions>,
    /// Bytes of records that are handed on, or held, and not settled.
    pub(super) bytes_in_flight: Arc<AtomicUsize>,
}

impl Reader {
    pub(super) fn new(work: Work, ends: Ends) -> Self {
        let show_due = Instant::now();
        let commit_due = show_due + COMMIT_EVERY;
        let (readings, completed, at_rest) = Default::default();
        Self { work, ends, readings, epoch: 0, leaving: None, completed, at_rest, show_due, commit_due, committed: 0 }
    }

    /// After a panic: every partition is opened again, where its ledger says. What was handed on counts for nobody.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.completed.clear();
        let mut closed = Vec::new();
        for slot in &mut self.readings {
            let Some(reading) = slot.take() else { continue };
            if reading.is_assigned {
                self.work.unassign(&reading.partition);
            }
            self.work.view.close(&reading.partition);
            closed.push(reading.partition.clone());
        }
        self.work.view.gone(&closed);
        let _ = self.ends.discovery.send(Request::Open);
        Ok(())
    }

    pub(super) fn run(&mut self) {
        let mut moved = false;
        while !self.work.view.is_stopping() {
            supervise::round();
            if !moved || Instant::now() >= self.show_due {
                self.serve_events();
            }
            moved = self.open();
            moved |= self.complete();
            moved |= self.rebalance();
            moved |= self.read();
            self.show(moved);
            self.work.view.crowded(self.is_crowded());
            if !moved {
                self.skip_gaps();
                self.rest();
            }
        }
        self.drain();
        self.close();
    }

    /// Starts the partitions that partition discovery found.
    fn open(&mut self) -> bool {
        let mut opened = false;
        while let Ok(finding) = self.ends.findings.try_recv() {
            let Opening { partition, ledger_name, ledger, recreations } = match finding {
                Finding::Open(opening) => opening,
                Finding::Foreign(topic, reason) => {
                    let of_topic = self.readings.iter_mut().flatten().filter(|found| found.partition.topic == topic);
                    of_topic.for_each(|reading| reading.stop_reading(&self.work, reason));
                    opened = true;
                    continue;
                }
            };
            let is_read = self.readings.iter().flatten().any(|reading| reading.partition == partition);
            // The group may have taken it meanwhile, or even given it again.
            if is_read || !self.work.view.is_ours(&partition) {
                continue;
            }
            let state = PartitionState::new(ledger_name, ledger).counted_in(&self.work.bytes_in_flight);
            self.read_from(partition, state, recreations);
            opened = true;
        }
        opened
    }

    fn read_from(&mut self, partition: TopicPartition, state: PartitionState, recreations: u64) {
        let queue = match self.work.queue(&partition, state.next()) {
            Ok(queue) => queue,
            Err(error) => return self.work.give_back(&self.ends.discovery, &partition, &error.to_string()),
        };
        tracing::info!(source = &*self.work.config.name, from = state.next(), "reads {partition}");
        let free = self.readings.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.readings.push(None);
            self.readings.len() - 1
        });
        self.epoch += 1;
        let id = AssignmentId { number, epoch: self.epoch };
        let reading = Reading::new(partition, id, state, queue, recreations, &self.work.completions);
        self.readings[number] = Some(reading);
    }

    fn complete(&mut self) -> bool {
        let any = self.take_completions(true);
        for slot in &mut self.readings {
            if let Some(reading) = slot.take_if(|reading| reading.is_ended()) {
                self.work.view.close(&reading.partition);
                let _ = self.ends.discovery.send(Request::Reopen);
            }
        }
        any
    }

    /// Completions of partitions that are gone count for nobody: the ledger has them.
    fn take_completions(&mut self, reads_again: bool) -> bool {
        self.work.completions.take(&mut self.completed);
        let any = !self.completed.is_empty();
        for Completion { assignment, settlement, why } in self.completed.drain(..) {
            let reading = self.readings[assignment.number].as_mut().filter(|reading| reading.id == assignment);
            let Some(reading) = reading else { continue };
            reading.state.end(settlement);
            if !settlement.is_settled && reads_again {
                reading.unsettled(&self.work, settlement.last, why.as_deref());
            }
        }
        any
    }

    /// Errors, lines of the log and changes of the group come through the main queue; records must not.
    fn serve_events(&mut self) {
        for _ in 0..EVENTS {
            match self.work.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => self.work.view.fatal(self.work.fatal(code)),
                Some(Err(error)) => self.work.refused(&error),
                Some(Ok(record)) => {
                    // It was fetched before its queue was split off: read the partition again.
                    let is_its = |reading: &&mut Reading| {
                        reading.partition.partition == record.partition() && *reading.partition.topic == *record.topic()
                    };
                    if let Some(reading) = self.readings.iter_mut().flatten().find(is_its) {
                        reading.stop_reading(&self.work, "a record came out of turn; it is read again");
                    }
                }
            }
        }
    }

    fn read(&mut self) -> bool {
        let mut moved = false;
        for reading in self.readings.iter_mut().flatten() {
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
    fn show(&mut self, busy: bool) {
        let now = Instant::now();
        if !busy || now >= self.show_due {
            self.show_progress();
            self.show_due = now + SHOW_EVERY;
        }
        if now >= self.commit_due {
            self.commit();
            self.commit_due = now + COMMIT_EVERY;
        }
    }

    fn show_progress(&mut self) {
        let readings = self.readings.iter().flatten();
        let partitions = readings
            .map(|reading| (reading.id.number, &reading.partition, reading.state.next(), reading.state.in_flight()));
        self.work.view.settled(partitions, &mut self.at_rest);
    }

    /// At the end of a partition there may be offsets that hold no record, such as transaction markers: the consumer's
    /// position is past them, and no record will come whose origin covers them.
    fn skip_gaps(&mut self) {
        if self.at_rest.is_empty() {
            return;
        }
        let Ok(positions) = self.work.consumer.position() else { return };
        for &number in &self.at_rest {
            let Some(reading) = self.readings[number].as_mut() else { continue };
            let TopicPartition { topic, partition } = &reading.partition;
            let position = positions.find_partition(topic, *partition).map(|found| found.offset());
            let Some(Offset::Offset(position)) = position else { continue };
            if reading.is_read() && reading.state.skip_to(position as u64) {
                let ledger = reading.state.ledger_name().clone();
                let failed = move |result: Result<(), crate::store::Error>| {
                    if let Err(error) = result {
                        tracing::debug!("offsets without records are not settled yet: {error}");
                    }
                };
                self.work.store.start_ledger(&ledger, position as u64, Ack::new(failed));
            }
        }
    }

    /// Without waiting, and nobody reads it but lag tools.
    fn commit(&mut self) {
        let sum = self.readings.iter().flatten().map(|reading| reading.state.next()).sum();
        if sum == self.committed {
            return;
        }
        let mut offsets = TopicPartitionList::new();
        for reading in self.readings.iter().flatten() {
            reading.partition.add_to(&mut offsets, Some(reading.state.next()));
        }
        match self.work.consumer.commit(&offsets, CommitMode::Async) {
            Ok(()) => self.committed = sum,
            Err(error) => tracing::debug!("offsets for lag tools were not committed: {error}"),
        }
    }

    /// Whether a partition has a record for which there was no room.
    fn is_crowded(&self) -> bool {
        self.readings.iter().flatten().any(|reading| reading.state.is_held())
    }

    fn rest(&self) {
        let awaits = self.readings.iter().flatten().any(|reading| reading.state.in_flight() > 0);
        std::thread::park_timeout(if awaits { SHORT_REST } else { REST_MAX });
    }

    /// Waits for what is handed on. What is only held goes back: it was never handed on.
    fn drain(&mut self) {
        let deadline = self.work.view.drains_until();
        self.readings.iter_mut().flatten().for_each(Reading::leave);
        loop {
            self.take_completions(false);
            let in_flight: usize = self.readings.iter().flatten().map(|reading| reading.state.in_flight()).sum();
            let now = Instant::now();
            if in_flight == 0 || now >= deadline {
                if in_flight > 0 {
                    tracing::warn!(source = &*self.work.config.name, in_flight, "stopped before all was settled");
                }
                return;
            }
            // The group's questions are answered meanwhile, and librdkafka stays a member.
            self.serve_events();
            std::thread::park_timeout((deadline - now).min(SHORT_REST));
        }
    }

    fn close(&mut self) {
        self.show_progress();
        // Sent on its way; closing the consumer sees it through.
        self.commit();
        match self.work.config.membership {
            Membership::Assigned => _ = self.work.consumer.unassign(),
            Membership::Group => self.end_membership(),
        }
        self.ends.draining = None;
    }
}

impl Work {
    /// What an error of the whole client means that it does not get over.
    fn fatal(&self, code: RDKafkaErrorCode) -> String {
        let (group, source) = (&self.config.group, &self.config.name);
        match code {
            RDKafkaErrorCode::FencedInstanceId => format!(
                "group {group}: another host has joined with this one's `group.instance.id`; end one of them, or give \
                 it another in [sources.{source}.properties], and restart it"
            ),
            code => format!("Kafka refuses this client for good: {code}; restart the host"),
        }
    }

    /// An error that passes by itself, or that a person must see.
    fn refused(&self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        let (group, source) = (&self.config.group, &self.config.name);
        let remedy = match error.rdkafka_error_code() {
            Some(Code::GroupAuthorizationFailed) => "grant this principal Read on the group".to_owned(),
            Some(Code::InconsistentGroupProtocol) => format!(
                "its other members share partitions out in another way; name a group of its own in [sources.{source}]"
            ),
            Some(Code::UnsupportedVersion | Code::UnsupportedAssignor) => {
                "the broker does not know this group protocol; leave `group.protocol` out".to_owned()
            }
            Some(Code::UnreleasedInstanceId) => {
                "the last process with this `group.instance.id` counts as alive until its session ends".to_owned()
            }
            Some(Code::InvalidSessionTimeout) => "`session.timeout.ms` is outside of what the broker allows".to_owned(),
            _ => return tracing::debug!(source = &**source, "{error}"),
        };
        let error = format!("group {group}: {error}; {remedy}");
        tracing::warn!(source = &**source, "{error}");
        self.view.group_error(error);
    }
}
