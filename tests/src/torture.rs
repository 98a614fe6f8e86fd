//! A whole host under load, killed again and again at random moments, and what must hold afterwards.
//!
//! Baskets come in through the development broker and go the way of the grocery example: aggregates, subscriptions,
//! outbox, projection. Beside them senders with ids of their own put items into carts over HTTP, and send again what
//! was not answered. At the end everything must have happened exactly once, and the store's file must verify.
//!
//! It panics at the first thing that is not as it must be.

use crate::baskets::{self, Expected};
use crate::command_path::PAYLOAD;
use crate::host::TestHost;
use crate::setting::{PLUGINS, Setting};
use crate::{built, topic};
use grocery_demo::notifications::Notifications;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Baskets that are produced and not handled at most: the development broker forgets what is far behind.
const AHEAD_MAX: u64 = 2_000;
/// Baskets that are produced at once.
const PRODUCED_AT_ONCE: usize = 250;
/// Threads that send commands over HTTP.
const SENDERS: u64 = 2;
/// Carts of one sender.
const CARTS: u64 = 20;
/// Without any progress for so long, the host is stuck.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long the host may be asked to wait for the source.
const WAIT_MS: u64 = 500;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often the host is killed.
    pub kills: usize,
    /// Over how long the kills are spread.
    pub time: Duration,
}

/// What was done, and found to be right.
#[derive(Debug)]
pub struct Account {
    kills: usize,
    elapsed: Duration,
    /// From a kill until the host served again, at most.
    served_max: Duration,
    commands: u64,
    figures: Value,
    /// What `wasmill store verify` said.
    verified: String,
}

/// Does it all. `tell` is called with a line for each kill.
pub fn torture(plan: Plan, tell: impl Fn(&str)) -> Account {
    let setting = Setting::grocery();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    let cart = format!("\n[plugins.cart]\nfile = \"{PLUGINS}/cart.wasm\"\n");
    setting.write("wasmill.toml", manifest + &cart.replace(PLUGINS, &built::plugins().to_string_lossy()));
    let host = setting.start();
    let began = Instant::now();
    let load = Load { host: &host, brokers: host.brokers(), over: AtomicBool::new(false), sent: AtomicU64::new(0) };
    let all_published = AtomicBool::new(false);
    let notifications = Notifications::new(&load.brokers, &BTreeMap::new()).expect("the topic is there");
    let (expected, served_max, notified) = thread::scope(|scope| {
        // Also where something fails below, so that the threads end.
        let (over, finish) = (Raised(&load.over), Raised(&all_published));
        let reader = scope.spawn(|| notifications.read(&all_published, &AtomicU64::new(0)));
        let feeder = scope.spawn(|| load.feed());
        let load = &load;
        let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || load.send(sender))).collect();
        let served_max = kill(&host, plan, began, &tell);
        drop(over);
        senders.into_iter().for_each(|sender| sender.join().expect("a sender of commands"));
        let expected = feeder.join().expect("the feeder of baskets");
        load.drained();
        drop(finish);
        (expected, served_max, reader.join().expect("the reader").expect("read the notifications"))
    });
    let commands = load.sent.into_inner();
    let figures = figures(&host, &expected, commands, notified);
    host.stop();
    let verified = verified(&setting);
    Account { kills: plan.kills, elapsed: began.elapsed(), served_max, commands, figures, verified }
}

/// Raises a flag when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One kill at a random moment of each of so many equal parts of the time. Returns the longest way back.
fn kill(host: &TestHost, plan: Plan, began: Instant, tell: &impl Fn(&str)) -> Duration {
    let mut served_max = Duration::ZERO;
    for kill in 0..plan.kills {
        let moment = plan.time.mul_f64((kill as f64 + fastrand::f64()) / plan.kills as f64);
        while began.elapsed() < moment {
            thread::park_timeout(moment.saturating_sub(began.elapsed()));
        }
        let killed = began.elapsed();
        let served = host.crash();
        served_max = served_max.max(served);
        let (kill, kills) = (kill + 1, plan.kills);
        tell(&format!(
            "kill {kill} of {kills} at {:.1} s: serves again after {} ms",
            killed.as_secs_f64(),
            served.as_millis()
        ));
    }
    served_max
}

struct Load<'a> {
    host: &'a TestHost,
    brokers: String,
    over: AtomicBool,
    /// Commands that were answered.
    sent: AtomicU64,
}

impl Load<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The baskets of the example again and again, each time with new ids. Returns what must come of them.
    fn feed(&self) -> Expected {
        let baskets = baskets::read(&built::grocery().join("data/baskets.jsonl.gz"));
        let mut expected = Expected::default();
        let mut produced = 0;
        for round in 0.. {
            for chunk in baskets.chunks(PRODUCED_AT_ONCE) {
                if self.is_over() {
                    self.handled(produced);
                    return expected;
                }
                let records: Vec<_> = chunk.iter().map(|basket| renamed(basket, round)).collect();
                records.iter().for_each(|(_, basket)| expected.add(basket));
                topic::produce_keyed(&self.brokers, "baskets", &records);
                produced += records.len() as u64;
                self.handled(produced.saturating_sub(AHEAD_MAX));
            }
        }
        expected
    }

    /// Waits until the source has handled so many records.
    fn handled(&self, records: u64) {
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

    /// Waits until the host has nothing left to do, for as long as it gets something done.
    fn drained(&self) {
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

    /// Commands to carts that nobody else sends to, so that the version of each answer is known.
    fn send(&self, sender: u64) {
        let payload: Value = serde_json::from_str(PAYLOAD).expect("the payload is JSON");
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let (cart, version) = (number % CARTS, number / CARTS + 1);
            let path = format!("/v1/commands/cart/{sender}-{cart}/AddItems");
            let key = format!("{sender}-{cart}-{version}");
            let answer = loop {
                let answer = self.host.post_through_crashes(&path, &payload, &[("idempotency-key", &key)]);
                if answer.status != 503 {
                    break answer;
                }
            };
            assert_eq!((answer.status, &answer.body["version"]), (200, &json!(version)), "{key}: {answer:?}");
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A number that changes whenever the host gets something done.
fn work(status: &Value) -> u64 {
    let sum = |list: &str, field: &str| {
        let parts = status[list].as_array().into_iter().flatten();
        parts.filter_map(|part| part[field].as_u64()).sum::<u64>()
    };
    let commands: u64 = ["accepted", "rejected", "malformed"].into_iter().map(|how| sum("commands", how)).sum();
    commands + sum("subscriptions", "checkpoint") + sum("projections", "checkpoint") + sum("sinks", "published")
}

fn renamed(basket: &Value, round: u64) -> (String, Value) {
    let id = format!("{}-{round}", basket["basket_id"].as_str().expect("a basket has an id"));
    let mut basket = basket.clone();
    basket["basket_id"] = json!(id);
    (id, basket)
}

/// What the host says came of it all, which must be what was expected.
fn figures(host: &TestHost, expected: &Expected, commands: u64, notified: u64) -> Value {
    let status = host.status();
    let accepted = |command: &str, how: &str| {
        let tallies = status["commands"].as_array().expect("the status counts commands");
        tallies
            .iter()
            .filter(|tally| tally["command"] == command)
            .map(|tally| tally[how].as_u64().unwrap_or(0))
            .sum::<u64>()
    };
    let position = status["store"]["position"].as_u64().expect("the status has the store's position");
    let query = |query: &str, params: Value| host.query("sales", &format!("{query}?position={position}"), &params).body;
    let mut figures = query("totals", json!({}));
    figures["baskets"] = host.get("/v1/sources/baskets/wait?handled=0&timeout_ms=0").body["handled"].clone();
    figures["rejected"] = json!(accepted("CreateOrder", "rejected"));
    figures["notifications"] = json!(notified);
    figures["parked"] = status["parked"]["total"].clone();
    figures["top_stores"] = query("store-sales", json!({ "limit": 5 }));
    assert_eq!(figures, expected.figures(), "what came of the baskets");
    assert_eq!(accepted("AddItems", "accepted"), commands, "commands to carts");
    figures
}

fn verified(setting: &Setting) -> String {
    let verify = setting.wasmill(&["store", "verify", "data"]);
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(verify.status.success(), "the store does not verify:\n{text}{}", String::from_utf8_lossy(&verify.stderr));
    text
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, elapsed, served_max, commands, figures, verified } = self;
        writeln!(
            f,
            "{kills} kills in {:.0} s; the host served again within {} ms",
            elapsed.as_secs_f64(),
            served_max.as_millis()
        )?;
        writeln!(
            f,
            "each of {} baskets from Kafka and {commands} commands over HTTP counts once:",
            figures["baskets"]
        )?;
        writeln!(f, "{figures}")?;
        write!(f, "{verified}")
    }
}
