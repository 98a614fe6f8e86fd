//! Topics that the manifest wants: made when they are missing, never changed when they are there.

use super::context::{Context, Health};
use super::{Connection, Error, client_error};
use crate::manifest::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use std::collections::BTreeMap;
use std::time::Duration;

/// As a topic's replication: what the cluster gives by default.
pub(super) const REPLICATION_OF_CLUSTER: i32 = -1;
const ANSWER_MAX: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What was found and done about the topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Topics that were made.
    pub made: Vec<String>,
    /// Differences between the manifest and what exists, a sentence each. Nothing was changed.
    pub differences: Vec<String>,
}

/// Makes the topics that are missing and reports how the others differ. The development broker makes its topics
/// itself (`dev_broker::ensure`); there only differences are reported. Blocks: not for an async worker.
pub fn ensure(connection: &Connection, topics: &BTreeMap<String, Topic>) -> Result<Report, Error> {
    if topics.is_empty() {
        return Ok(Report::default());
    }
    let admin: AdminClient<Context> = connection
        .client("topics")
        .create_with_context(Context::new("topics", Health::default()))
        .map_err(|error| client_error("topics", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Client { client: "topics".into(), cause: error.to_string() })?;
    let ensuring = Ensuring { connection, admin };
    let mut report = Report::default();
    let missing = ensuring.compare(topics, &mut report.differences)?;
    if !connection.is_embedded() {
        runtime.block_on(ensuring.compare_config(topics, &missing, &mut report.differences))?;
        runtime.block_on(ensuring.make(topics, &missing, &mut report.made))?;
    }
    Ok(report)
}

/// The same from a thread of its own, again and again until the cluster answers, into the log.
///
/// Sources and the sink need no wait for it: they find a topic when it is there. Ends when the value is dropped.
pub fn ensure_when_reachable(connection: Connection, topics: BTreeMap<String, Topic>) -> Result<Pending, Error> {
    let (stop, stopped) = crossbeam_channel::bounded::<()>(1);
    let work = move || {
        loop {
            match ensure(&connection, &topics) {
                Ok(report) => return log(&report),
                Err(error) => tracing::warn!("topics are not ensured yet: {error}"),
            }
            if stopped.recv_timeout(RETRY_AFTER) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("kafka-topics".into()).spawn(work);
    thread.map_err(|error| Error::Client { client: "topics".into(), cause: error.to_string() })?;
    Ok(Pending { _stop: stop })
}

/// Topics on their way.
pub struct Pending {
    _stop: crossbeam_channel::Sender<()>,
}

fn log(report: &Report) {
    for topic in &report.made {
        tracing::info!(topic, "topic made");
    }
    for difference in &report.differences {
        tracing::warn!("{difference}");
    }
}

struct Ensuring<'a> {
    connection: &'a Connection,
    admin: AdminClient<Context>,
}

impl Ensuring<'_> {
    /// Notes differences and returns the topics that do not exist.
    fn compare<'t>(
        &self,
        topics: &'t BTreeMap<String, Topic>,
        differences: &mut Vec<String>,
    ) -> Result<Vec<&'t str>, Error> {
        // All topics: asking for one by name could make it.
        let metadata = self.admin.inner().fetch_metadata(None, ANSWER_MAX).map_err(|error| self.unreachable(&error))?;
        let mut missing = Vec::new();
        for (name, wanted) in topics {
            match metadata.topics().iter().find(|topic| topic.name() == name) {
                Some(topic) => compare(wanted, topic, differences),
                None => missing.push(name.as_str()),
            }
        }
        Ok(missing)
    }

    async fn compare_config(
        &self,
        topics: &BTreeMap<String, Topic>,
        missing: &[&str],
        differences: &mut Vec<String>,
    ) -> Result<(), Error> {
        let configured =
            |(name, topic): &(&String, &Topic)| !topic.config.is_empty() && !missing.contains(&name.as_str());
        for (name, wanted) in topics.iter().filter(configured) {
            let answer = self.admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options()).await;
            let answer = answer.map_err(|error| self.unreachable(&error))?;
            let Some(Ok(actual)) = answer.into_iter().next() else { continue };
            for (property, value) in &wanted.config {
                let actual = actual.get(property).and_then(|entry| entry.value.as_deref()).unwrap_or("(not set)");
                if actual != value {
                    differences.push(format!(
                        "topic {name} has {property} = {actual}, the manifest says {value}; nothing was changed"
                    ));
                }
            }
        }
        Ok(())
    }

    async fn make(
        &self,
        topics: &BTreeMap<String, Topic>,
        missing: &[&str],
        made: &mut Vec<String>,
    ) -> Result<(), Error> {
        let new: Vec<NewTopic<'_>> = missing.iter().map(|name| new_topic(name, &topics[*name])).collect();
        if new.is_empty() {
            return Ok(());
        }
        let results = self.admin.create_topics(&new, &options()).await.map_err(|error| self.unreachable(&error))?;
        for result in results {
            match result {
                Ok(topic) => made.push(topic),
                // Another host was faster.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(Error::Topic { topic, cause: format!("can't be made: {code}") }),
            }
        }
        Ok(())
    }

    fn unreachable(&self, error: &KafkaError) -> Error {
        Error::Unreachable { brokers: self.connection.brokers().to_owned(), cause: error.to_string() }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

fn new_topic<'a>(name: &'a str, topic: &'a Topic) -> NewTopic<'a> {
    let new = NewTopic::new(name, topic.partitions, TopicReplication::Fixed(topic.replication));
    topic.config.iter().fold(new, |new, (property, value)| new.set(property, value))
}

fn compare(wanted: &Topic, actual: &MetadataTopic, differences: &mut Vec<String>) {
    let name = actual.name();
    let (partitions, replication) =
        (actual.partitions().len(), actual.partitions().first().map_or(0, |partition| partition.replicas().len()));
    if partitions as i64 != i64::from(wanted.partitions) {
        differences.push(format!(
            "topic {name} has {partitions} partitions, the manifest says {}; nothing was changed",
            wanted.partitions
        ));
    }
    if wanted.replication != REPLICATION_OF_CLUSTER && replication as i64 != i64::from(wanted.replication) {
        differences.push(format!(
            "topic {name} has {replication} replicas, the manifest says {}; nothing was changed",
            wanted.replication
        ));
    }
}
