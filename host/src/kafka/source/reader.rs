//! The thread that reads records from the partitions' queues, hands them to the destination and takes completions back.
//!
//! It never blocks on the brokers and never spins. If it has nothing to do, it rests until completions or a record wake
//! it, at most for [`REST_MAX`]. The wake-ups are only hints, because librdkafka may lose one.

mod group;
mod reading;
mod renewal;

use super::completions::{AssignmentId, Completion, Completions};
use super::destination::Destination;
use super::discovery::{Finding, Opening, Request};
use super::membership::Rebalances;
use super::partition_state::PartitionState;
use super::topics::TopicPartition;
use super::view::SourceView;
use super::{Config, Consumers, Context};
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
use reading::{PartitionReading, Turn};
use renewal::Renewal;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

const REST_MAX: Duration = Duration::from_millis(50);
/// Rest while something is in flight or held, because a few completions come without a wake-up, and because other
/// senders may have taken the room for what is held: then no completion of this source comes.
const SHORT_REST: Duration = Duration::from_millis(2);
/// Number of events served from the main queue in a turn. Each is an error, a log line or a rebalance.
const EVENTS: usize = 4;
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Interval at which a busy reader shows progress and looks at the main queue. More often would cost too much: progress
/// wakes everybody who waits for it, and a look at the queue reads the clock a dozen times.
const SHOW_EVERY: Duration = Duration::from_millis(5);

/// The channels to and from partition discovery.
pub(super) struct Ends {
    pub(super) discovery: Sender<Request>,
    pub(super) findings: Receiver<Finding>,
    /// Dropped when nothing is in flight any more; the source's `stop` waits for it.
    pub(super) draining: Option<Sender<()>>,
}

/// The state of the reader's thread.
pub(super) struct Reader {
    work: Work,
    renewal: Renewal,
    ends: Ends,
    /// Indexed by [`AssignmentId::number`].
    readings: Vec<Option<PartitionReading>>,
    /// The epoch of the newest reading.
    epoch: u64,
    leaving: Option<Leaving>,
    completed: Vec<Completion>,
    at_rest: Vec<usize>,
    show_due: Instant,
    commit_due: Instant,
    committed: u64,
}

/// The parts that every partition needs to hand a record on.
pub(super) struct Work {
    pub(super) config: Arc<Config>,
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) rebalances: Rebalances,
    pub(super) destination: Destination,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) view: Arc<SourceView>,
    pub(super) completions: Arc<Completions>,
    /// Bytes of the records that are in flight or held.
    pub(super) bytes_in_flight: Arc<AtomicUsize>,
}

impl Reader {
    pub(super) fn new(work: Work, consumers: Consumers, ends: Ends) -> Self {
        let show_due = Instant::now();
        let commit_due = show_due + COMMIT_EVERY;
        let renewal = Renewal::new(consumers);
        let (readings, completed, at_rest) = Default::default();
        Self {
            work,
            renewal,
            ends,
            readings,
            epoch: 0,
            leaving: None,
            completed,
            at_rest,
            show_due,
            commit_due,
            committed: 0,
        }
    }

    /// Restarts after a panic: every partition is opened again, from its ledger. Completions of records that were in
    /// flight are ignored.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.let_all_go();
        let _ = self.ends.discovery.send(Request::Open);
        Ok(())
    }

    /// Closes all partitions. Completions of their records in flight are ignored, because the ledger records them.
    fn let_all_go(&mut self) {
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
    }

    pub(super) fn run(&mut self) {
        let mut moved = false;
        while !self.work.view.is_stopping() {
            supervise::round();
            if !moved || Instant::now() >= self.show_due {
                self.serve_events();
            }
            moved = self.renew_consumer();
            moved |= self.complete();
            if !self.is_without_consumer() {
                moved |= self.open();
                moved |= self.rebalance();
                moved |= self.read();
            }
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

    /// Starts to read the partitions that partition discovery opened.
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
            // The group may have taken the partition meanwhile, or even given it again.
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
        let reading = PartitionReading::new(partition, id, state, queue, recreations, &self.work.completions);
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

    /// Takes completions. Those of partitions that are gone are ignored, because the ledger records them.
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

    /// Serves errors, log lines and rebalances from the main queue. Records must not come through it.
    fn serve_events(&mut self) {
        for _ in 0..EVENTS {
            match self.work.consumer.poll(Duration::ZERO) {
                None => {}
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => self.consumer_refused(code),
                Some(Err(error)) => self.work.refused(&error),
                Some(Ok(record)) => {
                    // The record was fetched before its queue was split off, so the partition is opened again.
                    let is_its = |reading: &&mut PartitionReading| {
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
                    // If nothing is in flight, no completion would come to have the partition opened again.
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

    /// Settles offsets without a record, such as transaction markers, at the end of a partition. The consumer's
    /// position is past them, and no record may ever come whose origin covers them.
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

    /// Commits offsets without waiting. Only lag tools read them.
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

    /// Returns whether a partition has a record for which there was no room.
    fn is_crowded(&self) -> bool {
        self.readings.iter().flatten().any(|reading| reading.state.is_held())
    }

    fn rest(&self) {
        let awaits = self.readings.iter().flatten().any(|reading| reading.state.in_flight() > 0);
        std::thread::park_timeout(if awaits { SHORT_REST } else { REST_MAX });
    }

    /// Waits for records in flight. Records that are only held are dropped, because they were never handed on.
    fn drain(&mut self) {
        let deadline = self.work.view.drains_until();
        self.readings.iter_mut().flatten().for_each(PartitionReading::leave);
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
            // Polling keeps librdkafka a member of the group.
            self.serve_events();
            std::thread::park_timeout((deadline - now).min(SHORT_REST));
        }
    }

    fn close(&mut self) {
        self.show_progress();
        // The commit is only begun here; closing the consumer completes it.
        self.commit();
        match self.work.config.membership {
            Membership::Assigned => _ = self.work.consumer.unassign(),
            Membership::Group => self.end_membership(),
        }
        self.ends.draining = None;
    }
}

impl Work {
    /// Shows an error that a person must resolve. Any other error passes by itself and is only logged.
    fn refused(&self, error: &KafkaError) {
        let (group, source) = (&self.config.group, &self.config.name);
        let Some(remedy) = error.rdkafka_error_code().and_then(|code| self.remedy(code)) else {
            return tracing::debug!(source = &**source, "{error}");
        };
        let error = format!("group {group}: {error}; {remedy}");
        tracing::warn!(source = &**source, "{error}");
        self.view.group_error(error);
    }

    /// Returns what a person can do about an answer of the group.
    fn remedy(&self, code: RDKafkaErrorCode) -> Option<String> {
        use RDKafkaErrorCode as Code;
        let source = &self.config.name;
        Some(match code {
            Code::GroupAuthorizationFailed => "grant this principal Read on the group".to_owned(),
            Code::InconsistentGroupProtocol => format!(
                "its other members share partitions out in another way; name a group of its own in [sources.{source}]"
            ),
            Code::UnsupportedVersion | Code::UnsupportedAssignor => {
                "the broker does not know this group protocol; leave `group.protocol` out".to_owned()
            }
            Code::UnreleasedInstanceId => {
                "the last process with this `group.instance.id` counts as alive until its session ends".to_owned()
            }
            Code::InvalidSessionTimeout => "`session.timeout.ms` is outside of what the broker allows".to_owned(),
            _ => return None,
        })
    }
}
