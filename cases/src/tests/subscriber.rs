//! Tests of cases of subscribers: what is delivered, and how effects are compared.

use crate::delivery::{Delivery, Ending, RequestEnding};
use crate::effect::{Due, Effect, SentCommand, SentMessage};
use crate::flows::http::{SentRequest, ServerAnswer};
use crate::subscriber::{Answer, Case, Handled};
use crate::{Cases, Refusal, Stream, Suite};

fn suite(when: &str, then: &str) -> Result<Case, String> {
    let text = format!("subscriber = \"shop\"\n[[case]]\nname = \"a\"\nwhen = {{ {when} }}\nthen = {{ {then} }}\n");
    match Suite::parse("shop.toml", &text).map_err(|error| error.to_string())?.cases {
        Cases::Subscriber(mut cases) => Ok(cases.remove(0)),
        other => panic!("cases of a subscriber, found {other:?}"),
    }
}

fn delivered(when: &str) -> Delivery {
    suite(when, "effects = []").unwrap_or_else(|error| panic!("{error}")).when
}

#[test]
fn each_kind_of_delivery_is_read() {
    let Delivery::Event(event) = delivered(r#"on = "order/7", name = "Placed", payload = { cents = 5 }, time_ms = 9"#)
    else {
        panic!("an event")
    };
    assert_eq!((event.path().as_str(), event.bytes(), event.time_ms), ("order.Placed", br#"{"cents":5}"#.to_vec(), 9));
    let Delivery::Record(record) = delivered(r#"source = "readings", key = "s1", value = { celsius = 2 }, offset = 3"#)
    else {
        panic!("a record")
    };
    assert_eq!(
        (record.topic.as_str(), record.offset, record.value),
        ("readings", 3, Some(br#"{"celsius":2}"#.to_vec()))
    );
    let Delivery::Record(record) = delivered(r#"source = "readings", topic = "raw", tombstone = true"#) else {
        panic!("a record")
    };
    assert_eq!((record.topic.as_str(), record.key, record.value), ("raw", None, None));
    let ending = |how: &str| match delivered(&format!("outcome = \"Charge\", to = \"payment/7\", {how}")) {
        Delivery::Outcome(outcome) => outcome.ending,
        other => panic!("an outcome, found {other:?}"),
    };
    assert_eq!(ending("accepted = true, version = 4"), Ending::Accepted { version: 4, position: 1 });
    assert_eq!(ending("rejected = \"no funds\""), Ending::Rejected("no funds".into()));
    assert_eq!(ending("conflict = 2, attachment = \"7\""), Ending::Conflict(2));
    let Delivery::Timer(timer) = delivered(r#"timer = "unpaid", payload = "7""#) else { panic!("a timer") };
    assert_eq!((timer.name.as_str(), timer.payload), ("unpaid", "7".into()));
    let answer = |how: &str| match delivered(&format!("endpoint = \"p\", method = \"POST\", path = \"c\", {how}")) {
        Delivery::Response(response) => response.answer,
        other => panic!("a response, found {other:?}"),
    };
    assert_eq!(answer("status = 402"), RequestEnding::Answered(ServerAnswer::status(402)));
    assert_eq!(answer("failed = \"no route\""), RequestEnding::Answered(ServerAnswer::failed("no route")));
    assert_eq!(answer("refused = \"not granted\""), RequestEnding::Refused("not granted".into()));
}

#[test]
fn what_can_not_be_delivered_or_expected_says_why() {
    let event = r#"on = "order/7", name = "Placed""#;
    let response = "endpoint = \"p\", method = \"POST\", path = \"\"";
    let outcome = r#"outcome = "Charge", to = "payment/7""#;
    for (when, then, part) in [
        (
            "name = \"Placed\"",
            "effects = []",
            "`when`: it must have one of these keys: `on` for an event, `source` for",
        ),
        (r#"on = "o/1", timer = "t""#, "effects = []", "`on` is for an event, and `timer` for a timer: remove one"),
        (
            r#"on = "o/1", name = "A", offset = 1"#,
            "effects = []",
            "an event (`on`): unknown field `offset`, expected one",
        ),
        (r#"on = "o", name = "A""#, "effects = []", "must be given as \"type/id\", found \"o\""),
        ("source = \"s\"", "effects = []", "a record (`source`): it must have one of `value`, which is JSON, `text`"),
        ("source = \"s\", value = 1, tombstone = true", "effects = []", "it must have one of `value`"),
        (outcome, "effects = []", "an outcome (`outcome`): it must have one of `accepted = true`, `rejected`"),
        (&format!("{outcome}, accepted = false"), "effects = []", "`accepted` is `true` or absent"),
        (&format!("{outcome}, rejected = \"\", version = 1"), "effects = []", "only for `accepted = true`"),
        (response, "effects = []", "a response (`endpoint`): `status` is missing, such as 200, or `failed`"),
        (&format!("{response}, refused = \"\", status = 200"), "effects = []", "has no answer: remove `refused`"),
        (event, "", "`then` is empty: add `effects`, `skipped`, `rejected`, `malformed` or `retry`"),
        (event, "effects = [], rejected = \"\"", "an input ends in one way"),
        (event, "malformed = \"\", rejected = \"\"", "an input ends in one way"),
        (event, "effects = [], skipped = true", "a skipped event has no effects"),
        (event, "skipped = false", "`skipped` is `true` or absent"),
        ("timer = \"t\"", "skipped = true", "only an event is skipped"),
        (event, "effects = [{ to = \"a/1\" }]", "effect 1: it must have one of these keys: `send` for a command"),
        (event, "effects = [{ cancel = \"t\" }, { send = \"A\" }]", "effect 2: a command (`send`): missing field `to`"),
        (event, "effects = [{ wake = \"t\", after = \"soon\" }]", "`after` must be a time such as \"1h 30m\""),
        (event, "effects = [{ wake = \"t\", at = \"noon\" }]", "`at` must be a time such as \"2026-01-01T00:00:00Z\""),
        (event, "effects = [{ wake = \"t\", at = \"\", after = \"\" }]", "due at one time: remove `after` or `at`"),
        (event, "effects = [{ topic = \"t\", value = 1, tombstone = true }]", "a tombstone has no value"),
        (event, "effects = [{ endpoint = \"p\", json = 1, text = \"\" }]", "one body: remove `json` or `text`"),
    ] {
        let problem = suite(when, then).unwrap_err();
        let begins = problem.starts_with("the cases in shop.toml: case `a`: ");
        assert!(begins && problem.contains(part), "{problem}");
    }
    assert!(suite(event, "effect = []").unwrap_err().contains("unknown field `effect`"));
}

fn command(name: &str, payload: &str, attachment: Option<&str>) -> SentCommand {
    SentCommand {
        to: Stream::new("order", "7"),
        name: name.into(),
        payload: payload.into(),
        headers: vec![("shop".into(), Some(b"1".to_vec()))],
        expected_version: Some(3),
        attachment: attachment.map(Into::into),
    }
}

#[test]
fn effects_are_compared_in_their_order_as_far_as_the_case_describes_them() {
    let body = br#"{ "cents": 5 }"#.to_vec();
    let headers = vec![("Content-Type".to_owned(), b"application/json".to_vec())];
    let request = SentRequest { headers, body, ..SentRequest::new("payments", "POST", "charges") };
    let message = |value: Option<&str>| SentMessage {
        topic: "news".into(),
        key: Some(b"k".to_vec()),
        partition: None,
        headers: Vec::new(),
        value: value.map(Into::into),
    };
    let due = Due::after(std::time::Duration::from_secs(3_600));
    let answer = Answer::Decided(Handled::Effects(vec![
        Effect::Command(command("Confirm", r#"{"a":1}"#, Some("\"7\""))),
        Effect::Later { timer: Some("late".into()), due, command: command("Cancel", "null", None) },
        Effect::Wake { timer: "unpaid".into(), due: Due::At(1_772_323_200_000), payload: b"\"7\"".to_vec() },
        Effect::Cancel("old".into()),
        Effect::Message(message(None)),
        Effect::Request(request, Some(b"\"7\"".to_vec())),
    ]));
    let all = [
        r#"{ send = "Confirm", to = "order/7", payload = { a = 1 }, headers = { shop = "1" }, expected_version = 3, attachment = "7" }"#,
        r#"{ later = "Cancel", to = "order/7", timer = "late", after = "60m" }"#,
        r#"{ wake = "unpaid", at = "2026-03-01T00:00:00Z", payload = "7" }"#,
        r#"{ cancel = "old" }"#,
        r#"{ topic = "news", key = "k", tombstone = true }"#,
        r#"{ endpoint = "payments", method = "POST", path = "charges", json = { cents = 5 }, headers = { content-type = "application/json" }, attachment = "7" }"#,
    ];
    let check = |effects: &[&str]| {
        suite("timer = \"t\"", &format!("effects = [{}]", effects.join(", "))).unwrap().check(&answer)
    };
    assert_eq!(check(&all), Ok(()));
    let any = [
        r#"{ send = "Confirm", to = "order/7" }"#,
        r#"{ later = "Cancel", to = "order/7" }"#,
        r#"{ wake = "unpaid" }"#,
        r#"{ cancel = "old" }"#,
        r#"{ topic = "news" }"#,
        r#"{ endpoint = "payments" }"#,
    ];
    assert_eq!(check(&any), Ok(()), "what is not said is not compared");
    for (place, from, to, part) in [
        (0, "a = 1", "a = 2", "-   \"a\": 2\n+   \"a\": 1"),
        (0, "\"Confirm\"", "\"Refuse\"", "- command Refuse to order/7 payload {"),
        (0, "shop = \"1\"", "shop = \"2\"", "header shop 2"),
        (0, "shop = \"1\"", "other = \"1\"", "header other none"),
        (0, "expected_version = 3", "expected_version = 4", "expected_version 4"),
        (0, "attachment = \"7\"", "attachment = \"8\"", "attachment \"8\""),
        (1, "60m", "1m", "- later Cancel to order/7 timer late due after 1m"),
        (1, "\"late\"", "\"later\"", "+ later Cancel to order/7 timer late due after 1h"),
        (2, "00:00:00", "00:00:01", "- wake unpaid due at 2026-03-01T00:00:01.000Z payload \"7\""),
        (3, "old", "new", "- cancel new\n+ cancel old"),
        (4, "tombstone = true", "value = 1", "- message news key k value 1\n+ message news key k value none"),
        (5, "\"POST\"", "\"PUT\"", "- request payments method PUT path charges body {"),
        (5, "application/json", "text/plain", "header content-type text/plain"),
        (
            5,
            "json = { cents = 5 }",
            "text = \"x\"",
            "+ request payments method POST path charges body text { \"cents\": 5 }",
        ),
    ] {
        let mut effects = all.map(str::to_owned);
        effects[place] = effects[place].replace(from, to);
        let failed = check(&effects.each_ref().map(String::as_str)).unwrap_err();
        assert!(failed.starts_with("the effects are not the expected ones") && failed.contains(part), "{failed}");
    }
    let missing = check(&any[..5]).unwrap_err();
    assert!(missing.contains("+ request payments method POST path charges body {"), "{missing}");
    assert!(check(&[any[1], any[0], any[2], any[3], any[4], any[5]]).is_err(), "the order counts");
}

#[test]
fn a_refusal_and_a_skipped_event_are_told_apart_from_effects() {
    let event = r#"on = "order/7", name = "Placed""#;
    let skipped = suite(event, "skipped = true").unwrap();
    let rejected = suite(event, "rejected = \"closed\"").unwrap();
    let refused = |reason: &str| Answer::Refused(Refusal::Rejected(reason.into()));
    assert_eq!(skipped.check(&Answer::Decided(Handled::Skipped)), Ok(()));
    assert_eq!(rejected.check(&refused("it is closed")), Ok(()));
    let effects = || Answer::Decided(Handled::Effects(vec![Effect::Cancel("t".into())]));
    for (case, answer, said) in [
        (&skipped, effects(), "expected a skipped event, which the code does not know, got 1 effect:\ncancel t"),
        (&skipped, refused("no"), "got a rejection: no"),
        (&rejected, refused("no"), "expected a rejection with the text after -, got the text after +:\n- closed\n+ no"),
        (&rejected, Answer::Refused(Refusal::Retry("closed".into())), "got a retry: closed"),
        (&rejected, Answer::Failed("it panicked: closed".into()), "got a failure: it panicked: closed"),
        (&rejected, effects(), "expected a rejection with `closed`, got 1 effect"),
    ] {
        let failed = case.check(&answer).unwrap_err();
        assert!(failed.contains(said), "{failed}");
    }
}
