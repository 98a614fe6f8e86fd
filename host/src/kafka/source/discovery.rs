//! The thread that asks the brokers: which topics and partitions there are, and so what is to be read. It opens each
//! partition where the store's ledger says.

mod opening;

use super::completions::Completions;
use super::starts::{Ask, Starts};
use super::topics::TopicPartition;
use super::view::View;
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

/// How often partitions and their ends are looked up unasked, and while something is in the way.
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// How long it stays known which cluster and topics these are.
const IDENTIFY_EVERY: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Why a partition is opened again whose topic is another one now.
pub(super) const RECREATED: &str = "the topic was deleted and made again";

/// What partition discovery is asked.
pub(super) enum Request {
    /// Look now, and say what is in the way.
    Refresh(Sender<Result<(), String>>),
    /// The group has given partitions.
    Open,
    /// A partition has been closed: open it again, in a while.
    Reopen,
    Stop,
}

/// What the reader is told.
pub(super) enum Finding {
    Open(Opening),
    /// What is read under this topic's name is not what the ledgers are about, and why: its partitions are opened again.
    Foreign(Arc<str>, &'static str),
}

/// A partition to read, from its ledger's `next` on.
pub(super) struct Opening {
    pub(super) partition: TopicPartition,
    pub(super) ledger_name: Arc<str>,
    pub(super) ledger: Ledger,
    /// `Health::recreations` from before the topic's id was asked for.
    pub(super) recreations: u64,
}

/// See the module.
pub(super) struct Discovery {
    config: Arc<Config>,
    connection: Connection,
    consumer: Arc<BaseConsumer<Context>>,
    store: Arc<dyn EventStore>,
    reader: Option<Box<dyn store::Reader>>,
    view: Arc<View>,
    requests: Receiver<Request>,
    findings: Sender<Finding>,
    completions: Arc<Completions>,
    /// The topics' ids at the last look.
    ids: TopicIds,
    /// `Health::recreations` from before that look.
    recreations: u64,
    /// Where partitions start that were there at first; none until that is fixed.
    starts: Option<Starts>,
    /// Dropped once it is.
    fixed: Option<Sender<()>>,
    /// Another cluster answered at the last look.
    is_foreign: bool,
    /// When cluster and topics were looked at, if that succeeded.
    identified: Option<Instant>,
}

impl Discovery {
    #[expect(clippy::too_many_arguments, reason = "called once, next to the parts' making")]
    pub(super) fn new(
        config: Arc<Config>,
        connection: Connection,
        consumer: Arc<BaseConsumer<Context>>,
        store: Arc<dyn EventStore>,
        view: Arc<View>,
        requests: Receiver<Request>,
        findings: Sender<Finding>,
        completions: Arc<Completions>,
        fixed: Sender<()>,
    ) -> Self {
        let (ids, recreations, reader, starts, is_foreign, identified) = Default::default();
        let fixed = Some(fixed);
        Self {
            config,
            connection,
            consumer,
            store,
            reader,
            view,
            requests,
            findings,
            completions,
            ids,
            recreations,
            starts,
            fixed,
            is_foreign,
            identified,
        }
    }

    /// After a panic: it asks everything again.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.reader = None;
        Ok(())
    }

    pub(super) fn run(&mut self) {
        let mut due = Instant::now();
        // What the store knows needs no broker. Where it can't be read now, it is looked at again below.
        self.starts = Starts::find(&*self.store, &self.config.name, self.config.from).unwrap_or_default();
        if self.starts.is_some() {
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
            self.identified = result.is_ok().then(Instant::now);
        }
        // What the group has given is opened at once.
        if self.starts.is_some() {
            result = result.and(self.open_all());
        }
        let (partitions, listed) = self.partitions()?;
        if self.starts.is_none() {
            self.fix_starts()?;
        }
        let is_new = partitions.iter().any(|partition| !self.ids.contains_key(&partition.topic));
        if self.config.membership == Membership::Assigned {
            self.view.assign(partitions);
        }
        if is_new {
            result = result.and(self.identify());
        }
        result = result.and(listed).and(self.open_all());
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

    /// Whether it was looked a moment ago which cluster and topics these are, and nothing is to be opened: those who ask how
    /// far the partitions are, as `drained` does, need not wait for more answers.
    fn is_identified(&self) -> bool {
        self.identified.is_some_and(|at| at.elapsed() < IDENTIFY_EVERY)
            && self.recreations == self.consumer.context().health().recreations()
            && self.view.unopened().is_empty()
    }

    /// Where another cluster answers, nothing is read until the right one does.
    fn check_cluster(&mut self) -> Result<(), String> {
        let checked = cluster_identity::check(self.consumer.client(), &self.connection, &*self.store);
        let was_foreign = std::mem::replace(&mut self.is_foreign, matches!(checked, Err(Unfit::Another(_))));
        match checked {
            // Who does not answer now is told by the questions that follow.
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

    /// Where partitions start that are there now: as the store has it, or fixed now and kept there.
    fn fix_starts(&mut self) -> Result<(), String> {
        let Config { topics, from, name, .. } = &*self.config;
        let found = Starts::find(&*self.store, name, *from).map_err(|error| error.to_string())?;
        let ask = Ask { consumer: &self.consumer, connection: &self.connection, topics, from: *from };
        self.starts = Some(found.map_or_else(|| Starts::fix(&ask, name, &*self.store), Ok)?);
        self.fixed.take();
        Ok(())
    }

    /// Looks at the topics' ids, and has those read again from the start of all questions whose id is another one now.
    fn identify(&mut self) -> Result<(), String> {
        // On the development broker a topic ends with its broker, which the names of ledgers tell.
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
        for (topic, id) in std::mem::take(&mut self.ids) {
            match ids.get(&topic) {
                Some(now) if *now != id => {
                    tracing::warn!(source = &*self.config.name, topic = &*topic, "the topic was recreated");
                    let _ = self.findings.send(Finding::Foreign(topic, RECREATED));
                    self.completions.wake();
                }
                Some(_) => {}
                // It is gone, or can't be asked for: what comes under its name is held against what it was.
                None => _ = ids.insert(topic, id),
            }
        }
        (self.ids, self.recreations) = (ids, recreations);
        Ok(())
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
