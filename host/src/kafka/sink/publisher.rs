//! The interface of publishers, and the idempotent publisher.
//!
//! With the idempotent publisher only the store has the position, so a crash between Kafka's last acknowledgement and
//! the store's commit repeats a batch.

use super::seat::Seat;
use super::sender::{Sender, Style};
use super::{RETRY_FIRST, RETRY_MAX};
use crate::kafka::deliveries::Failed;
use crate::kafka::{Connection, Error, error_hints};
use crate::model::Message;
use rdkafka::error::RDKafkaErrorCode;

/// A publisher of a feed's messages.
pub(super) trait Publisher: Send {
    /// Returns Kafka's position of the sink; `None` if only the store has it. It is called before the first batch and
    /// after each failure.
    fn position(&mut self) -> Result<Option<u64>, Interruption>;

    /// Publishes messages of a batch up to the number `to`, and retries until it succeeds.
    ///
    /// It removes from `todo` the acknowledged messages, and the messages that Kafka will never accept, which it
    /// returns. The caller dead-letters those and calls again until `todo` is empty.
    fn publish(
        &mut self,
        batch: &[(u64, Message)],
        todo: &mut Vec<usize>,
        to: u64,
    ) -> Result<Vec<Refused>, Interruption>;

    /// Whether Kafka has the position together with the published messages, so that the store's may follow later.
    fn keeps_position(&self) -> bool;

    /// Checks whether unreachable brokers are back. It is called at intervals while there is nothing to publish.
    fn look_after_trouble(&self);
}

/// A message that Kafka will never accept.
pub(super) struct Refused {
    /// Its index in the batch.
    pub(super) index: usize,
    pub(super) code: RDKafkaErrorCode,
    /// The cause and the remedy.
    pub(super) reason: String,
}

/// Why publishing was interrupted.
pub(super) enum Interruption {
    /// The sink was stopped.
    Stopped,
    /// Publishing must restart: the position is read again, and publishing resumes there.
    StartOver(String),
    /// A retry would do harm, so a person must act.
    GiveUp(String),
}

/// A publisher with an idempotent producer, without transactions.
pub(super) struct Idempotent {
    sender: Sender,
}

impl Idempotent {
    /// Creates the publisher. This must be called on the thread that will publish.
    pub(super) fn new(seat: Seat, connection: &Connection, style: Style) -> Result<Self, Error> {
        let config = connection.producer(&seat.sink);
        Ok(Self { sender: Sender::new(seat, config, style)? })
    }

    /// Sends messages once, and leaves in `todo` those to send again.
    fn attempt(&mut self, batch: &[(u64, Message)], todo: &mut Vec<usize>) -> Result<Vec<Refused>, Interruption> {
        let failed = self.sender.send(batch, todo)?;
        let (refused, again) = sort_out(batch, failed, self.sender.style());
        if let Some((index, code)) = again.last() {
            self.sender.seat.note(not_published(&batch[*index].1, *code));
        }
        if again.iter().any(|(_, code)| *code == RDKafkaErrorCode::Fatal) {
            self.sender.discard_producer();
        }
        *todo = again.into_iter().map(|(index, _)| index).collect();
        Ok(refused)
    }
}

impl Publisher for Idempotent {
    fn position(&mut self) -> Result<Option<u64>, Interruption> {
        Ok(None)
    }

    /// Publishes a batch. Messages that could not be delivered are sent again after a pause.
    fn publish(
        &mut self,
        batch: &[(u64, Message)],
        todo: &mut Vec<usize>,
        _: u64,
    ) -> Result<Vec<Refused>, Interruption> {
        let mut refused = Vec::new();
        let mut pause = RETRY_FIRST;
        loop {
            refused.append(&mut self.attempt(batch, todo)?);
            if todo.is_empty() {
                refused.sort_by_key(|refused| refused.index);
                self.sender.seat.view.health.settled();
                return Ok(refused);
            }
            self.sender.seat.rest(pause)?;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn keeps_position(&self) -> bool {
        false
    }

    fn look_after_trouble(&self) {
        self.sender.look_after_trouble();
    }
}

/// Separates the messages that Kafka will never accept from those that are to be retried.
pub(super) fn sort_out(batch: &[(u64, Message)], failed: Vec<Failed>, style: &Style) -> (Vec<Refused>, Vec<Failed>) {
    let (mut refused, mut again) = (Vec::new(), Vec::new());
    for (index, code) in failed {
        match refusal(code, &batch[index].1) {
            // All messages go to this topic, so the sink waits until the topic is created.
            Some(_) if style.has_fixed_topic && is_about_topic(code) => again.push((index, code)),
            Some(reason) => refused.push(Refused { index, code, reason }),
            None => again.push((index, code)),
        }
    }
    (refused, again)
}

pub(super) fn not_published(message: &Message, code: RDKafkaErrorCode) -> String {
    let cause = refusal(code, message).unwrap_or_else(|| error_hints::answer(code));
    format!("message {} to topic {} is not published yet: {cause}", message.id, message.topic)
}

fn is_about_topic(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{UnknownTopic, UnknownTopicOrPartition};
    matches!(code, UnknownTopic | UnknownTopicOrPartition)
}

/// Returns why Kafka will never accept a message, and the remedy; `None` if a retry may succeed.
pub(in crate::kafka) fn refusal(code: RDKafkaErrorCode, message: &Message) -> Option<String> {
    use RDKafkaErrorCode as Code;
    let topic = &message.topic;
    let reason = match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => format!(
            "the message is too large for Kafka ({} bytes): raise max.message.bytes of topic {topic} and \
             `message.max.bytes` in [kafka.properties], or publish less",
            message.payload.as_ref().map_or(0, Vec::len)
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            format!("topic {topic} does not exist: list it as [kafka.topics.{topic}] in the manifest")
        }
        Code::UnknownPartition => {
            format!("topic {topic} has no partition {}: leave it to the partitioner", message.partition.unwrap_or(-1))
        }
        Code::InvalidTopic => format!("`{topic}` can't be the name of a topic: use letters, digits, `.`, `_` and `-`"),
        Code::InvalidRecord | Code::PolicyViolation => {
            format!(
                "the broker refused the message ({code}): check the rules of topic {topic}, such as compaction's keys"
            )
        }
        _ => return None,
    };
    Some(reason)
}
