//! What a sink publishes: a numbered sequence of messages that grows at its end.
//!
//! A feed reads; it keeps no position and knows nothing of producers. The outbox is the plainest.

use super::publisher::Refused;
use crate::model::{DeadLetter, DeadLetterContent, Message, Position};
use crate::store::{self, EventStore, Reader};
use tokio::sync::watch;

/// A numbered sequence of messages.
pub(super) trait Feed: Send {
    /// What comes after a number, in order, at most about `limit` messages. Does not wait.
    fn after(&mut self, number: u64, limit: usize) -> Result<Page, store::Error>;

    /// Where the sequence ends, and when that changes.
    fn head(&mut self) -> &mut Head;

    /// Whether its messages become records as they are, and not CloudEvents.
    fn is_bare(&self) -> bool {
        false
    }

    /// Whether the manifest names the topic. Then a topic that is not there is waited for.
    fn has_fixed_topic(&self) -> bool {
        true
    }

    /// The place of a message, in words.
    fn place(&self, number: u64, message: &Message) -> String;

    /// Who a message that Kafka refused is dead-lettered for.
    fn consumer(&self, message: &Message) -> String;

    /// Changes a message that was refused so that it can be tried again; false where it can't.
    fn mend(&mut self, _: &mut Message, _: &Refused) -> bool {
        false
    }
}

/// A piece of a feed.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// With their numbers, in order.
    pub(super) messages: Vec<(u64, Message)>,
    /// Messages that can't be sent as the manifest wants them, with the reason.
    pub(super) unfit: Vec<(u64, Message, String)>,
    /// Everything up to here has been looked at.
    pub(super) reached: u64,
}

/// The end of a feed.
#[derive(Clone)]
pub(super) enum Head {
    /// Of something that has numbers.
    Numbers(watch::Receiver<u64>),
    /// Of the events.
    Positions(watch::Receiver<Position>),
}

impl Head {
    /// The newest number.
    pub(super) fn newest(&self) -> u64 {
        match self {
            Self::Numbers(head) => *head.borrow(),
            Self::Positions(head) => head.borrow().0,
        }
    }

    /// The newest number; what comes after it wakes [`Head::passed`] and [`Head::changed`].
    pub(super) fn look(&mut self) -> u64 {
        match self {
            Self::Numbers(head) => *head.borrow_and_update(),
            Self::Positions(head) => head.borrow_and_update().0,
        }
    }

    /// Returns when there is something new since the last look. An error means that the store is gone.
    pub(super) async fn changed(&mut self) -> Result<(), store::Error> {
        let changed = match self {
            Self::Numbers(head) => head.changed().await,
            Self::Positions(head) => head.changed().await,
        };
        changed.map_err(|_| store::Error::Closed)
    }

    /// Returns when the sequence goes up to a number. An error means that the store is gone.
    pub(super) async fn reached(&mut self, number: u64) -> Result<(), store::Error> {
        let reached = match self {
            Self::Numbers(head) => head.wait_for(|head| *head >= number).await.map(drop),
            Self::Positions(head) => head.wait_for(|head| head.0 >= number).await.map(drop),
        };
        reached.map_err(|_| store::Error::Closed)
    }
}

/// The messages of subscribers.
pub(super) struct Outbox {
    reader: Box<dyn Reader>,
    head: Head,
}

impl Outbox {
    pub(super) fn open(store: &dyn EventStore) -> Result<Self, store::Error> {
        Ok(Self { reader: store.reader()?, head: Head::Numbers(store.outbox_head()) })
    }
}

impl Feed for Outbox {
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

/// A message that is dead-lettered.
pub(super) fn dead_letter(feed: &dyn Feed, sink: &str, number: u64, message: &Message, reason: String) -> DeadLetter {
    DeadLetter {
        consumer: feed.consumer(message),
        place: feed.place(number, message),
        key: message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
        reason,
        time_ms: Some(message.time_ms),
        content: DeadLetterContent::Message(sink.to_owned(), message.clone()),
    }
}
