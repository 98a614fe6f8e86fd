//! The records of a transaction, and the messages that each has led to.

use super::Config;
use crate::kafka::message::Envelope;
use crate::kafka::sink::letters;
use crate::kafka::sink::publisher::refusal;
use crate::kafka::source::TopicPartition;
use crate::model::{Message, Record, now_ms};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    /// Of each record.
    outputs: Vec<Output>,
}

enum Output {
    Messages(Vec<Message>),
    /// The record failed for good: itself, for the dead-letter topic.
    Letter(Box<Message>),
}

impl Batch {
    pub(super) fn add(&mut self, record: Record) {
        self.records.push(record);
        self.outputs.push(Output::Messages(Vec::new()));
    }

    /// A message that a record leads to.
    pub(super) fn lead_to(&mut self, index: usize, message: Message) {
        if let Output::Messages(messages) = &mut self.outputs[index] {
            messages.push(message);
        }
    }

    /// A record failed for good: nothing it has led to counts.
    pub(super) fn put_aside(&mut self, config: &Config, index: usize, reason: String) {
        let record = &self.records[index];
        tracing::warn!(source = &*config.name, "{} put aside: {reason}", record.place());
        let about = letters::About {
            id: format!("{}:{}", config.name, record.id()).into(),
            source: config.name.clone(),
            group: &config.group,
            reason,
            time_ms: now_ms(),
        };
        let message = about.message(record.clone(), config.dead_letter_topic.clone(), Some(record.partition));
        self.outputs[index] = Output::Letter(Box::new(message));
    }

    /// All messages in the order of their records.
    pub(super) fn messages(&self) -> impl Iterator<Item = (&Message, Envelope)> {
        self.outputs.iter().flat_map(|output| {
            let (messages, envelope) = match output {
                Output::Messages(messages) => (&messages[..], Envelope::CloudEvent),
                Output::Letter(message) => (std::slice::from_ref(&**message), Envelope::Bare),
            };
            messages.iter().map(move |message| (message, envelope))
        })
    }

    /// Deals with messages that Kafka did not take, by their place among all: a record whose message is refused is put
    /// aside. The error says what must change before the batch can be sent.
    pub(super) fn mend(&mut self, config: &Config, failed: &[(usize, RDKafkaErrorCode)]) -> Result<(), String> {
        let mut of_records = BTreeMap::new();
        let mut transient = None;
        for (place, code) in failed {
            let (index, message) = self.find(*place);
            match refusal(*code, message) {
                Some(reason) => _ = of_records.entry(index).or_insert((*code, reason)),
                None => transient = Some(format!("message {} to topic {}: {code}", message.id, message.topic)),
            }
        }
        if of_records.is_empty() {
            return Err(transient.unwrap_or_default());
        }
        for (index, (code, reason)) in of_records {
            match &mut self.outputs[index] {
                Output::Messages(_) => self.put_aside(config, index, reason),
                // The topic has fewer partitions than the record's.
                Output::Letter(letter) if code == RDKafkaErrorCode::UnknownPartition && letter.partition.is_some() => {
                    letter.partition = None;
                }
                Output::Letter(letter) => {
                    return Err(format!("{} can't be put aside: {reason}", letter.id));
                }
            }
        }
        Ok(())
    }

    /// Where each partition is after this batch.
    pub(super) fn offsets(&self) -> BTreeMap<TopicPartition, u64> {
        let mut offsets = BTreeMap::new();
        for Record { topic, partition, offset, .. } in &self.records {
            let next = u64::try_from(offset + 1).unwrap_or(0);
            // Records of a partition are in order.
            offsets.insert(TopicPartition { topic: topic.clone(), partition: *partition }, next);
        }
        offsets
    }

    /// The record and the message at a place among all messages.
    fn find(&self, place: usize) -> (usize, &Message) {
        let all = self.outputs.iter().enumerate().flat_map(|(index, output)| {
            let messages = match output {
                Output::Messages(messages) => &messages[..],
                Output::Letter(message) => std::slice::from_ref(&**message),
            };
            messages.iter().map(move |message| (index, message))
        });
        all.skip(place).next().expect("it was sent")
    }
}
