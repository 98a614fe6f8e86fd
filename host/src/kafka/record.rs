//! The conversion of a Kafka record into a command, or into an owned record that is delivered as it is.

use super::headers::{self, Dropped, Headers};
use super::naming::{Address, Naming};
use crate::bounds::{Bounds, hops, is_hops};
use crate::clock::Clock;
use crate::manifest::{Commands, Rejected};
use crate::model::{
    Command, DeadLetter, DeadLetterContent, Origin, OutcomeUse, Record, StreamId, key_text, write_record_id,
};
use rdkafka::message::{BorrowedMessage, Message};
use std::sync::Arc;

/// A record that was read and is not handed on yet. Its key and value are borrowed from librdkafka.
pub(super) struct Incoming<'a> {
    pub(super) topic: &'a Arc<str>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) time_ms: u64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) payload: Option<&'a [u8]>,
    pub(super) headers: Headers,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(topic: &'a Arc<str>, record: &'a BorrowedMessage<'_>, dropped: &Dropped) -> Self {
        Self {
            topic,
            partition: record.partition(),
            offset: record.offset(),
            time_ms: record
                .timestamp()
                .to_millis()
                .and_then(|ms| u64::try_from(ms).ok())
                .unwrap_or_else(|| Clock::system().now_ms()),
            key: record.key(),
            payload: record.payload(),
            headers: headers::of(record, dropped),
        }
    }

    /// Returns the record, and the reason if it can't be handled because its headers can't be read.
    pub(super) fn into_owned(self) -> (Record, Option<String>) {
        let record = Record {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            time_ms: self.time_ms,
            key: self.key.map(<[u8]>::to_vec),
            headers: self.headers.list,
            payload: self.payload.map(<[u8]>::to_vec),
        };
        (record, self.headers.wrong)
    }
}

/// A dead-lettered record, as it was read.
impl<'a> From<&'a Record> for Incoming<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            topic: &record.topic,
            partition: record.partition,
            offset: record.offset,
            time_ms: record.time_ms,
            key: record.key.as_deref(),
            payload: record.payload.as_deref(),
            headers: Headers { list: record.headers.clone(), wrong: None },
        }
    }
}

/// Returns the dead letter of a record that can't be handed on.
pub(super) fn dead_letter(source: &str, record: Record, reason: String) -> Box<DeadLetter> {
    Box::new(DeadLetter {
        consumer: source.to_owned(),
        place: record.place(),
        key: key_text(record.key.as_deref()),
        reason,
        time_ms: Some(record.time_ms),
        content: DeadLetterContent::Record(record),
    })
}

/// The mapping of a source's records to commands.
pub(super) struct Mapping {
    source: Arc<str>,
    naming: Naming,
    bounds: Bounds,
    rejected: Rejected,
    /// A buffer for the text of ids.
    text: String,
}

impl Mapping {
    pub(super) fn new(source: Arc<str>, commands: &Commands, bounds: Bounds) -> Self {
        Self {
            naming: Naming::new(&source, commands),
            bounds,
            rejected: commands.rejected,
            source,
            text: String::new(),
        }
    }

    /// Whether each record names the type of its aggregate, so that a single record may be wrong.
    pub(super) fn is_addressed_by_records(&self) -> bool {
        self.naming.is_addressed_by_records()
    }

    /// Converts a dead-lettered record that is replayed.
    pub(super) fn take_again(&mut self, record: &Record, origin: Origin) -> Result<Command, Box<DeadLetter>> {
        let mut record = Incoming::from(record);
        // A person has seen the dead letter, so the hops are counted from 0 again.
        record.headers.list.retain(|header| !is_hops(&header.name));
        self.take(record, origin)
    }

    /// Converts a record to a command, or to a dead letter if that is not possible.
    pub(super) fn take(&mut self, record: Incoming<'_>, origin: Origin) -> Result<Command, Box<DeadLetter>> {
        let address = match &record.headers.wrong {
            None => self.naming.address(&record).and_then(|address| {
                let hops = hops(&record.headers.list);
                let refusal = self.refusal(&record, hops);
                refusal.map_or(Ok((address, hops)), Err)
            }),
            Some(reason) => Err(reason.clone()),
        };
        match address {
            Ok((address, hops)) => Ok(self.command(address, hops, record, origin)),
            Err(reason) => Err(dead_letter(&self.source, record.into_owned().0, reason)),
        }
    }

    /// Returns why the chain of causes of a record must end here, if so.
    fn refusal(&self, record: &Incoming<'_>, hops: u32) -> Option<String> {
        if hops == 0 {
            return None;
        }
        let mut id = String::new();
        write_record_id(&mut id, record.topic, record.partition, record.offset);
        let correlation_id = crate::model::correlation_id(&record.headers.list).unwrap_or(&id);
        self.bounds.refusal(hops, correlation_id)
    }

    fn command(&mut self, address: Address, hops: u32, mut record: Incoming<'_>, origin: Origin) -> Command {
        let id = self.id(&record);
        if hops > 0 {
            // The command has its own field for it.
            record.headers.list.retain(|header| !is_hops(&header.name));
        }
        let correlation_id = crate::model::correlation_id(&record.headers.list).map(Into::into);
        Command {
            stream: StreamId { aggregate_type: address.aggregate, aggregate_id: address.id },
            name: address.command,
            payload: record.payload.unwrap_or_default().to_vec(),
            time_ms: record.time_ms,
            correlation_id: correlation_id.unwrap_or_else(|| id.clone()),
            causation_id: id.clone(),
            id,
            headers: record.headers.list,
            origin: Some(origin),
            hops,
            durable_id: false,
            outcome_use: match self.rejected {
                Rejected::Count => OutcomeUse::Counted,
                Rejected::DeadLetter => OutcomeUse::DeadLettered,
            },
            first_ms: None,
            expected: None,
        }
    }

    fn id(&mut self, record: &Incoming<'_>) -> Arc<str> {
        self.text.clear();
        write_record_id(&mut self.text, record.topic, record.partition, record.offset);
        self.text.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Key, Name};
    use crate::model::Header;

    fn record(key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<Header>) -> Record {
        let (key, payload) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        let topic = "baskets".into();
        Record { topic, partition: 3, offset: 17, time_ms: 1_700_000_000_123, key, headers, payload }
    }

    fn map(record: &Record) -> Result<Command, Box<DeadLetter>> {
        map_incoming(record.into())
    }

    fn map_incoming(record: Incoming<'_>) -> Result<Command, Box<DeadLetter>> {
        let origin = Origin { ledger: "kafka/till/baskets/3".into(), first: 15, last: 17 };
        let name = |name: &str| Name::Fixed(name.into());
        let (aggregate, command) = (name("order"), name("CreateOrder"));
        let commands = Commands { aggregate, command, key: Key::Text, tombstone: None, rejected: Rejected::Count };
        Mapping::new("till".into(), &commands, Bounds::default()).take(record, origin)
    }

    #[test]
    fn a_record_becomes_a_command() {
        let command = map(&record(Some(b"b1"), Some(b"{}"), Vec::new())).unwrap();
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
        let header =
            |name: &str, value: Option<&str>| Header { name: name.into(), value: value.map(|value| value.into()) };
        let headers = vec![
            header("X-Correlation-Id", Some("c1")),
            header("empty", None),
            header("twice", Some("1")),
            header("twice", Some("2")),
        ];
        let command = map(&record(Some(b"b1"), Some(b"{}"), headers.clone())).unwrap();
        assert_eq!((&*command.correlation_id, command.headers), ("c1", headers));
    }

    #[test]
    fn a_chain_that_comes_back_through_kafka_is_counted_on_and_ends() {
        let header = |value: &str| Header { name: "wasmill-hops".into(), value: Some(value.into()) };
        let counted = |hops: &str| record(Some(b"b1"), Some(b"{}"), vec![header(hops)]);
        let command = map(&counted("100")).unwrap();
        assert_eq!((command.hops, command.headers.len()), (100, 0));
        for too_many in ["101", "-1"] {
            let letter = map(&counted(too_many)).unwrap_err();
            assert!(letter.reason.contains("\"baskets:3:17\""), "{}", letter.reason);
            let DeadLetterContent::Record(record) = letter.content else { panic!("it holds the record") };
            let commands = Commands {
                aggregate: Name::Fixed("order".into()),
                command: Name::Fixed("CreateOrder".into()),
                key: Key::Text,
                tombstone: None,
                rejected: Rejected::DeadLetter,
            };
            let mut mapping = Mapping::new("till".into(), &commands, Bounds::default());
            let origin = Origin { ledger: "dead-letters".into(), first: 1, last: 1 };
            let command = mapping.take_again(&record, origin).unwrap();
            assert_eq!(
                (command.hops, command.outcome_use),
                (0, OutcomeUse::DeadLettered),
                "a retry starts the count over"
            );
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
            let letter = map(&record(key, value, Vec::new())).unwrap_err();
            assert!(letter.reason.contains(expected) && letter.reason.contains("produce"), "{}", letter.reason);
            assert_eq!((&*letter.consumer, &*letter.place), ("till", "topic baskets partition 3 offset 17"));
            assert_eq!(letter.payload(), value);
        }
    }

    #[test]
    fn a_record_whose_headers_cannot_be_read_is_dead_lettered_and_taken_when_it_is_tried_again() {
        let record = record(Some(b"b1"), Some(b"{}"), vec![Header { name: "caf\\xe9".into(), value: None }]);
        let mut incoming = Incoming::from(&record);
        incoming.headers.wrong = Some("the name of header 1 is not UTF-8".into());
        let letter = map_incoming(incoming).unwrap_err();
        assert!(letter.reason.contains("header 1"), "{}", letter.reason);
        let DeadLetterContent::Record(kept) = &letter.content else { panic!("{letter:?}") };
        assert_eq!(kept, &record);
        assert_eq!(map(kept).unwrap().headers[0].name, "caf\\xe9");
    }
}
