//! The thread that asks the brokers: which topics and partitions there are, and so what is to be read. It opens each
//! partition where the store's ledger says.

mod opening;

use super::completions::Completions;
use super::topics::TopicPartition;
use super::view::View;
use super::{Config, Context};
use crate::kafka::{Connection, Error, trouble, watermarks};
use crate::manifest::Membership;
use crate::store::{self, EventStore, Ledger};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often partitions and their ends are looked up unasked, and while something is in the way.
const ROUND_EVERY: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What the scout is asked.
pub(super) enum Request {
    /// Look now, and say what is in the way.
    Refresh(Sender<Result<(), String>>),
    /// The group has given partitions.
    Open,
    /// A partition has been closed: open it again, in a while.
    Reopen,
    Stop,
}

/// A partition to read, from its ledger's `next` on.
pub(super) struct Opening {
    pub(super) partition: TopicPartition,
    pub(super) ledger_name: Arc<str>,
    pub(super) ledger: Ledger,
}

/// See the module.
pub(super) struct Scout {
    config: Arc<Config>,
    connection: Connection,
    consumer: Arc<BaseConsumer<Context>>,
    store: Arc<dyn EventStore>,
    reader: Option<Box<dyn store::Reader>>,
    view: Arc<View>,
    requests: Receiver<Request>,
    openings: Sender<Opening>,
    completions: Arc<Completions>,
}

impl Scout {
    #[expect(clippy::too_many_arguments, reason = "called once, next to the parts' making")]
    pub(super) fn new(
        config: Arc<Config>,
        connection: Connection,
        consumer: Arc<BaseConsumer<Context>>,
        store: Arc<dyn EventStore>,
        view: Arc<View>,
        requests: Receiver<Request>,
        openings: Sender<Opening>,
        completions: Arc<Completions>,
    ) -> Self {
        Self { config, connection, consumer, store, reader: None, view, requests, openings, completions }
    }

    /// After a panic: it asks everything again.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.reader = None;
        Ok(())
    }

    pub(super) fn run(&mut self) {
        let mut due = Instant::now();
        loop {
            crate::supervise::round();
            let answer = match self.requests.recv_deadline(due) {
                Ok(Request::Refresh(answer)) => Some(answer),
                Ok(Request::Reopen) => {
                    due = Instant::now() + RETRY_AFTER;
                    continue;
                }
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Request::Open) | Err(RecvTimeoutError::Timeout) => None,
            };
            let result = self.round();
            due = Instant::now() + if result.is_ok() { ROUND_EVERY } else { RETRY_AFTER };
            self.view.round(result.clone().err());
            if let Some(answer) = answer {
                let _ = answer.send(result);
            }
        }
    }

    fn round(&mut self) -> Result<(), String> {
        // What the group has given is opened at once.
        let opened_first = self.open_all();
        let (partitions, mut result) = self.partitions()?;
        result = result.and(opened_first);
        if self.config.membership == Membership::Assigned {
            self.view.assign(partitions);
            result = result.and(self.open_all());
        }
        for partition in self.view.opened() {
            let end = self.watermarks(&partition).map(|(_, stable)| {
                // What is not committed yet is there too.
                let end = watermarks::high(self.consumer.client(), &partition.topic, partition.partition);
                self.view.end(&partition, end.unwrap_or(0).max(stable), stable);
            });
            result = result.and(end);
        }
        result
    }

    /// A partition in trouble must not keep the others waiting.
    fn open_all(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        for partition in self.view.unopened() {
            result = result.and(self.open(partition));
        }
        result
    }

    /// The partitions of the topics that are there, and what is wrong with the others. An error where no broker
    /// answers.
    #[allow(clippy::type_complexity)] // what was found and what was not
    fn partitions(&self) -> Result<(Vec<TopicPartition>, Result<(), String>), String> {
        let (mut partitions, mut result) = (Vec::new(), Ok(()));
        let topics = &self.config.topics;
        for topic in topics.named() {
            let metadata =
                self.consumer.fetch_metadata(Some(topic), ANSWER_MAX).map_err(|error| self.in_the_way(&error))?;
            let found = metadata.topics().iter().find(|found| found.name() == &**topic);
            match self.missing(topic, found) {
                None => partitions.extend(found.into_iter().flat_map(of_topic)),
                Some(cause) => result = result.and(Err(cause)),
            }
        }
        if topics.has_patterns() {
            let metadata = self.consumer.fetch_metadata(None, ANSWER_MAX).map_err(|error| self.in_the_way(&error))?;
            let matching = metadata.topics().iter().filter(|found| topics.are_found_in(found.name()));
            partitions.extend(matching.flat_map(of_topic));
        }
        self.view.answered();
        Ok((partitions, result))
    }

    /// Why a topic can't be read.
    fn missing(&self, topic: &str, found: Option<&MetadataTopic>) -> Option<String> {
        let code = found.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
        match (code, found) {
            (None, Some(found)) if !found.partitions().is_empty() => None,
            (Some(RDKafkaErrorCode::TopicAuthorizationFailed), _) => Some(format!(
                "topic {topic}: not authorized; grant this principal Describe and Read on it (and Read on the group)"
            )),
            (None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic), _) => {
                Some(format!(
                    "topic {topic} does not exist at {}; create it, or list it as [kafka.topics.{topic}] in the manifest",
                    self.connection.brokers()
                ))
            }
            (Some(code), _) => Some(format!("topic {topic}: {}", trouble::answer(code))),
        }
    }

    fn watermarks(&self, partition: &TopicPartition) -> Result<(u64, u64), String> {
        let (low, high) = self
            .consumer
            .fetch_watermarks(&partition.topic, partition.partition, ANSWER_MAX)
            .map_err(|error| format!("{partition}: {error}"))?;
        Ok((low.try_into().unwrap_or(0), high.try_into().unwrap_or(0)))
    }

    fn in_the_way(&self, error: &KafkaError) -> String {
        let cause = self.consumer.context().health().trouble().unwrap_or_else(|| error.to_string());
        format!("Kafka at {} does not answer: {cause}", self.connection.brokers())
    }
}

fn of_topic(topic: &MetadataTopic) -> impl Iterator<Item = TopicPartition> + use<> {
    let name: Arc<str> = topic.name().into();
    let numbers: Vec<i32> = topic.partitions().iter().map(|partition| partition.id()).collect();
    numbers.into_iter().map(move |partition| TopicPartition { topic: name.clone(), partition })
}
