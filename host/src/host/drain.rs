//! Knowing when everything that is there has gone all its way.

use super::parts::Parts;
use crate::kafka::{Source, Transform};
use crate::model::Position;
use crate::status::{Drained, PartitionProgress, PartitionStatus, SourceProgress, SourceStatus, Status};
use crate::subscriptions::{RecordSubscription, Subscription};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often counters that wake nobody are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long a source that does not move is left alone.
const LOOK_AT_BROKERS_AGAIN: Duration = Duration::from_millis(200);

/// Waits part by part, in the direction of the data. New work that appears meanwhile starts the round anew, so that
/// in the end one look finds nothing anywhere.
pub(super) async fn drained(parts: &Parts, timeout: Duration) -> Drained {
    let deadline = Instant::now() + timeout;
    let mut waiting_for = "the first look".to_owned();
    let work = async {
        loop {
            let head = *parts.store.head().borrow();
            round(parts, head, &mut waiting_for).await;
            // The look is over, and its lock let go, before the parts look themselves.
            let stands_still = *parts.store.head().borrow() == head;
            if stands_still && parts.is_quiet() {
                return head;
            }
        }
    };
    match tokio::time::timeout_at(deadline, work).await {
        Ok(position) => Drained { drained: true, position: position.0, ..Drained::default() },
        Err(_) => {
            Drained { position: parts.store.head().borrow().0, waiting_for: Some(waiting_for), ..Drained::default() }
        }
    }
}

/// A part that was waited for, with what it says of itself.
pub(super) fn explained(part: String, status: &Status) -> String {
    let sources = status.sources.iter().map(|found| ("source", &found.name, &found.error));
    let subscriptions = status.subscriptions.iter().map(|found| ("subscription", &found.name, &found.error));
    let projections = status.projections.iter().map(|found| ("projection", &found.name, &found.error));
    let sinks = status.sinks.iter().map(|found| ("sink", &found.name, &found.error));
    let mut parts = sources.chain(subscriptions).chain(projections).chain(sinks);
    let reason = parts.find_map(|(kind, name, error)| error.clone().filter(|_| part == format!("{kind} {name}")));
    let transaction = || {
        let source = status.sources.iter().find(|source| part == format!("source {}", source.name))?;
        source.partitions.iter().find_map(PartitionStatus::behind_transaction)
    };
    match reason.or_else(transaction) {
        Some(reason) => format!("{part}: {reason}"),
        None => part,
    }
}

/// How far a source has come.
pub(super) fn source_progress(source: SourceStatus) -> SourceProgress {
    let partitions = source.partitions.into_iter();
    let partitions: Vec<_> = partitions
        .map(|found| PartitionProgress { topic: found.topic, partition: found.partition, next: found.next })
        .collect();
    SourceProgress { handled: partitions.iter().map(|partition| partition.next).sum(), partitions }
}

async fn round(parts: &Parts, head: Position, waiting_for: &mut String) {
    for source in parts.sources.iter().filter(|source| !parts.is_paused(source)) {
        *waiting_for = format!("source {}", source.name());
        tokio::select! {
            () = catch_up(source, waiting_for) => {}
            () = until(|| parts.is_paused(source)) => {}
        }
    }
    for transform in &parts.transforms {
        *waiting_for = format!("source {}", transform.name());
        commit_all(transform, waiting_for).await;
    }
    "aggregates".clone_into(waiting_for);
    until(|| parts.aggregates.status().iter().all(|status| status.pending == 0)).await;
    for subscription in &parts.records {
        *waiting_for = format!("the commands of the subscriber of source {}", subscription.source());
        until(|| !subscription.has_commands()).await;
    }
    for subscription in &parts.subscriptions {
        let name = subscription.status().name;
        *waiting_for = format!("subscription {name}");
        reach_unless(subscription.reached(), head, || subscription.is_paused()).await;
        *waiting_for = format!("the commands of subscription {name}");
        until(|| !subscription.has_commands()).await;
    }
    for projection in &parts.projections {
        *waiting_for = format!("projection {}", projection.name());
        reach(projection.reached(), head).await;
    }
    for sink in &parts.sinks {
        *waiting_for = format!("sink {}", sink.name());
        until(|| sink.pending() == 0).await;
    }
}

/// Up to the ends of its partitions as the brokers tell them now.
async fn catch_up(source: &Source, waiting_for: &mut String) {
    let mut progress = source.progress();
    loop {
        match tokio::task::block_in_place(|| source.refresh_ends()) {
            Ok(()) if source.is_caught_up() => return,
            Ok(()) => {
                // Each look asks the brokers, so not at every record; an error means that the source is gone.
                let _ = tokio::time::timeout(LOOK_AT_BROKERS_AGAIN, progress.changed()).await;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => {
                *waiting_for = format!("source {}: {error}", source.name());
                tokio::time::sleep(LOOK_AT_BROKERS_AGAIN).await;
            }
        }
    }
}

/// Up to the ends of its partitions as the brokers tell them now.
async fn commit_all(transform: &Transform, waiting_for: &mut String) {
    loop {
        match tokio::task::block_in_place(|| transform.refresh_ends()) {
            Ok(()) if transform.is_caught_up() => return,
            Ok(()) => {}
            Err(error) => *waiting_for = format!("source {}: {error}", transform.name()),
        }
        tokio::time::sleep(LOOK_AT_BROKERS_AGAIN).await;
    }
}

/// Up to a position, as long as nobody pauses it.
async fn reach_unless(reached: watch::Receiver<Position>, head: Position, is_paused: impl Fn() -> bool) {
    tokio::select! {
        () = reach(reached, head) => {}
        () = until(is_paused) => {}
    }
}

async fn reach(mut reached: watch::Receiver<Position>, head: Position) {
    // A part that is gone reaches nothing: the time-out tells.
    if reached.wait_for(|reached| *reached >= head).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Parts {
    /// Whether a person has paused the subscriber of a source.
    fn is_paused(&self, source: &Source) -> bool {
        self.records.iter().any(|records| records.source() == source.name() && records.is_paused())
    }

    /// Whether nothing is on its way, at one look.
    fn is_quiet(&self) -> bool {
        self.aggregates.status().iter().all(|status| status.pending == 0)
            && !self.records.iter().any(RecordSubscription::has_commands)
            && !self.subscriptions.iter().any(Subscription::has_commands)
            && self.sources.iter().all(|source| source.is_caught_up() || self.is_paused(source))
            && self.transforms.iter().all(Transform::is_caught_up)
            && self.sinks.iter().all(|sink| sink.pending() == 0)
    }
}
