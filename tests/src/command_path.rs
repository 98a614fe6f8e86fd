//! The command path without a host around it: an event store, the shards of one plugin, and a sender that loads them.
//!
//! Every command is answered after its commit. One that is not accepted ends the benchmark, because a figure counts
//! only if all the work was done.

use crate::built;
use crate::native::Native;
use crate::native::cart::Cart;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use wasmill::ack::Ack;
use wasmill::aggregates::{Aggregates, Options as AggregateOptions, Service, shards_by_default};
use wasmill::clock::Clock;
use wasmill::host::aggregate_services;
use wasmill::model::{Command, Outcome, StreamId};
use wasmill::plugin::{Catalog, Compiler, Demand, Limits, Wanted};
use wasmill::store::EventStore;
use wasmill::store::postgres::PostgresStore;
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore};

/// A command of three items, as JSON.
pub const PAYLOAD: &str = r#"{"items":[{"product_id":"1095275","quantity":1,"amount_cents":50},{"product_id":"9878513","quantity":2,"amount_cents":198},{"product_id":"1041453","quantity":1,"amount_cents":143}]}"#;

/// Number of commands in flight, if a load says nothing else.
pub const IN_FLIGHT: usize = 2_000;

/// Largest number of live carts in a shard, which is more than any load has.
const LIVE_MAX: usize = 400_000;

/// Interval at which a paced sender checks whether commands are due.
const REST: Duration = Duration::from_micros(500);

/// A store and shards of carts, in a folder of their own.
pub struct CommandPath {
    folder: tempfile::TempDir,
    open: Box<dyn Fn() -> Arc<dyn EventStore> + Send + Sync>,
    store: Arc<dyn EventStore>,
    served: Aggregates,
    setup: Setup,
}

/// How the carts are served.
#[derive(Clone, Copy)]
pub struct Setup {
    /// The handlers of the carts.
    pub handlers: Handlers,
    /// Number of events after which a snapshot is kept, or 0 for none.
    pub snapshot_every: u64,
}

/// The kind of the handlers.
#[derive(Clone, Copy)]
pub enum Handlers {
    /// The plugin `cart`.
    Wasm,
    /// Its source, compiled for this machine.
    Native,
}

/// The commands to send.
pub struct Load {
    /// Number of commands.
    pub commands: u64,
    /// The numbers of the aggregates that get them, in turn.
    pub aggregates: Range<u64>,
    /// The speed of sending.
    pub pace: Pace,
}

/// The speed at which commands are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// Commands are sent so that this many are always in flight.
    InFlight(usize),
    /// This many commands are sent in a second, answered or not. A latency counts from when its command was due.
    PerSecond(f64),
}

/// Measurements of a load.
pub struct Measured {
    /// Commands per second.
    pub rate: f64,
    /// Median of the latencies.
    pub p50: Duration,
    /// 99th percentile of the latencies.
    pub p99: Duration,
}

impl Load {
    /// Makes a load of commands to aggregates, as fast as they are answered.
    pub fn new(commands: u64, aggregates: u64) -> Self {
        Self { commands, aggregates: 0..aggregates, pace: Pace::InFlight(IN_FLIGHT) }
    }
}

impl CommandPath {
    /// Makes a new store and shards with handlers in WebAssembly, without snapshots.
    pub fn wasm() -> Self {
        Self::new(Setup { handlers: Handlers::Wasm, snapshot_every: 0 })
    }

    /// Makes a new store and shards with native handlers, without snapshots.
    pub fn native() -> Self {
        Self::new(Setup { handlers: Handlers::Native, snapshot_every: 0 })
    }

    /// Makes a new store and as many shards as a host has by default.
    pub fn new(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE_NAME);
        Self::on(folder, setup, move || Arc::new(SqliteStore::open(&file, Options::default()).expect("a store")))
    }

    /// Makes a store in a database, and shards with handlers in WebAssembly.
    pub fn on_postgres(url: &str) -> Self {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), crate::postgres::address(url));
        let open = move || -> Arc<dyn EventStore> {
            Arc::new(PostgresStore::open(&address, Options::default()).expect("a store"))
        };
        Self::on(folder, Setup { handlers: Handlers::Wasm, snapshot_every: 0 }, open)
    }

    /// Does the same, beside other hosts that share the store.
    pub fn on_shared_postgres(url: &str) -> Self {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), crate::postgres::address(url));
        let open = move || -> Arc<dyn EventStore> {
            Arc::new(PostgresStore::open_shared(&address, Options::default()).expect("a store"))
        };
        Self::on(folder, Setup { handlers: Handlers::Wasm, snapshot_every: 0 }, open)
    }

    fn on(
        folder: tempfile::TempDir,
        setup: Setup,
        open: impl Fn() -> Arc<dyn EventStore> + Send + Sync + 'static,
    ) -> Self {
        let store = open();
        let served = setup.serve(&store);
        Self { folder, open: Box::new(open), store, served, setup }
    }

    /// Restarts the shards, as a restart of the host would: no cart is live, and all pending snapshots are written.
    pub fn cool(&mut self) {
        self.finish();
        self.store = (self.open)();
        self.served = self.setup.serve(&self.store);
    }

    /// Sends a load and waits until all of it is answered.
    pub fn run(&self, load: &Load) -> Measured {
        let sender = Sender::new(load);
        let started = Instant::now();
        match load.pace {
            Pace::InFlight(in_flight) => sender.closed_loop(&self.served, load.commands, in_flight),
            Pace::PerSecond(rate) => sender.paced(&self.served, load.commands, rate),
        }
        sender.measured(load.commands, started.elapsed())
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// Returns the store's file.
    pub fn store_file(&self) -> PathBuf {
        self.folder.path().join(FILE_NAME)
    }

    /// Finishes what is queued and checkpoints the store's log into its file.
    pub fn finish(&self) {
        self.served.stop();
        self.store.close();
    }
}

impl Setup {
    fn serve(self, store: &Arc<dyn EventStore>) -> Aggregates {
        let options = AggregateOptions { snapshot_every: self.snapshot_every, ..AggregateOptions::default() };
        let shards = shards_by_default();
        let services = match self.handlers {
            Handlers::Native => vec![Service::new("cart", Native::<Cart>::new(LIVE_MAX), shards, options)],
            Handlers::Wasm => {
                let limits = Limits { instances_max: LIVE_MAX, ..Limits::default() };
                let compiler = Compiler::new(None, Demand::default()).expect("an engine");
                let wanted = Wanted { limits, ..Wanted::of(built::plugin("cart")) };
                let catalog = Catalog::open(compiler, [("cart", wanted)])
                    .unwrap_or_else(|errors| panic!("{}; run `cargo xtask build`", errors[0]));
                catalog.slots().flat_map(|slot| aggregate_services(&slot, shards, &options)).collect()
            }
        };
        Aggregates::start(services, store).expect("shards")
    }
}

impl Drop for CommandPath {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Sender {
    aggregate_type: Arc<str>,
    name: Arc<str>,
    ids: Vec<Arc<str>>,
    latencies: Arc<Mutex<Vec<Duration>>>,
}

impl Sender {
    fn new(load: &Load) -> Self {
        Self {
            aggregate_type: "cart".into(),
            name: "AddItems".into(),
            ids: load.aggregates.clone().map(|number| format!("cart-{number}").into()).collect(),
            latencies: Arc::new(Mutex::new(Vec::with_capacity(load.commands as usize))),
        }
    }

    fn closed_loop(&self, served: &Aggregates, commands: u64, in_flight: usize) {
        let (done, finished) = crossbeam_channel::bounded::<()>(in_flight);
        for number in 0..commands {
            if number >= in_flight as u64 {
                finished.recv().expect("this thread holds the other end");
            }
            self.send(served, number, Instant::now(), &done);
        }
        finished.iter().take(commands.min(in_flight as u64) as usize).for_each(drop);
    }

    fn paced(&self, served: &Aggregates, commands: u64, rate: f64) {
        let (done, finished) = crossbeam_channel::unbounded::<()>();
        let started = Instant::now();
        for number in 0..commands {
            let due = started + Duration::from_secs_f64(number as f64 / rate);
            while Instant::now() < due {
                thread::park_timeout(REST);
            }
            self.send(served, number, due, &done);
        }
        finished.iter().take(commands as usize).for_each(drop);
    }

    fn send(&self, served: &Aggregates, number: u64, due: Instant, done: &crossbeam_channel::Sender<()>) {
        let (done, latencies) = (done.clone(), self.latencies.clone());
        let ack = Ack::new(move |outcome| {
            if !matches!(outcome, Outcome::Accepted { .. }) {
                // The process ends here, because a panic would only end a shard.
                eprintln!("a command was not accepted: {outcome:?}");
                std::process::exit(1);
            }
            latencies.lock().expect("no holder panics").push(due.elapsed());
            let _ = done.send(());
        });
        assert!(served.send(self.command(number), ack).is_ok(), "carts are served");
    }

    fn command(&self, number: u64) -> Arc<Command> {
        let aggregate = &self.ids[(number % self.ids.len() as u64) as usize];
        command(StreamId::new(self.aggregate_type.clone(), aggregate.clone()), self.name.clone())
    }

    fn measured(self, commands: u64, elapsed: Duration) -> Measured {
        let mut latencies = self.latencies.lock().expect("no holder panics");
        assert_eq!(latencies.len() as u64, commands, "every command is accepted");
        latencies.sort();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        Measured { rate: commands as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
    }
}

/// Makes a command with [`PAYLOAD`] and an id of its own.
pub fn command(stream: StreamId, name: Arc<str>) -> Arc<Command> {
    let id: Arc<str> = uuid::Uuid::now_v7().to_string().into();
    Arc::new(Command {
        stream,
        name,
        payload: PAYLOAD.into(),
        correlation_id: id.clone(),
        causation_id: id.clone(),
        id,
        time_ms: Clock::system().now_ms(),
        headers: Vec::new(),
        origin: None,
        durable_id: false,
        outcome_use: Default::default(),
        first_ms: None,
        hops: 0,
        expected: None,
    })
}
