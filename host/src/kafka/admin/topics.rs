//! Topics: listing, describing, creating and deleting them.

use super::{Admin, options};
use crate::kafka::{Error, error_hints, topics};
use crate::manifest::Topic;
use rdkafka::admin::{ConfigSource, ResourceSpecifier};
use rdkafka::error::RDKafkaErrorCode;
use serde::Serialize;

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// The number of its partitions.
    pub partitions: usize,
    /// The number of replicas of its first partition.
    pub replication: usize,
    /// Partitions without a leader, or with a replica that is not in sync.
    pub unhealthy: usize,
}

/// A topic with its partitions and properties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicDescription {
    /// Its name.
    pub topic: String,
    /// The partitions, by number.
    pub partitions: Vec<PartitionDescription>,
    /// Its properties that differ from the cluster's defaults, by name.
    pub config: Vec<ConfigEntry>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: i32,
    /// The broker that leads it; `None` while a leader is being elected.
    pub leader: Option<i32>,
    /// The brokers that have a replica.
    pub replicas: Vec<i32>,
    /// The brokers whose replicas are in sync.
    pub in_sync: Vec<i32>,
    /// The offset of the oldest record.
    pub beginning: u64,
    /// The offset that the next record gets.
    pub end: u64,
}

/// A property of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` if the broker does not reveal it.
    pub value: Option<String>,
}

impl Admin {
    /// Lists all topics by name, with Kafka's internal topics only if `internal` is set.
    pub fn topics(&self, internal: bool) -> Result<Vec<TopicSummary>, Error> {
        let metadata = self.metadata(None)?;
        let wanted = metadata.topics().iter().filter(|topic| internal || !topic.name().starts_with("__"));
        let mut topics: Vec<TopicSummary> = wanted
            .map(|topic| {
                let partitions = topic.partitions();
                let ill = |partition: &&rdkafka::metadata::MetadataPartition| {
                    partition.leader() < 0 || partition.isr().len() < partition.replicas().len()
                };
                TopicSummary {
                    topic: topic.name().to_owned(),
                    partitions: partitions.len(),
                    replication: partitions.first().map_or(0, |partition| partition.replicas().len()),
                    unhealthy: partitions.iter().filter(ill).count(),
                }
            })
            .collect();
        topics.sort_by(|one, other| one.topic.cmp(&other.topic));
        Ok(topics)
    }

    /// Describes one topic.
    pub fn topic(&self, name: &str) -> Result<TopicDescription, Error> {
        self.partitions(name)?;
        let metadata = self.metadata(Some(name))?;
        let mut partitions = Vec::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (beginning, end) = self.watermarks(name, partition.id())?;
            partitions.push(PartitionDescription {
                partition: partition.id(),
                leader: Some(partition.leader()).filter(|leader| *leader >= 0),
                replicas: partition.replicas().to_vec(),
                in_sync: partition.isr().to_vec(),
                beginning,
                end,
            });
        }
        partitions.sort_by_key(|partition| partition.partition);
        let config = if self.connection.is_embedded() { Vec::new() } else { self.config(name)? };
        let of_topic = config.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut config: Vec<_> = of_topic.map(|entry| ConfigEntry { name: entry.name, value: entry.value }).collect();
        config.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(TopicDescription { topic: name.to_owned(), partitions, config })
    }

    /// Returns all properties of a topic, including defaults.
    pub(in crate::kafka) fn config(&self, topic: &str) -> Result<Vec<rdkafka::admin::ConfigEntry>, Error> {
        let wanted = [ResourceSpecifier::Topic(topic)];
        let answer = self.runtime.block_on(self.changer.describe_configs(&wanted, &options()));
        let answer = answer.map_err(|error| self.unanswered(&error))?;
        match answer.into_iter().next() {
            Some(Ok(resource)) => Ok(resource.entries),
            Some(Err(code)) => Err(failed(topic, "its properties can't be read", code)),
            None => Ok(Vec::new()),
        }
    }

    /// Creates a topic.
    pub fn create_topic(&self, name: &str, topic: &Topic) -> Result<(), Error> {
        match self.create(name, topic)? {
            Some(code) => Err(failed(name, "it can't be created", code)),
            None => Ok(()),
        }
    }

    /// Creates a topic unless it already exists. Returns whether it was created.
    pub(in crate::kafka) fn create_missing_topic(&self, name: &str, topic: &Topic) -> Result<bool, Error> {
        match self.create(name, topic)? {
            Some(RDKafkaErrorCode::TopicAlreadyExists) => Ok(false),
            Some(code) => Err(failed(name, "it can't be created", code)),
            None => Ok(true),
        }
    }

    fn create(&self, name: &str, topic: &Topic) -> Result<Option<RDKafkaErrorCode>, Error> {
        self.need_a_real_cluster("creating topics")?;
        let new = [topics::new_topic(name, topic)];
        let answer = self.runtime.block_on(self.changer.create_topics(&new, &options()));
        let result = answer.map_err(|error| self.unanswered(&error))?.into_iter().next();
        Ok(result.and_then(|result| result.err().map(|(_, code)| code)))
    }

    /// Deletes a topic with all its records.
    pub fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.need_a_real_cluster("deleting topics")?;
        let answer = self.runtime.block_on(self.changer.delete_topics(&[name], &options()));
        match answer.map_err(|error| self.unanswered(&error))?.into_iter().next() {
            Some(Err((_, code))) => Err(failed(name, "it can't be deleted", code)),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

fn failed(topic: &str, what: &str, code: RDKafkaErrorCode) -> Error {
    Error::Topic { topic: topic.to_owned(), cause: format!("{what}: {}", error_hints::answer(code)) }
}
