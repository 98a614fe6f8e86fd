//! The start of a run on a cluster that may have the records of other runs.
//!
//! The embedded broker belongs to its data folder and starts empty. On a real cluster, the ends of the topics before
//! the first run are written to the data folder, and the host begins there.

use crate::producer;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use wasmill_driver::topic::{offsets, partitions};

/// The topic of the notifications.
pub(crate) const NOTIFICATIONS: &str = "notifications";
/// The file in the data folder that has the ends of the topics.
const FILE: &str = "demo.json";

/// The ends of the topics before the first run.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Start {
    /// The sum of the ends of all partitions of the topic `baskets`.
    pub(crate) baskets: u64,
    /// The ends of the topic `notifications`, by partition.
    pub(crate) notifications: BTreeMap<i32, i64>,
}

impl Start {
    /// Reads the file, or creates it in a new folder. Call it before a host starts its work on the folder.
    pub(crate) fn of(brokers: &str, data: &Path) -> Result<Self> {
        let file = data.join(FILE);
        if let Ok(text) = fs::read(&file) {
            return serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()));
        }
        let notifications = partitions(brokers, NOTIFICATIONS)?.into_iter().map(|(number, (_, high))| (number, high));
        let start =
            Self { baskets: offsets(&partitions(brokers, producer::TOPIC)?), notifications: notifications.collect() };
        fs::write(&file, serde_json::to_string(&start)?).with_context(|| format!("write {}", file.display()))?;
        Ok(start)
    }
}

/// The plugins of the example that are subscribers.
const SUBSCRIBERS: [&str; 2] = ["notifier", "warehouse"];

/// The environment variable with the URL of the store, if it is in PostgreSQL.
pub(crate) const STORE_URL: &str = "WASMILL_DEMO_STORE";

/// How the manifest of a run differs from the example's.
#[derive(Clone, Copy)]
pub(crate) struct Differences {
    /// Whether the source begins at the end of the topic. The host stores that offset when it first sees the topic.
    pub(crate) from_end: bool,
    /// Whether the store is in the database of [`STORE_URL`].
    pub(crate) postgres: bool,
    /// The number of hosts, which divide partitions and events.
    pub(crate) hosts: u32,
}

/// Writes a copy of the manifest to the data folder.
pub(crate) fn manifest_with(differences: Differences, manifest: &Path, data: &Path) -> Result<PathBuf> {
    let read = || format!("read the manifest {}", manifest.display());
    let mut table: toml::Table = fs::read_to_string(manifest).with_context(read)?.parse().with_context(read)?;
    let folder = manifest.canonicalize()?.parent().map(Path::to_path_buf).unwrap_or_default();
    for (_, source) in tables(&mut table, "sources") {
        if differences.from_end {
            source.insert("from".into(), "end".into());
        }
        if differences.hosts > 1 {
            source.insert("membership".into(), "group".into());
        }
    }
    if differences.hosts > 1 {
        let segments = toml::Table::from_iter([("segments".to_owned(), i64::from(differences.hosts).into())]);
        let subscriptions = SUBSCRIBERS.map(|name| (name.to_owned(), segments.clone().into()));
        table.insert("subscriptions".into(), toml::Table::from_iter(subscriptions).into());
    }
    if differences.postgres {
        let url = toml::Table::from_iter([("env".to_owned(), STORE_URL.into())]);
        table.insert("store".into(), toml::Table::from_iter([("url".to_owned(), url.into())]).into());
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
