//! Sinks: each publishes the messages of a feed to Kafka, in order. Each message has an id by which readers detect a
//! repetition.
//!
//! There are three feeds: the outbox with the messages of subscribers, recorded events that pass a filter, and the dead
//! letters of a source. A sink has its own thread, producer, transactional id and position. It reads a batch after the
//! position, publishes it, waits until Kafka has acknowledged it, and moves the position. A message that Kafka refuses
//! for good is dead-lettered, and everything else is retried until it succeeds.
//!
//! The publisher decides what happens after a crash between Kafka and the store. With the transactional publisher Kafka
//! has the position too, so that nothing is lost or repeated. The idempotent publisher repeats a batch.

pub(super) mod dead_letters;
mod events;
mod feed;
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
use crate::upcasts::{Shape, Upcasts};
use feed::{Feed, Head};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use worker::SinkWorker;

/// The name of the sink of a source's dead letters begins with this. The rest is the source's name.
pub const DEAD_LETTERS: &str = "dead-letters-";

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long closing a producer may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Returns the group whose committed offset is the position of a sink, if its batches are transactions. Each store has its
/// own.
pub fn group(sink: &str, store: uuid::Uuid) -> String {
    format!("wasmill-sink-{sink}-{store}")
}

/// The configuration of a sink.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, which is also part of its transactional id.
    pub name: Arc<str>,
    /// The section of the manifest that it is from, such as `sinks.orders`.
    pub section: String,
    /// What it publishes.
    pub content: Content,
    /// The maximum number of messages that are published and acknowledged together.
    pub batch_max: usize,
    /// How long a batch that is not full waits for more.
    pub batch_wait: Duration,
    /// Whether batches are transactions. The development broker has no transactions, so there the mode is always
    /// idempotent.
    pub mode: SinkMode,
    /// The transactional id, which only one of several hosts may use at a time. The default derives from the store's
    /// identity.
    pub transactional_id: Option<String>,
    /// How long `stop` waits for the current batch.
    pub drain_max: Duration,
}

/// What a sink publishes.
#[derive(Clone, Debug)]
pub enum Content {
    /// The messages of subscribers.
    Outbox,
    /// Recorded events.
    Events {
        /// The filter of the events.
        filter: Filter,
        /// The topic to publish to.
        topic: String,
        /// The key of their records.
        key: SinkKey,
        /// What migrates them to their newest shape, if they are not published as they were recorded.
        upcasts: Option<Upcasts>,
        /// Where the sink starts if it has no position yet.
        start: Start,
    },
    /// The dead letters of a source.
    DeadLetters {
        /// The source.
        source: Arc<str>,
        /// Its consumer group, which the records name.
        group: String,
        /// How the bytes of its keys are encoded as ids of aggregates.
        key: manifest::Key,
        /// The command that its records without a value become.
        tombstone: Option<String>,
        /// The topic to publish to.
        topic: String,
    },
}

impl Config {
    /// Returns the configuration of the outbox's sink.
    pub fn new(sink: &manifest::Sink) -> Self {
        Self::with("outbox", "sink".to_owned(), Content::Outbox, sink)
    }

    /// Returns the configuration of a sink of recorded events, by its name in the manifest.
    pub fn events(name: &str, sink: &manifest::EventSink, upcasts: &Upcasts) -> Self {
        let manifest::EventSink { filter, topic, key, shape, start, settings, .. } = sink.clone();
        let upcasts = (shape == Shape::Newest).then(|| upcasts.clone());
        Self::with(name, format!("sinks.{name}"), Content::Events { filter, topic, key, upcasts, start }, &settings)
    }

    /// Returns the configuration of the sink of a source's dead letters, if it has a topic for them. The settings are
    /// those of the outbox's sink, with another transactional id.
    pub fn letters(name: &str, source: &manifest::Source, outbox: &manifest::Sink) -> Option<Self> {
        let topic = source.dead_letter_topic.clone()?;
        let (key, tombstone) = match &source.target {
            Target::Commands(commands) => (commands.key, commands.tombstone.clone()),
            // A transform writes to the topic itself, and the store has none of its dead letters.
            Target::Deliveries(deliveries) if deliveries.transaction == Transaction::Kafka => return None,
            Target::Deliveries(_) => Default::default(),
        };
        let group = source.group_of(name);
        let content = Content::DeadLetters { source: name.into(), group, key, tombstone, topic };
        let settings = manifest::Sink { transactional_id: None, ..outbox.clone() };
        Some(Self::with(&format!("{DEAD_LETTERS}{name}"), "sink".to_owned(), content, &settings))
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

    /// Returns the name under which the store keeps its position. A sink with another name starts without a position.
    fn position_name(&self) -> String {
        match &self.content {
            Content::Outbox => SinkName::Messages(&self.name).to_string(),
            Content::Events { .. } => SinkName::Events(&self.name).to_string(),
            Content::DeadLetters { source, .. } => SinkName::DeadLetters(source).to_string(),
        }
    }

    fn head(&self, store: &dyn EventStore) -> Head {
        match &self.content {
            Content::Outbox => Head::Numbers(store.outbox_head()),
            Content::Events { .. } => Head::Positions(store.head()),
            Content::DeadLetters { .. } => Head::Numbers(store.dead_letters_head()),
        }
    }

    /// Returns where it starts if it never had a position.
    fn start(&self, newest: u64) -> u64 {
        match &self.content {
            Content::Events { start, .. } => start.checkpoint(crate::model::Position(newest)).0.min(newest),
            Content::Outbox | Content::DeadLetters { .. } => 0,
        }
    }

    /// Opens the feed. This must be called on the thread that will read it.
    fn open(&self, store: &dyn EventStore) -> Result<Box<dyn Feed>, store::Error> {
        Ok(match self.content.clone() {
            Content::Outbox => Box::new(feed::OutboxFeed::open(store)?),
            Content::Events { filter, topic, key, upcasts, .. } => {
                let upcasts = upcasts.map(|upcasts| upcasts.open());
                Box::new(events::EventFeed::open(store, self.name.clone(), filter, topic, key, upcasts)?)
            }
            Content::DeadLetters { source, group, key, tombstone, topic } => {
                let from = dead_letters::From { source, group, key, tombstone };
                Box::new(dead_letters::DeadLetterFeed::open(store, self.name.clone(), from, topic)?)
            }
        })
    }
}

/// A running sink.
pub struct Sink {
    config: Config,
    view: Arc<SinkView>,
    stop: watch::Sender<bool>,
    thread: supervise::Thread,
    head: Head,
}

/// The state of a sink's thread, as others may see it.
struct SinkView {
    health: Health,
    stopping: AtomicBool,
    /// The time until which a stopping sink waits for acknowledgements; not set before it stops.
    gives_up_at: OnceLock<Instant>,
    /// Whether it has stopped publishing until a person acts.
    ended: AtomicBool,
    error: Mutex<Option<String>>,
    published: AtomicU64,
    position: AtomicU64,
    aborted: AtomicU64,
    /// The time from handing over a batch until all of it is acknowledged.
    batch_time: Histogram,
    batch_size: Histogram,
    thread: OnceLock<Thread>,
}

impl Default for SinkView {
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

impl SinkView {
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

/// The measurements of a sink since it started.
#[derive(Clone, Debug)]
pub struct Measures {
    /// The times of the published batches, in seconds.
    pub batch_time: meter::HistogramReading,
    /// The numbers of messages of the same batches.
    pub batch_size: meter::HistogramReading,
    /// Transactions that were aborted.
    pub aborted: u64,
    /// The statistics of its client's last report.
    pub statistics: Option<Statistics>,
}

impl Sink {
    /// Starts the sink. The brokers need not be reachable yet; only a wrong configuration is an error.
    pub fn start(config: Config, connection: Connection, store: Arc<dyn EventStore>) -> Result<Self, Error> {
        let view = Arc::new(SinkView::default());
        let head = config.head(&*store);
        let (stop, stopped) = watch::channel(false);
        let make = {
            let (config, view) = (config.clone(), view.clone());
            move || SinkWorker::new(config.clone(), connection.clone(), store.clone(), view.clone(), stopped.clone())
        };
        let first = {
            let (make, view) = (make.clone(), view.clone());
            move || {
                let _ = view.thread.set(std::thread::current());
                make()
            }
        };
        // After a panic it resumes at the durable position, with a new producer, which aborts what the old one had
        // begun.
        let again = move |worker: &mut SinkWorker| {
            *worker = make()?;
            Ok(())
        };
        let thread = start_thread(format!("sink-{}", config.name), first, again, SinkWorker::run)?;
        Ok(Self { config, view, stop, thread, head })
    }

    /// Returns its name in the status.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns its status.
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
            Content::Events { topic, .. } | Content::DeadLetters { topic, .. } => Some(topic.clone()),
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

    /// Returns how many numbers of the feed are not published yet.
    pub fn pending(&self) -> u64 {
        self.head.newest().saturating_sub(self.view.position.load(Ordering::Acquire))
    }

    /// Returns its measurements.
    pub fn measures(&self) -> Measures {
        Measures {
            batch_time: self.view.batch_time.read(),
            batch_size: self.view.batch_size.read(),
            aborted: self.view.aborted.load(Ordering::Relaxed),
            statistics: self.view.health.statistics(),
        }
    }

    /// Stops the sink after the current batch, or when `drain_max` is over. This blocks.
    pub fn stop(&self) {
        self.stop_by(Instant::now() + self.config.drain_max);
    }

    /// Stops the sink as [`Sink::stop`] does, but not later than `deadline`.
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
