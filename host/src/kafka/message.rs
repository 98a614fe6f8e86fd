//! The conversion of a message to a Kafka record: a CloudEvent in binary mode, or the bare message.

use crate::bounds::{HOPS_HEADER, is_hops};
use crate::clock;
use crate::manifest;
use crate::model::Message;
use crate::store::EventStore;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use std::sync::Arc;

/// The `ce_type` of a message whose subscriber gave no `type` header: CloudEvents require one.
const DEFAULT_TYPE: &str = "wasmill.message";

/// The headers that a record has in addition to those of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    /// The record is a CloudEvent.
    CloudEvent,
    /// The record has the headers of the message and no others.
    Bare,
}

/// The attributes that all CloudEvents of a host share.
#[derive(Clone, Debug)]
pub(super) struct CloudEvents {
    /// The beginning of `ce_source`. No other store may have the same one, because the numbers of events and messages
    /// are unique only within their store.
    source: Arc<str>,
    /// The media type of payloads whose messages do not name one.
    content_type: Arc<str>,
}

impl CloudEvents {
    /// Takes the values of the manifest, or the identity of the store if the manifest names no source.
    pub(super) fn new(settings: &manifest::CloudEvents, store: &dyn EventStore) -> Self {
        let source = match &settings.source {
            Some(source) => source.as_str().into(),
            None => format!("urn:uuid:{}", store.identity()).into(),
        };
        Self { source, content_type: settings.content_type.as_str().into() }
    }
}

/// Returns the record of a message. Its acknowledgement has the number.
pub(super) fn record<'m>(
    number: usize,
    message: &'m Message,
    envelope: Envelope,
    host: &CloudEvents,
) -> BaseRecord<'m, [u8], [u8], usize> {
    let mut record = BaseRecord::with_opaque_to(&message.topic, number).headers(headers(message, envelope, host));
    (record.key, record.payload) = (message.key.as_deref(), message.payload.as_deref());
    record.partition = message.partition;
    record
}

fn headers(message: &Message, envelope: Envelope, host: &CloudEvents) -> OwnedHeaders {
    // A bare message continues a hop count that its record had, but does not start one.
    let counted_from = match envelope {
        Envelope::CloudEvent => 1,
        Envelope::Bare => 2,
    };
    if message.hops < counted_from {
        return enveloped(message, envelope, host, message.headers.iter());
    }
    let others = message.headers.iter().filter(|header| !is_hops(&header.name));
    let mut digits = itoa::Buffer::new();
    let hops = Header { key: HOPS_HEADER, value: Some(digits.format(message.hops).as_bytes()) };
    enveloped(message, envelope, host, others).insert(hops)
}

fn enveloped<'a>(
    message: &'a Message,
    envelope: Envelope,
    host: &CloudEvents,
    given: impl Iterator<Item = &'a crate::model::Header>,
) -> OwnedHeaders {
    match envelope {
        Envelope::CloudEvent => cloud_event(message, host, given),
        Envelope::Bare => insert(OwnedHeaders::new_with_capacity(message.headers.len() + 1), given),
    }
}

/// Adds headers, in their order.
pub(super) fn insert<'a>(headers: OwnedHeaders, more: impl Iterator<Item = &'a crate::model::Header>) -> OwnedHeaders {
    more.fold(headers, |headers, header| headers.insert(Header { key: &header.name, value: header.value.as_deref() }))
}

/// Returns the headers of the record, by the CloudEvents binding for Kafka in binary mode: attributes as `ce_…`, and
/// the media type of a payload as `content-type`. Correlation and causation follow, then the guest's own headers. If
/// the guest sets one of the host's headers, the guest's value is used, except for `ce_id`, by which readers detect a
/// repetition.
fn cloud_event<'a>(
    message: &'a Message,
    host: &CloudEvents,
    given: impl Iterator<Item = &'a crate::model::Header>,
) -> OwnedHeaders {
    let own = |name: &str| message.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    let given_type =
        message.headers.iter().find(|header| header.name == "type").and_then(|header| header.value.as_deref());
    let (time, source) = (rfc3339(message.time_ms), [&host.source, "#", &*message.source].concat());
    let ours: [(&str, &[u8]); 8] = [
        ("ce_id", message.id.as_bytes()),
        ("ce_source", source.as_bytes()),
        ("ce_specversion", b"1.0"),
        ("ce_type", given_type.unwrap_or(DEFAULT_TYPE.as_bytes())),
        ("ce_time", time.as_bytes()),
        ("correlation-id", message.correlation_id.as_bytes()),
        ("causation-id", message.causation_id.as_bytes()),
        ("content-type", host.content_type.as_bytes()),
    ];
    let mut headers = OwnedHeaders::new_with_capacity(ours.len() + message.headers.len() + 1);
    let wanted = |key: &str| match key {
        "ce_id" => true,
        // A record without a value has no data, and so no type of data.
        "content-type" => message.payload.is_some() && !own(key),
        _ => !own(key),
    };
    for (key, value) in ours.iter().filter(|(key, _)| wanted(key)) {
        headers = headers.insert(Header { key, value: Some(*value) });
    }
    insert(headers, given.filter(|header| header.name != "ce_id"))
}

/// Formats milliseconds since 1970 as `2024-02-29T12:00:00.123Z`.
fn rfc3339(ms: u64) -> String {
    humantime::format_rfc3339_millis(clock::writable(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;

    #[test]
    fn times_are_rfc3339() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(ms), expected);
        }
    }

    fn headers_of(message: &Message) -> Vec<String> {
        let host = CloudEvents { source: "urn:uuid:s".into(), content_type: "application/json".into() };
        let headers = headers(message, Envelope::CloudEvent, &host);
        let shown = |header: Header<'_, &[u8]>| {
            format!("{}={}", header.key, String::from_utf8_lossy(header.value.unwrap_or(b"-")))
        };
        headers.iter().map(shown).collect()
    }

    fn message(headers: &[(&str, Option<&[u8]>)], payload: Option<&[u8]>) -> Message {
        let header = |(name, value): &(&str, Option<&[u8]>)| crate::model::Header {
            name: (*name).into(),
            value: value.map(<[u8]>::to_vec),
        };
        Message {
            id: "notifier/7/0".into(),
            topic: "notifications".into(),
            key: None,
            partition: None,
            headers: headers.iter().map(header).collect(),
            payload: payload.map(<[u8]>::to_vec),
            time_ms: 0,
            correlation_id: "c".into(),
            causation_id: "e".into(),
            hops: 17,
            source: "notifier".into(),
        }
    }

    #[test]
    fn a_message_is_a_cloud_event_of_its_store_with_the_type_of_its_data() {
        assert_eq!(
            headers_of(&message(&[], Some(b"{}"))),
            [
                "ce_id=notifier/7/0",
                "ce_source=urn:uuid:s#notifier",
                "ce_specversion=1.0",
                "ce_type=wasmill.message",
                "ce_time=1970-01-01T00:00:00.000Z",
                "correlation-id=c",
                "causation-id=e",
                "content-type=application/json",
                "wasmill-hops=17",
            ]
        );
        let avro = headers_of(&message(&[("Content-Type", Some(b"application/avro"))], Some(b"x")));
        let types: Vec<_> = avro.iter().filter(|header| header.to_lowercase().starts_with("content-type=")).collect();
        assert_eq!(types, ["Content-Type=application/avro"]);
    }

    #[test]
    fn headers_of_the_guest_stand_and_a_null_has_no_type() {
        let own: [(&str, Option<&[u8]>); 5] = [
            ("type", Some(b"order-confirmed")),
            ("ce_source", Some(b"shop")),
            ("ce_id", Some(b"forged")),
            ("flag", None),
            ("wasmill-hops", Some(b"1")),
        ];
        assert_eq!(
            headers_of(&message(&own, None)),
            [
                "ce_id=notifier/7/0",
                "ce_specversion=1.0",
                "ce_type=order-confirmed",
                "ce_time=1970-01-01T00:00:00.000Z",
                "correlation-id=c",
                "causation-id=e",
                "type=order-confirmed",
                "ce_source=shop",
                "flag=-",
                "wasmill-hops=17",
            ]
        );
    }
}
