//! The feed of a source's dead letters, for its `dead_letter_topic`.
//!
//! A message is the record as it was, with headers that say where it came from and what was wrong. It goes to the
//! partition with the same number, if the topic has it. The dead letter stays in the store, and the topic has a copy
//! for others.

use super::feed::{Feed, Head, Page};
use super::publisher::Refused;
use crate::manifest::Key;
use crate::model::{Command, DeadLetterContent, Header, KeptDeadLetter, Message, PartitionName, Record};
use crate::store::{self, EventStore, Reader};
use base16ct::lower;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::error::RDKafkaErrorCode;
use std::sync::Arc;

/// The prefix of the headers about a dead letter.
const PREFIX: &str = "dead-letter-";

/// The source of the dead letters.
pub(super) struct From {
    pub(super) source: Arc<str>,
    /// The consumer group of the source.
    pub(super) group: String,
    /// How the bytes of its keys are encoded as ids of aggregates.
    pub(super) key: Key,
    /// The command that its records without a value become.
    pub(super) tombstone: Option<String>,
}

/// The feed of a source's dead letters.
pub(super) struct DeadLetterFeed {
    reader: Box<dyn Reader>,
    head: Head,
    sink: Arc<str>,
    from: From,
    topic: String,
    /// A bound of the topic's partitions: as the brokers have said, it does not have this one.
    partitions_max: i32,
}

impl DeadLetterFeed {
    pub(super) fn open(
        store: &dyn EventStore,
        sink: Arc<str>,
        from: From,
        topic: String,
    ) -> Result<Self, store::Error> {
        let (reader, head) = (store.reader()?, Head::Numbers(store.dead_letters_head()));
        Ok(Self { reader, head, sink, from, topic, partitions_max: i32::MAX })
    }

    /// Returns the message of a dead letter; `None` if it is not of this source, or has no record.
    fn message(&self, kept: KeptDeadLetter) -> Option<Message> {
        let KeptDeadLetter { number, dead_lettered_ms, letter, waiting: _ } = kept;
        let record = match letter.content {
            DeadLetterContent::Record(record) if letter.consumer.rsplit('/').next() == Some(&*self.from.source) => {
                record
            }
            DeadLetterContent::Command(command) => self.from.record(command)?,
            _ => return None,
        };
        let partition = Some(record.partition).filter(|partition| *partition < self.partitions_max);
        let about = About {
            id: format!("{}:{number}", self.sink).into(),
            source: self.from.source.clone(),
            group: &self.from.group,
            reason: letter.reason,
            dead_lettered_ms,
        };
        Some(about.message(record, self.topic.clone(), partition))
    }
}

/// The description of a dead-lettered record.
pub(in crate::kafka) struct About<'a> {
    /// The id of the dead letter, by which readers detect a repetition.
    pub(in crate::kafka) id: Arc<str>,
    pub(in crate::kafka) source: Arc<str>,
    /// The consumer group of the source.
    pub(in crate::kafka) group: &'a str,
    pub(in crate::kafka) reason: String,
    /// When it was dead-lettered, which is the message's time and the header `dead-letter-time`.
    pub(in crate::kafka) dead_lettered_ms: u64,
}

impl About<'_> {
    /// Returns the message with the record as it was.
    pub(in crate::kafka) fn message(self, record: Record, topic: String, partition: Option<i32>) -> Message {
        let mut headers = record.headers;
        headers.retain(|header| !header.name.starts_with(PREFIX));
        let origin = [
            ("id", self.id.to_string()),
            ("topic", record.topic.to_string()),
            ("partition", record.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("timestamp", record.time_ms.to_string()),
            ("time", self.dead_lettered_ms.to_string()),
            ("group", self.group.to_owned()),
            ("error", self.reason),
        ];
        let header =
            |(name, value): (&str, String)| Header { name: format!("{PREFIX}{name}"), value: Some(value.into_bytes()) };
        headers.extend(origin.map(header));
        Message {
            correlation_id: self.id.clone(),
            causation_id: self.id.clone(),
            hops: 0,
            id: self.id,
            topic,
            key: record.key,
            partition,
            headers,
            payload: record.payload,
            time_ms: self.dead_lettered_ms,
            source: self.source,
        }
    }
}

impl From {
    /// Returns the record that became a command, if it was read by this source.
    fn record(&self, command: Command) -> Option<Record> {
        let origin = command.origin?;
        let PartitionName { topic, partition, .. } =
            PartitionName::parse(&origin.ledger).filter(|name| name.source == &*self.source)?;
        let is_tombstone = self.tombstone.as_deref() == Some(&*command.name);
        Some(Record {
            topic: topic.into(),
            partition,
            offset: origin.last.try_into().ok()?,
            time_ms: command.time_ms,
            key: Some(self.key_bytes(&command.stream.aggregate_id)),
            headers: command.headers,
            payload: Some(command.payload).filter(|payload| !is_tombstone || !payload.is_empty()),
        })
    }

    /// Returns the bytes of the key that became the id. If an id does not decode, it was created under another
    /// manifest, and stays text.
    fn key_bytes(&self, id: &str) -> Vec<u8> {
        let text = || id.as_bytes().to_vec();
        match self.key {
            Key::Text => text(),
            Key::Hex => lower::decode_vec(id).unwrap_or_else(|_| text()),
            Key::Base64 => URL_SAFE_NO_PAD.decode(id).unwrap_or_else(|_| text()),
        }
    }
}

impl Feed for DeadLetterFeed {
    fn after(&mut self, number: u64, limit: usize) -> Result<Page, store::Error> {
        // The newest number is taken before the letters are read, so all letters up to it are read below or are gone.
        let newest = self.head.newest();
        let letters = self.reader.dead_letters_after(number, limit)?;
        let last = letters.last().map_or(number, |last| last.number);
        let reached = if letters.len() < limit { last.max(newest) } else { last };
        let messages = letters.into_iter().filter_map(|kept| Some((kept.number, self.message(kept)?)));
        Ok(Page { messages: messages.collect(), reached, ..Page::default() })
    }

    fn head(&mut self) -> &mut Head {
        &mut self.head
    }

    fn is_bare(&self) -> bool {
        true
    }

    fn place(&self, number: u64, message: &Message) -> String {
        format!("dead letter {number} of source {} to topic {}", self.from.source, message.topic)
    }

    fn consumer(&self, _: &Message) -> String {
        self.sink.to_string()
    }

    /// Removes the partition from a message if the topic does not have it.
    fn adapt(&mut self, message: &mut Message, refused: &Refused) -> bool {
        match message.partition.take() {
            Some(partition) if refused.code == RDKafkaErrorCode::UnknownPartition => {
                self.partitions_max = self.partitions_max.min(partition);
                true
            }
            partition => {
                message.partition = partition;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_as_the_bytes_that_its_id_was_made_of() {
        let from = From { source: "till".into(), group: String::new(), key: Key::Hex, tombstone: None };
        assert_eq!(from.key_bytes("00ff"), [0x00, 0xff]);
        for of_another_manifest in ["+f", "0", "FF", "order 1"] {
            assert_eq!(from.key_bytes(of_another_manifest), of_another_manifest.as_bytes());
        }
    }
}
