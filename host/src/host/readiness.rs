//! The readiness of a host: whether it does its work, and if not, what is in the way.

use super::stalls::Stalled;
use crate::status::{Readiness, State, Status};

/// Returns the readiness of a host with this status.
pub(super) fn readiness(status: &Status, stalled: &Stalled) -> Readiness {
    let reasons = standing(status, stalled);
    Readiness { ready: reasons.is_empty(), reasons, ..Readiness::default() }
}

/// Lists a store that can't be written to, parts that have stopped, and parts that wait for brokers.
fn standing(status: &Status, stalled: &Stalled) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(error) = &status.store.error {
        reasons.push(format!("the store can't be written: {error}"));
    }
    let mut note = |part: &str, name: &str, state: State, error: &Option<String>| {
        let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        reasons.push(format!("{part} {name} is {state}{error}"));
    };
    for aggregate in status.aggregates.iter().filter(|aggregate| aggregate.error.is_some()) {
        note("aggregate", &aggregate.aggregate_type, aggregate.state, &aggregate.error);
    }
    let stands = |state| matches!(state, State::Stalled | State::Restarting | State::Stopped);
    let without_brokers = |state| matches!(state, State::Starting | State::Retrying) || stands(state);
    for source in status.sources.iter().filter(|source| without_brokers(source.state)) {
        note("source", &source.name, source.state, &source.error);
    }
    for sink in status.sinks.iter().filter(|sink| without_brokers(sink.state)) {
        note("sink", &sink.name, sink.state, &sink.error);
    }
    // A server that does not answer is in nobody's way but its own.
    for endpoint in status.endpoints.iter().filter(|endpoint| stands(endpoint.state)) {
        note("endpoint", &endpoint.name, endpoint.state, &endpoint.error);
    }
    // A follower that retries still works on one event, unless that takes too long.
    let holds = |kind, name: &str, state| stands(state) || (state == State::Retrying && stalled.has(kind, name));
    for part in status.subscriptions.iter().filter(|part| holds("subscription", &part.name, part.state)) {
        note("subscription", &part.name, part.state, &part.error);
    }
    for part in status.schedules.iter().filter(|part| holds("schedule", &part.name, part.state)) {
        note("schedule", &part.name, part.state, &part.error);
    }
    for part in status.projections.iter().filter(|part| holds("projection", &part.name, part.state)) {
        note("projection", &part.name, part.state, &part.error);
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
    use super::super::stalls::Stalls;
    use super::*;
    use crate::status::{AggregateStatus, SinkStatus, SourceStatus, SubscriptionStatus};
    use std::time::Duration;

    fn subscription(name: &str, state: State) -> SubscriptionStatus {
        SubscriptionStatus { name: name.into(), state, behind: 1, ..Default::default() }
    }

    #[test]
    fn what_stands_still_says_why() {
        let (error, state) = (Some("no broker can be reached".into()), State::Retrying);
        let source = SourceStatus { name: "baskets".into(), state, error, ..Default::default() };
        let stopped = State::Stopped;
        let sinks = vec![SinkStatus { name: "outbox".into(), state: stopped, ..Default::default() }];
        let subscriptions = vec![subscription("a", State::Retrying), subscription("b", stopped)];
        let (error, state) = (Some("its thread panicked and restarts: oh".into()), State::Restarting);
        let aggregate = AggregateStatus { aggregate_type: "order".into(), state, error, ..Default::default() };
        let aggregates = vec![aggregate];
        let status = Status { aggregates, sources: vec![source], sinks, subscriptions, ..Default::default() };
        let stalls = Stalls::default();
        let expected = [
            "aggregate order is restarting: its thread panicked and restarts: oh",
            "source baskets is retrying: no broker can be reached",
            "sink outbox is stopped",
            "subscription b is stopped",
        ];
        assert_eq!(readiness(&status, &stalls.look(&status, Duration::from_secs(30))).reasons, expected);
        // An event that is retried for too long is also in the way.
        let late = readiness(&status, &stalls.look(&status, Duration::ZERO)).reasons;
        assert!(late.contains(&"subscription a is retrying".to_owned()), "{late:?}");
    }
}
