//! Durable commands through WebAssembly, as ratios to raw inserts of the same event rows.
//!
//! Values and their baselines are measured in turn. Every command is answered after its commit.

#[path = "support/raw_inserts.rs"]
mod raw_inserts;

use raw_inserts::raw_inserts;
use wasmill_tests::command_path::{CommandPath, Handlers, Load, Pace, Setup};
use wasmill_tests::report::{self, Budget, Report, middle, rounds};

/// Number of commands in one measurement.
const COMMANDS: u64 = 100_000;
/// Number of commands in a long measurement. It takes seconds, in which the log is checkpointed and the stream index
/// filled again and again. In a shorter one neither the store nor raw inserts pay for their deferred work.
const LONG: u64 = 400_000;
/// Number of aggregates for the measurement of many. Each gets two commands, and the first creates it.
const MANY: u64 = 100_000;
/// Default number of aggregates, which get the commands in turn.
const AGGREGATES: u64 = 1_000;
/// Number of commands to one aggregate.
const HOT_COMMANDS: u64 = 50_000;
/// Number of commands to one aggregate in flight. More would be answered "busy".
const HOT_IN_FLIGHT: usize = 64;
/// Number of aggregates with a thousand events each.
const COLD_AGGREGATES: u64 = 200;
/// Number of measurements of one thing.
const ROUNDS: usize = 9;
/// Number of measurements of rates with a baseline close to them. The machine's speed changes from second to second,
/// which affects a baseline with fewer threads less. A round can be off by a tenth; the median of many is not.
const MANY_ROUNDS: usize = 61;
/// Number of measurements of the cost of growth, which is a few percent.
const GROWTH_ROUNDS: usize = 21;

/// A benchmark and its name.
type Benchmark = (&'static str, fn(&mut Report));

const ALL: [Benchmark; 5] =
    [("throughput", throughput), ("latency", latency), ("hot", hot), ("cold", cold), ("growth", growth)];

fn main() {
    report::run(ALL);
}

/// Measures throughput.
fn throughput(report: &mut Report) {
    let usual = Load::new(COMMANDS, AGGREGATES);
    let [raw, wasm, native] = rounds(
        MANY_ROUNDS,
        [&mut || raw_inserts(COMMANDS), &mut || CommandPath::wasm().run(&usual).rate, &mut || {
            CommandPath::native().run(&usual).rate
        }],
    );
    let (rate, baseline) = middle(&wasm, &raw);
    report.ratio("commands/raw-short", rate, "1/s", baseline);
    judge(report, "commands/native", &wasm, &native, 0.85);

    let long = Load::new(LONG, AGGREGATES);
    let many = Load::new(2 * MANY, MANY);
    let few = Load::new(2 * MANY, AGGREGATES);
    let [raw, long, many, few] = rounds(
        ROUNDS,
        [
            &mut || raw_inserts(LONG),
            &mut || CommandPath::wasm().run(&long).rate,
            &mut || CommandPath::wasm().run(&many).rate,
            &mut || CommandPath::wasm().run(&few).rate,
        ],
    );
    judge(report, "commands/raw", &long, &raw, 1.0);
    judge(report, "commands/many", &many, &few, 0.5);
}

fn judge(report: &mut Report, name: &str, rates: &[f64], baselines: &[f64], budget: f64) {
    let (rate, baseline) = middle(rates, baselines);
    report.judge(name, rate, "1/s", baseline, Budget::AtLeast(budget));
}

/// Returns the commands per second to the usual number of aggregates.
fn usual() -> f64 {
    CommandPath::wasm().run(&Load::new(COMMANDS, AGGREGATES)).rate
}

/// Measures one aggregate that gets all commands.
fn hot(report: &mut Report) {
    let load = Load { pace: Pace::InFlight(HOT_IN_FLIGHT), ..Load::new(HOT_COMMANDS, 1) };
    let [hot, usual] = rounds(ROUNDS, [&mut || CommandPath::wasm().run(&load).rate, &mut usual]);
    let (rate, baseline) = middle(&hot, &usual);
    report.ratio("commands/hot", rate, "1/s", baseline);
}

/// Measures aggregates that are not live when their command comes.
fn cold(report: &mut Report) {
    let load = Load::new(COMMANDS, COMMANDS);
    let [new, known] = rounds(ROUNDS, [&mut || CommandPath::wasm().run(&load).rate, &mut usual]);
    let (rate, usual) = middle(&new, &known);
    report.ratio("commands/new", rate, "1/s", usual);
    let replayed = after_a_thousand_events(0);
    report.ratio("commands/cold", replayed, "1/s", usual);
    report.ratio("commands/cold-snapshot", after_a_thousand_events(100), "1/s", replayed);
}

/// Returns the commands per second to aggregates that have a thousand events each and are not live.
fn after_a_thousand_events(snapshot_every: u64) -> f64 {
    let mut path = CommandPath::new(Setup { handlers: Handlers::Wasm, snapshot_every });
    path.run(&Load::new(COLD_AGGREGATES * 1_000, COLD_AGGREGATES));
    path.cool();
    if snapshot_every > 0 {
        // The load before was too fast, so many snapshots were dropped. Rebuilding an aggregate keeps a snapshot too.
        let slowly = Load { pace: Pace::PerSecond(200.0), ..Load::new(COLD_AGGREGATES, COLD_AGGREGATES) };
        path.run(&slowly);
        path.cool();
        assert_eq!(snapshots_from(&path, 1_000), COLD_AGGREGATES, "each is rebuilt from a snapshot");
    }
    path.run(&Load::new(COLD_AGGREGATES, COLD_AGGREGATES)).rate
}

/// Returns how many carts have a snapshot at a version or past it.
fn snapshots_from(path: &CommandPath, version: u64) -> u64 {
    let file = path.store_file().with_file_name("snapshots.sqlite");
    let sql = "SELECT count(*) FROM snapshots WHERE version >= ?1";
    rusqlite::Connection::open(file).unwrap().query_row(sql, [version], |row| row.get(0)).unwrap()
}

/// Measures the time from when a command was due until it is answered, at half of the rate.
fn latency(report: &mut Report) {
    let pace = Pace::PerSecond(usual() / 2.0);
    let half = CommandPath::wasm().run(&Load { pace, ..Load::new(COMMANDS, AGGREGATES) });
    report.figure("commands/latency-p50", half.p50.as_secs_f64() * 1e3, "ms");
    report.figure("commands/latency-p99", half.p99.as_secs_f64() * 1e3, "ms");
}

/// Measures the same load on a store that holds 10⁴, 10⁵ and 10⁶ events when it begins. It is one store, measured as it
/// grows, so that only its size differs. A new store would have fresh memory, unlike one that has run for long.
fn growth(report: &mut Report) {
    let [mut small, mut middle_sized, mut large] = [const { Vec::new() }; 3];
    for _ in 0..GROWTH_ROUNDS {
        let path = CommandPath::wasm();
        let grow = |events| path.run(&Load::new(events, AGGREGATES)).rate;
        grow(10_000);
        small.push(grow(COMMANDS));
        // The store holds 110,000 events now.
        middle_sized.push(grow(COMMANDS));
        grow(790_000);
        large.push(grow(COMMANDS));
    }
    judge(report, "commands/growth-middle", &middle_sized, &small, 0.9);
    judge(report, "commands/growth", &large, &small, 0.9);
}
