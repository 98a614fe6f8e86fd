//! Waiting until the host is drained.

use super::Host;
use super::parts::Parts;
use crate::kafka::{Source, Transform};
use crate::model::Position;
use crate::status::{Drained, PartitionProgress, PartitionStatus, SourceProgress, SourceStatus, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Interval at which counters without a watch are read.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Longest pause between two questions to the brokers about a source that makes no progress.
const LOOK_AT_BROKERS_AGAIN: Duration = Duration::from_millis(200);

/// What is waited for while HTTP requests have not ended.
const HTTP_REQUESTS: &str = "HTTP requests";

impl Host {
    /// Waits until nothing is in flight, or the time is up. It waits part by part, in the direction of the data. If new
    /// work appears meanwhile, or other parts run, it starts another round.
    pub(super) async fn until_drained(&self, timeout: Duration) -> Drained {
        let deadline = Instant::now() + timeout;
        let mut waiting_for = "the first look".to_owned();
        let store = &self.core.store;
        let work = async {
            loop {
                let parts = self.parts();
                let (head, numbers) = (*store.head().borrow(), self.newest_requests());
                if self.changing.load(Ordering::Acquire) {
                    "the change of the host".clone_into(&mut waiting_for);
                    drop(self.in_use.read().await);
                    continue;
                }
                if self.unless_changed(round(&parts, head, &mut waiting_for)).await.is_none() {
                    continue;
                }
                // The borrow must end before `is_quiet`, because it holds a lock and the parts read the head themselves.
                let stands_still = *store.head().borrow() == head;
                let are_same = Arc::ptr_eq(&parts, &self.parts()) && !self.changing.load(Ordering::Acquire);
                // A request that is made or answered while the parts are asked could be seen by none of them.
                if stands_still && are_same && parts.is_quiet() && self.newest_requests() == numbers {
                    return head;
                }
            }
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(position) => Drained { drained: true, position: position.0, ..Drained::default() },
            Err(_) => {
                Drained { position: store.head().borrow().0, waiting_for: Some(waiting_for), ..Drained::default() }
            }
        }
    }

    /// Returns numbers that change when an HTTP request is made or answered.
    fn newest_requests(&self) -> Option<(u64, u64)> {
        self.parts().requests.values().next().and_then(|http| http.newest_numbers())
    }
}

/// Adds the error of a part to its name, if it has one.
pub(super) fn explained(part: String, status: &Status) -> String {
    let sources = status.sources.iter().map(|found| ("source", &found.name, &found.error));
    let schedules = status.schedules.iter().map(|found| ("schedule", &found.name, &found.error));
    let subscriptions = status.subscriptions.iter().map(|found| ("subscription", &found.name, &found.error));
    let projections = status.projections.iter().map(|found| ("projection", &found.name, &found.error));
    let sinks = status.sinks.iter().map(|found| ("sink", &found.name, &found.error));
    let mut parts = sources.chain(schedules).chain(subscriptions).chain(projections).chain(sinks);
    let reason = parts.find_map(|(kind, name, error)| error.clone().filter(|_| is_of(&part, kind, name)));
    let transaction = || {
        let source = status.sources.iter().find(|source| part == format!("source {}", source.name))?;
        source.partitions.iter().find_map(PartitionStatus::behind_transaction)
    };
    let of_http = || {
        let failing = status.endpoints.iter().filter(|_| part == HTTP_REQUESTS);
        failing.filter_map(|found| Some(format!("endpoint {}: {}", found.name, found.error.as_ref()?))).next()
    };
    match reason.or_else(transaction).or_else(of_http) {
        Some(reason) => format!("{part}: {reason}"),
        None => part,
    }
}

/// Whether a text names a part, or something of it.
fn is_of(text: &str, kind: &str, name: &str) -> bool {
    let part = format!("{kind} {name}");
    text == part || text.ends_with(&format!(" of {part}"))
}

/// Returns the progress of a source.
pub(super) fn source_progress(source: SourceStatus) -> SourceProgress {
    let partitions = source.partitions.into_iter();
    let partitions: Vec<_> = partitions
        .map(|found| PartitionProgress { topic: found.topic, partition: found.partition, next: found.next })
        .collect();
    SourceProgress { handled: partitions.iter().map(|partition| partition.next).sum(), partitions }
}

async fn round(parts: &Parts, head: Position, waiting_for: &mut String) {
    for source in parts.sources.values().filter(|source| !parts.is_paused(source)) {
        *waiting_for = format!("source {}", source.name());
        tokio::select! {
            () = catch_up(source, waiting_for) => {}
            () = until(|| parts.is_paused(source)) => {}
        }
    }
    for (name, transform) in &parts.transforms {
        *waiting_for = format!("source {name}");
        commit_all(transform, waiting_for).await;
    }
    while let Some(name) = parts.busy_schedule() {
        *waiting_for = format!("schedule {name}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    "aggregates".clone_into(waiting_for);
    until(|| parts.core.aggregates.status().iter().all(|status| status.pending == 0)).await;
    for (source, subscription) in &parts.records {
        *waiting_for = format!("the commands of the subscriber of source {source}");
        until(|| !subscription.has_commands()).await;
    }
    for (name, subscription) in &parts.subscriptions {
        *waiting_for = format!("subscription {name}");
        reach_unless(subscription.reached(), head, || subscription.is_paused()).await;
        *waiting_for = format!("the commands or the retries of subscription {name}");
        until(|| !subscription.is_busy()).await;
    }
    for (name, projection) in &parts.projections {
        *waiting_for = format!("projection {name}");
        reach(projection.reached(), head).await;
        *waiting_for = format!("the new read model of projection {name}");
        until(|| !projection.is_building()).await;
    }
    HTTP_REQUESTS.clone_into(waiting_for);
    until(|| !parts.requests.values().any(|http| http.is_busy())).await;
    for (name, sink) in &parts.sinks {
        *waiting_for = format!("sink {name}");
        until(|| sink.pending() == 0).await;
    }
}

/// Waits until a source has settled everything up to the present ends of its partitions.
async fn catch_up(source: &Source, waiting_for: &mut String) {
    let mut progress = source.progress();
    loop {
        match tokio::task::block_in_place(|| source.refresh_ends()) {
            Ok(()) if source.is_caught_up() => return,
            Ok(()) => {
                // Each round asks the brokers, so it is not made for every record. An error means that the source is
                // gone.
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

/// Waits until a transform has committed everything up to the present ends of its partitions.
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

/// Waits until a part has reached a position or is paused.
pub(super) async fn reach_unless(reached: watch::Receiver<Position>, head: Position, is_paused: impl Fn() -> bool) {
    tokio::select! {
        () = reach(reached, head) => {}
        () = until(is_paused) => {}
    }
}

async fn reach(mut reached: watch::Receiver<Position>, head: Position) {
    // A part that is gone never reaches it, so the caller's time-out ends the wait.
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
    /// Returns whether a person has paused the subscriber of a source.
    fn is_paused(&self, source: &Source) -> bool {
        self.records.get(source.name()).is_some_and(|records| records.is_paused())
    }

    /// Returns a schedule that has something to do now, if there is one.
    fn busy_schedule(&self) -> Option<String> {
        self.schedules.as_ref().and_then(|schedules| schedules.busy())
    }

    /// Returns whether nothing is in flight at this moment.
    fn is_quiet(&self) -> bool {
        self.busy_schedule().is_none()
            && self.core.aggregates.status().iter().all(|status| status.pending == 0)
            && !self.records.values().any(|records| records.has_commands())
            && !self.subscriptions.values().any(|subscription| subscription.is_busy())
            && self.sources.values().all(|source| source.is_caught_up() || self.is_paused(source))
            && self.transforms.values().all(|transform| transform.is_caught_up())
            && !self.projections.values().any(|projection| projection.is_building())
            && !self.requests.values().any(|http| http.is_busy())
            && self.sinks.values().all(|sink| sink.pending() == 0)
    }
}
