//! The client of the hosts' HTTP API, whose calls survive a restart of a host.
//!
//! With several hosts an answer is about all of them.

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};
use wasmill_driver::api::Client;
use wasmill_driver::host::Host;

/// The source of the example's manifest.
const SOURCE: &str = "baskets";
/// The time-out of a call. It is longer than any wait that is requested from the host.
const CALL_WAIT: Duration = Duration::from_secs(60);

/// The pause between two looks at several hosts.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A client of the hosts, through their restarts.
pub(crate) struct Api<'a> {
    hosts: &'a [Host],
    client: Client,
}

/// The progress of a source.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Progress {
    /// The sum of the partitions' `next`.
    pub(crate) handled: u64,
    /// The partitions, by number.
    pub(crate) partitions: Vec<Partition>,
}

/// The progress of a partition of a source.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Partition {
    /// The number of the partition.
    pub(crate) partition: i32,
    /// The offset below which every record is processed.
    pub(crate) next: u64,
}

/// Whether the host has nothing left to do.
#[derive(Debug, Deserialize)]
pub(crate) struct Drained {
    /// Whether nothing is left.
    pub(crate) drained: bool,
    /// The store's newest position, if the host is drained.
    pub(crate) position: Option<u64>,
    /// The work that is left, if the host is not drained.
    pub(crate) waiting_for: Option<String>,
}

/// The part of the host's status that this program uses.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) store: Store,
    pub(crate) commands: Vec<Tally>,
    pub(crate) sources: Vec<Part>,
    pub(crate) subscriptions: Vec<Part>,
    pub(crate) projections: Vec<Part>,
    pub(crate) sinks: Vec<Sink>,
    pub(crate) dead_letters: DeadLetterContent,
}

/// The event store.
#[derive(Debug, Deserialize)]
pub(crate) struct Store {
    pub(crate) position: u64,
}

/// The number of commands with one name that ended in each way.
#[derive(Debug, Deserialize)]
pub(crate) struct Tally {
    pub(crate) command: String,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) malformed: u64,
}

/// A source, subscription or projection.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) checkpoint: u64,
}

/// A Kafka sink.
#[derive(Debug, Deserialize)]
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) error: Option<String>,
    pub(crate) published: u64,
    pub(crate) pending: u64,
}

/// What was dead-lettered.
#[derive(Debug, Deserialize)]
pub(crate) struct DeadLetterContent {
    pub(crate) total: u64,
    pub(crate) newest: Vec<DeadLetterItem>,
}

/// One thing that was dead-lettered.
#[derive(Debug, Deserialize)]
pub(crate) struct DeadLetterItem {
    pub(crate) place: String,
    pub(crate) reason: String,
}

/// The answer of a host that can't do now what it is asked for.
#[derive(Debug, thiserror::Error)]
#[error("409: {0}")]
struct NotNow(String);

impl Progress {
    /// Puts together what several hosts know. Each knows how far the partitions are that it has read.
    fn together(each: Vec<Self>) -> Self {
        let mut partitions = BTreeMap::<i32, u64>::new();
        for Partition { partition, next } in each.into_iter().flat_map(|progress| progress.partitions) {
            let known = partitions.entry(partition).or_default();
            *known = next.max(*known);
        }
        let handled = partitions.values().sum();
        let partitions = partitions.into_iter().map(|(partition, next)| Partition { partition, next }).collect();
        Self { handled, partitions }
    }
}

impl Status {
    /// Adds what another host of the same store has.
    fn with(mut self, other: Self) -> Self {
        self.store.position = self.store.position.max(other.store.position);
        self.sources.extend(other.sources);
        self.subscriptions.extend(other.subscriptions);
        self.projections.extend(other.projections);
        self.sinks.extend(other.sinks);
        self
    }
}

impl<'a> Api<'a> {
    /// Makes a client.
    pub(crate) fn new(hosts: &'a [Host]) -> Self {
        Self { hosts, client: Client::new(CALL_WAIT) }
    }

    /// Returns as soon as the source has processed this many records, or after `wait`.
    pub(crate) fn wait_source(&self, handled: u64, wait: Duration) -> Result<Progress> {
        if let [host] = self.hosts {
            return self.source(host, handled, wait);
        }
        let deadline = Instant::now() + wait;
        loop {
            // A host that has just started may not be a member of the source's group yet. It knows nothing of the source then.
            let each = self.hosts.iter().filter_map(|host| match self.source(host, 0, Duration::ZERO) {
                Err(error) if error.is::<NotNow>() => None,
                progress => Some(progress),
            });
            let progress = Progress::together(each.collect::<Result<_>>()?);
            if progress.handled >= handled || Instant::now() >= deadline {
                return Ok(progress);
            }
            thread::park_timeout(LOOK_AGAIN);
        }
    }

    fn source(&self, host: &Host, handled: u64, wait: Duration) -> Result<Progress> {
        let wait_ms = wait.as_millis();
        self.call(host, &format!("/v1/sources/{SOURCE}/wait?handled={handled}&timeout_ms={wait_ms}"), None)
    }

    /// Returns as soon as nothing is left to do, or after `wait`. What one host does may give another one work, so several are drained
    /// if two looks at all of them find each drained, and all at the same position.
    pub(crate) fn drained(&self, wait: Duration) -> Result<Drained> {
        let path = format!("/v1/drained?timeout_ms={}", wait.as_millis());
        if let [host] = self.hosts {
            return self.call(host, &path, None);
        }
        let mut at = None;
        for _ in 0..2 {
            for host in self.hosts {
                let found: Drained = self.call(host, &path, None)?;
                if !found.drained {
                    return Ok(found);
                }
                if *at.get_or_insert(found.position) != found.position {
                    let waiting_for = Some("the hosts to be drained at one position".to_owned());
                    return Ok(Drained { drained: false, position: None, waiting_for });
                }
            }
        }
        Ok(Drained { drained: true, position: at.flatten(), waiting_for: None })
    }

    /// Returns the status of the hosts.
    pub(crate) fn status(&self) -> Result<Status> {
        let each = self.hosts.iter().map(|host| self.call::<Status>(host, "/v1/status", None));
        let each: Vec<Status> = each.collect::<Result<_>>()?;
        each.into_iter().reduce(Status::with).context("there is a host")
    }

    /// Sends a query to the projection `sales`, which first waits until it has reached a position.
    pub(crate) fn query<T: DeserializeOwned>(
        &self,
        name: &str,
        params: &serde_json::Value,
        position: u64,
    ) -> Result<T> {
        self.call(
            &self.hosts[0],
            &format!("/v1/queries/sales/{name}?position={position}&timeout_ms=10000"),
            Some(params),
        )
    }

    /// Calls the host. If it is killed during the call, the call is repeated.
    fn call<T: DeserializeOwned>(&self, host: &Host, path: &str, body: Option<&serde_json::Value>) -> Result<T> {
        let answer = host.call(path, |url| match body {
            None => self.client.get(url),
            Some(body) => self.client.post(url, body, &[]),
        })?;
        let read = match answer.status {
            _ if answer.is_success() => {
                serde_json::from_str(&answer.text).with_context(|| format!("unexpected: {}", answer.text))
            }
            409 => Err(NotNow(answer.text).into()),
            status => Err(anyhow!("{status}: {}", answer.text)),
        };
        read.with_context(|| format!("the host's answer to {path}"))
    }
}
