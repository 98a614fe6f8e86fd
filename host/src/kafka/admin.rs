//! The administration of a cluster by people and tools: topics, groups, and reading and producing records.
//!
//! An [`Admin`] is connected to a cluster that answers. Its creation fails with what is in the way, such as a wrong
//! password, and fails at once if waiting would not help. All functions here block. Except for [`stored`], none of them
//! changes what a host keeps. The types are plain data, to be shown as tables and as JSON.

pub mod consume;
mod groups;
mod native;
pub mod positions;
pub mod produce;
pub mod restored;
pub mod stored;
mod topics;

pub use groups::{Group, GroupDescription, GroupMember, GroupPartition};
pub use topics::{ConfigEntry, PartitionDescription, TopicDescription, TopicSummary};

use super::context::{Context, Health};
use super::{Connection, Error, client_error, error_hints};
use crate::manifest::From;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};
use stored::Stored;
use tokio::runtime::Runtime;

/// How long a cluster may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long connecting to a cluster is retried.
const REACH_MAX: Duration = Duration::from_secs(10);
/// How long connecting is retried once the connection to every known broker has failed.
const DOWN_MAX: Duration = Duration::from_secs(2);
/// How often the cause is checked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause before a partition without a leader is checked again.
const LEADER_WAIT: Duration = Duration::from_millis(50);

/// A cluster that answers.
pub struct Admin {
    connection: Connection,
    /// The client for requests. It never reads records.
    client: BaseConsumer<Context>,
    changer: AdminClient<Context>,
    runtime: Runtime,
}

/// The beginning and end of a partition, and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub partition: i32,
    /// The offset of the oldest record.
    pub beginning: u64,
    /// The offset of the next record that will be written.
    pub end: u64,
    /// The offset that was asked for, within beginning and end.
    pub offset: u64,
}

impl Admin {
    /// Connects to a cluster.
    pub fn connect(connection: &Connection) -> Result<Self, Error> {
        let health = Health::default();
        let failed = |error| client_error("admin", error);
        let context = Context::new("admin", health.clone());
        let client: BaseConsumer<Context> = connection.client("admin").create_with_context(context).map_err(failed)?;
        reach(connection, &client, &health)?;
        let context = Context::new("admin", health);
        let changer: AdminClient<Context> = connection.client("admin").create_with_context(context).map_err(failed)?;
        connection.log_in(changer.inner())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Client { client: "admin".into(), cause: error.to_string() })?;
        Ok(Self { connection: connection.clone(), client, changer, runtime })
    }

    /// Returns the id of a topic, as the names of ledgers have it. It is `None` if the topic does not exist or the
    /// broker gives topics no ids.
    pub fn topic_id(&self, topic: &str) -> Result<Option<String>, Error> {
        if self.connection.is_embedded() {
            return Ok(self.connection.topic_mark(None).map(str::to_owned));
        }
        let ids = self.topic_ids(&[topic.into()])?;
        Ok(ids.into_values().flatten().next().map(|id| id.as_str().to_owned()))
    }

    /// Returns the offsets that a group has committed, in the form of a source's stored offsets.
    pub fn committed_of(&self, source: &str, group: &str) -> Result<Vec<Stored>, Error> {
        self.need_a_real_cluster("looking at a group's offsets")?;
        let committed = self.committed(group)?.into_iter().map(|(topic, partition, next)| Stored {
            source: source.to_owned(),
            topic,
            partition,
            next,
            ahead: 0,
            topic_id: None,
        });
        Ok(committed.collect())
    }

    /// Sets offsets of a group without members, each with topic, partition and offset.
    pub fn set_committed(&self, group: &str, offsets: &[(&str, i32, u64)]) -> Result<(), Error> {
        self.need_a_real_cluster("setting a group's offsets")?;
        self.commit(group, offsets)
    }

    /// Returns where reading of partitions would begin. If no partition is named, it returns all of the topic.
    pub fn places(&self, topic: &str, partitions: &[i32], at: From) -> Result<Vec<Place>, Error> {
        let all = self.partitions(topic)?;
        if let Some(absent) = partitions.iter().find(|partition| !all.contains(partition)) {
            return Err(refused(topic, *absent, &format!("there is none; the topic has 0 to {}", all.len() - 1)));
        }
        let wanted = if partitions.is_empty() { &all } else { partitions };
        let mut places = Vec::new();
        for &partition in wanted {
            let (low, high) = self.watermarks(topic, partition)?;
            let offset = match at {
                From::Beginning => low,
                From::End | From::Time(_) => high,
                From::Offset(offset) if (low..=high).contains(&offset) => offset,
                From::Offset(offset) => {
                    let cause = format!("offset {offset} is not there: it has {low} to {high}; choose one of these");
                    return Err(refused(topic, partition, &cause));
                }
            };
            places.push(Place { partition, beginning: low, end: high, offset });
        }
        if let From::Time(time_ms) = at {
            self.at_time(topic, time_ms, &mut places)?;
        }
        Ok(places)
    }

    /// Sets the offsets to the first record that is not older than a time, or to the end if there is none.
    fn at_time(&self, topic: &str, time_ms: u64, places: &mut [Place]) -> Result<(), Error> {
        let mut asked = TopicPartitionList::new();
        for place in &*places {
            let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
            asked.add_partition_offset(topic, place.partition, time).map_err(|error| self.unanswered(&error))?;
        }
        let found = self.client.offsets_for_times(asked, ANSWER_MAX).map_err(|error| self.unanswered(&error))?;
        for place in places {
            let offset = found.find_partition(topic, place.partition).map(|found| found.offset());
            if let Some(Offset::Offset(offset)) = offset {
                place.offset = u64::try_from(offset).unwrap_or(0).clamp(place.beginning, place.end);
            }
        }
        Ok(())
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(u64, u64), Error> {
        let start = Instant::now();
        loop {
            match self.client.fetch_watermarks(topic, partition, ANSWER_MAX) {
                Ok((low, high)) => return Ok((low.try_into().unwrap_or(0), high.try_into().unwrap_or(0))),
                // The topic was just created, or a broker was just lost.
                Err(error) if is_moving(&error) && start.elapsed() < REACH_MAX => {
                    std::thread::park_timeout(LEADER_WAIT)
                }
                Err(error) => return Err(refused(topic, partition, &cause_of(&error))),
            }
        }
    }

    /// Returns the partitions of a topic, which must exist.
    fn partitions(&self, topic: &str) -> Result<Vec<i32>, Error> {
        let metadata = self.metadata(Some(topic))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let code = match found {
            Some(found) => found.error().map(RDKafkaErrorCode::from),
            None => Some(RDKafkaErrorCode::UnknownTopicOrPartition),
        };
        match (code, found) {
            (None, Some(found)) if !found.partitions().is_empty() => {
                let mut partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
                partitions.sort_unstable();
                Ok(partitions)
            }
            (code, _) => {
                let cause = error_hints::answer(code.unwrap_or(RDKafkaErrorCode::UnknownTopicOrPartition));
                Err(Error::Topic { topic: topic.to_owned(), cause })
            }
        }
    }

    pub(super) fn metadata(&self, topic: Option<&str>) -> Result<Metadata, Error> {
        self.client.fetch_metadata(topic, ANSWER_MAX).map_err(|error| self.unanswered(&error))
    }

    /// Fails on the development broker, which has no admin calls and crashes at some of them.
    fn need_a_real_cluster(&self, what: &str) -> Result<(), Error> {
        if self.connection.is_embedded() {
            let cause = format!("{what} is not possible on the development broker: use a real cluster");
            return Err(Error::DevBroker(cause));
        }
        Ok(())
    }

    fn unanswered(&self, error: &KafkaError) -> Error {
        // What the client has heard meanwhile says more than a time-out.
        let _ = self.client.poll(Duration::ZERO);
        let cause = self.client.context().health().trouble().unwrap_or_else(|| cause_of(error));
        Error::Unreachable { brokers: self.connection.brokers().to_owned(), cause }
    }
}

/// Waits until brokers answer. It fails when waiting does not help.
fn reach(connection: &Connection, client: &BaseConsumer<Context>, health: &Health) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        let answer = client.fetch_metadata(None, LOOK_EVERY);
        while client.poll(Duration::ZERO).is_some() {}
        let error = match answer {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let down = health.trouble().filter(|_| start.elapsed() > DOWN_MAX);
        let given_up = || (start.elapsed() > REACH_MAX).then(|| cause_of(&error));
        if let Some(cause) = health.final_trouble().or(down).or_else(given_up) {
            return Err(Error::Unreachable { brokers: connection.brokers().to_owned(), cause });
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

/// Whether the partition is changing its leader.
fn is_moving(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition};
    matches!(error.rdkafka_error_code(), Some(LeaderNotAvailable | NotLeaderForPartition))
}

fn cause_of(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), error_hints::answer)
}

fn refused(topic: &str, partition: i32, cause: &str) -> Error {
    Error::Refused { what: format!("topic {topic} partition {partition}"), cause: cause.to_owned() }
}
