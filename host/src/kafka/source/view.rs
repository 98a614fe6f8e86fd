//! What the reader and partition discovery know, for everyone else to see.

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

/// For how long some partition had a record for which there was no room.
#[derive(Default)]
struct Crowding {
    time: Duration,
    /// It was so at the last look.
    since: Option<Instant>,
}

/// The state of a source.
pub(super) struct View {
    /// Until when what is handed on is waited for; none before it is to stop.
    stops_by: OnceLock<Instant>,
    health: Health,
    facts: Mutex<Facts>,
    progress: watch::Sender<u64>,
    crowding: Mutex<Crowding>,
}

#[derive(Default)]
struct Facts {
    /// It is known which partitions are to be read: they were listed, or the group has given them.
    settled: bool,
    /// Why the partitions could not be listed the last time.
    topic_error: Option<String>,
    /// Why nothing is read any more.
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
    /// It is this host's to read; others of the group may have it.
    ours: bool,
    /// It is being read, or was given up.
    opened: bool,
    /// What is in the way now.
    error: Option<Trouble>,
    /// What was lost since the start.
    lost: Option<String>,
    /// It is not read any more, until a person acts.
    given_up: bool,
    /// Below this offset no transaction is open.
    stable: u64,
}

struct Trouble {
    text: String,
    lasts: Until,
    /// The offset that it is about, and whether the text says why it is not settled.
    at: Option<(u64, bool)>,
}

impl Trouble {
    fn new(text: String, lasts: Until) -> Self {
        Self { text, lasts, at: None }
    }
}

/// When trouble of a partition is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// As soon as the brokers answer for the partition.
    Answer,
    /// When a record comes through, or the partition is opened again.
    Record,
    /// When more is settled, or nothing is left to do: reading again does not help by itself.
    Settled,
}

impl View {
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

    /// Until when what is handed on is waited for, once it is to stop.
    pub(super) fn drains_until(&self) -> Instant {
        self.stops_by.get().copied().unwrap_or_else(Instant::now)
    }

    /// Whether a partition waits for room, at a look of the reader's.
    pub(super) fn crowded(&self, now: bool) {
        let mut crowding = self.crowding.held();
        if let Some(since) = crowding.since.take() {
            crowding.time += since.elapsed();
        }
        crowding.since = now.then(Instant::now);
    }

    /// How long partitions have waited for room, and what the client counted.
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

    /// The brokers answered.
    pub(super) fn answered(&self) {
        self.health.answered();
    }

    /// Partitions that this host is to read from now on, beside those it has.
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

    /// Partitions that somebody else may read from now on. `lost`: so may all others, until the group says more.
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

    /// What was in flight of partitions that were taken counts for nobody any more.
    pub(super) fn gone(&self, partitions: &[TopicPartition]) {
        self.change(|facts| {
            for partition in partitions {
                if let Some(found) = facts.partitions.get_mut(partition) {
                    found.in_flight = 0;
                }
            }
        });
    }

    /// The group has given or taken partitions.
    pub(super) fn rebalanced(&self) {
        self.change(|facts| facts.rebalances += 1);
    }

    /// How partition discovery's last round went.
    pub(super) fn round(&self, error: Option<String>) {
        self.change(|facts| facts.topic_error = error);
    }

    /// The group refuses this member, until it gives it partitions.
    pub(super) fn group_error(&self, error: String) {
        self.change(|facts| facts.group_error = Some(error));
    }

    pub(super) fn fatal(&self, error: String) {
        self.change(|facts| facts.fatal = Some(error));
    }

    /// Partitions that this host is to read and does not yet.
    pub(super) fn unopened(&self) -> Vec<TopicPartition> {
        self.of_ours(|found| !found.opened)
    }

    /// Partitions that this host reads.
    pub(super) fn opened(&self) -> Vec<TopicPartition> {
        self.of_ours(|found| found.opened)
    }

    fn of_ours(&self, which: impl Fn(&Partition) -> bool) -> Vec<TopicPartition> {
        let facts = self.facts.held();
        let found = facts.partitions.iter().filter(|(_, found)| found.ours && which(found));
        found.map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether this host is to read it.
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

    /// It must be opened again.
    pub(super) fn close(&self, partition: &TopicPartition) {
        self.change_partition(partition, |found| found.opened = false);
    }

    /// It is given up until a person acts.
    pub(super) fn give_up(&self, partition: &TopicPartition, next: u64, end: u64, error: String) {
        self.change_partition(partition, |found| {
            let (error, ours) = (Some(Trouble::new(error, Until::Record)), found.ours);
            *found =
                Partition { next, end, stable: end, ours, opened: true, error, given_up: true, ..Partition::default() };
        });
    }

    /// The brokers answered for a partition: where it ends, and below which offset no transaction is open.
    pub(super) fn end(&self, partition: &TopicPartition, end: u64, stable: u64) {
        self.change_partition(partition, |found| {
            (found.end, found.stable) = (end, stable);
            found.error.take_if(|error| error.lasts == Until::Answer);
        });
    }

    /// Something is in the way of a partition.
    pub(super) fn error(&self, partition: &TopicPartition, text: String, lasts: Until) {
        self.change_partition(partition, |found| found.error = Some(Trouble::new(text, lasts)));
    }

    /// An offset of a partition is not settled, and is read again. Those behind it are not either, because they wait for it:
    /// as long as the first one is in the way, the text is about that one. `says_why`: the text does.
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

    /// A record came through.
    pub(super) fn no_error(&self, partition: &TopicPartition) {
        self.change_partition(partition, |found| found.error = None);
    }

    /// What the reader settled: partition, `next`, in flight. Returns the partitions, by their number in the list, that
    /// are at rest before their known end.
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
            let waits = || "lost its place in the group, and asks for partitions again".to_owned();
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

    /// Changes the facts and tells of progress, if there is any.
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

    fn view() -> (View, TopicPartition) {
        let partition = TopicPartition { topic: "b".into(), partition: 0 };
        let view = View::new(Health::default());
        view.assign([partition.clone()]);
        view.open(&partition, 5, 9, None);
        (view, partition)
    }

    fn state(view: &View) -> (State, Option<String>) {
        view.state(&view.facts.held())
    }

    #[test]
    fn a_partition_that_is_given_up_or_not_stored_is_not_running() {
        let (view, partition) = view();
        assert_eq!(state(&view), (State::Running, None));
        // The disk is full: the partition is opened again and again, and its state does not flap meanwhile.
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
        // Its followers may be given back before it is known why it failed.
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
