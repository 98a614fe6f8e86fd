//! What reader and scout know, for everyone else to see.

use super::Config;
use crate::kafka::context::Health;
use crate::status::{PartitionStatus, SourceStatus, State};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// The state of a source.
pub(super) struct View {
    stopping: AtomicBool,
    health: Health,
    facts: Mutex<Facts>,
    progress: watch::Sender<u64>,
}

#[derive(Default)]
struct Facts {
    /// The partitions were listed at least once.
    found: bool,
    /// Why the partitions could not be listed the last time.
    topic_error: Option<String>,
    /// Why nothing is read any more.
    fatal: Option<String>,
    partitions: BTreeMap<i32, Partition>,
}

#[derive(Default)]
struct Partition {
    next: u64,
    end: u64,
    in_flight: usize,
    /// It is being read, or was given up.
    opened: bool,
    /// What is in the way now.
    error: Option<Trouble>,
    /// What was lost since the start.
    lost: Option<String>,
}

struct Trouble {
    text: String,
    lasts: Lasts,
}

/// When trouble of a partition is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// As soon as the brokers answer for the partition.
    UntilAnswer,
    /// When a record comes through, or the partition is opened again.
    UntilRecord,
}

impl View {
    pub(super) fn new(health: Health) -> Self {
        Self { stopping: AtomicBool::new(false), health, facts: Mutex::default(), progress: watch::Sender::new(0) }
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// The scout listed the partitions.
    pub(super) fn found(&self, partitions: impl Iterator<Item = i32>) {
        self.health.answered();
        self.change(|facts| {
            facts.found = true;
            for partition in partitions {
                facts.partitions.entry(partition).or_default();
            }
        });
    }

    /// How the scout's last round went.
    pub(super) fn round(&self, error: Option<String>) {
        self.change(|facts| facts.topic_error = error);
    }

    pub(super) fn fatal(&self, error: String) {
        self.change(|facts| facts.fatal = Some(error));
    }

    /// Partitions that nobody reads yet.
    pub(super) fn unopened(&self) -> Vec<i32> {
        let facts = self.facts.lock().expect("no holder panics");
        facts.partitions.iter().filter(|(_, found)| !found.opened).map(|(&partition, _)| partition).collect()
    }

    /// Partitions that are read.
    pub(super) fn opened(&self) -> Vec<i32> {
        let facts = self.facts.lock().expect("no holder panics");
        facts.partitions.iter().filter(|(_, found)| found.opened).map(|(&partition, _)| partition).collect()
    }

    pub(super) fn open(&self, partition: i32, next: u64, end: u64, lost: Option<String>) {
        self.change_partition(partition, |found| {
            *found = Partition { next, end, opened: true, lost: lost.or(found.lost.take()), ..Partition::default() };
        });
    }

    /// It must be opened again.
    pub(super) fn close(&self, partition: i32) {
        self.change_partition(partition, |found| found.opened = false);
    }

    /// It is given up until a person acts.
    pub(super) fn give_up(&self, partition: i32, end: u64, error: String) {
        self.change_partition(partition, |found| {
            let error = Some(Trouble { text: error, lasts: Lasts::UntilRecord });
            *found = Partition { end, opened: true, error, ..Partition::default() };
        });
    }

    /// The brokers answered for a partition.
    pub(super) fn end(&self, partition: i32, end: u64) {
        self.change_partition(partition, |found| {
            found.end = end;
            found.error.take_if(|error| error.lasts == Lasts::UntilAnswer);
        });
    }

    /// Something is in the way of a partition.
    pub(super) fn error(&self, partition: i32, text: String, lasts: Lasts) {
        self.change_partition(partition, |found| found.error = Some(Trouble { text, lasts }));
    }

    /// A record came through.
    pub(super) fn no_error(&self, partition: i32) {
        self.change_partition(partition, |found| found.error = None);
    }

    /// What the reader settled: partition, `next`, in flight. Returns the partitions that are at rest before their
    /// known end.
    pub(super) fn settled(&self, lanes: impl Iterator<Item = (i32, u64, usize)>, at_rest: &mut Vec<i32>) {
        at_rest.clear();
        self.change(|facts| {
            for (partition, next, in_flight) in lanes {
                let Some(found) = facts.partitions.get_mut(&partition) else { continue };
                (found.next, found.in_flight, found.end) = (next, in_flight, found.end.max(next));
                if in_flight == 0 && next < found.end {
                    at_rest.push(partition);
                }
            }
        });
    }

    pub(super) fn is_caught_up(&self) -> bool {
        let facts = self.facts.lock().expect("no holder panics");
        let done = |found: &Partition| found.opened && found.error.is_none() && found.next >= found.end;
        facts.found && facts.fatal.is_none() && facts.topic_error.is_none() && facts.partitions.values().all(done)
    }

    pub(super) fn status(&self, config: &Config) -> SourceStatus {
        let facts = self.facts.lock().expect("no holder panics");
        let (state, error) = self.state(&facts);
        let partition = |(&partition, found): (&i32, &Partition)| PartitionStatus {
            partition,
            next: found.next,
            end: found.end,
            in_flight: found.in_flight as u64,
        };
        SourceStatus {
            name: config.name.to_string(),
            topic: config.topic.to_string(),
            state,
            error,
            handled: facts.partitions.values().map(|found| found.next).sum(),
            in_flight: facts.partitions.values().map(|found| found.in_flight as u64).sum(),
            partitions: facts.partitions.iter().map(partition).collect(),
        }
    }

    fn state(&self, facts: &Facts) -> (State, Option<String>) {
        let in_the_way = facts.topic_error.clone().or_else(|| self.health.trouble());
        if self.is_stopping() || facts.fatal.is_some() {
            return (State::Stopped, facts.fatal.clone());
        }
        if !facts.found {
            return (State::Starting, in_the_way);
        }
        if in_the_way.is_some() {
            return (State::Retrying, in_the_way);
        }
        let of_partitions: Vec<&str> = facts
            .partitions
            .values()
            .flat_map(|found| [found.error.as_ref().map(|error| error.text.as_str()), found.lost.as_deref()])
            .flatten()
            .collect();
        (State::Running, (!of_partitions.is_empty()).then(|| of_partitions.join("; ")))
    }

    fn change_partition(&self, partition: i32, change: impl FnOnce(&mut Partition)) {
        self.change(|facts| change(facts.partitions.entry(partition).or_default()));
    }

    /// Changes the facts and tells of progress, if there is any.
    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let sum: u64 = {
            let mut facts = self.facts.lock().expect("no holder panics");
            change(&mut facts);
            facts.partitions.values().map(|found| found.next).sum()
        };
        self.progress.send_if_modified(|known| std::mem::replace(known, sum) != sum);
    }
}
