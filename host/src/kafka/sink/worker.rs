//! The thread of a sink. It moves messages from the feed to the publisher, and moves the position after they are
//! published.

use super::feed::{self, Feed, Page};
use super::publisher::{Idempotent, Interruption, Publisher};
use super::seat::Seat;
use super::sender::Style;
use super::transactional::{self, Transactional};
use super::{Config, RETRY_FIRST, RETRY_MAX, SinkView};
use crate::ack;
use crate::kafka::message::{CloudEvents, Envelope};
use crate::kafka::{Connection, Error, cluster_identity};
use crate::manifest::SinkMode;
use crate::model::{DeadLetter, Message};
use crate::store::{self, EventStore};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// How often an idle sink checks whether unreachable brokers are back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A feed, a publisher, and the position between them.
pub(super) struct SinkWorker {
    config: Config,
    connection: Connection,
    view: Arc<SinkView>,
    store: Arc<dyn EventStore>,
    feed: Box<dyn Feed>,
    publisher: Box<dyn Publisher>,
    stopped: watch::Receiver<bool>,
    runtime: tokio::runtime::Runtime,
    /// The name under which the store keeps the position.
    name: String,
    /// The position in the store, including the move that is under way.
    stored: u64,
    /// The pending answer of the store to the last move of the position.
    moving: Option<oneshot::Receiver<Result<(), store::Error>>>,
}

/// The part of a page that is not processed yet.
struct Rest {
    /// Messages to publish, by number.
    messages: Vec<(u64, Message)>,
    /// Dead letters of messages that will never be published, by number.
    letters: BTreeMap<u64, DeadLetter>,
    /// The number up to which the page goes.
    reached: u64,
}

/// Why a run over the feed ended.
enum End {
    Stopped,
    Trouble(String),
    /// A retry would do harm.
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

impl SinkWorker {
    /// Creates the worker. This must be called on the thread that will run it.
    pub(super) fn new(
        config: Config,
        connection: Connection,
        store: Arc<dyn EventStore>,
        view: Arc<SinkView>,
        stopped: watch::Receiver<bool>,
    ) -> Result<Self, Error> {
        let feed = config.open(&*store)?;
        let publisher = publisher(&config, &*feed, connection.clone(), &store, &view)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| Error::Client { client: "sink".into(), cause: error.to_string() })?;
        let name = config.position_name();
        let (stored, moving) = (0, None);
        Ok(Self { config, connection, view, store, feed, publisher, stopped, runtime, name, stored, moving })
    }

    /// Follows the feed until the sink is stopped. After trouble it restarts from the position.
    pub(super) fn run(&mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.follow(&mut pause) {
                Ok(()) | Err(End::Stopped) => break,
                Err(End::Fatal(error)) => {
                    self.end(error);
                    break;
                }
                Err(End::Trouble(error)) => {
                    tracing::error!(sink = &*self.config.name, "{error}; it is retried");
                    self.view.note(Some(error));
                }
            }
            if !self.rest(pause) {
                break;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        if let Err(error) = self.moved() {
            tracing::warn!(sink = &*self.config.name, "the store does not have the last position: {error}");
        }
    }

    fn end(&self, error: String) {
        let error = format!("the sink has stopped: {error}");
        tracing::error!(sink = &*self.config.name, "{error}");
        self.view.note(Some(error));
        self.view.ended.store(true, Ordering::Release);
    }

    fn follow(&mut self, pause: &mut Duration) -> Result<(), End> {
        let purpose = format!("sink-{}", self.config.name);
        cluster_identity::check_first(&self.connection, &purpose, &self.view.health, &*self.store)
            .map_err(|unfit| End::Trouble(unfit.text()))?;
        let mut reached = self.position()?;
        self.reach(reached);
        self.view.note(None);
        while !*self.stopped.borrow() {
            crate::supervise::round();
            // The head is marked as seen before the feed is read, so that messages in between end the wait below at
            // once.
            let newest = self.feed.head().look();
            if newest == reached {
                self.wait()?;
                continue;
            }
            self.gather(reached)?;
            let page = self.feed.after(reached, self.config.batch_max)?;
            let to = page.reached;
            if page.messages.is_empty() && page.unfit.is_empty() {
                if to > self.stored + crate::follow::IDLE_STRIDE {
                    self.move_to(to, Vec::new())?;
                }
                if to == reached {
                    self.wait()?;
                }
            } else {
                self.publish(page)?;
                *pause = RETRY_FIRST;
            }
            reached = to;
            self.reach(reached);
        }
        Err(End::Stopped)
    }

    fn reach(&self, number: u64) {
        self.view.position.store(number, Ordering::Release);
    }

    /// Returns the position to resume at. After a crash, Kafka's position may be ahead of the store's.
    fn position(&mut self) -> Result<u64, End> {
        // A move that is under way must end before the position is read below. An error means that it did not happen.
        if let Err(error) = self.moved() {
            tracing::warn!(sink = &*self.config.name, "the store did not take a position: {error}");
        }
        let newest = self.feed.head().newest();
        let found = self.store.reader()?.sink_position(&self.name)?;
        self.stored = match found {
            Some(stored) => stored,
            None => {
                let start = self.config.start(newest);
                // This also records a start at 0, so that a later start finds a position.
                ack::wait(|ack| self.store.published(&self.name, 0, start, Vec::new(), ack))?;
                start
            }
        };
        let published = match self.publisher.position()? {
            // The store is ahead if the sink was in idempotent mode meanwhile.
            None => return Ok(self.stored),
            Some(published) if published <= self.stored => return Ok(self.stored),
            Some(published) => published,
        };
        if published > newest {
            return Err(End::Fatal(format!(
                "this sink has published up to number {published} to Kafka, but the newest number in the store is {newest}: \
                 the store is older than what was published, as after restoring a backup; bring back the newer store, or \
                 stop the host and run `wasmill kafka sinks reset {} --yes` with its --manifest, so that the sink continues with \
                 what the store records next",
                self.config.name
            )));
        }
        tracing::info!(
            sink = &*self.config.name,
            stored = self.stored,
            published,
            "resumes at the position that Kafka has"
        );
        ack::wait(|ack| self.store.published(&self.name, self.stored, published, Vec::new(), ack))?;
        self.stored = published;
        Ok(published)
    }

    /// Waits until there may be a full batch, if the manifest asks for it.
    fn gather(&mut self, reached: u64) -> Result<(), End> {
        if self.config.batch_wait.is_zero() {
            return Ok(());
        }
        let (head, stopped, wait) = (self.feed.head(), &mut self.stopped, self.config.batch_wait);
        let full = reached + self.config.batch_max as u64;
        self.runtime.block_on(async {
            tokio::select! {
                reached = head.reached(full) => reached.map_err(End::from),
                _ = stopped.wait_for(|stop| *stop) => Ok(()),
                () = tokio::time::sleep(wait) => Ok(()),
            }
        })
    }

    /// Publishes a page and moves the position over it.
    fn publish(&mut self, page: Page) -> Result<(), End> {
        let begun = Instant::now();
        let unfit = page.unfit.into_iter();
        let letters = unfit.map(|(number, message, reason)| (number, self.letter(number, &message, reason))).collect();
        let page = Rest { messages: page.messages, letters, reached: page.reached };
        let published = match self.publisher.keeps_position() {
            true => self.publish_in_transactions(page)?,
            false => self.publish_plainly(page)?,
        };
        if published > 0 {
            self.view.batch_time.observe_time(begun.elapsed());
            self.view.batch_size.observe(published as f64);
        }
        self.view.published.fetch_add(published, Ordering::Relaxed);
        self.view.note(None);
        Ok(())
    }

    /// Publishes a page when only the store has the position. The position passes the page, with the dead letters of
    /// all refused messages, in one transaction.
    fn publish_plainly(&mut self, mut page: Rest) -> Result<u64, End> {
        let mut todo: Vec<usize> = (0..page.messages.len()).collect();
        let mut published = page.messages.len() as u64;
        while !todo.is_empty() {
            for refused in self.publisher.publish(&page.messages, &mut todo, page.reached)? {
                if self.feed.adapt(&mut page.messages[refused.index].1, &refused) {
                    todo.push(refused.index);
                    continue;
                }
                let (number, message) = &page.messages[refused.index];
                page.letters.insert(*number, self.letter(*number, message, refused.reason));
                published -= 1;
            }
            todo.sort_unstable();
        }
        self.keep(page.reached, page.letters.into_values().collect())?;
        Ok(published)
    }

    /// Publishes a page when Kafka has the position too. Kafka's position passes published messages in their
    /// transaction, and the store's position passes refused messages in the transaction of their dead letters. So the
    /// page is published in pieces between the refused messages. After a crash, the higher of both positions is the
    /// right one, and no message is published or dead-lettered twice, or skipped.
    fn publish_in_transactions(&mut self, mut page: Rest) -> Result<u64, End> {
        let mut published = 0;
        loop {
            let refused = page.letters.first_key_value().map(|(number, _)| *number);
            let end = page.messages.partition_point(|(number, _)| refused.is_none_or(|refused| *number < refused));
            if end > 0 {
                let to = refused.map_or(page.reached, |refused| refused - 1);
                let mut todo: Vec<usize> = (0..end).collect();
                let refused = self.publisher.publish(&page.messages[..end], &mut todo, to)?;
                if refused.is_empty() {
                    self.move_to(to, Vec::new())?;
                    published += end as u64;
                    page.messages.drain(..end);
                }
                // In reverse order, so that the other indices stay valid.
                for refused in refused.into_iter().rev() {
                    if self.feed.adapt(&mut page.messages[refused.index].1, &refused) {
                        continue;
                    }
                    let (number, message) = page.messages.remove(refused.index);
                    page.letters.insert(number, self.letter(number, &message, refused.reason));
                }
            } else if refused.is_some() {
                let next = page.messages.first().map(|(number, _)| *number);
                let later = next.map(|next| page.letters.split_off(&next)).unwrap_or_default();
                let letters = std::mem::replace(&mut page.letters, later);
                let last = letters.last_key_value().map_or(0, |(number, _)| *number);
                // Kafka's position must not pass the refused messages before their dead letters are durable.
                self.keep(next.map_or(page.reached, |_| last), letters.into_values().collect())?;
            } else {
                return Ok(published);
            }
        }
    }

    /// Returns the dead letter of a refused message, and logs it.
    fn letter(&self, number: u64, message: &Message, reason: String) -> DeadLetter {
        let letter = feed::dead_letter(&*self.feed, &self.config.name, number, message, reason);
        tracing::error!(sink = &*self.config.name, place = letter.place, "dead-lettered: {}", letter.reason);
        letter
    }

    /// Moves the position and records dead letters with it, durably. While the store has no room for them, it waits
    /// here, because the messages that were published before must not be published again.
    fn keep(&mut self, to: u64, letters: Vec<DeadLetter>) -> Result<(), End> {
        self.moved()?;
        let (from, mut pause) = (self.stored, RETRY_FIRST);
        loop {
            self.move_to(to, letters.clone())?;
            let reason = match self.moved() {
                Err(store::Error::Full(reason)) => reason,
                moved => return Ok(moved?),
            };
            self.stored = from;
            tracing::error!(sink = &*self.config.name, "{reason}; it is retried");
            self.view.note(Some(reason));
            if !self.rest(pause) {
                return Err(End::Stopped);
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Pauses before a retry. Returns false if the sink was stopped.
    fn rest(&mut self, pause: Duration) -> bool {
        let mut stopped = self.stopped.clone();
        let waited = async { tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await.is_err() };
        self.runtime.block_on(waited)
    }

    /// Asks the store to move the position and to record dead letters with it, after the previous move has ended. If
    /// Kafka has the position too, the next batch need not wait for it.
    fn move_to(&mut self, to: u64, refused: Vec<DeadLetter>) -> Result<(), store::Error> {
        self.moved()?;
        let (ack, answered) = ack::channel();
        self.store.published(&self.name, self.stored, to, refused, ack);
        self.stored = to;
        self.moving = Some(answered);
        Ok(())
    }

    /// Waits until the last move of the position is durable.
    fn moved(&mut self) -> Result<(), store::Error> {
        self.moving.take().map_or(Ok(()), |answered| answered.blocking_recv().unwrap_or(Err(store::Error::Closed)))
    }

    /// Waits until there may be a message, the sink is stopped, or it is time to check the brokers.
    fn wait(&mut self) -> Result<(), End> {
        self.moved()?;
        let (head, stopped) = (self.feed.head(), &mut self.stopped);
        self.runtime.block_on(async {
            tokio::select! {
                changed = head.changed() => changed.map_err(End::from),
                _ = stopped.wait_for(|stop| *stop) => Err(End::Stopped),
                () = tokio::time::sleep(LOOK_EVERY) => Ok(()),
            }
        })?;
        self.publisher.look_after_trouble();
        Ok(())
    }
}

fn publisher(
    config: &Config,
    feed: &dyn Feed,
    connection: Connection,
    store: &Arc<dyn EventStore>,
    view: &Arc<SinkView>,
) -> Result<Box<dyn Publisher>, Error> {
    let style = Style {
        envelope: if feed.is_bare() { Envelope::Bare } else { Envelope::CloudEvent },
        cloud_events: CloudEvents::new(connection.cloud_events(), &**store),
        has_fixed_topic: feed.has_fixed_topic(),
    };
    let seat = Seat { sink: config.name.clone(), view: view.clone() };
    if config.mode == SinkMode::Idempotent || connection.is_embedded() {
        return Ok(Box::new(Idempotent::new(seat, &connection, style)?));
    }
    let group = super::group(&config.name, store.identity());
    let names = transactional::Names {
        section: config.section.clone(),
        transactional_id: config.transactional_id.clone().unwrap_or_else(|| group.clone()),
        group,
    };
    Ok(Box::new(Transactional::new(seat, connection, names, style)?))
}
