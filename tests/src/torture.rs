//! A whole host under load, killed again and again at random moments, and what must hold afterwards.
//!
//! Baskets come in through Kafka and take the way of the grocery example: aggregates, subscriptions, outbox,
//! projection. At the same time senders put items into carts over HTTP, with command ids of their own, and send again
//! what was not answered. The broker is frozen and restarted, the disk is full for seconds, plugins are swapped, and
//! the clock is moved. At the end everything must have happened exactly once, and the store's file must verify.
//!
//! Kafka is a node of Apache Kafka. On a machine without one it is the development broker, which gets no faults. The
//! faults are drawn from a seed, which is printed first and can be given again. The run panics at the first violation.

mod disk;
mod faults;
mod hosts;
mod load;

use crate::baskets::Expected;
use crate::host::TestHost;
use crate::kafka::Kafka;
use crate::raised::Raised;
use crate::setting::Setting;
pub use hosts::{HostsAccount, torture_hosts};

use disk::Disk;
use faults::{CLOCK, Fault, PLUGINS, Scene};
use load::Load;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};
use wasmill::clock::OFFSET_FILE;
use wasmill_driver::messages::Messages;

/// Number of threads that send commands over HTTP.
const SENDERS: u64 = 2;
/// Time without any progress after which the host counts as stuck.
const STALL_MAX: Duration = Duration::from_secs(60);

const NOTIFICATIONS: &str = "notifications";

const MANIFEST: &str = r#"data = "data"

[kafka]
brokers = "BROKERS"

[kafka.topics.baskets]
partitions = 6

[kafka.topics.notifications]
partitions = 2

[sources.baskets]
topic = "baskets"
aggregate = "order"
command = "CreateOrder"
"#;

/// The plan of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of kills.
    pub kills: usize,
    /// Time over which the kills are spread. Faults that last longer than their part of it make it longer.
    pub time: Duration,
    /// Seed from which the moments of the kills and the faults are drawn.
    pub seed: u64,
}

/// The account of a successful run.
#[derive(Debug)]
pub struct Account {
    kills: usize,
    elapsed: Duration,
    /// Longest time from a kill until the host served again.
    served_max: Duration,
    counted: Counted,
}

/// What was counted after a run.
#[derive(Debug)]
struct Counted {
    commands: u64,
    figures: Value,
    /// The output of `wasmill store verify`.
    verified: String,
}

/// Executes a plan. `tell` is called with a line for the seed and for each kill.
pub fn torture(plan: Plan, tell: impl Fn(&str)) -> Account {
    tell(&format!("seed {}", plan.seed));
    let kafka = Kafka::own();
    let setting = setting(kafka.as_ref(), "", "");
    let disk = Disk::new(&setting.path("data"));
    tell(&format!("a full disk is {}", disk.describe()));
    let host = setting.start_in(vec![(OFFSET_FILE, setting.path(CLOCK))]);
    let began = Instant::now();
    let brokers = kafka.as_ref().map_or_else(|| host.brokers(), |kafka| kafka.brokers().to_owned());
    let notifications = Messages::from(&brokers, "notifications", &BTreeMap::new()).expect("the topic is there");
    let load = Load { host: &host, brokers: &brokers, over: AtomicBool::new(false), sent: AtomicU64::new(0) };
    let scene = Scene { setting: &setting, host: &host, kafka: kafka.as_ref(), disk: &disk };
    let all_published = AtomicBool::new(false);
    let (expected, served_max, notified) = thread::scope(|scope| {
        // The flags are also raised if something fails below, so that the threads end.
        let (over, finish) = (Raised(&load.over), Raised(&all_published));
        let reader = scope.spawn(|| notifications.read(&all_published, &AtomicU64::new(0)));
        let feeder = scope.spawn(|| load::feed(load.brokers, &load.over, |records| load.handled(records)));
        let load = &load;
        let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || load.send(sender))).collect();
        let served_max = kill(&scene, plan, began, &tell);
        drop(over);
        senders.into_iter().for_each(|sender| sender.join().expect("a sender of commands"));
        let expected = feeder.join().expect("the feeder of baskets");
        load.drained();
        drop(finish);
        (expected, served_max, reader.join().expect("the reader").expect("read the notifications"))
    });
    if let Some(kafka) = &kafka {
        let messages = kafka.read_committed(NOTIFICATIONS).len() as u64;
        assert_eq!(messages, notified, "each notification is published once");
    }
    let commands = load.sent.into_inner();
    let handled =
        host.get("/v1/sources/baskets/wait?handled=0&timeout_ms=0").body["handled"].as_u64().unwrap_or_default();
    let figures = figures(&host, &expected, handled, commands, notified);
    host.stop();
    let counted = Counted { commands, figures, verified: verified(&setting, "data") };
    Account { kills: plan.kills, elapsed: began.elapsed(), served_max, counted }
}

/// Makes a folder with the grocery example and the plugin `cart`, whose plugins can be swapped, and with more keys of the source and more
/// sections of the manifest.
fn setting(kafka: Option<&Kafka>, source: &str, more: &str) -> Setting {
    let plugins: String =
        PLUGINS.iter().map(|plugin| format!("[plugins.{plugin}]\nfile = \"{}\"\n", faults::file(plugin))).collect();
    let brokers = kafka.map_or_else(|| "embedded".to_owned(), |kafka| kafka.brokers().to_owned());
    let setting = Setting::new(&format!("{MANIFEST}{source}\n{plugins}{more}").replace("BROKERS", &brokers));
    faults::place_plugins(&setting);
    setting
}

/// Divides the time into equal parts and kills the host at a random moment of each, with or without a fault around it.
/// Returns the longest time until the host served again.
fn kill(scene: &Scene<'_>, plan: Plan, began: Instant, tell: &impl Fn(&str)) -> Duration {
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let mut served_max = Duration::ZERO;
    for kill in 0..plan.kills {
        let moment = plan.time.mul_f64((kill as f64 + rng.f64()) / plan.kills as f64);
        let fault = Fault::draw(&mut rng, scene.kafka.is_some());
        faults::pause(moment.saturating_sub(began.elapsed()));
        let at = began.elapsed();
        let served = scene.kill(&fault);
        served_max = served_max.max(served);
        let (kill, kills) = (kill + 1, plan.kills);
        tell(&format!(
            "kill {kill} of {kills} at {:.1} s{fault}: serves again after {} ms",
            at.as_secs_f64(),
            served.as_millis()
        ));
    }
    served_max
}

/// Returns the figures of the host, after checking that they are the expected ones. `handled` is the number of baskets that the source
/// has settled.
fn figures(host: &TestHost, expected: &Expected, handled: u64, commands: u64, notified: u64) -> Value {
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
    figures["baskets"] = json!(handled);
    figures["rejected"] = json!(accepted("CreateOrder", "rejected"));
    figures["notifications"] = json!(notified);
    figures["dead_letters"] = status["dead_letters"]["total"].clone();
    figures["top_stores"] = query("store-sales", json!({ "limit": 5 }));
    assert_eq!(figures, expected.figures(), "what came of the baskets");
    assert_eq!(accepted("AddItems", "accepted"), commands, "commands to carts");
    figures
}

/// Verifies the store of a data folder or a manifest.
fn verified(setting: &Setting, place: &str) -> String {
    let verify = setting.wasmill(&["store", "verify", place]);
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(verify.status.success(), "the store does not verify:\n{text}{}", String::from_utf8_lossy(&verify.stderr));
    text
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, elapsed, served_max, counted } = self;
        writeln!(
            f,
            "{kills} kills in {:.0} s; the host served again within {} ms",
            elapsed.as_secs_f64(),
            served_max.as_millis()
        )?;
        write!(f, "{counted}")
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, figures, verified } = self;
        writeln!(
            f,
            "each of {} baskets from Kafka and {commands} commands over HTTP counts once:",
            figures["baskets"]
        )?;
        writeln!(f, "{figures}")?;
        write!(f, "{verified}")
    }
}
