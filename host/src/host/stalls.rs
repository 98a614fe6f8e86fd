//! The detection of parts that have work and make no progress, by comparing the status at intervals.
//!
//! A part reports its state, but it can't report that it is blocked: by a guest that never returns, by a broker that
//! neither acknowledges nor refuses, or by another producer's open transaction. So each part is compared with what it
//! was before. One watch serves all parts, and nothing is counted while a command, record or event is handled.

use crate::model;
use crate::status::{PartitionStatus, State, Status};
use crate::supervise::Held as _;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The progress of each part when it was last checked.
#[derive(Default)]
pub(super) struct Stalls(Mutex<HashMap<Part, Seen>>);

/// A part, or a partition of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    kind: &'static str,
    name: String,
    /// Topic and number of the partition.
    partition: Option<(String, i32)>,
}

struct Seen {
    mark: u64,
    since: Instant,
}

/// A part that has work, at one check.
struct Look {
    part: Part,
    /// A number that changes when the part makes progress.
    mark: u64,
    /// What the part is blocked at, as the end of a sentence that begins with the part and the time.
    at: String,
}

/// The parts that have made no progress for too long, each with the reason.
pub(super) struct Stalled(Vec<(Part, String)>);

impl Stalls {
    /// Checks every part that has work, and returns those that have made no progress for `after`, as far as the checks
    /// show.
    pub(super) fn look(&self, status: &Status, after: Duration) -> Stalled {
        let mut before = self.0.held();
        let (mut now, mut stalled) = (HashMap::new(), Vec::new());
        for Look { part, mark, at } in looks(status) {
            let since = match before.remove(&part) {
                Some(seen) if seen.mark == mark => seen.since,
                _ => Instant::now(),
            };
            if since.elapsed() >= after {
                stalled.push((part.clone(), format!("no progress for {} s: {at}", since.elapsed().as_secs())));
            }
            now.insert(part, Seen { mark, since });
        }
        *before = now;
        Stalled(stalled)
    }
}

impl Stalled {
    /// Marks as stalled the parts in the status that report that they work.
    pub(super) fn mark(&self, status: &mut Status) {
        for part in &mut status.aggregates {
            self.mark_one("aggregate", &part.aggregate_type, &mut part.state, &mut part.error);
        }
        for part in &mut status.sources {
            self.mark_one("source", &part.name, &mut part.state, &mut part.error);
        }
        for part in &mut status.schedules {
            self.mark_one("schedule", &part.name, &mut part.state, &mut part.error);
        }
        for part in &mut status.subscriptions {
            self.mark_one("subscription", &part.name, &mut part.state, &mut part.error);
        }
        for part in &mut status.projections {
            self.mark_one("projection", &part.name, &mut part.state, &mut part.error);
        }
        for part in &mut status.endpoints {
            self.mark_one("endpoint", &part.name, &mut part.state, &mut part.error);
        }
        for part in &mut status.sinks {
            self.mark_one("sink", &part.name, &mut part.state, &mut part.error);
        }
    }

    fn mark_one(&self, kind: &str, name: &str, state: &mut State, error: &mut Option<String>) {
        let reasons: Vec<&str> = self.of(kind, name).collect();
        if !reasons.is_empty() && matches!(state, State::Running | State::CatchingUp | State::Following) {
            *state = State::Stalled;
            *error = Some(error.iter().map(String::as_str).chain(reasons).collect::<Vec<_>>().join("; "));
        }
    }

    /// Whether a part has made no progress for too long.
    pub(super) fn has(&self, kind: &str, name: &str) -> bool {
        self.of(kind, name).next().is_some()
    }

    fn of<'a>(&'a self, kind: &str, name: &str) -> impl Iterator<Item = &'a str> {
        let is_it = move |part: &Part| part.kind == kind && part.name == name;
        self.0.iter().filter(move |(part, _)| is_it(part)).map(|(_, reason)| reason.as_str())
    }
}

/// Lists every part that has work.
fn looks(status: &Status) -> Vec<Look> {
    let mut looks = Vec::new();
    let mut add = |kind, name: &str, partition, mark, at| {
        looks.push(Look { part: Part { kind, name: name.to_owned(), partition }, mark, at });
    };
    for part in status.aggregates.iter().filter(|part| part.queued > 0) {
        let ended = status.commands.iter().filter(|command| command.aggregate_type == part.aggregate_type);
        let mark = ended.map(|command| command.accepted + command.rejected + command.malformed).sum();
        add("aggregate", &part.aggregate_type, None, mark, format!("{} commands wait for their outcome", part.queued));
    }
    for source in &status.sources {
        for partition in source.partitions.iter().filter(|partition| partition.assigned) {
            let place = Some((partition.topic.clone(), partition.partition));
            if let Some(at) = work_of(partition) {
                add("source", &source.name, place, partition.next, at);
            }
        }
    }
    for part in &status.schedules {
        if let Some(due_ms) = part.due_ms {
            let at = format!("its command of {} has no outcome", model::second(due_ms / 1_000));
            add("schedule", &part.name, None, part.runs, at);
        }
    }
    for part in status.subscriptions.iter().filter(|part| part.behind > 0) {
        add("subscription", &part.name, None, part.checkpoint, after_position(part.checkpoint, part.behind));
    }
    for part in status.subscriptions.iter().filter(|part| part.due_callbacks && part.state != State::Paused) {
        let at = format!("outcomes or timers are due after {} that it has handled", part.handled_callbacks);
        add("subscription", &part.name, Some(("callbacks".to_owned(), 0)), part.handled_callbacks, at);
    }
    for part in status.projections.iter().filter(|part| part.behind > 0) {
        add("projection", &part.name, None, part.checkpoint, after_position(part.checkpoint, part.behind));
    }
    for part in status.endpoints.iter().filter(|part| part.pending > 0) {
        let at = format!("{} requests have not ended, with {} attempts under way", part.pending, part.in_flight);
        add("endpoint", &part.name, None, part.attempts, at);
    }
    for sink in status.sinks.iter().filter(|sink| sink.pending > 0) {
        let at = format!("{} are pending, and Kafka acknowledges none", sink.pending);
        // The mark is not `pending`, which also grows when there is more to do.
        add("sink", &sink.name, None, sink.reached, at);
    }
    looks
}

fn after_position(checkpoint: u64, behind: u64) -> String {
    format!("it stands at position {checkpoint}, {behind} behind the store; the log shows what its plugin does")
}

/// Describes the work in a partition, if there is any.
fn work_of(status: &PartitionStatus) -> Option<String> {
    let PartitionStatus { topic, partition, next, end, in_flight, .. } = status;
    if *in_flight > 0 {
        return Some(format!(
            "topic {topic} partition {partition} stands at offset {next} with {in_flight} records in flight; the log shows \
             what their plugin does"
        ));
    }
    status.behind_transaction().or_else(|| {
        (end > next).then(|| format!("topic {topic} partition {partition} stands at offset {next} of {end}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{ProjectionStatus, ScheduleStatus, SinkStatus, SourceStatus, SubscriptionStatus};

    fn status(partition: PartitionStatus) -> Status {
        let partition = PartitionStatus { topic: "b".into(), assigned: true, ..partition };
        let (name, state) = ("baskets".into(), State::Running);
        let source = SourceStatus { name, state, partitions: vec![partition], ..Default::default() };
        Status { sources: vec![source], ..Default::default() }
    }

    fn under_way(next: u64, in_flight: u64) -> Status {
        status(PartitionStatus { next, end: next + in_flight, in_flight, ..Default::default() })
    }

    #[test]
    fn a_part_with_work_that_does_not_move_is_stalled() {
        let (stalls, at_once) = (Stalls::default(), Duration::ZERO);
        let long = Duration::from_secs(60);
        assert!(!stalls.look(&under_way(5, 1), long).has("source", "baskets"), "this is the first check");
        assert!(!stalls.look(&under_way(5, 1), long).has("source", "baskets"), "not for so long");
        let mut status = under_way(5, 1);
        stalls.look(&status, at_once).mark(&mut status);
        assert_eq!(status.sources[0].state, State::Stalled);
        let reason = status.sources[0].error.as_deref().unwrap();
        assert!(reason.contains("topic b partition 0 stands at offset 5 with 1 records in flight"), "{reason}");
        assert!(!stalls.look(&under_way(6, 0), at_once).has("source", "baskets"), "nothing is under way");
    }

    #[test]
    fn a_part_that_moved_since_the_last_look_is_not_stalled() {
        let (stalls, long) = (Stalls::default(), Duration::from_secs(60));
        stalls.look(&under_way(5, 1), long);
        // However long a part made no progress, it is not stalled once it moves.
        stalls.0.held().values_mut().for_each(|seen| seen.since -= long);
        assert!(stalls.look(&under_way(5, 1), long).has("source", "baskets"));
        assert!(!stalls.look(&under_way(6, 1), long).has("source", "baskets"));
    }

    #[test]
    fn records_behind_an_open_transaction_are_work() {
        let mut status = status(PartitionStatus { next: 5, stable: 5, end: 8, ..Default::default() });
        Stalls::default().look(&status, Duration::ZERO).mark(&mut status);
        let reason = status.sources[0].error.clone().unwrap();
        let expected = "topic b partition 0: 3 offsets from 5 on wait behind an open transaction of another producer";
        assert!(reason.contains(expected), "{reason}");
    }

    #[test]
    fn schedules_followers_and_sinks_are_watched_as_partitions_are() {
        let (name, state) = ("one".to_owned(), State::Following);
        let subscription = SubscriptionStatus { name: name.clone(), state, behind: 1, ..Default::default() };
        let projection = ProjectionStatus { name: name.clone(), state, behind: 1, ..Default::default() };
        let sink = SinkStatus { name: name.clone(), state: State::Running, pending: 3, ..Default::default() };
        let schedule =
            ScheduleStatus { name, state: State::Running, due_ms: Some(1_767_225_600_000), ..Default::default() };
        let mut status = Status {
            schedules: vec![schedule],
            subscriptions: vec![subscription],
            projections: vec![projection],
            sinks: vec![sink],
            ..Default::default()
        };
        Stalls::default().look(&status, Duration::ZERO).mark(&mut status);
        let stalled = State::Stalled;
        assert_eq!((status.subscriptions[0].state, status.projections[0].state), (stalled, stalled));
        assert_eq!((status.sinks[0].state, status.schedules[0].state), (stalled, stalled));
        let reason = status.schedules[0].error.as_deref().unwrap();
        assert!(reason.contains("its command of 2026-01-01T00:00:00Z has no outcome"), "{reason}");
        assert!(status.sinks[0].error.as_deref().unwrap().contains("Kafka acknowledges none"));
    }

    #[test]
    fn a_part_that_says_itself_what_is_in_the_way_keeps_its_word() {
        let mut status = under_way(5, 1);
        (status.sources[0].state, status.sources[0].error) = (State::Retrying, Some("no broker".into()));
        Stalls::default().look(&status, Duration::ZERO).mark(&mut status);
        assert_eq!(status.sources[0].state, State::Retrying);
        assert_eq!(status.sources[0].error.as_deref(), Some("no broker"));
    }
}
