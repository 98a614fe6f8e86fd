//! Subscriber `relay`: the least that a subscriber of Kafka records can do.
//!
//! A record whose header `to` names a topic is passed on to it, with its key and value as they are. With any other record
//! nothing is done: what it costs then is the delivery itself.

use wasmill_guest::prelude::*;

/// The header that names the topic.
const TO: &str = "to";

/// See the module.
struct Relay;

impl Subscriber for Relay {
    const SUBSCRIPTIONS: &'static [&'static str] = &[];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let record = delivery.record()?;
        let Some(topic) = record.metadata().header(TO) else { return Ok(()) };
        let topic = std::str::from_utf8(topic).map_err(Failure::malformed)?;
        let mut message = Message::to(topic).bytes(record.bytes().unwrap_or_default());
        if let Some(key) = record.key() {
            message = message.key(key);
        }
        outbox.publish(message);
        Ok(())
    }
}
export_subscriber!(Relay);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_guest::testing::{deliver, record};

    #[test]
    fn a_record_goes_to_the_topic_that_its_header_names() {
        deliver::<Relay>(record("in", Some(b"k"), Some(b"v")).with_header(TO, b"out"))
            .then_message(Message::to("out").key("k").bytes("v"))
            .then_nothing();
    }

    #[test]
    fn nothing_is_done_with_any_other_record() {
        deliver::<Relay>(record("in", Some(b"k"), Some(b"v"))).then_nothing();
    }
}
