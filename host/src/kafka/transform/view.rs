//! The state of a transform's thread, as others may see it.

use super::Config;
use crate::kafka::context::Health;
use crate::kafka::source::TopicPartition;
use crate::kafka::transaction::{Broken, Owner};
use crate::status::{PartitionStatus, SourceStatus, State};
use crate::supervise::Held as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a transaction may take to end once the transform is to stop.
const FINISH_MAX: Duration = Duration::from_secs(3);

/// The state of a transform.
pub(super) struct TransformView {
    source: Arc<str>,
    pub(super) health: Health,
    stop_asked: OnceLock<Instant>,
    worker: OnceLock<Thread>,
    facts: Mutex<Facts>,
    /// The sum of the partitions' `next`.
    progress: watch::Sender<u64>,
}

#[derive(Default)]
struct Facts {
    /// Whether it is a member of the group and has its partitions.
    joined: bool,
    rebalances: u64,
    /// Why it has stopped.
    fatal: Option<String>,
    /// What is in the way now.
    error: Option<String>,
    /// The records that retention removed, since the start.
    lost: Vec<String>,
    in_flight: usize,
    partitions: BTreeMap<TopicPartition, Partition>,
}

#[derive(Clone, Copy, Default)]
struct Partition {
    next: u64,
    end: u64,
    /// The last stable offset: no transaction is open below it.
    stable: u64,
    assigned: bool,
}

impl Facts {
    /// Notes that a partition is processed up to an offset.
    fn pass(&mut self, partition: &TopicPartition, next: u64) {
        if let Some(found) = self.partitions.get_mut(partition) {
            (found.next, found.end) = (found.next.max(next), found.end.max(next));
        }
    }

    fn handled(&self) -> u64 {
        self.partitions.values().map(|found| found.next).sum()
    }
}

impl TransformView {
    pub(super) fn new(source: Arc<str>, health: Health) -> Self {
        let (stop_asked, worker, facts) = Default::default();
        Self { source, health, stop_asked, worker, facts, progress: watch::Sender::new(0) }
    }

    /// Sets the thread that `stop` wakes.
    pub(super) fn wakes(&self, worker: Thread) {
        let _ = self.worker.set(worker);
    }

    pub(super) fn stop(&self) {
        let _ = self.stop_asked.set(Instant::now());
        if let Some(worker) = self.worker.get() {
            worker.unpark();
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop_asked.get().is_some()
    }

    /// Whether the time for the current transaction to end after a stop is over.
    pub(super) fn is_overdue(&self) -> bool {
        self.stop_asked.get().is_some_and(|asked| asked.elapsed() > FINISH_MAX)
    }

    /// Notes what is in the way. A repeated text is logged only once.
    pub(super) fn trouble(&self, source: &str, error: String) {
        let mut facts = self.facts();
        if facts.error.as_ref() != Some(&error) {
            tracing::warn!(source, "{error}");
            facts.error = Some(error);
        }
    }

    pub(super) fn fatal(&self, source: &str, error: String) {
        tracing::error!(source, "stopped: {error}");
        self.facts().fatal = Some(error);
    }

    /// Adds a partition that is read from `next` on.
    pub(super) fn assigned(&self, partition: TopicPartition, next: u64, end: u64, lost: Option<String>) {
        self.change(|facts| {
            facts.partitions.insert(partition, Partition { next, end, stable: end, assigned: true });
            facts.lost.extend(lost);
        });
    }

    pub(super) fn revoked(&self, partition: &TopicPartition) {
        if let Some(found) = self.facts().partitions.get_mut(partition) {
            found.assigned = false;
        }
    }

    pub(super) fn rebalanced(&self) {
        let mut facts = self.facts();
        (facts.joined, facts.error) = (true, None);
        facts.rebalances += 1;
    }

    /// Notes that it is no longer a member.
    pub(super) fn left(&self) {
        let mut facts = self.facts();
        facts.joined = false;
        facts.in_flight = 0;
        facts.partitions.values_mut().for_each(|found| found.assigned = false);
    }

    /// Notes the number of records that are read and not committed.
    pub(super) fn works_on(&self, in_flight: usize) {
        self.facts().in_flight = in_flight;
    }

    /// Notes that everything before these offsets is committed, and that nothing is in the way.
    pub(super) fn reached<'p>(&self, offsets: impl Iterator<Item = (&'p TopicPartition, u64)>) {
        self.change(|facts| {
            offsets.for_each(|(partition, next)| facts.pass(partition, next));
            (facts.in_flight, facts.error) = (0, None);
        });
        self.health.answered();
    }

    /// Notes that there was nothing to do before these offsets.
    pub(super) fn passed(&self, offsets: impl Iterator<Item = (TopicPartition, u64)>) {
        self.change(|facts| offsets.for_each(|(partition, next)| facts.pass(&partition, next)));
    }

    pub(super) fn ends_at(&self, partition: &TopicPartition, end: u64) {
        if let Some(found) = self.facts().partitions.get_mut(partition) {
            found.end = found.end.max(end);
        }
    }

    /// Notes the last stable offset of a partition.
    pub(super) fn is_stable_to(&self, partition: &TopicPartition, stable: u64) {
        if let Some(found) = self.facts().partitions.get_mut(partition) {
            (found.stable, found.end) = (stable, found.end.max(stable));
        }
    }

    /// Returns the partitions that it reads.
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        let facts = self.facts();
        facts.partitions.iter().filter(|(_, found)| found.assigned).map(|(partition, _)| partition.clone()).collect()
    }

    pub(super) fn is_caught_up(&self) -> bool {
        let facts = self.facts();
        let mut ours = facts.partitions.values().filter(|found| found.assigned);
        facts.joined && facts.fatal.is_none() && facts.in_flight == 0 && ours.all(|found| found.next >= found.end)
    }

    pub(super) fn status(&self, config: &Config) -> SourceStatus {
        let facts = self.facts();
        let (state, error) = self.state(&facts);
        let status = |(partition, found): (&TopicPartition, &Partition)| PartitionStatus {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            next: found.next,
            end: found.end,
            stable: found.stable,
            assigned: found.assigned,
            ..PartitionStatus::default()
        };
        SourceStatus {
            name: config.name.to_string(),
            topics: config.topics.clone(),
            group: Some(config.group.clone()),
            subscriber: Some(config.deliveries.subscriber.clone()),
            state,
            error,
            handled: facts.handled(),
            in_flight: facts.in_flight as u64,
            rebalances: facts.rebalances,
            partitions: facts.partitions.iter().map(status).collect(),
        }
    }

    fn state(&self, facts: &Facts) -> (State, Option<String>) {
        let in_the_way = facts.error.clone().or_else(|| self.health.trouble());
        if self.is_stopping() || facts.fatal.is_some() {
            (State::Stopped, facts.fatal.clone())
        } else if in_the_way.is_some() {
            (State::Retrying, in_the_way)
        } else if !facts.joined {
            (State::Starting, None)
        } else {
            (State::Running, (!facts.lost.is_empty()).then(|| facts.lost.join("; ")))
        }
    }

    /// Subscribes to the sum of the partitions' `next`.
    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Changes the facts, and signals progress if there is any.
    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let handled = {
            let mut facts = self.facts();
            change(&mut facts);
            facts.handled()
        };
        self.progress.send_if_modified(|known| std::mem::replace(known, handled) != handled);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.held()
    }
}

impl Owner for Arc<TransformView> {
    /// Lets a transaction that has begun end after a stop, because an open one would hold up the members that take
    /// over.
    fn check(&self) -> Result<(), Broken> {
        if self.is_overdue() { Err(Broken::Stopped) } else { Ok(()) }
    }

    fn trouble(&self, text: String) {
        TransformView::trouble(self, &self.source, text);
    }
}
