//! The client of the host's HTTP API, whose calls survive a restart of the host.

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wasmill_driver::api::Client;
use wasmill_driver::host::Host;

/// The source of the example's manifest.
const SOURCE: &str = "baskets";
/// The time-out of a call. It is longer than any wait that is requested from the host.
const CALL_WAIT: Duration = Duration::from_secs(60);

/// A client of one host, through its restarts.
pub(crate) struct Api<'a> {
    host: &'a Host,
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

impl<'a> Api<'a> {
    /// Makes a client.
    pub(crate) fn new(host: &'a Host) -> Self {
        Self { host, client: Client::new(CALL_WAIT) }
    }

    /// Returns as soon as the source has processed this many records, or after `wait`.
    pub(crate) fn wait_source(&self, handled: u64, wait: Duration) -> Result<Progress> {
        let wait_ms = wait.as_millis();
        self.call(&format!("/v1/sources/{SOURCE}/wait?handled={handled}&timeout_ms={wait_ms}"), None)
    }

    /// Returns as soon as nothing is left to do, or after `wait`.
    pub(crate) fn drained(&self, wait: Duration) -> Result<Drained> {
        self.call(&format!("/v1/drained?timeout_ms={}", wait.as_millis()), None)
    }

    /// Returns the host's status.
    pub(crate) fn status(&self) -> Result<Status> {
        self.call("/v1/status", None)
    }

    /// Sends a query to the projection `sales`, which first waits until it has reached a position.
    pub(crate) fn query<T: DeserializeOwned>(
        &self,
        name: &str,
        params: &serde_json::Value,
        position: u64,
    ) -> Result<T> {
        self.call(&format!("/v1/queries/sales/{name}?position={position}&timeout_ms=10000"), Some(params))
    }

    /// Calls the host. If it is killed during the call, the call is repeated.
    fn call<T: DeserializeOwned>(&self, path: &str, body: Option<&serde_json::Value>) -> Result<T> {
        let answer = self.host.call(path, |url| match body {
            None => self.client.get(url),
            Some(body) => self.client.post(url, body, &[]),
        })?;
        let read = match answer.is_success() {
            true => serde_json::from_str(&answer.text).with_context(|| format!("unexpected: {}", answer.text)),
            false => Err(anyhow!("{}: {}", answer.status, answer.text)),
        };
        read.with_context(|| format!("the host's answer to {path}"))
    }
}
