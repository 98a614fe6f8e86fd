//! The names under which parts of a manifest keep rows in a store, and the places that they say.
//!
//! This module knows which tables and columns have such names, which both stores share. It does not read them.

use super::{Part, PartKind, Place};
use crate::model::{self, DeadLetterContent, FactName, LedgerName, PartitionName, SinkName, SubscriptionName};
use std::collections::BTreeMap;

/// What the tables say about the progress of all parts.
pub(super) struct Progresses {
    /// The checkpoint of each subscription.
    pub(super) checkpoints: Vec<(String, u64)>,
    /// The watermark of each ledger.
    pub(super) ledgers: Vec<(String, u64)>,
    /// The position of each sink.
    pub(super) sinks: Vec<(String, u64)>,
    /// The steps with commands in the outbox: subscription, first and last number of each.
    pub(super) steps: Vec<(String, u64, u64)>,
    /// The number of callbacks of each subscription.
    pub(super) callbacks: Vec<(String, u64)>,
    /// The number of HTTP requests of each subscription.
    pub(super) requests: Vec<(String, u64)>,
}

/// What the rows of a part say about its place.
#[derive(Default)]
struct Found {
    /// How far it is, in words.
    at: Vec<String>,
    /// The number of commands that are not sent yet.
    pending: u64,
    callbacks: u64,
    requests: u64,
}

impl Found {
    fn at(at: Option<String>) -> Self {
        Self { at: at.into_iter().collect(), ..Self::default() }
    }
}

/// Returns the places, by kind and name.
pub(super) fn places(all: Progresses) -> Vec<Place> {
    let mut places: BTreeMap<Part, Found> = BTreeMap::new();
    let mut add = |part: Option<Part>, found: Found| {
        if let Some(part) = part {
            let place = places.entry(part).or_default();
            place.at.extend(found.at);
            place.pending += found.pending;
            place.callbacks += found.callbacks;
            place.requests += found.requests;
        }
    };
    for (name, position) in all.checkpoints {
        let part = of_subscription(&name);
        let at = part.as_ref().is_some_and(|part| part.kind == PartKind::Subscription);
        add(part, Found::at(at.then(|| format!("at position {position}"))));
    }
    for (name, next) in &all.ledgers {
        add(of_ledger(name), Found::at(reached(name, *next)));
    }
    for (name, position) in all.sinks {
        let at = matches!(SinkName::parse(&name), SinkName::Events(_));
        add(of_sink(&name), Found::at(at.then(|| format!("at position {position}"))));
    }
    let ledgers: BTreeMap<String, u64> = all.ledgers.into_iter().collect();
    for (subscription, first, last) in all.steps {
        let ledger = SubscriptionName::parse(&subscription).ledger().to_string();
        let next = ledgers.get(&ledger).copied().unwrap_or(0);
        let pending = (last + 1).saturating_sub(first.max(next));
        add(of_subscription(&subscription), Found { pending, ..Found::default() });
    }
    for (subscription, callbacks) in all.callbacks {
        add(of_subscription(&subscription), Found { callbacks, ..Found::default() });
    }
    for (subscription, requests) in all.requests {
        add(of_subscription(&subscription), Found { requests, ..Found::default() });
    }
    let place = |(part, Found { at, pending, callbacks, requests })| Place {
        part,
        at: summary(&at),
        pending,
        callbacks,
        requests,
    };
    places.into_iter().map(place).collect()
}

/// Describes how far a ledger is, unless it has the commands of a subscription.
fn reached(ledger: &str, next: u64) -> Option<String> {
    match LedgerName::parse(ledger)? {
        LedgerName::Partition(PartitionName { topic, partition, topic_id, .. }) => {
            let id = topic_id.map(|id| format!("@{id}")).unwrap_or_default();
            Some(format!("{topic}/{partition}{id} at offset {next}"))
        }
        LedgerName::Schedule(_) => Some(format!("at {}", model::second(next.saturating_sub(1)))),
        LedgerName::Commands(_) | LedgerName::DeadLetters => None,
    }
}

fn summary(at: &[String]) -> String {
    const SHOWN: usize = 3;
    match at {
        [] => "nothing done".to_owned(),
        at if at.len() <= SHOWN => at.join(", "),
        at => format!("{}, and {} more", at[..SHOWN].join(", "), at.len() - SHOWN),
    }
}

/// Returns the part whose subscription has this name.
fn of_subscription(name: &str) -> Option<Part> {
    Some(subscriber(SubscriptionName::parse(name)))
}

/// Returns the part whose ledger has this name.
pub(crate) fn of_ledger(name: &str) -> Option<Part> {
    match LedgerName::parse(name)? {
        LedgerName::Partition(partition) => Some(source(partition.source)),
        LedgerName::Commands(subscription) => Some(subscriber(subscription)),
        LedgerName::Schedule(name) => Some(Part { kind: PartKind::Schedule, name: name.to_owned() }),
        LedgerName::DeadLetters => None,
    }
}

/// Returns the part that keeps a position under this name. A sink of messages is not a part that can be renamed.
fn of_sink(name: &str) -> Option<Part> {
    match SinkName::parse(name) {
        SinkName::Messages(_) => None,
        SinkName::Events(name) => Some(Part { kind: PartKind::Sink, name: name.to_owned() }),
        SinkName::DeadLetters(name) => Some(source(name)),
    }
}

/// Returns the part that keeps a fact under this name.
fn of_fact(name: &str) -> Option<Part> {
    match FactName::parse(name)? {
        FactName::Starts(name) | FactName::TopicId { source: name, .. } => Some(source(name)),
        FactName::Paused(subscription) | FactName::Divisions(subscription) => Some(subscriber(subscription)),
        FactName::Cluster | FactName::Clock | FactName::Skipped { .. } => None,
    }
}

fn subscriber(name: SubscriptionName<'_>) -> Part {
    match name {
        SubscriptionName::Plugin(name, _) => Part { kind: PartKind::Subscription, name: name.to_owned() },
        SubscriptionName::Source(name) => source(name),
    }
}

fn source(name: &str) -> Part {
    Part { kind: PartKind::Source, name: name.to_owned() }
}

/// A column that has names of parts.
pub(super) struct Column {
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    /// Returns the owner of a name.
    pub(super) owner: fn(&str) -> Option<Part>,
    /// Returns the same name with another owner.
    pub(super) with_owner: fn(&str, &str) -> Option<String>,
}

/// All columns that have names of parts.
pub(super) const COLUMNS: [Column; 8] = [
    Column { table: "checkpoints", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "held_keys", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "callbacks", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "http_requests", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "outbox", name: "queue", owner: of_subscription, with_owner: subscription_of },
    Column { table: "ledgers", name: "name", owner: of_ledger, with_owner: ledger_of },
    Column { table: "sinks", name: "name", owner: of_sink, with_owner: sink_of },
    Column { table: "facts", name: "name", owner: of_fact, with_owner: fact_of },
];

fn subscription_of(name: &str, owner: &str) -> Option<String> {
    Some(SubscriptionName::parse(name).with_owner(owner).to_string())
}

fn ledger_of(name: &str, owner: &str) -> Option<String> {
    Some(LedgerName::parse(name)?.with_owner(owner).to_string())
}

fn sink_of(name: &str, owner: &str) -> Option<String> {
    Some(SinkName::parse(name).with_owner(owner).to_string())
}

fn fact_of(name: &str, owner: &str) -> Option<String> {
    Some(FactName::parse(name)?.with_owner(owner).to_string())
}

/// Returns whether a part of this kind dead-letters such an item.
pub(super) fn is_of(kind: PartKind, content: &DeadLetterContent) -> bool {
    let is_of_source = match content {
        DeadLetterContent::Record(_) | DeadLetterContent::Gone => Some(true),
        DeadLetterContent::Event(_) => Some(false),
        // A callback or a request of a source's subscriber is dead-lettered under the name of the subscription.
        DeadLetterContent::Callback(_) | DeadLetterContent::Http(_) => Some(false),
        DeadLetterContent::Command(command) => command.origin.as_ref().map(|origin| {
            let plugin = |name| matches!(name, LedgerName::Commands(SubscriptionName::Plugin(..)));
            !LedgerName::parse(&origin.ledger).is_some_and(plugin)
        }),
        _ => None,
    };
    match kind {
        PartKind::Subscription => is_of_source != Some(true),
        PartKind::Source => is_of_source != Some(false),
        PartKind::Sink | PartKind::Schedule => false,
    }
}
