//! What the sink asks of a way to publish, and the plain way: an idempotent producer.
//!
//! The plain way keeps its position in the store alone, so a crash between Kafka's last acknowledgement and the store's
//! commit repeats a batch.

use super::seat::Seat;
use super::sender::{Sender, Style};
use super::{RETRY_FIRST, RETRY_MAX};
use crate::kafka::deliveries::Failed;
use crate::kafka::{Connection, Error, error_hints};
use crate::model::Message;
use rdkafka::error::RDKafkaErrorCode;

/// A way to publish what a feed holds.
pub(super) trait Publisher: Send {
    /// Before the first batch and after each trouble: where Kafka says that the sink is. `None` where the store alone
    /// knows.
    fn position(&mut self) -> Result<Option<u64>, Interruption>;

    /// Publishes messages of a batch, whose last message has the number `to`, and tries until it works.
    ///
    /// Takes out of `todo` what is safely in Kafka, and what Kafka will never take, which it returns. The caller puts
    /// that aside and calls again until `todo` is empty.
    fn publish(
        &mut self,
        batch: &[(u64, Message)],
        todo: &mut Vec<usize>,
        to: u64,
    ) -> Result<Vec<Refused>, Interruption>;

    /// Whether Kafka has the position together with what was published, so that the store's may follow later.
    fn keeps_position(&self) -> bool;

    /// From time to time while there is nothing to publish.
    fn look_after_trouble(&self);
}

/// A message that Kafka will never take.
pub(super) struct Refused {
    /// Its place in the batch.
    pub(super) index: usize,
    pub(super) code: RDKafkaErrorCode,
    /// The cause and the remedy.
    pub(super) reason: String,
}

/// Why publishing ended before its time.
pub(super) enum Interruption {
    /// The sink was stopped.
    Stopped,
    /// Ask for the position again and go on from there.
    StartOver(String),
    /// Another try would do harm: a person must act.
    GiveUp(String),
}

/// The plain way. See the module.
pub(super) struct Idempotent {
    sender: Sender,
}

impl Idempotent {
    /// On the thread that will publish.
    pub(super) fn new(seat: Seat, connection: &Connection, style: Style) -> Result<Self, Error> {
        let config = connection.producer(&seat.sink);
        Ok(Self { sender: Sender::new(seat, config, style)? })
    }

    /// Sends messages once and leaves in `todo` those to send again.
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

    /// Messages that could not be delivered are sent again after a pause, those that were are not.
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

/// Tells messages that will never be taken from those that another try may deliver.
pub(super) fn sort_out(batch: &[(u64, Message)], failed: Vec<Failed>, style: &Style) -> (Vec<Refused>, Vec<Failed>) {
    let (mut refused, mut again) = (Vec::new(), Vec::new());
    for (index, code) in failed {
        match refusal(code, &batch[index].1) {
            // Every other message would have the same fate: somebody has yet to make the topic.
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

/// Why a message will never be taken, and the remedy; `None` where another try may work.
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
