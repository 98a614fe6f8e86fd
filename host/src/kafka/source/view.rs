//! The state of a source: what the reader and partition discovery know, as others may see it.

use super::topics::TopicPartition;
use super::{Config, Measures};
use crate::kafka::context::Health;
use crate::manifest::Membership;
use crate::status::{PartitionStatus, SourceStatus, State};
use crate::supervise::Held as _;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long any partition has waited for room.
#[derive(Default)]
struct Crowding {
    time: Duration,
    /// The time of the last check, if a partition was waiting then.
    since: Option<Instant>,
}

/// The state of a source.
pub(super) struct SourceView {
    /// The time until which a stopping source waits for records in flight; not set before it stops.
    stops_by: OnceLock<Instant>,
    health: Health,
    facts: Mutex<Facts>,
    progress: watch::Sender<u64>,
    crowding: Mutex<Crowding>,
}

#[derive(Default)]
struct Facts {
    /// Whether it is known which partitions are to be read: they were listed, or the group has assigned them.
    settled: bool,
    /// Why the last listing of the partitions failed.
    topic_error: Option<String>,
    /// Why the source has stopped reading.
    fatal: Option<String>,
    /// Why the group refuses this member.
    group_error: Option<String>,
    rebalances: u64,
    partitions: BTreeMap<TopicPartition, Partition>,
}

#[derive(Default)]
struct Partition {
    next: u64,
    end: u64,
    in_flight: usize,
    /// Whether it is assigned to this host. If not, another member of the group may read it.
    ours: bool,
    /// Whether it is being read, or was given up.
    opened: bool,
    /// What is in the way now.
    error: Option<Trouble>,
    /// The records that were lost since the start.
    lost: Option<String>,
    /// Whether it is not read until a person acts.
    given_up: bool,
    /// The last stable offset: no transaction is open below it.
    stable: u64,
}

struct Trouble {
    text: String,
    lasts: Until,
    /// The offset that the text is about, and whether the text says why that offset is not settled.
    at: Option<(u64, bool)>,
}

impl Trouble {
    fn new(text: String, lasts: Until) -> Self {
        Self { text, lasts, at: None }
    }
}

/// When the trouble of a partition is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// It is over as soon as the brokers answer for the partition.
    Answer,
    /// It is over when a record is handed on, or the partition is opened again.
    Record,
    /// It is over when more is settled, or no record is left. Reading again does not end it.
    Settled,
}

impl SourceView {
    pub(super) fn new(health: Health) -> Self {
        Self {
            stops_by: OnceLock::new(),
            health,
            facts: Mutex::default(),
            progress: watch::Sender::new(0),
            crowding: Mutex::default(),
        }
    }

    pub(super) fn stop(&self, deadline: Instant) {
        let _ = self.stops_by.set(deadline);
    }

    /// Returns the time until which a stopping source waits for records in flight.
    pub(super) fn drains_until(&self) -> Instant {
        self.stops_by.get().copied().unwrap_or_else(Instant::now)
    }

    /// Notes at a check of the reader whether a partition waits for room.
    pub(super) fn crowded(&self, now: bool) {
        let mut crowding = self.crowding.held();
        if let Some(since) = crowding.since.take() {
            crowding.time += since.elapsed();
        }
        crowding.since = now.then(Instant::now);
    }

    /// Returns how long partitions have waited for room, and the client's statistics.
    pub(super) fn measures(&self) -> Measures {
        let crowding = self.crowding.held();
        let back_pressure = crowding.time + crowding.since.map_or(Duration::ZERO, |since| since.elapsed());
        Measures { back_pressure, statistics: self.health.statistics() }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stops_by.get().is_some()
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Notes that the brokers answered.
    pub(super) fn answered(&self) {
        self.health.answered();
    }

    /// Adds partitions that this host is to read from now on.
    pub(super) fn assign(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.change(|facts| {
            (facts.settled, facts.group_error) = (true, None);
            for partition in partitions {
                let found = facts.partitions.entry(partition).or_default();
                if !found.ours {
                    (found.ours, found.opened, found.error) = (true, false, None);
                }
            }
        });
    }

    /// Removes partitions that other members may read from now on. If they are `lost`, it is not known which partitions
    /// are to be read until the group assigns some.
    pub(super) fn revoke<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>, lost: bool) {
        self.change(|facts| {
            facts.settled &= !lost;
            for partition in partitions {
                if let Some(found) = facts.partitions.get_mut(partition) {
                    (found.ours, found.opened, found.error) = (false, false, None);
                }
            }
        });
    }

    /// Notes that records in flight of revoked partitions no longer count.
    pub(super) fn gone(&self, partitions: &[TopicPartition]) {
        self.change(|facts| {
            for partition in partitions {
                if let Some(found) = facts.partitions.get_mut(partition) {
                    found.in_flight = 0;
                }
            }
        });
    }

    /// Counts a rebalance of the group.
    pub(super) fn rebalanced(&self) {
        self.change(|facts| facts.rebalances += 1);
    }

    /// Notes the result of partition discovery's last round.
    pub(super) fn round(&self, error: Option<String>) {
        self.change(|facts| facts.topic_error = error);
    }

    /// Notes that the group refuses this member, until it assigns partitions.
    pub(super) fn group_error(&self, error: String) {
        self.change(|facts| facts.group_error = Some(error));
    }

    pub(super) fn fatal(&self, error: String) {
        self.change(|facts| facts.fatal = Some(error));
    }

    /// Returns the partitions that this host is to read and does not read yet.
    pub(super) fn unopened(&self) -> Vec<TopicPartition> {
        self.of_ours(|found| !found.opened)
    }

    /// Returns the partitions that this host reads.
    pub(super) fn opened(&self) -> Vec<TopicPartition> {
        self.of_ours(|found| found.opened)
    }

    fn of_ours(&self, which: impl Fn(&Partition) -> bool) -> Vec<TopicPartition> {
        let facts = self.facts.held();
        let found = facts.partitions.iter().filter(|(_, found)| found.ours && which(found));
        found.map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether a partition is assigned to this host.
    pub(super) fn is_ours(&self, partition: &TopicPartition) -> bool {
        let facts = self.facts.held();
        facts.partitions.get(partition).is_some_and(|found| found.ours)
    }

    pub(super) fn open(&self, partition: &TopicPartition, next: u64, end: u64, lost: Option<String>) {
        self.change_partition(partition, |found| {
            let (ours, lost) = (found.ours, lost.or(found.lost.take()));
            let is_there = |error: &Trouble| next < end && error.at.is_none_or(|(first, _)| first >= next);
            let error = found.error.take().filter(|error| error.lasts == Until::Settled && is_there(error));
            *found = Partition { next, end, stable: end, ours, opened: true, lost, error, ..Partition::default() };
        });
    }

    /// Notes that a partition must be opened again.
    pub(super) fn close(&self, partition: &TopicPartition) {
        self.change_partition(partition, |found| found.opened = false);
    }

    /// Gives a partition up until a person acts.
    pub(super) fn give_up(&self, partition: &TopicPartition, next: u64, end: u64, error: String) {
        self.change_partition(partition, |found| {
            let (error, ours) = (Some(Trouble::new(error, Until::Record)), found.ours);
            *found =
                Partition { next, end, stable: end, ours, opened: true, error, given_up: true, ..Partition::default() };
        });
    }

    /// Notes the brokers' answer for a partition: its end and its last stable offset.
    pub(super) fn end(&self, partition: &TopicPartition, end: u64, stable: u64) {
        self.change_partition(partition, |found| {
            (found.end, found.stable) = (end, stable);
            found.error.take_if(|error| error.lasts == Until::Answer);
        });
    }

    /// Notes what is in the way of a partition.
    pub(super) fn error(&self, partition: &TopicPartition, text: String, lasts: Until) {
        self.change_partition(partition, |found| found.error = Some(Trouble::new(text, lasts)));
    }

    /// Notes that an offset of a partition is not settled and is read again. Later offsets wait for it and are not
    /// settled either, so the text stays that of the first one as long as it is in the way. `says_why` is true if the
    /// text has the cause.
    pub(super) fn unsettled(&self, partition: &TopicPartition, offset: u64, text: String, says_why: bool) {
        self.change_partition(partition, |found| {
            let known = found.error.as_ref().and_then(|error| error.at);
            let is_consequence =
                known.is_some_and(|(first, said_why)| first < offset || (first == offset && said_why && !says_why));
            if !is_consequence {
                found.error = Some(Trouble { text, lasts: Until::Settled, at: Some((offset, says_why)) });
            }
        });
    }

    /// Notes that a record was handed on.
    pub(super) fn no_error(&self, partition: &TopicPartition) {
        self.change_partition(partition, |found| found.error = None);
    }

    /// Notes what is settled: number, partition, `next` and records in flight of each. Collects in `at_rest` the
    /// numbers of the partitions that have nothing in flight before their known end.
    pub(super) fn settled<'a>(
        &self,
        partitions: impl Iterator<Item = (usize, &'a TopicPartition, u64, usize)>,
        at_rest: &mut Vec<usize>,
    ) {
        at_rest.clear();
        self.change(|facts| {
            for (number, partition, next, in_flight) in partitions {
                let Some(found) = facts.partitions.get_mut(partition) else { continue };
                if next > found.next || next >= found.end {
                    found.error.take_if(|error| error.lasts == Until::Settled);
                }
                (found.next, found.in_flight, found.end) = (next, in_flight, found.end.max(next));
                if in_flight == 0 && next < found.end {
                    at_rest.push(number);
                }
            }
        });
    }

    pub(super) fn is_caught_up(&self) -> bool {
        let facts = self.facts.held();
        let done = |found: &Partition| match found.ours {
            true => found.opened && found.error.is_none() && found.next >= found.end,
            false => found.in_flight == 0,
        };
        let in_the_way = [&facts.fatal, &facts.group_error, &facts.topic_error];
        facts.settled && in_the_way.iter().all(|cause| cause.is_none()) && facts.partitions.values().all(done)
    }

    pub(super) fn status(&self, config: &Config) -> SourceStatus {
        let facts = self.facts.held();
        let (state, error) = self.state(&facts);
        let partition = |(partition, found): (&TopicPartition, &Partition)| PartitionStatus {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            next: found.next,
            end: found.end,
            stable: found.stable,
            in_flight: found.in_flight as u64,
            assigned: found.ours,
        };
        SourceStatus {
            name: config.name.to_string(),
            topics: config.topics.written().to_vec(),
            group: (config.membership == Membership::Group).then(|| config.group.to_string()),
            subscriber: config.target.subscriber().map(str::to_owned),
            state,
            error,
            handled: facts.partitions.values().map(|found| found.next).sum(),
            in_flight: facts.partitions.values().map(|found| found.in_flight as u64).sum(),
            rebalances: facts.rebalances,
            partitions: facts.partitions.iter().map(partition).collect(),
        }
    }

    fn state(&self, facts: &Facts) -> (State, Option<String>) {
        let in_the_way =
            facts.topic_error.clone().or_else(|| facts.group_error.clone()).or_else(|| self.health.trouble());
        if self.is_stopping() || facts.fatal.is_some() {
            return (State::Stopped, facts.fatal.clone());
        }
        if !facts.settled && facts.rebalances == 0 {
            return (State::Starting, in_the_way);
        }
        if !facts.settled {
            let waits = || "it lost its partitions to the group, and is rejoining".to_owned();
            return (State::Retrying, in_the_way.or_else(|| Some(waits())));
        }
        if in_the_way.is_some() {
            return (State::Retrying, in_the_way);
        }
        let ours = || facts.partitions.values().filter(|found| found.ours);
        let errors =
            facts.partitions.values().filter_map(|found| found.error.as_ref().map(|error| error.text.as_str()));
        let lost = facts.partitions.values().filter_map(|found| found.lost.as_deref());
        let texts: Vec<&str> = errors.chain(lost).collect();
        let state = match () {
            () if ours().any(|found| found.given_up) => State::Stalled,
            () if ours().any(|found| found.error.is_some()) => State::Retrying,
            () => State::Running,
        };
        (state, (!texts.is_empty()).then(|| texts.join("; ")))
    }

    fn change_partition(&self, partition: &TopicPartition, change: impl FnOnce(&mut Partition)) {
        self.change(|facts| change(facts.partitions.entry(partition.clone()).or_default()));
    }

    /// Changes the facts, and signals progress if there is any.
    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let sum: u64 = {
            let mut facts = self.facts.held();
            change(&mut facts);
            facts.partitions.values().map(|found| found.next).sum()
        };
        self.progress.send_if_modified(|known| std::mem::replace(known, sum) != sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> (SourceView, TopicPartition) {
        let partition = TopicPartition { topic: "b".into(), partition: 0 };
        let view = SourceView::new(Health::default());
        view.assign([partition.clone()]);
        view.open(&partition, 5, 9, None);
        (view, partition)
    }

    fn state(view: &SourceView) -> (State, Option<String>) {
        view.state(&view.facts.held())
    }

    #[test]
    fn a_partition_that_is_given_up_or_not_stored_is_not_running() {
        let (view, partition) = view();
        assert_eq!(state(&view), (State::Running, None));
        // The disk is full, so the partition is reopened repeatedly. Its state must not flap meanwhile.
        view.error(&partition, "the disk is full".into(), Until::Settled);
        let full = (State::Retrying, Some("the disk is full".to_owned()));
        assert_eq!(state(&view), full);
        view.close(&partition);
        view.open(&partition, 5, 9, None);
        assert_eq!(state(&view), full);
        view.settled([(0, &partition, 5, 1)].into_iter(), &mut Vec::new());
        assert_eq!(state(&view), full);
        view.settled([(0, &partition, 6, 0)].into_iter(), &mut Vec::new());
        assert_eq!(state(&view), (State::Running, None));

        view.give_up(&partition, 6, 9, "it was shortened".into());
        assert_eq!(state(&view), (State::Stalled, Some("it was shortened".to_owned())));
        assert!(!view.is_caught_up());
    }

    #[test]
    fn the_reason_of_a_partition_that_waits_is_that_of_its_first_offset() {
        let (view, partition) = view();
        let says = |reason: &str| (State::Retrying, Some(reason.to_owned()));
        // Later offsets may be given back before it is known why the first one failed.
        view.unsettled(&partition, 7, "7 was not handled".into(), false);
        assert_eq!(state(&view), says("7 was not handled"));
        for _ in 0..3 {
            view.unsettled(&partition, 5, "5 finds no room".into(), true);
            view.unsettled(&partition, 7, "7 waits for another".into(), true);
            view.unsettled(&partition, 5, "5 was not handled".into(), false);
            assert_eq!(state(&view), says("5 finds no room"));
            view.close(&partition);
            view.open(&partition, 5, 9, None);
            assert_eq!(state(&view), says("5 finds no room"));
        }
        view.settled([(0, &partition, 6, 0)].into_iter(), &mut Vec::new());
        assert_eq!(state(&view), (State::Running, None));
        view.unsettled(&partition, 7, "7 finds no room".into(), true);
        assert_eq!(state(&view), says("7 finds no room"));
    }

    #[test]
    fn records_behind_an_open_transaction_are_not_done() {
        let (view, partition) = view();
        view.settled([(0, &partition, 9, 0)].into_iter(), &mut Vec::new());
        assert!(view.is_caught_up());
        view.end(&partition, 12, 9);
        assert!(!view.is_caught_up());
    }
}
