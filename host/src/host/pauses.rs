//! Pausing and resuming subscriptions, those of recorded events and those of the records of sources.

use super::Host;
use crate::model::SubscriptionName;
use crate::status::{Paused, State, SubscriptionStatus};
use crate::store;
use std::sync::Arc;

/// Reason for which a subscription was neither paused nor resumed.
#[derive(Debug, thiserror::Error)]
pub enum Unpaused {
    /// No subscription has this name.
    #[error("no subscription of that name; there are {}", .known.join(", "))]
    Unknown {
        /// The names of all subscriptions.
        known: Vec<String>,
    },
    /// The store could not record it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Host {
    /// Returns all subscriptions, those of sources last.
    pub async fn subscriptions(&self) -> Vec<SubscriptionStatus> {
        let status = self.status().await;
        let of_sources = self.parts.records.iter().filter_map(|(name, records)| {
            let source = status.sources.iter().find(|source| *source.name == **name)?;
            let own = source.partitions.iter().filter(|partition| partition.assigned);
            Some(SubscriptionStatus {
                name: records.name().to_string(),
                plugin: records.subscriber().to_owned(),
                state: source.state,
                error: source.error.clone(),
                checkpoint: source.handled,
                behind: own.map(|partition| partition.end.saturating_sub(partition.next)).sum(),
            })
        });
        let of_sources: Vec<_> = of_sources.collect();
        status.subscriptions.into_iter().chain(of_sources).collect()
    }

    /// Pauses or resumes a subscription. The setting survives restarts.
    pub async fn set_paused(self: &Arc<Self>, name: &str, paused: bool) -> Result<Paused, Unpaused> {
        let (host, name) = (self.clone(), name.to_owned());
        let set = move || {
            let parts = &host.parts;
            let set = match SubscriptionName::parse(&name) {
                SubscriptionName::Plugin(plugin) => {
                    parts.subscriptions.get(plugin).map(|found| found.set_paused(paused))
                }
                SubscriptionName::Source(source) => parts.records.get(source).map(|found| found.set_paused(paused)),
            };
            let Some(set) = set else {
                let of_events = parts.subscriptions.keys().map(ToString::to_string);
                let of_records = parts.records.values().map(|found| found.name().to_string());
                return Err(Unpaused::Unknown { known: of_events.chain(of_records).collect() });
            };
            set?;
            Ok(Paused { name, paused })
        };
        let set = tokio::task::spawn_blocking(set).await;
        set.unwrap_or_else(|error| Err(store::Error::Failed(error.to_string()).into()))
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
