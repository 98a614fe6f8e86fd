//! Whether a host does its work, for those who watch over many: what stands in the way, in words.

use crate::status::{Readiness, State, Status};
use crate::supervise::Held as _;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What lanes looked like when it was asked before: a partition and where it was.
#[derive(Default)]
pub(super) struct Watch(Mutex<HashMap<Lane, Seen>>);

/// Source, topic and partition.
type Lane = (String, String, i32);

struct Seen {
    next: u64,
    since: Instant,
}

impl Watch {
    /// What is in the way. A lane counts as wedged when work of it is under way and it has not moved for so long, as far
    /// as it was looked at.
    pub(super) fn readiness(&self, status: &Status, wedged_after: Duration) -> Readiness {
        let mut reasons = standing(status);
        reasons.extend(self.wedged(status, wedged_after));
        Readiness { ready: reasons.is_empty(), reasons, ..Readiness::default() }
    }

    fn wedged(&self, status: &Status, after: Duration) -> Vec<String> {
        let mut before = self.0.held();
        let (mut now, mut reasons) = (HashMap::new(), Vec::new());
        // One whose subscriber a person has paused stands still by that.
        for source in status.sources.iter().filter(|source| source.state != State::Paused) {
            for partition in source.partitions.iter().filter(|partition| partition.assigned && partition.in_flight > 0)
            {
                let lane = (source.name.clone(), partition.topic.clone(), partition.partition);
                let since = match before.remove(&lane) {
                    Some(seen) if seen.next == partition.next => seen.since,
                    _ => Instant::now(),
                };
                if since.elapsed() >= after {
                    reasons.push(format!(
                        "source {}: topic {} partition {} stands at offset {} for {} s with {} records under way; the log \
                         says what their plugin does",
                        source.name,
                        partition.topic,
                        partition.partition,
                        partition.next,
                        since.elapsed().as_secs(),
                        partition.in_flight
                    ));
                }
                now.insert(lane, Seen { next: partition.next, since });
            }
        }
        *before = now;
        reasons
    }
}

/// Parts that have stopped, and those that brokers keep from work.
fn standing(status: &Status) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut note = |part: &str, name: &str, state: State, error: &Option<String>| {
        let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        reasons.push(format!("{part} {name} is {state}{error}"));
    };
    for aggregate in status.aggregates.iter().filter(|aggregate| aggregate.error.is_some()) {
        note("aggregate", &aggregate.aggregate_type, aggregate.state, &aggregate.error);
    }
    let without_brokers =
        |state| matches!(state, State::Starting | State::Retrying | State::Restarting | State::Stopped);
    for source in status.sources.iter().filter(|source| without_brokers(source.state)) {
        note("source", &source.name, source.state, &source.error);
    }
    for sink in status.sinks.iter().filter(|sink| without_brokers(sink.state)) {
        note("sink", &sink.name, sink.state, &sink.error);
    }
    // Followers that retry are at work on one event; what they wait for is theirs to know.
    let stands = |state| matches!(state, State::Restarting | State::Stopped);
    for subscription in status.subscriptions.iter().filter(|subscription| stands(subscription.state)) {
        note("subscription", &subscription.name, subscription.state, &subscription.error);
    }
    for projection in status.projections.iter().filter(|projection| stands(projection.state)) {
        note("projection", &projection.name, projection.state, &projection.error);
    }
    for projection in status.projections.iter().filter(|one| one.state != State::Stopped && one.answers.is_none()) {
        let building = projection.building.as_ref().map_or(0, |building| building.position);
        let error = projection.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        reasons.push(format!(
            "projection {} does not answer yet: its read model is at position {building} of {}{error}",
            projection.name, status.store.position
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PartitionStatus, SinkStatus, SourceStatus, SubscriptionStatus};

    fn status(next: u64, in_flight: u64) -> Status {
        let partition = PartitionStatus { topic: "b".into(), next, in_flight, assigned: true, ..Default::default() };
        let (name, state) = ("baskets".into(), State::Running);
        let source = SourceStatus { name, state, partitions: vec![partition], ..Default::default() };
        Status { sources: vec![source], ..Default::default() }
    }

    #[test]
    fn a_lane_that_does_not_move_is_wedged() {
        let (watch, at_once) = (Watch::default(), Duration::ZERO);
        let ready = |status: &Status, after| watch.readiness(status, after).ready;
        assert!(ready(&status(5, 1), Duration::from_secs(60)), "it was never seen before");
        assert!(ready(&status(5, 1), Duration::from_secs(60)), "not for so long");
        let wedged = watch.readiness(&status(5, 1), at_once);
        assert!(wedged.reasons[0].contains("topic b partition 0 stands at offset 5"), "{wedged:?}");
        assert!(ready(&status(5, 0), at_once), "nothing is under way");
    }

    #[test]
    fn what_stands_still_says_why() {
        let mut status = status(0, 0);
        status.sources[0].state = State::Retrying;
        status.sources[0].error = Some("no broker can be reached".into());
        let stopped = State::Stopped;
        status.sinks = vec![SinkStatus { name: "outbox".into(), state: stopped, ..Default::default() }];
        let retrying = SubscriptionStatus { name: "a".into(), state: State::Retrying, ..Default::default() };
        let stopped = SubscriptionStatus { name: "b".into(), state: stopped, ..Default::default() };
        status.subscriptions = vec![retrying, stopped];
        let readiness = Watch::default().readiness(&status, Duration::from_secs(30));
        let expected = [
            "source baskets is retrying: no broker can be reached",
            "sink outbox is stopped",
            "subscription b is stopped",
        ];
        assert_eq!(readiness.reasons, expected);
    }
}
