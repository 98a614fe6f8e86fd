//! The cost of a call into a guest, as ratios to plain typed calls of wasmtime with the same engine settings.
//!
//! The plain side has no limits on memory, no deadline per call, no headers to lend and no outcome to translate. The
//! difference is the cost of what the host adds.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;
use wasmill::model::{Command, StreamId};
use wasmill::plugin::{AggregateGuest, Catalog, Compiler, Configuration, Demand, Live, Wanted};
use wasmill_tests::built;
use wasmill_tests::command_path::PAYLOAD;
use wasmill_tests::report::{Budget, Report, middle, rounds};
use wasmtime::component::{Component, Linker, ResourceAny};
use wasmtime::{Config, Engine, Store};

/// Number of calls in one measurement.
const CALLS: u32 = 20_000;
/// Number of measurements of one thing.
const ROUNDS: usize = 21;
/// The same for guests in other languages, which are slower.
const OTHER_CALLS: u32 = 1_000;
const OTHER_ROUNDS: usize = 5;

mod bare {
    //! The bindings of a plain call.
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "every-role",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
    });
}

use bare::exports::wasmill::plugin::aggregate::{Guest, GuestIndices};
use bare::wasmill::plugin::types;

fn main() {
    let (mut hosted, mut bare) = (Hosted::new(), Bare::new());
    let [host, wasmtime] = rounds(ROUNDS, [&mut || timed(|| hosted.command()), &mut || timed(|| bare.command())]);
    let [host_empty, wasmtime_empty] =
        rounds(ROUNDS, [&mut || timed(|| hosted.nothing()), &mut || timed(|| bare.nothing())]);
    let mut report = Report::default();
    for (name, host, wasmtime) in [("guest/call", host, wasmtime), ("guest/call-empty", host_empty, wasmtime_empty)] {
        let (host, wasmtime) = middle(&host, &wasmtime);
        report.judge(name, host, "ns", wasmtime, Budget::AtMost(1.3));
    }
    other_languages(&mut report);
    report.write();
}

/// The cost of a command to the same small aggregate in other languages, beside Rust without the SDK. What was not built is left out.
fn other_languages(report: &mut Report) {
    let settings = serde_json::Map::from_iter([("large".to_owned(), 1.into())]);
    let fixture = built::workspace().join("tests/fixtures/contract-1.0.0.wasm");
    let configuration = Configuration::new(settings, Default::default());
    let mut rust = Hosted::of("tally", fixture, configuration, "Add", r#"{"amount":0}"#);
    for language in ["python", "javascript", "go"] {
        let file = built::workspace().join("target/polyglot").join(language).join("stock.wasm");
        if !file.is_file() {
            println!("left out: guest/{language}, which examples/polyglot/{language}/build.sh builds");
            continue;
        }
        let aggregate = format!("stock-{language}");
        let mut other = Hosted::of(&aggregate, file, Configuration::default(), "Receive", r#"{"quantity":1}"#);
        let [other, rust] = rounds(
            OTHER_ROUNDS,
            [&mut || timed_for(OTHER_CALLS, || other.command()), &mut || timed(|| rust.command())],
        );
        let (other, rust) = middle(&other, &rust);
        report.ratio(&format!("guest/{language}"), other, "ns", rust);
    }
}

/// Returns the nanoseconds of one call.
fn timed(call: impl FnMut()) -> f64 {
    timed_for(CALLS, call)
}

fn timed_for(calls: u32, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..calls).for_each(|_| call());
    started.elapsed().div_f64(f64::from(calls)).as_secs_f64() * 1e9
}

/// A guest called as the host calls it, by `wasmill::plugin`.
struct Hosted {
    guest: AggregateGuest,
    live: Live,
    command: Command,
    _catalog: Catalog,
}

impl Hosted {
    fn new() -> Self {
        Self::of("cart", built::plugin("cart"), Configuration::default(), "AddItems", PAYLOAD)
    }

    /// Makes a guest of an aggregate type, which is called with this command.
    fn of(aggregate: &str, file: PathBuf, configuration: Configuration, command: &str, payload: &str) -> Self {
        let compiler = Compiler::new(None, Demand::default()).expect("an engine");
        let catalog = Catalog::open(compiler, [("plugin", Wanted { configuration, ..Wanted::of(file) })])
            .unwrap_or_else(|errors| panic!("{}", errors[0]));
        let plugin = catalog.slots().next().expect("the plugin's slot").current();
        let mut guest = AggregateGuest::new(&plugin, aggregate).expect("a guest");
        let live = guest.create("1").expect("an aggregate");
        let command = Command {
            stream: StreamId::new(aggregate, "1"),
            name: command.into(),
            payload: payload.into(),
            id: "01a20a07-5605-7442-adaf-980b9ad91cd2".into(),
            correlation_id: "01a20a07-5605-7442-adaf-980b9ad91cd2".into(),
            causation_id: "01a20a07-5605-7442-adaf-980b9ad91cd2".into(),
            time_ms: 1_795_464_582_661,
            headers: Vec::new(),
            origin: None,
            durable_id: false,
            outcome_use: Default::default(),
            first_ms: None,
            hops: 0,
            expected: None,
        };
        Self { guest, live, command, _catalog: catalog }
    }

    fn command(&mut self) {
        let decided = self.guest.handle(&self.live, &self.command).expect("no trap");
        assert_eq!(black_box(decided).expect("it is accepted").len(), 1);
    }

    fn nothing(&mut self) {
        assert!(self.guest.apply(&self.live, &[]).expect("no trap").is_ok());
    }
}

/// A guest called by wasmtime alone.
struct Bare {
    store: Store<()>,
    guest: Guest,
    live: ResourceAny,
}

impl Bare {
    fn new() -> Self {
        let mut config = Config::new();
        config.wasm_component_model(true).concurrency_support(false).epoch_interruption(true).max_wasm_stack(1 << 20);
        let engine = Engine::new(&config).expect("an engine");
        let component = Component::new(&engine, component()).expect("a component");
        let mut linker = Linker::new(&engine);
        // The guest logs nothing, so it needs no imports.
        linker.define_unknown_imports_as_traps(&component).expect("a linker");
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let pre = linker.instantiate_pre(&component).expect("a component that fits");
        let instance = pre.instantiate(&mut store).expect("an instance");
        let guest = GuestIndices::new(&pre).and_then(|indices| indices.load(&mut store, &instance)).expect("a cart");
        let live = guest.instance().call_constructor(&mut store, "cart", "cart-1").expect("a cart");
        Self { store, guest, live }
    }

    fn command(&mut self) {
        let id = "01a20a07-5605-7442-adaf-980b9ad91cd2";
        let metadata = types::Metadata { id, time: 1_795_464_582_661, cause: types::Cause::First, headers: None };
        let command = types::Command { name: "AddItems", payload: PAYLOAD.as_bytes(), metadata };
        let decided = self.guest.instance().call_handle(&mut self.store, self.live, command).expect("no trap");
        assert_eq!(black_box(decided).expect("a cart takes items").len(), 1);
    }

    fn nothing(&mut self) {
        assert!(self.guest.instance().call_apply(&mut self.store, self.live, &[]).expect("no trap").is_ok());
    }
}

fn component() -> Vec<u8> {
    let module = std::fs::read(built::plugin("cart")).expect("read the plugin");
    let encoded = wit_component::ComponentEncoder::default().module(&module).and_then(|encoder| encoder.encode());
    encoded.expect("a module of the SDK's makes a component")
}
