//! The feeds of sinks: numbered sequences of messages that grow at their end.
//!
//! A feed only reads. It keeps no position and does not know producers. The outbox is the simplest feed.

use super::publisher::Refused;
use crate::model::{DeadLetter, DeadLetterContent, Message, Position, key_text};
use crate::store::{self, EventStore, Reader};
use tokio::sync::watch;

/// A numbered sequence of messages.
pub(super) trait Feed: Send {
    /// Reads the messages after a number, in order, about `limit` at most, without waiting.
    fn after(&mut self, number: u64, limit: usize) -> Result<Page, store::Error>;

    /// Returns the end of the sequence.
    fn head(&mut self) -> &mut Head;

    /// Whether its messages become records as they are, not CloudEvents.
    fn is_bare(&self) -> bool {
        false
    }

    /// Whether the manifest names the topic. If so, the sink waits for a missing topic.
    fn has_fixed_topic(&self) -> bool {
        true
    }

    /// Describes the place of a message.
    fn place(&self, number: u64, message: &Message) -> String;

    /// Returns the consumer of the dead letter of a refused message.
    fn consumer(&self, message: &Message) -> String;

    /// Changes a refused message so that it can be retried. Returns false if that is not possible.
    fn adapt(&mut self, _: &mut Message, _: &Refused) -> bool {
        false
    }
}

/// A page of a feed.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Messages with their numbers, in order.
    pub(super) messages: Vec<(u64, Message)>,
    /// Messages that can't be sent as the manifest wants them, with the reason.
    pub(super) unfit: Vec<(u64, Message, String)>,
    /// The number up to which the feed has been read.
    pub(super) reached: u64,
}

/// The end of a feed.
#[derive(Clone)]
pub(super) enum Head {
    /// The end of a numbered sequence.
    Numbers(watch::Receiver<u64>),
    /// The end of the events.
    Positions(watch::Receiver<Position>),
}

impl Head {
    /// Returns the newest number.
    pub(super) fn newest(&self) -> u64 {
        match self {
            Self::Numbers(head) => *head.borrow(),
            Self::Positions(head) => head.borrow().0,
        }
    }

    /// Returns the newest number and marks it as seen. Later ones end [`Head::changed`].
    pub(super) fn look(&mut self) -> u64 {
        match self {
            Self::Numbers(head) => *head.borrow_and_update(),
            Self::Positions(head) => head.borrow_and_update().0,
        }
    }

    /// Returns once there is a newer number than at the last [`Head::look`]. An error means that the store is closed.
    pub(super) async fn changed(&mut self) -> Result<(), store::Error> {
        let changed = match self {
            Self::Numbers(head) => head.changed().await,
            Self::Positions(head) => head.changed().await,
        };
        changed.map_err(|_| store::Error::Closed)
    }

    /// Returns once the sequence has reached a number. An error means that the store is closed.
    pub(super) async fn reached(&mut self, number: u64) -> Result<(), store::Error> {
        let reached = match self {
            Self::Numbers(head) => head.wait_for(|head| *head >= number).await.map(drop),
            Self::Positions(head) => head.wait_for(|head| head.0 >= number).await.map(drop),
        };
        reached.map_err(|_| store::Error::Closed)
    }
}

/// The feed of subscribers' messages.
pub(super) struct OutboxFeed {
    reader: Box<dyn Reader>,
    head: Head,
}

impl OutboxFeed {
    pub(super) fn open(store: &dyn EventStore) -> Result<Self, store::Error> {
        Ok(Self { reader: store.reader()?, head: Head::Numbers(store.outbox_head()) })
    }
}

impl Feed for OutboxFeed {
    fn after(&mut self, number: u64, limit: usize) -> Result<Page, store::Error> {
        let messages = self.reader.messages(number, limit)?;
        let reached = messages.last().map_or(number, |(last, _)| *last);
        Ok(Page { messages, reached, ..Page::default() })
    }

    fn head(&mut self) -> &mut Head {
        &mut self.head
    }

    fn has_fixed_topic(&self) -> bool {
        false
    }

    fn place(&self, number: u64, message: &Message) -> String {
        format!("message {} (outbox {number}) to topic {}", message.id, message.topic)
    }

    fn consumer(&self, message: &Message) -> String {
        message.source.to_string()
    }
}

/// Returns the dead letter of a message.
pub(super) fn dead_letter(feed: &dyn Feed, sink: &str, number: u64, message: &Message, reason: String) -> DeadLetter {
    DeadLetter {
        consumer: feed.consumer(message),
        place: feed.place(number, message),
        key: key_text(message.key.as_deref()),
        reason,
        time_ms: Some(message.time_ms),
        content: DeadLetterContent::Message(sink.to_owned(), message.clone()),
    }
}
