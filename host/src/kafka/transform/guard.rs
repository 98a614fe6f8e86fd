//! The guard of a transform: it checks that the group's offsets belong to the cluster and the topics that are there.
//!
//! The group has the offsets, and the store knows which cluster and topics they belong to. The fact
//! `kafka/topic/SOURCE/TOPIC` holds the id of the topic that was read last. A topic that was deleted and recreated has
//! another id, and its records are not read at the old topic's offsets.

use super::{Broken, Config};
use crate::ack;
use crate::kafka::cluster_identity;
use crate::kafka::context::Context;
use crate::kafka::source::Topics;
use crate::kafka::source::starts::{Ask, Starts};
use crate::kafka::{Connection, error_hints, ids};
use crate::manifest::Recreated;
use crate::model::FactName;
use crate::store::{self, EventStore};
use crossbeam_channel::Sender;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The check of cluster and topics against what the store knows.
pub(super) struct Guard {
    config: Arc<Config>,
    connection: Connection,
    store: Arc<dyn EventStore>,
    topics: Topics,
    starts: Option<Starts>,
    /// The sender that is dropped once the start offsets are fixed.
    fixed: Option<Sender<()>>,
}

/// What is known about the topics of some partitions.
#[derive(Default)]
pub(super) struct Known {
    ids: ids::TopicIds,
    /// The recreated topics, which are read from their beginning, whatever the group has committed.
    recreated: BTreeSet<Arc<str>>,
}

impl Known {
    pub(super) fn are_any_recreated(&self) -> bool {
        !self.recreated.is_empty()
    }

    pub(super) fn is_recreated(&self, topic: &str) -> bool {
        self.recreated.contains(topic)
    }
}

impl Guard {
    pub(super) fn new(
        config: Arc<Config>,
        connection: Connection,
        store: Arc<dyn EventStore>,
        fixed: Sender<()>,
    ) -> Self {
        let topics = Topics::new(&config.topics, &config.written);
        Self { config, connection, store, topics, starts: None, fixed: Some(fixed) }
    }

    /// Whether the host writes to a topic, so that no pattern may match it.
    pub(super) fn is_without(&self, topic: &str) -> bool {
        self.topics.are_without(topic)
    }

    /// Fixes the start offsets of the existing partitions, once.
    pub(super) fn fix_starts(&mut self, consumer: &BaseConsumer<Context>) -> Result<(), Broken> {
        if self.starts.is_some() {
            return Ok(());
        }
        self.check_cluster(consumer)?;
        let (name, from) = (&self.config.name, self.config.from);
        let starts = match Starts::find(&*self.store, name, from).map_err(|error| failed(&error))? {
            Some(starts) => starts,
            None => {
                let ask = Ask { consumer, connection: &self.connection, topics: &self.topics, from };
                Starts::fix(&ask, name, &*self.store).map_err(Broken::StartOver)?
            }
        };
        (self.starts, self.fixed) = (Some(starts), None);
        Ok(())
    }

    /// Returns the start offset of a partition for which the group has no offset; `None` is its beginning.
    pub(super) fn start(&self, known: &Known, topic: &str, partition: i32) -> Option<u64> {
        let id = known.ids.get(topic).and_then(Option::as_ref);
        self.starts.as_ref()?.of(topic, self.connection.topic_mark(id), partition)
    }

    /// Checks cluster and topics before partitions are read.
    pub(super) fn look(&self, consumer: &BaseConsumer<Context>, topics: BTreeSet<Arc<str>>) -> Result<Known, Broken> {
        if self.connection.is_embedded() || topics.is_empty() {
            return Ok(Known::default());
        }
        self.check_cluster(consumer)?;
        let topics: Vec<_> = topics.into_iter().collect();
        // SAFETY: the client outlives the call.
        let ids = unsafe { ids::topic_ids(consumer.client().native_ptr(), &topics, ANSWER_MAX) };
        let ids = ids.map_err(|code| {
            Broken::StartOver(format!("the ids of topics are not known: {}", error_hints::answer(code)))
        })?;
        let mut known = Known { ids, ..Known::default() };
        let mut reader = self.store.reader().map_err(|error| failed(&error))?;
        for topic in topics {
            let Some(id) = known.ids.get(&topic) else {
                return Err(Broken::StartOver(format!("topic {topic} does not exist, or may not be described")));
            };
            let was = reader.fact(&self.fact(&topic)).map_err(|error| failed(&error))?;
            match (was, id) {
                (Some(was), Some(id)) if was != id.as_str() => {
                    if self.config.recreated == Recreated::Stop {
                        return Err(Broken::GiveUp(self.recreated(&topic, id.as_str(), &was)));
                    }
                    known.recreated.insert(topic);
                }
                (None, Some(id)) => self.keep(&topic, id.as_str())?,
                _ => {}
            }
        }
        Ok(known)
    }

    /// Records the ids of recreated topics, once the group has offsets of the new ones.
    pub(super) fn accept(&self, known: &Known) -> Result<(), Broken> {
        for topic in &known.recreated {
            if let Some(Some(id)) = known.ids.get(topic) {
                tracing::warn!(source = &*self.config.name, topic = &**topic, "recreated: read from its beginning");
                self.keep(topic, id.as_str())?;
            }
        }
        Ok(())
    }

    fn check_cluster(&self, consumer: &BaseConsumer<Context>) -> Result<(), Broken> {
        let checked = cluster_identity::check(consumer.client(), &self.connection, &*self.store);
        checked.map_err(|unfit| Broken::StartOver(unfit.text()))
    }

    fn keep(&self, topic: &str, id: &str) -> Result<(), Broken> {
        let kept = ack::wait(|ack| self.store.set_fact(&self.fact(topic), Some(id.to_owned()), ack));
        kept.map_err(|error| failed(&error))
    }

    fn fact(&self, topic: &str) -> String {
        FactName::TopicId { source: &self.config.name, topic }.to_string()
    }

    fn recreated(&self, topic: &str, id: &str, was: &str) -> String {
        let name = &self.config.name;
        format!(
            "topic {topic} was deleted and recreated: its id is {id}, and this source has read {was}. Say where to go on: \
             stop the host, run `wasmill kafka offsets reset {name} --topic {topic} --to beginning --yes` (or `--to end`, or \
             an offset), and start it again; `recreated = \"beginning\"` in [sources.{name}] always starts from the beginning"
        )
    }
}

fn failed(error: &store::Error) -> Broken {
    Broken::StartOver(error.to_string())
}
