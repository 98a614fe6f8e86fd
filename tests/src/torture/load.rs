//! The load of a tortured host: baskets through Kafka, and commands to carts over HTTP, which are sent again if they
//! are not answered.

use super::STALL_MAX;
use crate::baskets::{self, Expected};
use crate::command_path::PAYLOAD;
use crate::host::TestHost;
use crate::{built, topic};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Largest number of baskets that are produced and not settled, because the development broker forgets old records.
const AHEAD_MAX: u64 = 2_000;
/// Number of baskets that are produced at once.
const PRODUCED_AT_ONCE: usize = 250;
/// Number of carts of one sender.
pub(super) const CARTS: u64 = 20;
/// Time for which the host is asked to wait for the source, in milliseconds.
const WAIT_MS: u64 = 500;

/// The load of a host, until it is over.
pub(super) struct Load<'a> {
    pub(super) host: &'a TestHost,
    pub(super) brokers: &'a str,
    /// Flag that is set when no more is to be sent.
    pub(super) over: AtomicBool,
    /// Number of commands that were answered.
    pub(super) sent: AtomicU64,
}

impl Load<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits until the source has settled this many records.
    pub(super) fn handled(&self, records: u64) {
        let path = format!("/v1/sources/baskets/wait?handled={records}&timeout_ms={WAIT_MS}");
        let deadline = Instant::now() + 2 * STALL_MAX;
        loop {
            let answer = self.host.get_through_crashes(&path);
            if answer.body["handled"].as_u64().is_some_and(|handled| handled >= records) {
                return;
            }
            assert!(Instant::now() < deadline, "the source does not get to {records}: {answer:?}\n{}", self.host.log());
        }
    }

    /// Waits until the host is drained, as long as it makes progress.
    pub(super) fn drained(&self) {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let answer = self.host.get_through_crashes(&format!("/v1/drained?timeout_ms={WAIT_MS}"));
            if answer.body["drained"] == true {
                return;
            }
            let status = self.host.status();
            let now = work(&status);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < STALL_MAX, "nothing moves any more: {answer:?}\n{status:#}");
        }
    }

    /// Sends commands to carts that no other sender uses, so that the version in each answer is known. A command that
    /// the host refuses because it is busy, stopping or has a full disk is sent again under the same id.
    pub(super) fn send(&self, sender: u64) {
        let payload: Value = serde_json::from_str(PAYLOAD).expect("the payload is JSON");
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let (cart, version) = (number % CARTS, number / CARTS + 1);
            let path = format!("/v1/commands/cart/{sender}-{cart}/AddItems");
            let key = format!("{sender}-{cart}-{version}");
            let since = Instant::now();
            let answer = loop {
                let answer = self.host.post_through_crashes(&path, &payload, &[("idempotency-key", &key)]);
                if answer.status < 500 {
                    break answer;
                }
                assert!(since.elapsed() < STALL_MAX, "{key} is refused all the time: {answer:?}");
            };
            assert_eq!((answer.status, &answer.body["version"]), (200, &json!(version)), "{key}: {answer:?}");
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns a number that changes whenever the host makes progress.
fn work(status: &Value) -> u64 {
    let sum = |list: &str, field: &str| {
        let parts = status[list].as_array().into_iter().flatten();
        parts.filter_map(|part| part[field].as_u64()).sum::<u64>()
    };
    let commands: u64 = ["accepted", "rejected", "malformed"].into_iter().map(|how| sum("commands", how)).sum();
    commands + sum("subscriptions", "checkpoint") + sum("projections", "checkpoint") + sum("sinks", "published")
}

/// Produces the baskets of the example again and again, each time with new ids, until it is over. `handled` waits until the source has
/// settled so many records. Returns the expected results of all.
pub(super) fn feed(brokers: &str, over: &AtomicBool, handled: impl Fn(u64)) -> Expected {
    let baskets = baskets::read(&built::grocery().join("data/baskets.jsonl.gz"));
    let mut expected = Expected::default();
    let mut produced = 0;
    for round in 0.. {
        for chunk in baskets.chunks(PRODUCED_AT_ONCE) {
            if over.load(Ordering::Relaxed) {
                handled(produced);
                return expected;
            }
            let records: Vec<_> = chunk.iter().map(|basket| renamed(basket, round)).collect();
            records.iter().for_each(|(_, basket)| expected.add(basket));
            topic::produce_keyed(brokers, "baskets", &records);
            produced += records.len() as u64;
            handled(produced.saturating_sub(AHEAD_MAX));
        }
    }
    expected
}

fn renamed(basket: &Value, round: u64) -> (String, Value) {
    let id = format!("{}-{round}", basket["basket_id"].as_str().expect("a basket has an id"));
    let mut basket = basket.clone();
    basket["basket_id"] = json!(id);
    (id, basket)
}
