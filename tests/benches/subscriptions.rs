//! Recorded events to a subscriber in WebAssembly that does nothing, over different numbers of keys, and while one key
//! is held. Recorded events to sagas.
//!
//! The stores are filled before anything is measured, and nothing is recorded meanwhile. The baseline is a native loop
//! over the same events. It reads the same pages, decodes each payload, and moves a checkpoint after each page.
//!
//! A saga is compared with an aggregate that does the same: the aggregate records events, and the saga handles these.

use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use wasmill::ack::{self, Ack};
use wasmill::aggregates::Aggregates;
use wasmill::clock::Clock;
use wasmill::filter::Filter;
use wasmill::flows::Flows;
use wasmill::model::{ExpectedVersion, NewEvent, Position, Segment, StreamId, Version};
use wasmill::plugin::{Catalog, Compiler, Demand, Limits, Slot, Wanted};
use wasmill::store::sqlite::{self, FILE_NAME, SqliteStore};
use wasmill::store::{Advanced, Append, Appended, Decision, Error, EventStore, Part, PartKind, Reached, Step};
use wasmill::subscriptions::{self, Environment, Options};
use wasmill_tests::built;
use wasmill_tests::command_path::{CommandPath, IN_FLIGHT, Load, command};
use wasmill_tests::report::{Budget, Report, middle, rounds};

/// Number of events in each store.
const EVENTS: u64 = 200_000;
/// Number of events while one key is held. The pauses between attempts grow, so a run must take seconds to show what an
/// event that never ends costs in the long run.
const LONG: u64 = 1_500_000;
/// Divisor of the events: this share is not timed. In it a subscription creates its guest, and an event that never ends
/// exceeds its time once before its key is held.
const LEAD: u64 = 10;
/// Number of measurements of one thing.
const ROUNDS: usize = 11;
/// Number of long measurements of one thing.
const LONG_ROUNDS: usize = 5;
/// Time of one call of the subscriber. An event that never ends takes all of it at each attempt.
const EVENT_TIME: Duration = Duration::from_millis(100);
/// Number of steps of the native loop that are handed to the store and not answered, as in a subscription.
const STEPS_IN_FLIGHT: u64 = 16;
/// Longest wait for the events of one measurement.
const WAIT: Duration = Duration::from_secs(60);

/// The plugin and the aggregate type of the events.
const PLUGIN: &str = "misbehaving";
/// The name of the events to which the plugin subscribes.
const EVENT: &str = "Counted";
/// The plugin with sagas.
const SAGAS: &str = "cart-tally";
/// Number of commands, and of the steps of the sagas.
const STEPS: u64 = 200_000;
/// Number of carts, and of sagas.
const SAGA_KEYS: u64 = 1_000;
/// The name under which the store keeps the native loop's checkpoint.
const NATIVE: &str = "native";

/// The payload of an event, as the plugin records and decodes it.
#[derive(Serialize, Deserialize)]
struct Counted {
    count: u64,
    then: Then,
}

/// What the subscriber does with an event.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Then {
    Nothing,
    /// It never ends.
    Loop,
}

fn main() {
    let bench = Bench::new();
    let [one, hundred, many] = [1, 100, 100_000].map(|keys| FilledStore::new(EVENTS, keys, Then::Nothing));
    let [one_native, one, hundred_native, hundred, many_native, many] = rounds(
        ROUNDS,
        [
            &mut || bench.native(&one),
            &mut || bench.hosted(&one),
            &mut || bench.native(&hundred),
            &mut || bench.hosted(&hundred),
            &mut || bench.native(&many),
            &mut || bench.hosted(&many),
        ],
    );
    let [healthy, poisoned] = [Then::Nothing, Then::Loop].map(|first| FilledStore::new(LONG, 100, first));
    let [healthy, poisoned] = rounds(LONG_ROUNDS, [&mut || bench.hosted(&healthy), &mut || bench.hosted(&poisoned)]);
    let [of_carts, of_sagas] = sagas();
    let mut report = Report::default();
    judge(&mut report, "subscriptions/keys-1", &one, &one_native, 0.4);
    judge(&mut report, "subscriptions/keys-100", &hundred, &hundred_native, 0.4);
    judge(&mut report, "subscriptions/keys-100000", &many, &many_native, 0.4);
    judge(&mut report, "subscriptions/poisoned", &poisoned, &healthy, 0.9);
    judge(&mut report, "subscriptions/sagas", &of_sagas, &of_carts, 0.7);
    report.write();
}

fn judge(report: &mut Report, name: &str, rates: &[f64], baselines: &[f64], budget: f64) {
    let (rate, baseline) = middle(rates, baselines);
    report.judge(name, rate, "1/s", baseline, Budget::AtLeast(budget));
}

/// Returns the commands per second of carts, and the steps per second of the sagas that handle the events of these.
fn sagas() -> [Vec<f64>; 2] {
    let bench = Bench::of(SAGAS);
    let rounds = (0..ROUNDS).map(|_| {
        let path = CommandPath::wasm();
        let commands = path.run(&Load::new(STEPS, SAGA_KEYS)).rate;
        let aggregates = Arc::new(Aggregates::start([], path.store()).expect("no shards"));
        let environment =
            Environment { runtime: bench.runtime.handle().clone(), clock: Clock::system(), flows: Flows::default() };
        let sagas = subscriptions::start(
            &bench.slot(),
            Segment::WHOLE,
            bench.options.clone(),
            path.store(),
            &aggregates,
            &environment,
        )
        .expect("a subscription")
        .expect("the plugin has sagas");
        let steps = bench.rate(sagas.reached(), STEPS);
        let started = sagas.status().saga.map(|saga| saga.started);
        assert_eq!((started, path.store().head().borrow().0), (Some(SAGA_KEYS), 2 * STEPS));
        sagas.stop();
        (commands, steps)
    });
    let (commands, steps) = rounds.unzip();
    [commands, steps]
}

/// What all measurements share.
struct Bench {
    options: Options,
    runtime: Runtime,
    catalog: Catalog,
}

impl Bench {
    fn new() -> Self {
        Self::of(PLUGIN)
    }

    fn of(plugin: &str) -> Self {
        let compiler = Compiler::new(None, Demand::default()).expect("an engine");
        let limits = Limits { event_time: EVENT_TIME, ..Limits::default() };
        let catalog = Catalog::open(compiler, [(plugin, Wanted { limits, ..Wanted::of(built::plugin(plugin)) })])
            .unwrap_or_else(|errors| panic!("{}; run `cargo xtask build`", errors[0]));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let options = Options { attempts_max: u32::MAX, ..Options::default() };
        Self { options, runtime: runtime.expect("a runtime"), catalog }
    }

    fn slot(&self) -> Arc<Slot> {
        self.catalog.slots().next().expect("the plugin's slot")
    }

    /// Returns the deliveries per second of a new subscription. The events of a held key are not delivered.
    fn hosted(&self, filled: &FilledStore) -> f64 {
        let FilledStore { store, aggregates, keys, held_keys, .. } = filled;
        let environment =
            Environment { runtime: self.runtime.handle().clone(), clock: Clock::system(), flows: Flows::default() };
        let subscription =
            subscriptions::start(&self.slot(), Segment::WHOLE, self.options.clone(), store, aggregates, &environment)
                .expect("a subscription")
                .expect("the plugin subscribes");
        let rate = self.rate(subscription.reached(), filled.events);
        let status = subscription.status();
        assert_eq!((status.retried_keys, status.waiting_keys), (*held_keys, 0), "{status:?}");
        subscription.stop();
        filled.forget(PLUGIN);
        rate * (keys - held_keys) as f64 / *keys as f64
    }

    /// Returns the events per second of the native loop.
    fn native(&self, filled: &FilledStore) -> f64 {
        let (handled, reached) = watch::channel(Position(0));
        let filter = self.slot().current().subscriber_filter();
        let rate = thread::scope(|scope| {
            scope.spawn(|| native_loop(&*filled.store, &filter, self.options.batch_max, handled));
            self.rate(reached, filled.events)
        });
        filled.forget(NATIVE);
        rate
    }

    /// Returns the positions per second by which a checkpoint moves, without the lead.
    fn rate(&self, mut reached: watch::Receiver<Position>, events: u64) -> f64 {
        let lead = self.wait_for(&mut reached, events / LEAD);
        let began = Instant::now();
        let all = self.wait_for(&mut reached, events);
        (all - lead) as f64 / began.elapsed().as_secs_f64()
    }

    /// Waits until a checkpoint is at a position or past it. Returns where it is.
    fn wait_for(&self, reached: &mut watch::Receiver<Position>, position: u64) -> u64 {
        let wait = async { tokio::time::timeout(WAIT, reached.wait_for(|reached| reached.0 >= position)).await };
        let reached = self.runtime.block_on(wait).unwrap_or_else(|_| panic!("position {position} is not reached"));
        reached.expect("the thread that moves the checkpoint is at work").0
    }
}

/// Reads and decodes all events, page by page, and moves a checkpoint like a subscription: several steps are in flight,
/// and `handled` follows the answers.
fn native_loop(store: &dyn EventStore, filter: &Filter, batch_max: usize, handled: watch::Sender<Position>) {
    let mut reader = store.reader().expect("a reader");
    let (done, finished) = crossbeam_channel::bounded::<()>(STEPS_IN_FLIGHT as usize);
    let mut checkpoint = Position(0);
    for number in 0.. {
        let page = reader.read_all(checkpoint, filter, batch_max).expect("a page");
        if page.events.is_empty() {
            return;
        }
        for event in &page.events {
            black_box(serde_json::from_slice::<Counted>(&event.payload).expect("a payload of the plugin's"));
        }
        if number >= STEPS_IN_FLIGHT {
            finished.recv().expect("this thread holds the other end");
        }
        let (handled, done, to) = (handled.clone(), done.clone(), page.reached);
        store.advance(
            step(checkpoint, to),
            Ack::new(move |result: Result<Advanced, Error>| {
                result.expect("nothing is in the way");
                handled.send_replace(to);
                let _ = done.send(());
            }),
        );
        checkpoint = to;
    }
}

/// Makes a step without effects.
fn step(from: Position, to: Position) -> Step {
    Step::new(NATIVE.into(), Reached::Events { from, to })
}

/// A store that holds all events.
struct FilledStore {
    /// No aggregates, because the subscriber sends no commands.
    aggregates: Arc<Aggregates>,
    store: Arc<dyn EventStore>,
    events: u64,
    keys: u64,
    /// Number of keys whose first event never ends: one or none.
    held_keys: u64,
    /// The folder is removed after the store is closed.
    _folder: tempfile::TempDir,
}

impl FilledStore {
    /// Fills a new store with events of this many keys in turn. The subscriber does nothing with an event, except what
    /// `first` says with the first one.
    fn new(events: u64, keys: u64, first: Then) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || SqliteStore::open(&folder.path().join(FILE_NAME), sqlite::Options::default()).expect("a store");
        let filled = open();
        fill(&filled, events, keys, first);
        // The newest events are in memory until the store is closed. From now on all are read from the file.
        drop(filled);
        let store: Arc<dyn EventStore> = Arc::new(open());
        assert_eq!(store.head().borrow().0, events, "each event has a position, and nothing else has one");
        let aggregates = Arc::new(Aggregates::start([], &store).expect("no shards"));
        Self { aggregates, store, events, keys, held_keys: u64::from(first == Then::Loop), _folder: folder }
    }

    /// Removes the progress of a subscription, so that the next one of its name begins with the first event.
    fn forget(&self, subscription: &str) {
        let part = Part { kind: PartKind::Subscription, name: subscription.to_owned() };
        ack::wait(|ack| self.store.forget(&part, ack)).expect("it has progress");
    }
}

fn fill(store: &dyn EventStore, events: u64, keys: u64, first: Then) {
    let streams: Vec<_> = (0..keys).map(|key| StreamId::new(PLUGIN, format!("key-{key}"))).collect();
    let (done, finished) = crossbeam_channel::bounded::<()>(IN_FLIGHT);
    for number in 0..events {
        if number >= IN_FLIGHT as u64 {
            finished.recv().expect("this thread holds the other end");
        }
        let then = if number == 0 { first } else { Then::Nothing };
        let done = done.clone();
        store.append(
            append(&streams[(number % keys) as usize], number / keys, then),
            Ack::new(move |result: Result<Appended, Error>| {
                result.expect("nothing is in the way");
                let _ = done.send(());
            }),
        );
    }
    finished.iter().take(IN_FLIGHT).for_each(drop);
}

/// Makes the append of an event to a stream that has this many events.
fn append(stream: &StreamId, version: u64, then: Then) -> Append {
    let payload = serde_json::to_vec(&Counted { count: version + 1, then }).expect("JSON");
    let event = NewEvent { name: EVENT.to_owned(), payload };
    let command = command(stream.clone(), "Count".into());
    Append {
        command,
        expected: ExpectedVersion::Exact(Version(version)),
        decision: Decision::Events(vec![event]),
        chain: None,
    }
}
