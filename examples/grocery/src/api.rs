//! The host's HTTP API as this program uses it: calls that go on after a restart of the host.

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wasmill_driver::api::Client;
use wasmill_driver::host::Host;

/// The source of the example's manifest.
const SOURCE: &str = "baskets";
/// Beyond the longest wait that is asked of the host.
const CALL_WAIT: Duration = Duration::from_secs(60);

/// A client of one host, through its restarts.
pub(crate) struct Api<'a> {
    host: &'a Host,
    client: Client,
}

/// How far a source has come.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Progress {
    /// The sum of the partitions' `next`.
    pub(crate) handled: u64,
    /// By number.
    pub(crate) partitions: Vec<Partition>,
}

/// How far a partition of a source has come.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Partition {
    /// Its number.
    pub(crate) partition: i32,
    /// Every record below this offset is handled.
    pub(crate) next: u64,
}

/// Whether the host has nothing left to do.
#[derive(Debug, Deserialize)]
pub(crate) struct Drained {
    /// Nothing is left.
    pub(crate) drained: bool,
    /// The store's newest position, when it is drained.
    pub(crate) position: Option<u64>,
    /// What is left, when it is not.
    pub(crate) waiting_for: Option<String>,
}

/// What the host says about itself, as far as it is of use here.
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

/// How the commands of one name ended.
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
    /// A client.
    pub(crate) fn new(host: &'a Host) -> Self {
        Self { host, client: Client::new(CALL_WAIT) }
    }

    /// Returns as soon as the source has handled so many records, or after `wait`.
    pub(crate) fn wait_source(&self, handled: u64, wait: Duration) -> Result<Progress> {
        let wait_ms = wait.as_millis();
        self.call(&format!("/v1/sources/{SOURCE}/wait?handled={handled}&timeout_ms={wait_ms}"), None)
    }

    /// Returns as soon as nothing is left to do, or after `wait`.
    pub(crate) fn drained(&self, wait: Duration) -> Result<Drained> {
        self.call(&format!("/v1/drained?timeout_ms={}", wait.as_millis()), None)
    }

    /// What the host says about itself.
    pub(crate) fn status(&self) -> Result<Status> {
        self.call("/v1/status", None)
    }

    /// A query to the projection `sales` that sees everything up to a position.
    pub(crate) fn query<T: DeserializeOwned>(
        &self,
        name: &str,
        params: &serde_json::Value,
        position: u64,
    ) -> Result<T> {
        self.call(&format!("/v1/queries/sales/{name}?position={position}&timeout_ms=10000"), Some(params))
    }

    /// Calls until a host answers that was not killed in the middle.
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
