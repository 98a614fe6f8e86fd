//! The thread that asks the brokers which topics and partitions there are. It opens each partition at the offset that
//! the store's ledger gives.

mod opening;

use super::completions::Completions;
use super::starts::{Ask, Starts};
use super::topics::TopicPartition;
use super::view::SourceView;
use super::{Config, Context};
use crate::kafka::cluster_identity::{self, Unfit};
use crate::kafka::ids::{self, TopicIds};
use crate::kafka::{Connection, Error, error_hints, watermarks};
use crate::manifest::Membership;
use crate::store::{self, EventStore, Ledger};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Interval at which partitions and their ends are looked up without a request. After an error it is [`RETRY_AFTER`].
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// Time for which the identities of the cluster and the topics are not checked again.
const IDENTIFY_EVERY: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Reason for which a partition of a recreated topic is opened again.
pub(super) const RECREATED: &str = "the topic was deleted and recreated";

/// A request to partition discovery.
pub(super) enum Request {
    /// It must look now and answer what is in the way.
    Refresh(Sender<Result<(), String>>),
    /// The group has given partitions.
    Open,
    /// A partition has been closed and must be opened again after a pause.
    Reopen,
    /// A new consumer has replaced the one that Kafka refused for good.
    Consumer(Arc<BaseConsumer<Context>>),
    Stop,
}

/// A message of partition discovery to the reader.
pub(super) enum Finding {
    Open(Opening),
    /// The records under this topic's name are not those of its ledgers, for this reason. Its partitions must be opened
    /// again.
    Foreign(Arc<str>, &'static str),
}

/// A partition to read from its ledger's `next` on.
pub(super) struct Opening {
    pub(super) partition: TopicPartition,
    pub(super) ledger_name: Arc<str>,
    pub(super) ledger: Ledger,
    /// `Health::recreations` from before the topic's id was asked for.
    pub(super) recreations: u64,
}

/// The partition discovery of one source.
pub(super) struct Discovery {
    pub(super) config: Arc<Config>,
    pub(super) connection: Connection,
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) view: Arc<SourceView>,
    pub(super) requests: Receiver<Request>,
    pub(super) findings: Sender<Finding>,
    pub(super) completions: Arc<Completions>,
    /// Dropped as soon as the start offsets of partitions are fixed.
    pub(super) fixed: Option<Sender<()>>,
    pub(super) known: DiscoveryState,
}

/// What discovery has found out.
#[derive(Default)]
pub(super) struct DiscoveryState {
    /// A reader of the store, opened when it is first needed and again after an error.
    reader: Option<Box<dyn store::Reader>>,
    /// The topics' ids at the last look.
    ids: TopicIds,
    /// `Health::recreations` from before that look.
    recreations: u64,
    /// Start offsets of the partitions that existed at first. `None` until they are fixed.
    starts: Option<Starts>,
    /// Whether another cluster answered at the last look.
    is_foreign: bool,
    /// When the cluster and the topics were last identified, if that succeeded.
    identified: Option<Instant>,
}

/// Result of a look at the topics.
struct Listing {
    partitions: Vec<TopicPartition>,
    /// The error says what is wrong with topics that are missing from `partitions`.
    complete: Result<(), String>,
}

impl Discovery {
    /// Restarts after a panic, with a new reader of the store.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.known.reader = None;
        Ok(())
    }

    pub(super) fn run(&mut self) {
        let mut due = Instant::now();
        // This needs no broker. If the store can't be read now, `fix_starts` reads it again.
        self.known.starts = Starts::find(&*self.store, &self.config.name, self.config.from).unwrap_or_default();
        if self.known.starts.is_some() {
            self.fixed.take();
        }
        loop {
            crate::supervise::round();
            let answer = match self.requests.recv_deadline(due) {
                Ok(Request::Refresh(answer)) => Some(answer),
                Ok(Request::Reopen) => {
                    due = Instant::now() + RETRY_AFTER;
                    continue;
                }
                Ok(Request::Consumer(consumer)) => {
                    // This drops the last handle on the old consumer, which can block while the brokers are away. Then
                    // this thread has nothing to do anyway.
                    self.consumer = consumer;
                    None
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
        let mut result = Ok(());
        if !self.is_identified() {
            self.check_cluster()?;
            result = self.identify();
            self.known.identified = result.is_ok().then(Instant::now);
        }
        // Partitions that the group gave are opened at once, before the brokers are asked for more.
        if self.known.starts.is_some() {
            result = result.and(self.open_all());
        }
        let Listing { partitions, complete } = self.partitions()?;
        if self.known.starts.is_none() {
            self.fix_starts()?;
        }
        let is_new = partitions.iter().any(|partition| !self.known.ids.contains_key(&partition.topic));
        if self.config.membership == Membership::Assigned {
            self.view.assign(partitions);
        }
        if is_new {
            result = result.and(self.identify());
        }
        result = result.and(complete).and(self.open_all());
        for partition in self.view.opened() {
            let end = self.watermarks(&partition).map(|(_, stable)| {
                // Unlike `stable`, the high watermark includes records of open transactions.
                let end = watermarks::high(self.consumer.client(), &partition.topic, partition.partition);
                self.view.end(&partition, end.unwrap_or(0).max(stable), stable);
            });
            result = result.and(end);
        }
        result
    }

    /// Returns whether cluster and topics were identified a moment ago and nothing is to be opened. Then a caller who
    /// only asks for the ends, as `drained` does, need not wait for more answers.
    fn is_identified(&self) -> bool {
        self.known.identified.is_some_and(|at| at.elapsed() < IDENTIFY_EVERY)
            && self.known.recreations == self.consumer.context().health().recreations()
            && self.view.unopened().is_empty()
    }

    /// Checks that the right cluster answers. If another one does, nothing is read until the right one is back.
    fn check_cluster(&mut self) -> Result<(), String> {
        let checked = cluster_identity::check(self.consumer.client(), &self.connection, &*self.store);
        let was_foreign = std::mem::replace(&mut self.known.is_foreign, matches!(checked, Err(Unfit::Another(_))));
        match checked {
            // If no broker answers, the questions that follow report it.
            Ok(()) | Err(Unfit::Unknown(_)) => Ok(()),
            Err(Unfit::Another(text)) => {
                if !was_foreign {
                    tracing::error!(source = &*self.config.name, "{text}");
                }
                for partition in self.view.opened() {
                    let _ = self.findings.send(Finding::Foreign(partition.topic, "another cluster answers"));
                }
                self.completions.wake();
                Err(text)
            }
        }
    }

    /// Takes the start offsets of the present partitions from the store, or fixes them now and keeps them there.
    fn fix_starts(&mut self) -> Result<(), String> {
        let Config { topics, from, name, .. } = &*self.config;
        let found = Starts::find(&*self.store, name, *from).map_err(|error| error.to_string())?;
        let ask = Ask { consumer: &self.consumer, connection: &self.connection, topics, from: *from };
        self.known.starts = Some(found.map_or_else(|| Starts::fix(&ask, name, &*self.store), Ok)?);
        self.fixed.take();
        Ok(())
    }

    /// Looks up the topics' ids and has the partitions of recreated topics opened again.
    fn identify(&mut self) -> Result<(), String> {
        // On the development broker a topic ends with its broker, whose id is in the names of the ledgers.
        if self.connection.is_embedded() {
            return Ok(());
        }
        let known = self.view.opened().into_iter().chain(self.view.unopened()).map(|partition| partition.topic);
        let topics: BTreeSet<Arc<str>> = known.chain(self.config.topics.named().iter().cloned()).collect();
        let topics: Vec<Arc<str>> = topics.into_iter().collect();
        let recreations = self.consumer.context().health().recreations();
        // SAFETY: the client outlives the call.
        let ids = unsafe { ids::topic_ids(self.consumer.client().native_ptr(), &topics, ANSWER_MAX) };
        let mut ids = ids.map_err(|code| format!("the ids of topics are not known: {}", error_hints::answer(code)))?;
        for (topic, id) in std::mem::take(&mut self.known.ids) {
            match ids.get(&topic) {
                Some(now) if *now != id => {
                    tracing::warn!(source = &*self.config.name, topic = &*topic, "the topic was recreated");
                    let _ = self.findings.send(Finding::Foreign(topic, RECREATED));
                    self.completions.wake();
                }
                Some(_) => {}
                // The topic is gone, or its id is unknown. A later topic of this name is compared with the last id.
                None => _ = ids.insert(topic, id),
            }
        }
        (self.known.ids, self.known.recreations) = (ids, recreations);
        Ok(())
    }

    /// Opens all unopened partitions. A partition in trouble does not hold up the others.
    fn open_all(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        for partition in self.view.unopened() {
            result = result.and(self.open(partition));
        }
        result
    }

    /// Returns the partitions of the existing topics, and what is wrong with the others. If no broker answers, it is an
    /// error.
    fn partitions(&self) -> Result<Listing, String> {
        let (mut partitions, mut complete) = (Vec::new(), Ok(()));
        let topics = &self.config.topics;
        for topic in topics.named() {
            let metadata =
                self.consumer.fetch_metadata(Some(topic), ANSWER_MAX).map_err(|error| self.in_the_way(&error))?;
            let found = metadata.topics().iter().find(|found| found.name() == &**topic);
            match self.missing(topic, found) {
                None => partitions.extend(found.into_iter().flat_map(of_topic)),
                Some(cause) => complete = complete.and(Err(cause)),
            }
        }
        if topics.has_patterns() {
            let metadata = self.consumer.fetch_metadata(None, ANSWER_MAX).map_err(|error| self.in_the_way(&error))?;
            let matching = metadata.topics().iter().filter(|found| topics.are_found_in(found.name()));
            partitions.extend(matching.flat_map(of_topic));
        }
        self.view.answered();
        Ok(Listing { partitions, complete })
    }

    /// Returns why a topic can't be read, or `None`.
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
            (Some(code), _) => Some(format!("topic {topic}: {}", error_hints::answer(code))),
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
