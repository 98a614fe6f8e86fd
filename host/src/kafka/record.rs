//! A Kafka record as what it is handed on as: a command to an aggregate, or itself.

use super::naming::{Address, Naming};
use crate::bounds::{Bounds, hops, is_hops};
use crate::clock::Clock;
use crate::manifest::Commands;
use crate::model::{Command, DeadLetter, Header, Origin, Parked, Record, StreamId, write_record_id};
use rdkafka::Timestamp;
use rdkafka::message::{Headers, Message, OwnedHeaders, OwnedMessage};
use std::sync::Arc;

/// Which commands the records of a source become.
pub(super) struct Mapping {
    source: Arc<str>,
    naming: Naming,
    bounds: Bounds,
    /// Reused for the text of ids.
    text: String,
}

impl Mapping {
    pub(super) fn new(source: Arc<str>, commands: &Commands, bounds: Bounds) -> Self {
        Self { naming: Naming::new(&source, commands), bounds, source, text: String::new() }
    }

    /// Whether each record says itself which type of aggregate it is for, so that one of them may be wrong.
    pub(super) fn is_addressed_by_records(&self) -> bool {
        self.naming.is_addressed_by_records()
    }

    /// What a record that was put aside becomes, now that it is tried again.
    pub(super) fn take_again(&mut self, record: &Record, origin: Origin) -> Result<Command, Box<DeadLetter>> {
        // A person has looked at it: the count of its chain starts over.
        let headers = record.headers.iter().filter(|header| !is_hops(&header.name)).cloned().collect();
        self.take(&record.topic, &message(&Record { headers, ..record.clone() }), origin)
    }

    /// What a record becomes; or the dead letter of one that can't be a command.
    pub(super) fn take<M: Message>(
        &mut self,
        topic: &Arc<str>,
        record: &M,
        origin: Origin,
    ) -> Result<Command, Box<DeadLetter>> {
        match self.naming.address(record) {
            Ok(address) => {
                let command = self.command(address, topic, record, origin);
                match self.bounds.refusal(command.hops, &command.correlation_id) {
                    None => Ok(command),
                    Some(reason) => Err(self.dead_letter(topic, record, reason)),
                }
            }
            Err(reason) => Err(self.dead_letter(topic, record, reason)),
        }
    }

    fn command<M: Message>(&mut self, address: Address, topic: &str, record: &M, origin: Origin) -> Command {
        let id = self.id(topic, record);
        let mut headers = headers(record);
        let hops = hops(&headers);
        if hops > 0 {
            // It stands in the command itself.
            headers.retain(|header| !is_hops(&header.name));
        }
        Command {
            stream: StreamId { aggregate_type: address.aggregate, aggregate_id: address.id },
            name: address.command,
            payload: record.payload().unwrap_or_default().to_vec(),
            time_ms: time_ms(record),
            correlation_id: correlation_id(&headers).unwrap_or_else(|| id.clone()),
            causation_id: id.clone(),
            id,
            headers,
            origin: Some(origin),
            hops,
            durable_id: false,
            expected: None,
        }
    }

    fn id<M: Message>(&mut self, topic: &str, record: &M) -> Arc<str> {
        self.text.clear();
        write_record_id(&mut self.text, topic, record.partition(), record.offset());
        self.text.as_str().into()
    }

    fn dead_letter<M: Message>(&self, topic: &Arc<str>, record: &M, reason: String) -> Box<DeadLetter> {
        Box::new(DeadLetter {
            consumer: self.source.to_string(),
            place: format!("topic {topic} partition {} offset {}", record.partition(), record.offset()),
            key: record.key().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
            reason,
            time_ms: Clock::system().now_ms(),
            content: Parked::Record(owned(topic, record)),
        })
    }
}

/// A record that was put aside, as it was read.
fn message(record: &Record) -> OwnedMessage {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for Header { name, value } in &record.headers {
        headers = headers.insert(rdkafka::message::Header { key: name, value: value.as_deref() });
    }
    let time = i64::try_from(record.time_ms).map_or(Timestamp::NotAvailable, Timestamp::CreateTime);
    let (topic, partition, offset) = (record.topic.to_string(), record.partition, record.offset);
    OwnedMessage::new(record.payload.clone(), record.key.clone(), topic, time, partition, offset, Some(headers))
}

pub(super) fn owned<M: Message>(topic: &Arc<str>, record: &M) -> Record {
    Record {
        topic: topic.clone(),
        partition: record.partition(),
        offset: record.offset(),
        time_ms: time_ms(record),
        key: record.key().map(<[u8]>::to_vec),
        headers: headers(record),
        payload: record.payload().map(<[u8]>::to_vec),
    }
}

fn time_ms<M: Message>(record: &M) -> u64 {
    record.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_else(|| Clock::system().now_ms())
}

fn headers<M: Message>(record: &M) -> Vec<Header> {
    let Some(headers) = record.headers() else { return Vec::new() };
    let owned = |header: rdkafka::message::Header<'_, &[u8]>| Header {
        name: header.key.to_owned(),
        value: header.value.map(<[u8]>::to_vec),
    };
    headers.iter().map(owned).collect()
}

fn correlation_id(headers: &[Header]) -> Option<Arc<str>> {
    crate::model::correlation_id(headers).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Key, Name};

    fn record(key: Option<&[u8]>, value: Option<&[u8]>, headers: Option<OwnedHeaders>) -> OwnedMessage {
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        OwnedMessage::new(value, key, "baskets".into(), Timestamp::CreateTime(1_700_000_000_123), 3, 17, headers)
    }

    fn map(record: &OwnedMessage) -> Result<Command, Box<DeadLetter>> {
        let origin = Origin { ledger: "kafka/till/baskets/3".into(), first: 15, last: 17 };
        let name = |name: &str| Name::Fixed(name.into());
        let (aggregate, command) = (name("order"), name("CreateOrder"));
        let commands = Commands { aggregate, command, key: Key::Text, tombstone: None };
        Mapping::new("till".into(), &commands, Bounds::default()).take(&"baskets".into(), record, origin)
    }

    #[test]
    fn a_record_becomes_a_command() {
        let command = map(&record(Some(b"b1"), Some(b"{}"), None)).unwrap();
        assert_eq!(command.stream, StreamId::new("order", "b1"));
        assert_eq!((&*command.name, command.payload.as_slice()), ("CreateOrder", b"{}".as_slice()));
        assert_eq!(&*command.id, "baskets:3:17");
        assert_eq!((&command.correlation_id, &command.causation_id), (&command.id, &command.id));
        assert_eq!((command.time_ms, command.durable_id, command.expected), (1_700_000_000_123, false, None));
        let origin = command.origin.unwrap();
        assert_eq!((origin.first, origin.last), (15, 17));
        assert_eq!(origin.place(), "topic baskets partition 3 offset 17");
    }

    #[test]
    fn headers_are_kept_and_one_may_correlate() {
        let header = |key, value| rdkafka::message::Header { key, value };
        let headers = OwnedHeaders::new()
            .insert(header("X-Correlation-Id", Some("c1")))
            .insert(header("empty", None))
            .insert(header("twice", Some("1")))
            .insert(header("twice", Some("2")));
        let command = map(&record(Some(b"b1"), Some(b"{}"), Some(headers))).unwrap();
        assert_eq!(&*command.correlation_id, "c1");
        let names: Vec<_> = command.headers.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["X-Correlation-Id", "empty", "twice", "twice"]);
        assert_eq!((&command.headers[1].value, &command.headers[3].value), (&None, &Some(b"2".to_vec())));
    }

    #[test]
    fn a_chain_that_comes_back_through_kafka_is_counted_on_and_ends() {
        let header = |value| rdkafka::message::Header { key: "wasmill-hops", value: Some(value) };
        let counted = |hops| record(Some(b"b1"), Some(b"{}"), Some(OwnedHeaders::new().insert(header(hops))));
        let command = map(&counted("100")).unwrap();
        assert_eq!((command.hops, command.headers.len()), (100, 0));
        for too_many in ["101", "-1"] {
            let letter = map(&counted(too_many)).unwrap_err();
            assert!(letter.reason.contains("\"baskets:3:17\""), "{}", letter.reason);
            let Parked::Record(record) = letter.content else { panic!("it holds the record") };
            let commands = Commands {
                aggregate: Name::Fixed("order".into()),
                command: Name::Fixed("CreateOrder".into()),
                key: Key::Text,
                tombstone: None,
            };
            let mut mapping = Mapping::new("till".into(), &commands, Bounds::default());
            let origin = Origin { ledger: "dead-letters".into(), first: 1, last: 1 };
            assert_eq!(mapping.take_again(&record, origin).unwrap().hops, 0, "a retry starts the count over");
        }
    }

    #[test]
    fn a_record_that_is_no_command_says_why_and_how_to_do_better() {
        for (key, value, expected) in [
            (None, Some(b"{}".as_slice()), "has no key"),
            (Some(b"".as_slice()), Some(b"{}".as_slice()), "key is empty"),
            (Some(b"\xff".as_slice()), Some(b"{}".as_slice()), "not UTF-8"),
            (Some(b"b1".as_slice()), None, "has no value"),
        ] {
            let letter = map(&record(key, value, None)).unwrap_err();
            assert!(letter.reason.contains(expected) && letter.reason.contains("produce"), "{}", letter.reason);
            assert_eq!((&*letter.consumer, &*letter.place), ("till", "topic baskets partition 3 offset 17"));
            assert_eq!(letter.payload(), value);
        }
    }
}
