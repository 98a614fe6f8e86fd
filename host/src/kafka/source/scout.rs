//! The thread that asks the brokers: which partitions there are, where they begin and end, and so where each is read
//! from. It also notices what retention removed and topics that were made anew.

use super::completions::Completions;
use super::view::View;
use super::{Config, Context};
use crate::kafka::{Connection, wait_for};
use crate::manifest::From as StartAt;
use crate::model::{DeadLetter, Origin, Parked, now_ms};
use crate::store::{self, EventStore, Ledger};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
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
    /// A partition has been closed: open it again, in a while.
    Reopen,
    Stop,
}

/// A partition to read, from its ledger's `next` on.
pub(super) struct Opening {
    pub(super) partition: i32,
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

/// What stands between the store's ledger and what Kafka has.
enum Found {
    Readable { ledger: Ledger, lost: Option<String> },
    BeyondEnd { next: u64 },
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

    pub(super) fn run(mut self) {
        let mut due = Instant::now();
        loop {
            let answer = match self.requests.recv_deadline(due) {
                Ok(Request::Refresh(answer)) => Some(answer),
                Ok(Request::Reopen) => {
                    due = Instant::now() + RETRY_AFTER;
                    continue;
                }
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => None,
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
        let partitions = self.partitions()?;
        self.view.found(partitions.into_iter());
        let opened = self.view.opened();
        // A partition in trouble must not keep the others waiting.
        let mut result = Ok(());
        for partition in self.view.unopened() {
            result = result.and(self.open(partition));
        }
        for partition in opened {
            let end = self.watermarks(partition).map(|(_, end)| self.view.end(partition, end));
            result = result.and(end);
        }
        result
    }

    fn partitions(&self) -> Result<Vec<i32>, String> {
        let topic = &self.config.topic;
        let metadata =
            self.consumer.fetch_metadata(Some(topic), ANSWER_MAX).map_err(|error| self.in_the_way(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == &**topic);
        let code = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
        match (code, found) {
            (None, Some(found)) if !found.partitions().is_empty() => {
                Ok(found.partitions().iter().map(|partition| partition.id()).collect())
            }
            (Some(RDKafkaErrorCode::TopicAuthorizationFailed), _) => Err(format!(
                "topic {topic}: not authorized; grant this principal Describe and Read on it (and Read on the group)"
            )),
            (None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic), _) => {
                Err(format!(
                    "topic {topic} does not exist at {}; create it, or list it as [kafka.topics.{topic}] in the manifest",
                    self.connection.brokers()
                ))
            }
            (Some(code), _) => Err(format!("topic {topic}: {code}")),
        }
    }

    fn open(&mut self, partition: i32) -> Result<(), String> {
        let (low, high) = self.watermarks(partition)?;
        let ledger_name = self.connection.ledger(&self.config.name, &self.config.topic, partition);
        let found = self.find(partition, &ledger_name, low, high).map_err(|error| {
            self.reader = None;
            self.trouble(partition, &error.to_string())
        })?;
        match found {
            Found::Readable { ledger, lost } => {
                self.view.open(partition, ledger.next, high, lost);
                let _ = self.openings.send(Opening { partition, ledger_name, ledger });
                self.completions.wake();
            }
            Found::BeyondEnd { next } => {
                let name = &self.config.name;
                let error = self.trouble(
                    partition,
                    &format!(
                        "offset {next} comes next but the partition ends at {high}: the topic was made anew or lost \
                         records; to read it from its start give [sources.{name}] another name and restart"
                    ),
                );
                tracing::error!(source = &**name, "{error}");
                self.view.give_up(partition, high, error);
            }
        }
        Ok(())
    }

    fn find(&mut self, partition: i32, name: &Arc<str>, low: u64, high: u64) -> Result<Found, store::Error> {
        let Some(mut ledger) = self.ledger(name)? else {
            let next = if self.config.from == StartAt::End { high } else { low };
            wait_for(|done| self.store.start_ledger(name, next, done))?;
            return Ok(Found::Readable { ledger: Ledger { next, ..Ledger::default() }, lost: None });
        };
        let read_until = ledger.ahead.values().next_back().map_or(ledger.next, |&last| last + 1);
        if read_until > high {
            return Ok(Found::BeyondEnd { next: read_until });
        }
        let mut lost = None;
        if ledger.next < low {
            lost = Some(self.park_lost(partition, name, ledger.next, low - 1)?);
            ledger.settle(ledger.next, low - 1);
        }
        Ok(Found::Readable { ledger, lost })
    }

    fn ledger(&mut self, name: &Arc<str>) -> Result<Option<Ledger>, store::Error> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.store.reader()?),
        };
        let ledgers = reader.ledgers(name)?;
        Ok(ledgers.into_iter().find(|(found, _)| **found == **name).map(|(_, ledger)| ledger))
    }

    /// Records that are gone before they were read: one dead letter for the range settles it.
    fn park_lost(&self, partition: i32, name: &Arc<str>, first: u64, last: u64) -> Result<String, store::Error> {
        let (source, topic, count) = (&self.config.name, &self.config.topic, last - first + 1);
        let reason = format!(
            "up to {count} records were removed by the topic's retention before they were read; keep records longer, \
             or let the host run more often"
        );
        let place = format!("topic {topic} partition {partition} offsets {first} to {last}");
        let error = format!("{place}: {reason}");
        tracing::error!(source = &**source, "{error}");
        let consumer = source.to_string();
        let letter = DeadLetter { consumer, place, key: None, reason, payload: Vec::new(), time_ms: now_ms(), content: Parked::Gone };
        let origin = Origin { ledger: name.clone(), first, last };
        wait_for(|done| self.store.park(letter, Some(origin), done))?;
        Ok(error)
    }

    fn watermarks(&self, partition: i32) -> Result<(u64, u64), String> {
        let (low, high) = self
            .consumer
            .fetch_watermarks(&self.config.topic, partition, ANSWER_MAX)
            .map_err(|error| self.trouble(partition, &error.to_string()))?;
        Ok((low.try_into().unwrap_or(0), high.try_into().unwrap_or(0)))
    }

    fn in_the_way(&self, error: &KafkaError) -> String {
        let cause = self.consumer.context().health().trouble().unwrap_or_else(|| error.to_string());
        format!("Kafka at {} does not answer: {cause}", self.connection.brokers())
    }

    fn trouble(&self, partition: i32, cause: &str) -> String {
        format!("topic {} partition {partition}: {cause}", self.config.topic)
    }
}
