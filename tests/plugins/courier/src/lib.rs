//! Subscriber `courier`: does with a Kafka record what the record says, also fail.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use wasmill_guest::prelude::*;

/// A record with this header is described in a message to the topic that the header names.
pub const ECHO_TO: &str = "echo-to";

/// What a record's value can ask for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Wish {
    /// A command to a cart.
    Add {
        /// The cart's id.
        cart: String,
        /// What is added to its amount.
        amount_cents: i64,
    },
    /// As `Add`, but not before it failed so often.
    AddAfterFailures {
        /// How often it fails first.
        failures: u32,
        /// The cart's id.
        cart: String,
        /// What is added to its amount.
        amount_cents: i64,
    },
    /// As `Add`, after work for long, for seconds on most machines.
    AddSlowly {
        /// The cart's id.
        cart: String,
        /// What is added to its amount.
        amount_cents: i64,
    },
    /// So many commands to a cart, with the amounts from 0 on.
    AddMany {
        /// The cart's id.
        cart: String,
        /// How many commands.
        count: i64,
    },
    /// A message.
    Tell {
        /// Its topic.
        topic: String,
        /// Its value, as JSON.
        text: String,
    },
    /// Nothing.
    Nothing,
    /// To be refused for good.
    Refuse,
    /// To be tried again, for ever.
    Retry,
    /// A panic.
    Panic,
}

/// What a record looked like.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// Its source.
    pub source: String,
    /// Its topic, partition and offset.
    pub place: (String, i32, i64),
    /// Its key's bytes.
    pub key: Option<Vec<u8>>,
    /// Its value's bytes.
    pub value: Option<Vec<u8>>,
    /// Names and bytes of its headers, but for the one that asked for this.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its time.
    pub time_ms: u64,
}

#[derive(Serialize)]
enum Cart<'a> {
    AddItems { items: [Item<'a>; 1] },
}

#[derive(Serialize)]
struct Item<'a> {
    product_id: &'a str,
    quantity: i64,
    amount_cents: i64,
}

thread_local! {
    /// How often records have failed, by their id.
    static FAILURES: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
}

struct Courier;

impl Subscriber for Courier {
    const SUBSCRIPTIONS: &'static [&'static str] = &[];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let record = delivery.record()?;
        if let Some(topic) = record.metadata().header(ECHO_TO) {
            let topic = String::from_utf8_lossy(topic).into_owned();
            let message = Message::to(topic).key(record.key().unwrap_or_default()).json(&echo(&record))?;
            outbox.publish(message);
        }
        match record.value()? {
            Some(Wish::Add { cart, amount_cents }) => add(outbox, cart, amount_cents, record.topic()),
            Some(Wish::AddAfterFailures { failures, cart, amount_cents }) => {
                fail_first(failures, record.metadata().id())?;
                add(outbox, cart, amount_cents, record.topic())
            }
            Some(Wish::AddSlowly { cart, amount_cents }) => {
                // Each round needs the one before, so that the compiler can leave none out.
                std::hint::black_box((0..1_000_000_000_u64).fold(0, |sum, round| std::hint::black_box(sum ^ round)));
                add(outbox, cart, amount_cents, record.topic())
            }
            Some(Wish::AddMany { cart, count }) => {
                (0..count).try_for_each(|amount_cents| add(outbox, cart.clone(), amount_cents, record.topic()))
            }
            Some(Wish::Tell { topic, text }) => {
                outbox.publish(Message::to(topic).key(record.key().unwrap_or_default()).json(&text)?);
                Ok(())
            }
            Some(Wish::Refuse) => Err(Failure::rejected("as the record asked")),
            Some(Wish::Retry) => Err(Failure::retry(Duration::ZERO, "as the record asked")),
            Some(Wish::Panic) => panic!("as the record asked"),
            Some(Wish::Nothing) | None => Ok(()),
        }
    }
}
export_subscriber!(Courier);

fn add(outbox: &mut Outbox, cart: String, amount_cents: i64, product_id: &str) -> Result<(), Failure> {
    let items = [Item { product_id, quantity: 1, amount_cents }];
    Ok(outbox.send("cart", cart, &Cart::AddItems { items })?)
}

fn fail_first(failures: u32, id: &str) -> Result<(), Failure> {
    let failed = FAILURES.with_borrow_mut(|all| {
        let failed = all.entry(id.to_owned()).or_default();
        *failed += 1;
        *failed
    });
    if failed > failures { Ok(()) } else { Err(Failure::retry(Duration::ZERO, format!("failure {failed}"))) }
}

fn echo(record: &wasmill_guest::subscriber::Record<'_>) -> Echo {
    let headers = record.metadata().headers().filter(|(name, _)| *name != ECHO_TO);
    Echo {
        source: record.source().to_owned(),
        place: (record.topic().to_owned(), record.partition(), record.offset()),
        key: record.key().map(<[u8]>::to_vec),
        value: record.bytes().map(<[u8]>::to_vec),
        headers: headers.map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
        time_ms: record.metadata().time_ms(),
    }
}
