//! The records of a transaction, with the messages that each has produced.

use super::Config;
use crate::clock::Clock;
use crate::kafka::message::Envelope;
use crate::kafka::record::Incoming;
use crate::kafka::sink::dead_letters;
use crate::kafka::sink::publisher::refusal;
use crate::kafka::source::TopicPartition;
use crate::model::{Message, Record};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::ops::Range;

/// Records in the order in which they were read.
#[derive(Default)]
pub(super) struct RecordBatch {
    pub(super) records: Vec<Record>,
    /// The output of each record.
    outputs: Vec<Output>,
    /// The number of records, from the first on, that were handled and whose outputs are complete.
    pub(super) handled: usize,
}

enum Output {
    Messages(Vec<Message>),
    /// The record failed for good. This is its message for the dead-letter topic.
    DeadLetter(Box<Message>),
}

impl RecordBatch {
    /// Adds the next record. If its headers can't be read, it is dead-lettered at once and not handled.
    pub(super) fn add(&mut self, config: &Config, record: Incoming<'_>) {
        let (record, wrong) = record.into_owned();
        self.records.push(record);
        self.outputs.push(Output::Messages(Vec::new()));
        if let Some(reason) = wrong {
            self.dead_letter(config, self.records.len() - 1, reason);
        }
    }

    /// Returns the next records to be handled from an index on, `max` at most, without dead-lettered ones. The range is
    /// empty at the end of the batch.
    pub(super) fn part(&self, from: usize, max: usize) -> Range<usize> {
        let is_open = |output: &Output| matches!(output, Output::Messages(_));
        let start = from + self.outputs[from..].iter().take_while(|output| !is_open(output)).count();
        let count = self.outputs[start..].iter().take(max).take_while(|output| is_open(output)).count();
        start..start + count
    }

    /// Splits off the records that are not handled, in their order.
    pub(super) fn split_off_unhandled(&mut self) -> Self {
        let (records, outputs) = (self.records.split_off(self.handled), self.outputs.split_off(self.handled));
        Self { records, outputs, handled: 0 }
    }

    /// Appends later records. They must be unhandled, unless this batch is empty.
    pub(super) fn append(&mut self, mut other: Self) {
        debug_assert!(self.records.is_empty() || other.handled == 0, "handled in order");
        if self.records.is_empty() {
            *self = other;
            return;
        }
        self.records.append(&mut other.records);
        self.outputs.append(&mut other.outputs);
    }

    /// Adds a message that a record has produced.
    pub(super) fn lead_to(&mut self, index: usize, message: Message) {
        if let Output::Messages(messages) = &mut self.outputs[index] {
            messages.push(message);
        }
    }

    /// Dead-letters a record that failed for good, and drops its messages.
    pub(super) fn dead_letter(&mut self, config: &Config, index: usize, reason: String) {
        let record = &self.records[index];
        tracing::warn!(source = &*config.name, "{} dead-lettered: {reason}", record.place());
        let about = dead_letters::About {
            id: format!("{}:{}", config.name, record.id()).into(),
            source: config.name.clone(),
            group: &config.group,
            reason,
            dead_lettered_ms: Clock::system().now_ms(),
        };
        let message = about.message(record.clone(), config.dead_letter_topic.clone(), Some(record.partition));
        self.outputs[index] = Output::DeadLetter(Box::new(message));
    }

    /// Returns all messages in the order of their records.
    pub(super) fn messages(&self) -> impl Iterator<Item = (&Message, Envelope)> {
        self.messages_of(0..self.outputs.len())
    }

    /// Returns the messages of some of the records.
    pub(super) fn messages_of(&self, records: Range<usize>) -> impl Iterator<Item = (&Message, Envelope)> {
        self.outputs[records].iter().flat_map(|output| {
            let (messages, envelope) = match output {
                Output::Messages(messages) => (&messages[..], Envelope::CloudEvent),
                Output::DeadLetter(message) => (std::slice::from_ref(&**message), Envelope::Bare),
            };
            messages.iter().map(move |message| (message, envelope))
        })
    }

    /// Handles messages that Kafka did not accept, given by their index among all messages. A record whose message is
    /// refused is dead-lettered. The error says what must change before the batch can be sent.
    pub(super) fn dead_letter_refused(
        &mut self,
        config: &Config,
        failed: &[(usize, RDKafkaErrorCode)],
    ) -> Result<(), String> {
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
                Output::Messages(_) => self.dead_letter(config, index, reason),
                // The dead-letter topic has fewer partitions than the record's topic.
                Output::DeadLetter(letter)
                    if code == RDKafkaErrorCode::UnknownPartition && letter.partition.is_some() =>
                {
                    letter.partition = None;
                }
                Output::DeadLetter(letter) => {
                    return Err(format!("{} can't be dead-lettered: {reason}", letter.id));
                }
            }
        }
        Ok(())
    }

    /// Returns the next offset of each partition after this batch.
    pub(super) fn offsets(&self) -> BTreeMap<TopicPartition, u64> {
        let mut offsets = BTreeMap::new();
        let of_one = |one: &Record, other: &Record| (one.partition, &one.topic) == (other.partition, &other.topic);
        // Records of a partition are in order, and often consecutive.
        for row in self.records.chunk_by(of_one) {
            let Record { topic, partition, offset, .. } = &row[row.len() - 1];
            let next = u64::try_from(offset + 1).unwrap_or(0);
            offsets.insert(TopicPartition { topic: topic.clone(), partition: *partition }, next);
        }
        offsets
    }

    /// Finds the record and the message for an index among all messages.
    fn find(&self, place: usize) -> (usize, &Message) {
        let mut all = self.outputs.iter().enumerate().flat_map(|(index, output)| {
            let messages = match output {
                Output::Messages(messages) => &messages[..],
                Output::DeadLetter(message) => std::slice::from_ref(&**message),
            };
            messages.iter().map(move |message| (index, message))
        });
        all.nth(place).expect("it was sent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Deliveries, From, Lost};

    fn config() -> Config {
        Config {
            name: "taps".into(),
            topics: vec!["taps".into()],
            written: Vec::new(),
            group: "wasmill-taps".into(),
            from: From::Beginning,
            lost: Lost::Continue,
            recreated: Default::default(),
            dead_letter_topic: "dead".into(),
            bounds: Default::default(),
            drop_headers: Default::default(),
            deliveries: Deliveries::to("courier"),
        }
    }

    fn message(id: &str) -> Message {
        Message {
            id: id.into(),
            topic: "out".into(),
            key: None,
            partition: None,
            headers: Vec::new(),
            payload: Some(b"x".to_vec()),
            time_ms: 0,
            correlation_id: "c".into(),
            causation_id: "c".into(),
            hops: 0,
            source: "taps".into(),
        }
    }

    /// Returns records 10, 11 and 12 of partition 3. The second produces two messages, and the others produce one.
    fn batch() -> RecordBatch {
        let mut batch = RecordBatch::default();
        for offset in 10..13 {
            let record = Record {
                topic: "taps".into(),
                partition: 3,
                offset,
                time_ms: 7,
                key: Some(b"k".to_vec()),
                headers: Vec::new(),
                payload: None,
            };
            batch.add(&config(), (&record).into());
        }
        for (index, id) in [(0, "a"), (1, "b"), (1, "c"), (2, "d")] {
            batch.lead_to(index, message(id));
        }
        batch
    }

    fn topics(batch: &RecordBatch) -> Vec<&str> {
        batch.messages().map(|(message, _)| message.topic.as_str()).collect()
    }

    #[test]
    fn a_record_whose_message_is_refused_is_dead_lettered_with_all_it_led_to() {
        let mut batch = batch();
        // After one failure librdkafka fails the others too, so their failures mean nothing.
        let failed = [(2, RDKafkaErrorCode::MessageSizeTooLarge), (3, RDKafkaErrorCode::PurgeQueue)];
        batch.dead_letter_refused(&config(), &failed).unwrap();
        assert_eq!(topics(&batch), ["out", "dead", "out"]);
        let (letter, _) = batch.messages().nth(1).unwrap();
        assert_eq!(
            (&*letter.id, letter.partition, letter.key.as_deref()),
            ("taps:taps:3:11", Some(3), Some(&b"k"[..]))
        );
        let offsets: Vec<_> = batch.offsets().into_values().collect();
        assert_eq!(offsets, [13]);
    }

    #[test]
    fn a_record_whose_headers_cannot_be_read_is_dead_lettered_and_not_handled() {
        let mut batch = batch();
        let records = batch.records.clone();
        for (index, record) in records.iter().enumerate() {
            let mut incoming = Incoming::from(record);
            incoming.headers.wrong = (index == 1).then(|| "no text".into());
            batch.add(&config(), incoming);
        }
        assert_eq!((batch.part(0, 100), batch.part(0, 2)), (0..4, 0..2));
        assert_eq!((batch.part(4, 100), batch.part(3, 100), batch.part(6, 100)), (5..6, 3..4, 6..6));
        assert_eq!(topics(&batch)[4..], ["dead"]);
    }

    #[test]
    fn a_letter_goes_to_any_partition_where_the_topic_has_fewer_and_waits_where_there_is_no_topic() {
        let mut batch = batch();
        batch.dead_letter(&config(), 0, "no".into());
        batch.dead_letter_refused(&config(), &[(0, RDKafkaErrorCode::UnknownPartition)]).unwrap();
        assert_eq!(batch.messages().next().unwrap().0.partition, None);
        let waits =
            batch.dead_letter_refused(&config(), &[(0, RDKafkaErrorCode::UnknownTopicOrPartition)]).unwrap_err();
        assert!(waits.contains("taps:taps:3:10 can't be dead-lettered: topic dead does not exist"), "{waits}");
        assert_eq!(topics(&batch), ["dead", "out", "out", "out"]);
    }
}
