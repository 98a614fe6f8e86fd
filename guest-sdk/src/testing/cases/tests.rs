//! Tests of running cases natively: each kind of input and result, and what fails a case.

use super::*;
use crate::codec;
use crate::prelude::*;
use crate::projection::QueryError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Runs the cases of a text, and returns the message if they fail.
fn run(text: &str, cases: fn(std::path::PathBuf)) -> Result<(), String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("wasmill-cases-{}-{number}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let ran = catch_unwind(AssertUnwindSafe(|| cases(file.clone())));
    std::fs::remove_file(&file).unwrap();
    ran.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[derive(Deserialize)]
struct Rules {
    cents_max: u64,
}

#[derive(Serialize)]
enum Order {
    Confirm,
    Cancel { reason: String },
}

#[derive(Deserialize)]
enum Input {
    Placed { cents: u64 },
    Broken,
}

fn confirm(order: &str) -> Result<OutgoingCommand, codec::Error> {
    OutgoingCommand::new("order", order, &Order::Confirm)?.expecting(3).header("shop", "1").asking_outcome(&order)
}

/// A subscriber that has each kind of effect.
struct Shop;

impl Subscriber for Shop {
    const SUBSCRIPTIONS: &'static [&'static str] = &["order.*"];
    const ENDPOINTS: &'static [&'static str] = &["payments"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        if let Ok(record) = delivery.record() {
            let message = Message::to("seen").key(record.key_text()?);
            outbox.publish(match record.value::<u64>()? {
                Some(value) => message.header("offset", record.offset().to_string()).json(&value)?,
                None => message,
            });
            return Ok(());
        }
        let order = delivery.aggregate_id()?;
        match delivery.decode()? {
            Input::Placed { cents: 0 } => return Err(Failure::rejected("it is free")),
            Input::Placed { cents } if cents > settings::<Rules>().cents_max => {
                return Err(Failure::retry(Duration::ZERO, "the bank is closed"));
            }
            Input::Placed { cents } => {
                outbox.send_command(confirm(order)?);
                outbox.send_at_timer("late", Duration::from_secs(60), confirm(order)?);
                outbox.wake("unpaid", Due::At(delivery.metadata().time_ms()), &order)?;
                outbox.cancel("old");
                outbox.http(Request::post("payments", "charges").json(&cents)?.asking_response(&order)?);
            }
            Input::Broken => panic!("it is broken"),
        }
        Ok(())
    }

    fn outcome(outcome: &Outcome<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        Ok(outbox.send(
            "order",
            outcome.attachment::<String>()?,
            &Order::Cancel { reason: outcome.ending().to_string() },
        )?)
    }

    fn timer(timer: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        Ok(outbox.send("order", timer.json::<String>()?, &Order::Cancel { reason: timer.name().to_owned() })?)
    }

    fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let reason = format!("{response}: {}", response.answer());
        Ok(outbox.send("order", response.attachment::<String>()?, &Order::Cancel { reason })?)
    }
}

const SHOP: &str = r#"
subscriber = "shop"
settings = { cents_max = 100 }

[[case]]
name = "all effects"
when = { on = "order/7", name = "Placed", payload = { cents = 5 }, time_ms = 1000 }
then.effects = [
    { send = "Confirm", to = "order/7", expected_version = 3, headers = { shop = "1" }, attachment = "7" },
    { later = "Confirm", to = "order/7", timer = "late", after = "1m" },
    { wake = "unpaid", at = "1970-01-01T00:00:01Z", payload = "7" },
    { cancel = "old" },
    { endpoint = "payments", method = "POST", path = "charges", json = 5, attachment = "7" },
]

[[case]]
name = "a record"
when = { source = "readings", key = "s1", value = 5, offset = 8 }
then.effects = [{ topic = "seen", key = "s1", value = 5, headers = { offset = "8" } }]

[[case]]
name = "a tombstone"
when = { source = "readings", key = "s1", tombstone = true }
then.effects = [{ topic = "seen", key = "s1", tombstone = true }]

[[case]]
name = "an outcome"
when = { outcome = "Confirm", to = "order/7", conflict = 4, attachment = "7" }
then.effects = [{ send = "Cancel", to = "order/7" }]

[[case]]
name = "a timer"
when = { timer = "unpaid", payload = "7" }
then.effects = [{ send = "Cancel", to = "order/7", payload = { reason = "unpaid" } }]

[[case]]
name = "a response"
when = { endpoint = "payments", method = "POST", path = "charges", status = 402, attachment = "7" }
then.effects = [{ send = "Cancel", to = "order/7", payload = { reason = "POST payments/charges: status 402" } }]

[[case]]
name = "a rejection"
when = { on = "order/7", name = "Placed", payload = { cents = 0 } }
then.rejected = "is free"

[[case]]
name = "malformed"
when = { on = "order/7", name = "Placed", payload = {} }
then.malformed = "missing field `cents`"

[[case]]
name = "a retry"
when = { on = "order/7", name = "Placed", payload = { cents = 101 } }
then.retry = "is closed"

[[case]]
name = "a skipped event"
when = { on = "order/7", name = "Shipped" }
then.skipped = true
"#;

#[test]
fn the_cases_of_a_subscriber_hold_or_show_the_difference() {
    let run = |text: &str| run(text, |file| subscriber_cases::<Shop>(file));
    assert_eq!(run(SHOP), Ok(()));
    for (from, to, part) in [
        ("cents_max = 100", "cents_max = 4", "a_case"),
        ("\"1m\"", "\"2m\"", "- later Confirm to order/7 timer late due after 2m"),
        ("skipped = true", "effects = []", "a skipped event\nexpected no effects, got a skipped event"),
        (
            "\"Shipped\"",
            "\"Placed\", payload = { cents = 0 }",
            "expected a skipped event, which the code does not know, got a rejection",
        ),
        (
            "on = \"order/7\", name = \"Shipped\"",
            "on = \"ordre/7\", name = \"Shipped\"",
            "no subscription selects ordre.Shipped",
        ),
        ("then.retry = \"is closed\"", "then.retry = \"open\"", "expected a retry with the text after -"),
        ("name = \"Shipped\"", "name = \"Broken\"", "got a failure: it panicked: it is broken"),
        ("conflict = 4", "rejected = \"\"", ""),
    ] {
        let changed = run(&SHOP.replace(from, to));
        match (part, changed) {
            ("", changed) => assert_eq!(changed, Ok(())),
            ("a_case", changed) => {
                let failed = changed.unwrap_err();
                assert!(failed.starts_with("1 of 10 cases failed") && failed.contains(": all effects\n"), "{failed}");
            }
            (part, changed) => {
                let failed = changed.unwrap_err();
                assert!(failed.contains(part), "{failed}");
            }
        }
    }
    let other = run(&SHOP.replace("subscriber =", "saga =")).unwrap_err();
    assert!(other.contains("a saga gets no records of Kafka"), "{other}");
    let other = run("aggregate = \"a\"\n[[case]]\nname = \"a\"\nwhen.name = \"A\"\nthen.events = []\n").unwrap_err();
    assert!(other.contains("are for aggregate a, and not for a subscriber"), "{other}");
}

/// A saga that completes an order when it is paid.
#[derive(Default)]
struct Checkout {
    paid: bool,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Started,
    Paid { cents: u64 },
}

impl Saga for Checkout {
    const TYPE: &'static str = "checkout";
    const STARTS: &'static [&'static str] = &["order.Placed"];
    const SUBSCRIPTIONS: &'static [&'static str] = &["order.Paid", "gift.*"];
    type Event = Event;

    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        let id = event.aggregate_id()?;
        Ok((id != "none").then(|| id.to_owned()))
    }

    fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
        #[derive(Deserialize)]
        enum Input {
            Placed,
            Paid { cents: u64 },
        }
        match event.decode()? {
            Input::Placed => step.record(Event::Started),
            Input::Paid { cents } => step.record(Event::Paid { cents }),
        }
        step.cancel("unpaid");
        Ok(())
    }

    fn timer(&self, timer: &Timer<'_>, step: &mut Step<Event>) -> Result<(), Failure> {
        step.send("order", String::from_utf8_lossy(timer.key().unwrap_or_default()), &Order::Confirm)?;
        if self.paid {
            step.complete();
        } else {
            step.compensated();
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        self.paid |= matches!(event, Event::Paid { .. });
    }
}

const CHECKOUT: &str = r#"
saga = "checkout"

[[case]]
name = "it starts"
key = "7"
when = { on = "order/7", name = "Placed" }
then = { events = [{ name = "Started" }], effects = [{ cancel = "unpaid" }] }

[[case]]
name = "it completes"
given = [{ name = "Started" }, { name = "Paid", payload = { cents = 5 } }]
when = { timer = "unpaid" }
then = { effects = [{ send = "Confirm", to = "order/test" }], end = "completed" }

[[case]]
name = "it is undone"
key = "7"
given = [{ name = "Started" }]
when = { timer = "unpaid" }
then = { effects = [{ send = "Confirm", to = "order/7" }], end = "compensated" }

[[case]]
name = "for no saga"
when = { on = "order/none", name = "Placed" }
then.no_saga = true

[[case]]
name = "unknown"
given = [{ name = "Started" }]
when = { on = "gift/7", name = "Wrapped" }
then.skipped = true
"#;

#[test]
fn the_cases_of_a_saga_hold_or_show_the_difference() {
    let run = |text: &str| run(text, |file| saga_cases::<Checkout>(file));
    assert_eq!(run(CHECKOUT), Ok(()));
    for (from, to, part) in [
        ("key = \"7\"\nwhen", "key = \"8\"\nwhen", "got a failure: the event is for saga 7, and not for 8"),
        ("end = \"completed\"", "end = \"compensated\"", "expected that it is compensated, and it is completed"),
        ("given = [{ name = \"Started\" }]\nwhen = { on", "when = { on", "gift.Wrapped does not start one"),
        (
            "order/none",
            "order/some",
            "expected an event for no saga, got a saga that goes on, with 1 event:\nStarted null",
        ),
        (
            "payload = { cents = 5 }",
            "payload = {}",
            "event 2 in `given` can't be applied: a malformed input: Paid: missing",
        ),
        ("\"gift/7\"", "\"card/7\"", "no subscription selects card.Wrapped"),
        ("[{ name = \"Started\" }], effects", "[], effects", "+ Started null"),
        ("saga = \"checkout\"", "saga = \"chekout\"", "are for saga chekout, and not for saga checkout"),
    ] {
        let failed = run(&CHECKOUT.replacen(from, to, 1)).unwrap_err();
        assert!(failed.contains(part), "{failed}");
    }
}

/// A saga that decides on something that its events do not contain.
#[derive(Default)]
struct Moody;

impl Saga for Moody {
    const TYPE: &'static str = "moody";
    const STARTS: &'static [&'static str] = &["**"];
    type Event = Event;

    fn handle(&self, _: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
        static DECISIONS: AtomicU32 = AtomicU32::new(0);
        step.record(Event::Paid { cents: DECISIONS.fetch_add(1, Ordering::Relaxed).into() });
        Ok(())
    }

    fn apply(&mut self, _: Event) {}
}

#[test]
fn a_saga_that_is_not_pure_fails_its_case() {
    let text = "saga = \"moody\"\n[[case]]\nname = \"a\"\nwhen = { on = \"o/1\", name = \"A\" }\n\
                then.events = [{ name = \"Paid\", payload = { cents = 0 } }]\n";
    let failed = run(text, |file| saga_cases::<Moody>(file)).unwrap_err();
    assert!(failed.contains("two sagas that are built from the same events decide differently"), "{failed}");
}

/// A read model that adds up the payments.
#[cfg(feature = "testing-sql")]
struct Payments;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Query {
    Sum { at_most: i64 },
}

#[cfg(feature = "testing-sql")]
impl Projection for Payments {
    const NAME: &'static str = "payments";
    const SUBSCRIPTIONS: &'static [&'static str] = &["order.*"];
    const SCHEMA: &'static str = "CREATE TABLE payments (version INTEGER, at INTEGER, cents INTEGER NOT NULL)";
    type Query = Query;

    fn project(event: &crate::projection::Event, sql: &Sql) -> Result<(), Failure> {
        let Event::Paid { cents } = event.decode()? else { return Err(Failure::rejected("it is not paid")) };
        sql.execute(
            "INSERT INTO payments VALUES (?1, ?2, ?3)",
            params![event.version(), event.metadata().time_ms(), cents],
        )?;
        Ok(())
    }

    fn query(Query::Sum { at_most }: Query, sql: &Sql) -> Result<Answer, QueryError> {
        let sum: Vec<(i64, i64, i64)> = sql.rows("SELECT version, at, cents FROM payments", params![])?;
        if sum.iter().map(|(.., cents)| cents).sum::<i64>() > at_most {
            return Err(QueryError::failed("too much"));
        }
        Answer::json(&sum)
    }
}

#[cfg(feature = "testing-sql")]
#[test]
fn the_cases_of_a_projection_hold_or_show_the_difference() {
    const PAYMENTS: &str = r#"
        projection = "payments"

        [[case]]
        name = "all payments"
        given = [
            { on = "order/1", name = "Paid", payload = { cents = 5 }, time_ms = 9 },
            { on = "order/1", name = "Paid", payload = { cents = 6 } },
        ]
        when = { query = "sum", params = { at_most = 20 } }
        then.answer = [[1, 9, 5], [2, 0, 6]]

        [[case]]
        name = "too much"
        given = [{ on = "order/1", name = "Paid", payload = { cents = 5 } }]
        when = { query = "sum", params = { at_most = 4 } }
        then.failed = "too much"

        [[case]]
        name = "malformed"
        when.query = "sum"
        then.malformed = "sum: "
    "#;
    let run = |text: &str| run(text, |file| projection_cases::<Payments>(file));
    assert_eq!(run(PAYMENTS), Ok(()));
    for (from, to, part) in [
        ("[2, 0, 6]", "[2, 0, 7]", "-     7\n+     6"),
        (
            "cents = 6",
            "cent = 6",
            "event 2 in `given`, Paid of order/1, is not folded: a malformed input: Paid: missing",
        ),
        (
            "name = \"Paid\", payload = { cents = 6 }",
            "name = \"Started\"",
            "event 2 in `given`, Started of order/1, is not folded: a rejection: it is not paid",
        ),
        (
            "name = \"Paid\", payload = { cents = 6 }",
            "name = \"Padi\"",
            "the code does not know it, so a host skips it",
        ),
        (
            "on = \"order/1\"",
            "on = \"gift/1\"",
            "event 1 in `given`, Paid of gift/1, is not folded: no subscription selects",
        ),
        (
            "query = \"sum\", params = { at_most = 20 }",
            "query = \"sums\"",
            "there is no query sums; this projection answers sum",
        ),
        ("failed = \"too much\"", "answer = 5", "expected an answer, got a failure: too much"),
        ("\"payments\"", "\"payment\"", "are for projection payment, and not for projection payments"),
    ] {
        let failed = run(&PAYMENTS.replacen(from, to, 1)).unwrap_err();
        assert!(failed.contains(part), "{failed}");
    }
}
