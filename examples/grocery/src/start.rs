//! Where a run begins on a cluster that may hold the records of other runs.
//!
//! The embedded broker is made for its data folder and starts empty. On a real one, the ends of the topics before the
//! first run are noted in the data folder, and the host is told to begin there.

use crate::producer;
use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the notifications are.
pub(crate) const NOTIFICATIONS: &str = "notifications";
/// How long Kafka may take for an answer.
const KAFKA_WAIT: Duration = Duration::from_secs(15);
/// How often a cluster is asked about a new topic.
const LOOK: Duration = Duration::from_millis(50);
/// The note in the data folder.
const FILE: &str = "demo.json";

/// The ends of the topics before the first run.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Start {
    /// Of the topic `baskets`, over all partitions.
    pub(crate) baskets: u64,
    /// Of the topic `notifications`, by partition.
    pub(crate) notifications: BTreeMap<i32, i64>,
}

impl Start {
    /// Reads the note, or makes it for a new folder. Call it before a host starts its work on the folder.
    pub(crate) fn of(brokers: &str, data: &Path) -> Result<Self> {
        let file = data.join(FILE);
        if let Ok(text) = fs::read(&file) {
            return serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()));
        }
        let notifications = partitions(brokers, NOTIFICATIONS)?.into_iter().map(|(number, (_, high))| (number, high));
        let start =
            Self { baskets: sum(&partitions(brokers, producer::TOPIC)?), notifications: notifications.collect() };
        fs::write(&file, serde_json::to_string(&start)?).with_context(|| format!("write {}", file.display()))?;
        Ok(start)
    }
}

/// Writes the manifest anew into the data folder: its source begins at the end of the topic. The host notes where that
/// is when it first sees the topic.
pub(crate) fn manifest_from_end(manifest: &Path, data: &Path) -> Result<PathBuf> {
    let read = || format!("read the manifest {}", manifest.display());
    let mut table: toml::Table = fs::read_to_string(manifest).with_context(read)?.parse().with_context(read)?;
    let folder = manifest.canonicalize()?.parent().map(Path::to_path_buf).unwrap_or_default();
    for (_, source) in tables(&mut table, "sources") {
        source.insert("from".into(), "end".into());
    }
    for (_, plugin) in tables(&mut table, "plugins") {
        let file =
            plugin.get("file").and_then(toml::Value::as_str).context("a plugin has a file").with_context(read)?;
        let file = folder.join(file).to_string_lossy().into_owned();
        plugin.insert("file".into(), file.into());
    }
    let copy = data.join("wasmill.toml");
    fs::write(&copy, table.to_string()).with_context(|| format!("write {}", copy.display()))?;
    Ok(copy)
}

fn tables<'t>(table: &'t mut toml::Table, key: &str) -> impl Iterator<Item = (&'t String, &'t mut toml::Table)> {
    let tables = table.get_mut(key).and_then(toml::Value::as_table_mut).into_iter().flatten();
    tables.filter_map(|(name, value)| Some((name, value.as_table_mut()?)))
}

/// How many offsets a topic that a host has made has given out so far, over all partitions.
pub(crate) fn offsets(brokers: &str, topic: &str) -> Result<u64> {
    Ok(sum(&partitions_made(brokers, topic)?))
}

/// The partitions of a topic with their first and next offset; none where there is no such topic.
pub(crate) fn partitions(brokers: &str, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let failed = || format!("ask the Kafka cluster {brokers} about the topic {topic}");
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().with_context(failed)?;
    // Asked about all topics, a broker creates none.
    let metadata = client.fetch_metadata(None, KAFKA_WAIT).with_context(failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let numbers = found.into_iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
    numbers
        .map(|number| Ok((number, client.fetch_watermarks(topic, number, KAFKA_WAIT).with_context(failed)?)))
        .collect()
}

/// The partitions of a topic that a host has made. A cluster may take a moment until it tells of a new topic, and
/// until its partitions have leaders.
pub(crate) fn partitions_made(brokers: &str, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let deadline = Instant::now() + KAFKA_WAIT;
    loop {
        match partitions(brokers, topic) {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) if Instant::now() > deadline => bail!("there is no topic {topic} at {brokers}"),
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(_) | Err(_) => std::thread::park_timeout(LOOK),
        }
    }
}

fn sum(partitions: &BTreeMap<i32, (i64, i64)>) -> u64 {
    partitions.values().map(|(_, high)| u64::try_from(*high).unwrap_or(0)).sum()
}
