//! The outbox, published: messages that subscribers put there, in order and with the id that tells a repetition.
//!
//! One thread reads a batch after the position, publishes it, waits until it is safely in Kafka, and moves the position
//! in the store. A message that Kafka refuses for good is parked and the rest goes on; everything else is tried until
//! it works.
//!
//! What a crash between Kafka and the store does is the publisher's promise: with the `transactional` one Kafka has the
//! position too, so that nothing is lost or repeated; the idempotent one repeats a batch.

mod identity;
mod publisher;
mod sender;
mod transactional;

use super::context::Health;
use super::{Connection, Error, join_within, start_thread, wait_for};
use crate::manifest::SinkMode;
use crate::model::{DeadLetter, Message, now_ms};
use crate::status::{SinkStatus, State};
use crate::store::{self, EventStore};
use publisher::{Idempotent, Interruption, Publisher, Refused};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;
use tokio::sync::watch;
use transactional::Transactional;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often an idle sink looks whether brokers that were away are back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a sink is called and how much it publishes at a time.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names its position in the store; another name starts with the first message that is there.
    pub name: Arc<str>,
    /// How many messages are published and acknowledged together.
    pub batch_max: usize,
    /// What a crash may do to readers. The development broker has no transactions: there it is always idempotent.
    pub mode: SinkMode,
    /// Tells hosts that must not publish both; by default made from the store's identity.
    pub transactional_id: Option<String>,
    /// How long `stop` waits for the batch in work.
    pub drain_max: Duration,
}

impl Config {
    /// The sink of the manifest.
    pub fn new(sink: &crate::manifest::Sink) -> Self {
        Self {
            name: "outbox".into(),
            batch_max: sink.batch_max,
            mode: sink.mode,
            transactional_id: sink.transactional_id.clone(),
            drain_max: Duration::from_secs(10),
        }
    }
}

/// A running sink.
pub struct Sink {
    config: Config,
    view: Arc<View>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    outbox: watch::Receiver<u64>,
}

/// What the sink's thread knows, for everyone else to see.
#[derive(Default)]
struct View {
    health: Health,
    stopping: AtomicBool,
    /// No more waiting for acknowledgements.
    given_up: AtomicBool,
    /// It publishes no more until a person acts.
    ended: AtomicBool,
    error: Mutex<Option<String>>,
    published: AtomicU64,
    position: AtomicU64,
    thread: OnceLock<Thread>,
}

impl View {
    fn note(&self, error: Option<String>) {
        *self.error.lock().expect("no holder panics") = error;
    }
}

impl Sink {
    /// Starts to publish. The brokers need not be there yet; only a wrong configuration is an error.
    pub fn start(config: Config, connection: Connection, store: Arc<dyn EventStore>) -> Result<Self, Error> {
        let view = Arc::new(View::default());
        let outbox = store.outbox_head();
        let (stop, stopped) = watch::channel(false);
        let make = {
            let (config, view, outbox) = (config.clone(), view.clone(), outbox.clone());
            move || {
                let _ = view.thread.set(std::thread::current());
                let publisher = publisher(&config, connection, &store, &view)?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                let runtime =
                    runtime.map_err(|error| Error::Client { client: "sink".into(), cause: error.to_string() })?;
                Ok(Worker { config, view, store, publisher, outbox, stopped, runtime })
            }
        };
        let thread = start_thread(format!("sink-{}", config.name), make, Worker::run)?;
        Ok(Self { config, view, stop, thread: Mutex::new(Some(thread)), outbox })
    }

    /// What it is doing.
    pub fn status(&self) -> SinkStatus {
        let error = self.view.error.lock().expect("no holder panics").clone().or_else(|| self.view.health.trouble());
        let ended = self.view.stopping.load(Ordering::Acquire) || self.view.ended.load(Ordering::Acquire);
        let state = match (&error, ended) {
            (_, true) => State::Stopped,
            (Some(_), false) => State::Retrying,
            (None, false) => State::Running,
        };
        let position = self.view.position.load(Ordering::Acquire);
        SinkStatus {
            state,
            error,
            published: self.view.published.load(Ordering::Relaxed),
            pending: self.outbox.borrow().saturating_sub(position),
        }
    }

    /// Stops after the batch in work, or when `drain_max` is over. Blocks.
    pub fn stop(&self) {
        let Some(thread) = self.thread.lock().expect("no holder panics").take() else { return };
        self.view.stopping.store(true, Ordering::Release);
        let _ = self.stop.send(true);
        thread.thread().unpark();
        let given_up = std::thread::Builder::new().name("sink-stop".into()).spawn({
            let (view, max) = (self.view.clone(), self.config.drain_max);
            move || {
                std::thread::park_timeout(max);
                view.given_up.store(true, Ordering::Release);
                view.thread.get().map(Thread::unpark)
            }
        });
        join_within(thread, self.config.drain_max + Duration::from_secs(5));
        if let Ok(waiter) = given_up {
            waiter.thread().unpark();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}

fn publisher(
    config: &Config,
    connection: Connection,
    store: &Arc<dyn EventStore>,
    view: &Arc<View>,
) -> Result<Box<dyn Publisher>, Error> {
    if config.mode == SinkMode::Idempotent || connection.is_embedded() {
        return Ok(Box::new(Idempotent::new(&config.name, &connection, view.clone())?));
    }
    let group = format!("wasmill-sink-{}-{}", config.name, identity::of(&**store)?);
    let names = transactional::Names {
        transactional_id: config.transactional_id.clone().unwrap_or_else(|| group.clone()),
        group,
    };
    Ok(Box::new(Transactional::new(&config.name, connection, names, view.clone())?))
}

struct Worker {
    config: Config,
    view: Arc<View>,
    store: Arc<dyn EventStore>,
    publisher: Box<dyn Publisher>,
    outbox: watch::Receiver<u64>,
    stopped: watch::Receiver<bool>,
    runtime: tokio::runtime::Runtime,
}

/// Why a run over the outbox ended.
enum End {
    Stopped,
    Trouble(String),
    /// Another try would do harm.
    Fatal(String),
}

impl From<Interruption> for End {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Stopped => Self::Stopped,
            Interruption::StartOver(error) => Self::Trouble(error),
            Interruption::GiveUp(error) => Self::Fatal(error),
        }
    }
}

impl From<store::Error> for End {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Closed => Self::Stopped,
            error => Self::Trouble(error.to_string()),
        }
    }
}

impl Worker {
    /// Follows the outbox until it is stopped; after trouble it starts over from the position.
    fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.follow(&mut pause) {
                Ok(()) | Err(End::Stopped) => return,
                Err(End::Fatal(error)) => return self.end(error),
                Err(End::Trouble(error)) => {
                    tracing::error!(sink = &*self.config.name, "{error}; it is tried again");
                    self.view.note(Some(error));
                }
            }
            let mut stopped = self.stopped.clone();
            let waited = async { tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await.is_err() };
            if !self.runtime.block_on(waited) {
                return;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn end(&self, error: String) {
        let error = format!("the sink has stopped: {error}");
        tracing::error!(sink = &*self.config.name, "{error}");
        self.view.note(Some(error));
        self.view.ended.store(true, Ordering::Release);
    }

    fn follow(&mut self, pause: &mut Duration) -> Result<(), End> {
        let mut reader = self.store.reader()?;
        let mut position = self.position(&mut *reader)?;
        self.view.position.store(position, Ordering::Release);
        self.view.note(None);
        loop {
            // Seen before it is read: what comes in between wakes the wait below at once.
            self.outbox.borrow_and_update();
            let batch = reader.messages(position, self.config.batch_max)?;
            if let Some(&(last, _)) = batch.last() {
                self.publish(position, last, &batch)?;
                position = last;
                self.view.position.store(position, Ordering::Release);
                self.view.note(None);
                *pause = RETRY_FIRST;
            } else {
                self.wait()?;
            }
            if *self.stopped.borrow() {
                return Err(End::Stopped);
            }
        }
    }

    /// Where to go on: a crash may have kept from the store what Kafka has.
    fn position(&mut self, reader: &mut dyn store::Reader) -> Result<u64, End> {
        let stored = reader.sink_position(&self.config.name)?;
        let published = match self.publisher.position()? {
            // The store is ahead where it was kept in the idempotent mode meanwhile.
            None => return Ok(stored),
            Some(published) if published <= stored => return Ok(stored),
            Some(published) => published,
        };
        let newest = *self.outbox.borrow();
        if published > newest {
            return Err(End::Fatal(format!(
                "Kafka has messages up to number {published} of this store, whose newest is {newest}: the store is older \
                 than what was published, as after restoring a backup; bring back the newer store, or go on with \
                 `mode = \"idempotent\"` in [sink], which publishes again what the store has"
            )));
        }
        wait_for(|done| self.store.published(&self.config.name, stored, published, done))?;
        tracing::info!(sink = &*self.config.name, stored, published, "went on from the position that Kafka has");
        Ok(published)
    }

    /// Publishes a batch and moves the position over it.
    fn publish(&mut self, from: u64, to: u64, batch: &[(u64, Message)]) -> Result<(), End> {
        let mut todo: Vec<usize> = (0..batch.len()).collect();
        let mut published = batch.len() as u64;
        while !todo.is_empty() {
            // What is refused is put aside before the position can pass it.
            for Refused { index, reason } in self.publisher.publish(batch, &mut todo, to)? {
                let (number, message) = &batch[index];
                let letter = dead_letter(*number, message, reason);
                tracing::error!(sink = &*self.config.name, place = letter.place, "parked: {}", letter.reason);
                wait_for(|done| self.store.park(letter, None, done))?;
                published -= 1;
            }
        }
        wait_for(|done| self.store.published(&self.config.name, from, to, done))?;
        self.view.published.fetch_add(published, Ordering::Relaxed);
        Ok(())
    }

    /// Until there may be a message, or the stop, or it is time to look after the brokers.
    fn wait(&mut self) -> Result<(), End> {
        let (outbox, stopped) = (&mut self.outbox, &mut self.stopped);
        self.runtime.block_on(async {
            tokio::select! {
                changed = outbox.changed() => changed.map_err(|_| End::Stopped),
                _ = stopped.wait_for(|stop| *stop) => Err(End::Stopped),
                () = tokio::time::sleep(LOOK_EVERY) => Ok(()),
            }
        })?;
        self.publisher.look_after_trouble();
        Ok(())
    }
}

fn dead_letter(number: u64, message: &Message, reason: String) -> DeadLetter {
    DeadLetter {
        consumer: message.source.to_string(),
        place: format!("message {} (outbox {number}) to topic {}", message.id, message.topic),
        key: message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
        reason,
        payload: message.payload.clone().unwrap_or_default(),
        time_ms: now_ms(),
        content: crate::model::Parked::Message("outbox".to_owned(), message.clone()),
    }
}

#[cfg(test)]
mod tests;
