//! A Kafka record as a command to an aggregate.

use crate::model::{Command, DeadLetter, Header, Origin, Parked, Record, StreamId, now_ms};
use rdkafka::message::{Headers, Message};
use std::fmt::Write;
use std::sync::Arc;

/// Headers that may carry a correlation id, in order of preference.
const CORRELATION_HEADERS: [&str; 3] = ["correlation-id", "x-correlation-id", "ce_correlationid"];

/// How the records of one topic become commands: the key is the aggregate's id, the value is the payload.
pub(super) struct Mapping {
    source: Arc<str>,
    topic: Arc<str>,
    aggregate: Arc<str>,
    command: Arc<str>,
    /// Reused for the text of ids.
    text: String,
}

impl Mapping {
    pub(super) fn new(source: Arc<str>, topic: Arc<str>, aggregate: Arc<str>, command: Arc<str>) -> Self {
        Self { source, topic, aggregate, command, text: String::new() }
    }

    /// The command of a record; or the dead letter of a record that can't be one.
    pub(super) fn command<M: Message>(&mut self, record: &M, origin: Origin) -> Result<Command, Box<DeadLetter>> {
        let parts = key(record).and_then(|key| Ok((key, value(record)?)));
        let (key, payload) = parts.map_err(|reason| self.dead_letter(record, reason))?;
        let id = self.id(record);
        let headers = headers(record);
        Ok(Command {
            stream: StreamId { aggregate_type: self.aggregate.clone(), aggregate_id: key.into() },
            name: self.command.clone(),
            payload: payload.to_vec(),
            time_ms: time_ms(record),
            correlation_id: correlation_id(&headers).unwrap_or_else(|| id.clone()),
            causation_id: id.clone(),
            id,
            headers,
            origin: Some(origin),
            durable_id: false,
            expected: None,
        })
    }

    fn id<M: Message>(&mut self, record: &M) -> Arc<str> {
        self.text.clear();
        write!(self.text, "{}:{}:{}", self.topic, record.partition(), record.offset()).expect("text has room");
        self.text.as_str().into()
    }

    fn dead_letter<M: Message>(&self, record: &M, reason: &str) -> Box<DeadLetter> {
        Box::new(DeadLetter {
            consumer: self.source.to_string(),
            place: format!("topic {} partition {} offset {}", self.topic, record.partition(), record.offset()),
            key: record.key().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
            reason: reason.to_owned(),
            payload: record.payload().unwrap_or_default().to_vec(),
            time_ms: time_ms(record),
            content: Parked::Record(Record {
                topic: self.topic.clone(),
                partition: record.partition(),
                offset: record.offset(),
                time_ms: time_ms(record),
                key: record.key().map(<[u8]>::to_vec),
                headers: headers(record),
                payload: record.payload().map(<[u8]>::to_vec),
            }),
        })
    }
}

fn key<M: Message>(record: &M) -> Result<&str, &'static str> {
    match record.key().map(std::str::from_utf8) {
        Some(Ok("")) => Err("the key is empty: produce the record with the aggregate's id as its key"),
        Some(Ok(key)) => Ok(key),
        Some(Err(_)) => Err("the key is not UTF-8: produce the record with the aggregate's id, as text, as its key"),
        None => Err("the record has no key: produce it with the aggregate's id as its key"),
    }
}

fn value<M: Message>(record: &M) -> Result<&[u8], &'static str> {
    record.payload().ok_or("the record has no value (a tombstone): produce it with the command's payload as its value")
}

fn time_ms<M: Message>(record: &M) -> u64 {
    record.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()).unwrap_or_else(now_ms)
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
    CORRELATION_HEADERS.iter().find_map(|name| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        let text = std::str::from_utf8(header.value.as_deref()?).ok()?;
        (!text.is_empty()).then(|| text.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::Timestamp;
    use rdkafka::message::{OwnedHeaders, OwnedMessage};

    fn record(key: Option<&[u8]>, value: Option<&[u8]>, headers: Option<OwnedHeaders>) -> OwnedMessage {
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        OwnedMessage::new(value, key, "baskets".into(), Timestamp::CreateTime(1_700_000_000_123), 3, 17, headers)
    }

    fn map(record: &OwnedMessage) -> Result<Command, Box<DeadLetter>> {
        let origin = Origin { ledger: "kafka/till/baskets/3".into(), first: 15, last: 17 };
        Mapping::new("till".into(), "baskets".into(), "order".into(), "CreateOrder".into()).command(record, origin)
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
            assert_eq!(letter.payload, value.unwrap_or_default());
        }
    }
}
