//! Kafka in and out of a host, with a real broker on the same machine.
//!
//! `cargo xtask bench kafka`, or `cargo bench --bench kafka -- grocery latency` for some of them. Each row is a ratio
//! to something simpler in the same run, or a figure that depends on the machine and says so by having no baseline.

mod aggregate;
mod deliveries;
mod flow;
mod grocery;
mod latency;
mod load;
mod records;
mod sink;
mod streams;
mod usage;

use wasmill_tests::kafka::Kafka;
use wasmill_tests::report::{self, Report};

/// A benchmark and its name.
type Benchmark = (&'static str, fn(&Kafka, &mut Report));

const ALL: [Benchmark; 7] = [
    ("aggregate", aggregate::measure),
    ("sink", sink::measure),
    ("subscriber", deliveries::subscriber),
    ("transform", deliveries::transform),
    ("latency", latency::measure),
    ("grocery", grocery::measure),
    ("postgres", grocery::measure_postgres),
];

fn main() {
    let Some(kafka) = Kafka::shared() else { return };
    let kafka = &kafka;
    report::run(ALL.map(|(name, measure)| (name, move |report: &mut Report| measure(kafka, report))));
}
