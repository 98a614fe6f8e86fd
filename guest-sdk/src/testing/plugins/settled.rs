//! What a step of a test led to, and what it must have led to.

use crate::codec;
use crate::subscriber::{Effect, Message, Request};
use crate::testing::effects::comparable;
use crate::testing::readable;
use serde::Serialize;
use serde_json::Value as Json;
use wasmill_cases::flows::{Ended, Occurred, Stream};

/// What has happened since the test looked last.
#[derive(Default)]
pub(super) struct Happened {
    pub(super) events: Vec<Occurred>,
    pub(super) messages: Vec<Message>,
    pub(super) requests: Vec<Request>,
    /// The commands of subscribers and sagas that were refused: aggregate, name and reason.
    pub(super) refused: Vec<(Stream, String, String)>,
    /// What was dead-lettered: subscription and reason.
    pub(super) dead_letters: Vec<(String, String)>,
}

/// What a command or a move of the clock led to, once everything is at rest. Each `then_` method checks a part of it.
///
/// Without such a method the command must be accepted, and nothing may be dead-lettered: otherwise dropping this panics.
pub struct Settled {
    /// How the command ended, until it is checked.
    ended: Option<Ended>,
    happened: Happened,
}

impl Settled {
    pub(super) fn new(ended: Option<Ended>, happened: Happened) -> Self {
        Self { ended, happened }
    }

    /// Expects the command to be accepted.
    ///
    /// # Panics
    /// If it ended in another way.
    #[track_caller]
    pub fn then_accepted(mut self) -> Self {
        if let Some(ended) = self.ended.take().filter(|ended| *ended != Ended::Accepted) {
            panic!("expected the command to be accepted, got: {}", text(&ended));
        }
        self
    }

    /// Expects the command to be rejected with a reason that contains this text.
    ///
    /// # Panics
    /// If it ended in another way.
    #[track_caller]
    pub fn then_rejected(self, part_of_the_reason: &str) -> Self {
        self.ended("rejected", part_of_the_reason)
    }

    /// Expects the command to be malformed, with a reason that contains this text.
    ///
    /// # Panics
    /// If it ended in another way.
    #[track_caller]
    pub fn then_malformed(self, part_of_the_reason: &str) -> Self {
        self.ended("malformed", part_of_the_reason)
    }

    /// Expects the command to fail because its aggregate panics, with a text that contains this one.
    ///
    /// # Panics
    /// If it ended in another way.
    #[track_caller]
    pub fn then_failed(self, part_of_the_reason: &str) -> Self {
        self.ended("it failed", part_of_the_reason)
    }

    #[track_caller]
    fn ended(mut self, kind: &str, part: &str) -> Self {
        let actual = text(&self.ended.take().expect("no command was sent, or its end is already checked"));
        let is_expected = actual.starts_with(kind) && actual.contains(part);
        assert!(is_expected, "expected: {kind} with `{part}`, got: {actual}");
        self
    }

    /// Expects exactly these events of an aggregate or a saga, in this order.
    ///
    /// # Panics
    /// If it has other ones.
    #[track_caller]
    pub fn then_events<E: Serialize>(
        mut self,
        aggregate_type: &str,
        aggregate_id: &str,
        expected: impl IntoIterator<Item = E>,
    ) -> Self {
        let stream = Stream::new(aggregate_type, aggregate_id);
        let expected: Vec<_> = expected.into_iter().map(|event| encoded(&event)).collect();
        let (of_it, others) =
            std::mem::take(&mut self.happened.events).into_iter().partition(|event| event.on == stream);
        self.happened.events = others;
        let of_it: Vec<Occurred> = of_it;
        let actual: Vec<_> = of_it.iter().enumerate().map(|(at, event)| shown(event, expected.get(at))).collect();
        assert_eq!(actual, expected, "the events of {stream} (left) are not the expected ones (right)");
        self
    }

    /// Expects this message as the next one of its topic.
    ///
    /// # Panics
    /// If the next one is another one, or if there is none.
    #[track_caller]
    pub fn then_message(mut self, expected: Message) -> Self {
        let messages = &mut self.happened.messages;
        let next = messages.iter().position(|message| message.0.topic == expected.0.topic);
        let actual = next.map(|index| comparable(&Effect::Publish(messages.remove(index))));
        assert_eq!(
            actual,
            Some(comparable(&Effect::Publish(expected))),
            "the message (left) is not the expected one (right)"
        );
        self
    }

    /// Expects this HTTP request as the next one to its endpoint, with its headers, its body and its attachment.
    ///
    /// # Panics
    /// If there is another one, or none.
    #[track_caller]
    pub fn then_http(mut self, expected: Request) -> Self {
        let requests = &mut self.happened.requests;
        let next = requests.iter().position(|request| request.0.endpoint == expected.0.endpoint);
        let actual = next.map(|index| comparable(&Effect::Http(requests.remove(index))));
        assert_eq!(
            actual,
            Some(comparable(&Effect::Http(expected))),
            "the request (left) is not the expected one (right)"
        );
        self
    }

    /// Expects that this command of a subscriber or a saga was refused, with a reason that contains this text.
    ///
    /// # Panics
    /// If it was not refused so.
    #[track_caller]
    pub fn then_refused(mut self, aggregate_type: &str, aggregate_id: &str, name: &str, part: &str) -> Self {
        let to = Stream::new(aggregate_type, aggregate_id);
        let refused = &mut self.happened.refused;
        let is_it =
            |(on, command, reason): &(Stream, String, String)| *on == to && command == name && reason.contains(part);
        match refused.iter().position(is_it) {
            Some(index) => drop(refused.remove(index)),
            None => panic!("expected {name} to {to} to be refused with `{part}`, refused are: {refused:#?}"),
        }
        self
    }

    /// Expects that this subscription has dead-lettered something, with a reason that contains this text.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn then_dead_letter(mut self, subscription: &str, part: &str) -> Self {
        let letters = &mut self.happened.dead_letters;
        match letters.iter().position(|(consumer, reason)| consumer == subscription && reason.contains(part)) {
            Some(index) => drop(letters.remove(index)),
            None => {
                let letters = std::mem::take(letters);
                panic!("expected a dead letter of {subscription} with `{part}`, got: {letters:#?}");
            }
        }
        self
    }

    /// Expects no further events, messages, requests, refused commands or dead letters, and that the command was accepted unless
    /// another end was expected before.
    ///
    /// # Panics
    /// If there are any.
    #[track_caller]
    pub fn then_nothing(self) {
        let mut settled = self.then_accepted();
        let Happened { events, messages, requests, refused, dead_letters } = std::mem::take(&mut settled.happened);
        let events = events.iter().map(|event| format!("event {} {:?}", event.on, shown(event, None)));
        let messages = messages.into_iter().map(|message| format!("message {}", comparable(&Effect::Publish(message))));
        let requests = requests.into_iter().map(|request| format!("request {}", comparable(&Effect::Http(request))));
        let refused = refused.iter().map(|(to, name, reason)| format!("refused {name} to {to}: {reason}"));
        let letters = dead_letters.iter().map(|(consumer, reason)| format!("dead letter of {consumer}: {reason}"));
        let left: Vec<_> = events.chain(messages).chain(requests).chain(refused).chain(letters).collect();
        assert!(left.is_empty(), "expected nothing more, got:\n{}", left.join("\n"));
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(ended) = self.ended.as_ref().filter(|ended| **ended != Ended::Accepted) {
            panic!("the command was not accepted, and the test does not expect it: {}", text(ended));
        }
        let letters = &self.happened.dead_letters;
        assert!(letters.is_empty(), "dead letters that the test does not expect: {letters:#?}");
    }
}

fn text(ended: &Ended) -> String {
    match ended {
        Ended::Accepted => "accepted".to_owned(),
        Ended::Rejected(reason) => format!("rejected: {reason}"),
        Ended::Malformed(reason) => format!("malformed: {reason}"),
        Ended::Otherwise(text) => text.clone(),
    }
}

#[track_caller]
fn encoded(event: &impl Serialize) -> (String, Json) {
    let (name, payload) = codec::encode(event).unwrap_or_else(|error| panic!("the event does not encode: {error}"));
    (name.to_owned(), readable(&payload))
}

/// Returns an event without its schema version, unless the expected one has a version too.
fn shown(event: &Occurred, expected: Option<&(String, Json)>) -> (String, Json) {
    let mut payload = readable(&event.payload);
    let has_version = expected.is_some_and(|(_, payload)| payload.get("@schema").is_some());
    if let (false, Json::Object(fields)) = (has_version, &mut payload) {
        fields.remove("@schema");
    }
    (event.name.clone(), payload)
}
