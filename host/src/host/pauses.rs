//! What a person does with subscriptions: pausing and resuming them, those of recorded events and those of the records of
//! sources, and resetting those of recorded events.

use super::Host;
use super::maintenance::blocking;
use crate::manifest::Start;
use crate::model::SubscriptionName;
use crate::status::{Paused, Reset, State, SubscriptionStatus};
use crate::store;
use crate::subscriptions;
use std::sync::Arc;

/// Reason for which a subscription was not changed.
#[derive(Debug, thiserror::Error)]
pub enum Unchanged {
    /// No subscription has this name.
    #[error("no subscription of that name; there are {}", .known.join(", "))]
    Unknown {
        /// The names of all subscriptions.
        known: Vec<String>,
    },
    /// The subscription can't be reset, or not there.
    #[error("{0}")]
    Impossible(String),
    /// The store could not record it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Host {
    /// Returns all subscriptions, those of sources last.
    pub async fn subscriptions(&self) -> Vec<SubscriptionStatus> {
        let status = self.status().await;
        let parts = self.parts();
        let of_sources = parts.records.iter().filter_map(|(name, records)| {
            let source = status.sources.iter().find(|source| *source.name == **name)?;
            let own = source.partitions.iter().filter(|partition| partition.assigned);
            Some(SubscriptionStatus {
                name: records.name().to_string(),
                plugin: records.subscriber().to_owned(),
                state: source.state,
                error: source.error.clone(),
                checkpoint: source.handled,
                behind: own.map(|partition| partition.end.saturating_sub(partition.next)).sum(),
                waiting_keys: records.waiting_keys(),
                next_timer_ms: records.next_timer_ms(),
                ..SubscriptionStatus::default()
            })
        });
        let of_sources: Vec<_> = of_sources.collect();
        status.subscriptions.into_iter().chain(of_sources).collect()
    }

    /// Pauses or resumes a subscription, with all of its segments, or a segment. The setting survives restarts.
    pub async fn set_paused(self: &Arc<Self>, name: &str, paused: bool) -> Result<Paused, Unchanged> {
        let (host, name) = (self.clone(), name.to_owned());
        let set = move || {
            let parts = host.parts();
            if let SubscriptionName::Source(source) = SubscriptionName::parse(&name) {
                let found = parts.records.get(source).ok_or_else(|| host.unknown_subscription(&name))?;
                found.set_paused(paused)?;
                return Ok(Paused { name, paused });
            }
            let is_of = |other: &&str| *other == name || SubscriptionName::parse(other).whole().to_string() == name;
            let names: Vec<&str> = parts.applied.plan.subscriptions().filter(is_of).collect();
            // One that runs on another host is to be asked for there, before anything is changed here.
            let find = |name: &&str| parts.subscriptions.get(*name).ok_or_else(|| host.unknown_subscription(name));
            let found: Vec<_> = names.iter().map(find).collect::<Result<_, _>>()?;
            if found.is_empty() {
                return Err(host.unknown_subscription(&name));
            }
            found.iter().try_for_each(|found| found.set_paused(paused))?;
            Ok(Paused { name, paused })
        };
        let _used = self.in_use.read().await;
        blocking(set).await
    }

    /// Moves the checkpoint of a subscription to recorded events.
    pub async fn reset(self: &Arc<Self>, name: &str, to: Start) -> Result<Reset, Unchanged> {
        let (host, name) = (self.clone(), name.to_owned());
        let reset = move || {
            let parts = host.parts();
            match SubscriptionName::parse(&name) {
                SubscriptionName::Plugin(..) => {
                    let subscription =
                        parts.subscriptions.get(&*name).ok_or_else(|| host.unknown_subscription(&name))?;
                    let head = *host.core.store.head().borrow();
                    if let Start::At(position) = to
                        && position.0 > head.0 + 1
                    {
                        return Err(Unchanged::Impossible(format!(
                            "there is no event at position {position}: the newest is at {head}; choose a position up to that \
                             one, \"beginning\" or \"now\""
                        )));
                    }
                    let subscriptions::Reset { from, to } = match subscription.reset(to) {
                        Err(store::Error::Invalid(reason)) => return Err(Unchanged::Impossible(reason)),
                        reset => reset?,
                    };
                    Ok(Reset { name, from: from.0, to: to.0 })
                }
                SubscriptionName::Source(source) if parts.records.contains_key(source) => {
                    Err(Unchanged::Impossible(format!(
                        "{name} reads the records of a source, which has offsets: use `wasmill kafka offsets reset {source}`"
                    )))
                }
                SubscriptionName::Source(_) => Err(host.unknown_subscription(&name)),
            }
        };
        let _used = self.in_use.read().await;
        blocking(reset).await
    }

    fn unknown_subscription(&self, name: &str) -> Unchanged {
        if let Some(elsewhere) = self.subscription_elsewhere(name) {
            return Unchanged::Impossible(elsewhere);
        }
        let parts = self.parts();
        let of_events = parts.applied.plan.subscriptions().map(ToString::to_string);
        let of_records = self.records_anywhere(&parts);
        Unchanged::Unknown { known: of_events.chain(of_records).collect() }
    }
}

/// Returns a sentence for each paused subscription.
pub(super) fn paused(statuses: &[SubscriptionStatus]) -> Vec<String> {
    let paused = statuses.iter().filter(|status| status.state == State::Paused);
    let sentence = |status: &SubscriptionStatus| {
        let reason = status.error.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
        format!("subscription {} is paused with {} to go{reason}", status.name, status.behind)
    };
    paused.map(sentence).collect()
}
