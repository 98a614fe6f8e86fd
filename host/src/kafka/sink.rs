//! Messages into Kafka: what a feed holds, in order, each with the id that tells a repetition.
//!
//! There are three feeds: the outbox, where subscribers put messages; recorded events that pass a filter; and the dead
//! letters of a source. A sink has a thread, a producer, a name for its transactions and a position of its own. It reads
//! a batch after the position, publishes it, waits until it is safely in Kafka, and moves the position. A message that
//! Kafka refuses for good is dead-lettered and the rest goes on; everything else is tried until it works.
//!
//! What a crash between Kafka and the store does is the publisher's promise: with the `transactional` one Kafka has the
//! position too, so that nothing is lost or repeated; the idempotent one repeats a batch.

mod events;
mod feed;
pub(super) mod letters;
pub(super) mod publisher;
mod seat;
mod sender;
mod transactional;
mod worker;

use super::context::Health;
use super::{Connection, Error, Statistics, start_thread};
use crate::filter::Filter;
use crate::manifest::{self, SinkKey, SinkMode, Start, Target, Transaction};
use crate::meter::{self, Histogram};
use crate::model::SinkName;
use crate::status::{SinkStatus, State};
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _};
use feed::{Feed, Head};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use worker::Worker;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long closing a producer may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What a sink is called, what it publishes, and how much at a time.
#[derive(Clone, Debug)]
pub struct Config {
    /// What people call it, and part of its transactional id.
    pub name: Arc<str>,
    /// The section of the manifest that it is from, such as `sinks.orders`.
    pub section: String,
    /// What it publishes.
    pub content: Content,
    /// How many messages are published and acknowledged together.
    pub batch_max: usize,
    /// How long a batch that is not full waits for more.
    pub batch_wait: Duration,
    /// What a crash may do to readers. The development broker has no transactions: there it is always idempotent.
    pub mode: SinkMode,
    /// Tells hosts that must not publish both; by default made from the store's identity.
    pub transactional_id: Option<String>,
    /// How long `stop` waits for the batch in work.
    pub drain_max: Duration,
}

/// What a sink publishes.
#[derive(Clone, Debug)]
pub enum Content {
    /// The messages of subscribers.
    Outbox,
    /// Recorded events.
    Events {
        /// Which ones.
        filter: Filter,
        /// Where to.
        topic: String,
        /// What their records have as key.
        key: SinkKey,
        /// Where it starts without a position.
        start: Start,
    },
    /// What a source dead-lettered.
    Letters {
        /// The source.
        source: Arc<str>,
        /// Its consumer group, which the records name.
        group: String,
        /// How the bytes of its keys became ids of aggregates.
        key: manifest::Key,
        /// The command that its records without a value became.
        tombstone: Option<String>,
        /// Where to.
        topic: String,
    },
}

impl Config {
    /// The sink of the outbox.
    pub fn new(sink: &manifest::Sink) -> Self {
        Self::with("outbox", "sink".to_owned(), Content::Outbox, sink)
    }

    /// A sink of recorded events, by its name in the manifest.
    pub fn events(name: &str, sink: &manifest::EventSink) -> Self {
        let manifest::EventSink { filter, topic, key, start, settings, .. } = sink.clone();
        Self::with(name, format!("sinks.{name}"), Content::Events { filter, topic, key, start }, &settings)
    }

    /// The sink of what a source dead-letters, where it has a topic for that. It is as the outbox's is, with a
    /// transactional id of its own.
    pub fn letters(name: &str, source: &manifest::Source, outbox: &manifest::Sink) -> Option<Self> {
        let topic = source.dead_letter_topic.clone()?;
        let (key, tombstone) = match &source.target {
            Target::Commands(commands) => (commands.key, commands.tombstone.clone()),
            // It writes to the topic itself; the store has none of its dead letters.
            Target::Deliveries(deliveries) if deliveries.transaction == Transaction::Kafka => return None,
            Target::Deliveries(_) => Default::default(),
        };
        let group = source.group_of(name);
        let content = Content::Letters { source: name.into(), group, key, tombstone, topic };
        let settings = manifest::Sink { transactional_id: None, ..outbox.clone() };
        Some(Self::with(&format!("dead-letters-{name}"), "sink".to_owned(), content, &settings))
    }

    fn with(name: &str, section: String, content: Content, sink: &manifest::Sink) -> Self {
        Self {
            name: name.into(),
            section,
            content,
            batch_max: sink.batch_max,
            batch_wait: Duration::from_millis(sink.batch_wait_ms),
            mode: sink.mode,
            transactional_id: sink.transactional_id.clone(),
            drain_max: Duration::from_secs(10),
        }
    }

    /// What its position in the store is kept under. Another name starts anew.
    fn position_name(&self) -> String {
        match &self.content {
            Content::Outbox => SinkName::Messages(&self.name).to_string(),
            Content::Events { .. } => SinkName::Events(&self.name).to_string(),
            Content::Letters { source, .. } => SinkName::DeadLetters(source).to_string(),
        }
    }

    fn head(&self, store: &dyn EventStore) -> Head {
        match &self.content {
            Content::Outbox => Head::Numbers(store.outbox_head()),
            Content::Events { .. } => Head::Positions(store.head()),
            Content::Letters { .. } => Head::Numbers(store.letters_head()),
        }
    }

    /// Where it starts when it never had a position.
    fn start(&self, newest: u64) -> u64 {
        match &self.content {
            Content::Events { start, .. } => start.checkpoint(crate::model::Position(newest)).0.min(newest),
            Content::Outbox | Content::Letters { .. } => 0,
        }
    }

    /// On the thread that will read it.
    fn open(&self, store: &dyn EventStore) -> Result<Box<dyn Feed>, store::Error> {
        Ok(match self.content.clone() {
            Content::Outbox => Box::new(feed::Outbox::open(store)?),
            Content::Events { filter, topic, key, .. } => {
                Box::new(events::Events::open(store, self.name.clone(), filter, topic, key)?)
            }
            Content::Letters { source, group, key, tombstone, topic } => {
                let from = letters::From { source, group, key, tombstone };
                Box::new(letters::Letters::open(store, self.name.clone(), from, topic)?)
            }
        })
    }
}

/// A running sink.
pub struct Sink {
    config: Config,
    view: Arc<View>,
    stop: watch::Sender<bool>,
    thread: supervise::Thread,
    head: Head,
}

/// What the sink's thread knows, for everyone else to see.
struct View {
    health: Health,
    stopping: AtomicBool,
    /// When acknowledgements are waited for no longer; none before it is to stop.
    gives_up_at: OnceLock<Instant>,
    /// It publishes no more until a person acts.
    ended: AtomicBool,
    error: Mutex<Option<String>>,
    published: AtomicU64,
    position: AtomicU64,
    aborted: AtomicU64,
    /// From the first message of a batch handed over to all of it safely in Kafka.
    batch_time: Histogram,
    batch_size: Histogram,
    thread: OnceLock<Thread>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            health: Health::default(),
            stopping: AtomicBool::default(),
            gives_up_at: OnceLock::new(),
            ended: AtomicBool::default(),
            error: Mutex::default(),
            published: AtomicU64::default(),
            position: AtomicU64::default(),
            aborted: AtomicU64::default(),
            batch_time: Histogram::new(meter::SECONDS),
            batch_size: Histogram::new(meter::COUNTS),
            thread: OnceLock::new(),
        }
    }
}

impl View {
    fn stop_by(&self, deadline: Instant) {
        let _ = self.gives_up_at.set(deadline);
        self.stopping.store(true, Ordering::Release);
    }

    fn has_given_up(&self) -> bool {
        self.gives_up_at.get().is_some_and(|deadline| Instant::now() >= *deadline)
    }

    fn note(&self, error: Option<String>) {
        *self.error.held() = error;
    }
}

/// What a sink measured since it started.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Batches that were published, by how long it took in seconds.
    pub batch_time: meter::Reading,
    /// The same batches, by how many messages they had.
    pub batch_size: meter::Reading,
    /// Transactions that were aborted.
    pub aborted: u64,
    /// Of its client, as of its last report.
    pub statistics: Option<Statistics>,
}

impl Sink {
    /// Starts to publish. The brokers need not be there yet; only a wrong configuration is an error.
    pub fn start(config: Config, connection: Connection, store: Arc<dyn EventStore>) -> Result<Self, Error> {
        let view = Arc::new(View::default());
        let head = config.head(&*store);
        let (stop, stopped) = watch::channel(false);
        let make = {
            let (config, view) = (config.clone(), view.clone());
            move || Worker::new(config.clone(), connection.clone(), store.clone(), view.clone(), stopped.clone())
        };
        let first = {
            let (make, view) = (make.clone(), view.clone());
            move || {
                let _ = view.thread.set(std::thread::current());
                make()
            }
        };
        // From the position that is durable, with a new producer, which ends what the old one had begun.
        let again = move |worker: &mut Worker| {
            *worker = make()?;
            Ok(())
        };
        let thread = start_thread(format!("sink-{}", config.name), first, again, Worker::run)?;
        Ok(Self { config, view, stop, thread, head })
    }

    /// Its name in the status.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it is doing.
    pub fn status(&self) -> SinkStatus {
        let error = self.view.error.held().clone().or_else(|| self.view.health.trouble());
        let ended = self.view.stopping.load(Ordering::Acquire) || self.view.ended.load(Ordering::Acquire);
        let state = match (&error, ended) {
            (_, true) => State::Stopped,
            (Some(_), false) => State::Retrying,
            (None, false) => State::Running,
        };
        let (state, error) = self.thread.monitor().state((state, error));
        let topic = match &self.config.content {
            Content::Outbox => None,
            Content::Events { topic, .. } | Content::Letters { topic, .. } => Some(topic.clone()),
        };
        SinkStatus {
            name: self.config.name.to_string(),
            topic,
            state,
            error,
            published: self.view.published.load(Ordering::Relaxed),
            reached: self.view.position.load(Ordering::Acquire),
            pending: self.pending(),
        }
    }

    /// How many numbers of the feed are not published yet.
    pub fn pending(&self) -> u64 {
        self.head.newest().saturating_sub(self.view.position.load(Ordering::Acquire))
    }

    /// What it measured.
    pub fn measures(&self) -> Measures {
        Measures {
            batch_time: self.view.batch_time.read(),
            batch_size: self.view.batch_size.read(),
            aborted: self.view.aborted.load(Ordering::Relaxed),
            statistics: self.view.health.statistics(),
        }
    }

    /// Stops after the batch in work, or when `drain_max` is over. Blocks.
    pub fn stop(&self) {
        self.stop_by(Instant::now() + self.config.drain_max);
    }

    /// The same, with another end to waiting.
    pub fn stop_by(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + self.config.drain_max);
        self.view.stop_by(deadline);
        let _ = self.stop.send(true);
        self.thread.unpark();
        self.thread.join_within(deadline.saturating_duration_since(Instant::now()) + CLOSE_MAX);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
