//! The topics that the manifest lists. Missing ones are created, and existing ones are never changed.
//!
//! If an existing topic differs in partitions, replicas or properties, the log and the status show it. A topic that
//! can't be created does not delay the others.

use super::admin::Admin;
use super::{Connection, Error};
use crate::manifest::Topic;
use crate::supervise::{self, Held as _};
use rdkafka::admin::{ConfigEntry, NewTopic, TopicReplication};
use rdkafka::metadata::MetadataTopic;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The replication factor that stands for the cluster's default.
pub(super) const REPLICATION_OF_CLUSTER: i32 = -1;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The result of a check of the topics.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Topics that were created.
    pub made: Vec<String>,
    /// Differences between the manifest and existing topics, a sentence each. Nothing was changed.
    pub differences: Vec<String>,
    /// Topics that could not be created or checked, with the cause and the remedy. A retry may help.
    pub failed: Vec<Error>,
}

/// Creates missing topics and reports how the others differ. The development broker creates its topics itself
/// (`dev_broker::ensure`), and there this only reports differences. It blocks, so it is not for an async worker.
pub fn ensure(connection: &Connection, topics: &BTreeMap<String, Topic>) -> Result<Report, Error> {
    let mut report = Report::default();
    if topics.is_empty() {
        return Ok(report);
    }
    let admin = Admin::connect(connection)?;
    // This asks for all topics, because asking for one by name could create it.
    let metadata = admin.metadata(None)?;
    for (name, wanted) in topics {
        match metadata.topics().iter().find(|topic| topic.name() == name) {
            Some(actual) => {
                compare(wanted, actual, &mut report.differences);
                if !connection.is_embedded() && !wanted.config.is_empty() {
                    match admin.config(name) {
                        Ok(actual) => compare_config(name, wanted, &actual, &mut report.differences),
                        Err(error) => report.failed.push(error),
                    }
                }
            }
            None if connection.is_embedded() => {}
            None => match admin.create_missing_topic(name, wanted) {
                Ok(true) => report.made.push(name.clone()),
                Ok(false) => {}
                Err(error) => report.failed.push(error),
            },
        }
    }
    Ok(report)
}

/// Runs [`ensure`] on its own thread, with retries until it succeeds, and logs the results.
///
/// Sources and sinks need not wait for it, because they find a topic once it exists. The thread ends when the value is
/// dropped.
pub fn ensure_when_reachable(connection: Connection, topics: BTreeMap<String, Topic>) -> Result<Pending, Error> {
    let (stop, stopped) = crossbeam_channel::bounded::<()>(1);
    let (brokers, notes) = (connection.brokers().to_owned(), Arc::new(Mutex::new(Vec::new())));
    let work = {
        let notes = notes.clone();
        move |_: &mut ()| {
            let mut pause = RETRY_FIRST;
            loop {
                supervise::round();
                let report = ensure(&connection, &topics)
                    .unwrap_or_else(|error| Report { failed: vec![error], ..Report::default() });
                let is_done = report.failed.is_empty();
                note(&notes, report);
                if is_done || stopped.recv_timeout(pause) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                    return;
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    };
    let thread = super::start_thread("kafka-topics".to_owned(), || Ok(()), |()| Ok(()), work)?;
    Ok(Pending { brokers, notes, stop: Some(stop), thread })
}

/// The running creation of topics.
pub struct Pending {
    brokers: String,
    notes: Arc<Mutex<Vec<String>>>,
    stop: Option<crossbeam_channel::Sender<()>>,
    thread: supervise::Thread,
}

impl Drop for Pending {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.end();
    }
}

impl Pending {
    /// Returns the cluster's addresses.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Returns how topics differ from the manifest, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.notes.held().clone()
    }
}

/// Logs created topics, and differences and failures that were not logged before.
fn note(notes: &Mutex<Vec<String>>, report: Report) {
    for topic in &report.made {
        tracing::info!(topic, "topic created");
    }
    let mut notes = notes.held();
    let failed = report.failed.iter().map(Error::to_string);
    let new: Vec<String> = report.differences.into_iter().chain(failed).collect();
    for text in new.iter().filter(|text| !notes.contains(text)) {
        tracing::warn!("{text}");
    }
    *notes = new;
}

pub(super) fn new_topic<'a>(name: &'a str, topic: &'a Topic) -> NewTopic<'a> {
    let new = NewTopic::new(name, topic.partitions, TopicReplication::Fixed(topic.replication));
    topic.config.iter().fold(new, |new, (property, value)| new.set(property, value))
}

fn compare(wanted: &Topic, actual: &MetadataTopic, differences: &mut Vec<String>) {
    let name = actual.name();
    let (partitions, replication) =
        (actual.partitions().len(), actual.partitions().first().map_or(0, |partition| partition.replicas().len()));
    if partitions as i64 != i64::from(wanted.partitions) {
        differences.push(differs(name, &format!("{partitions} partitions"), &wanted.partitions.to_string()));
    }
    if wanted.replication != REPLICATION_OF_CLUSTER && replication as i64 != i64::from(wanted.replication) {
        differences.push(differs(name, &format!("{replication} replicas"), &wanted.replication.to_string()));
    }
}

fn compare_config(name: &str, wanted: &Topic, actual: &[ConfigEntry], differences: &mut Vec<String>) {
    for (property, value) in &wanted.config {
        match actual.iter().find(|entry| entry.name == *property).map(|entry| entry.value.as_deref()) {
            Some(Some(actual)) if same_list(actual, value) => {}
            Some(actual) => {
                differences.push(differs(name, &format!("{property} = {}", actual.unwrap_or("(not set)")), value));
            }
            None => differences.push(format!(
                "topic {name}: the cluster knows no property {property}, which the manifest sets; check its name"
            )),
        }
    }
}

fn differs(topic: &str, actual: &str, wanted: &str) -> String {
    format!("topic {topic} has {actual}, the manifest says {wanted}; nothing was changed: make them agree by hand")
}

/// Whether two lists are equal in any order, as for `cleanup.policy`.
fn same_list(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
        items.sort();
        items
    };
    sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::admin::ConfigSource;

    #[test]
    fn properties_that_differ_are_told_from_those_that_are_written_differently() {
        let entry = |name: &str, value: Option<&str>| ConfigEntry {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            source: ConfigSource::Default,
            is_read_only: false,
            is_default: true,
            is_sensitive: false,
        };
        let actual = [entry("cleanup.policy", Some("compact,delete")), entry("retention.ms", Some("1"))];
        let config = [("cleanup.policy", "delete, compact"), ("retention.ms", "2"), ("retention.msec", "1")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut differences = Vec::new();
        compare_config("baskets", &Topic { config, ..Topic::default() }, &actual, &mut differences);
        assert_eq!(
            differences,
            [
                "topic baskets has retention.ms = 1, the manifest says 2; nothing was changed: make them agree by hand",
                "topic baskets: the cluster knows no property retention.msec, which the manifest sets; check its name",
            ]
        );
    }
}
