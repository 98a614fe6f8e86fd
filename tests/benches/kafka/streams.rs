//! The same flow in Kafka Streams, exactly once, on the same records: what a host is measured beside.

use crate::load::Expected;
use serde_json::Value;
use std::process::{Command, Stdio};
use wasmill_tests::kafka::Kafka;
use xtask::kafka::streams;

/// The interval of its commits, which are what its readers see.
const COMMIT_MS: u32 = 100;

/// The program, if this machine can run it.
pub(crate) struct Streams {
    folder: tempfile::TempDir,
}

/// What it measured, without its start.
pub(crate) struct Measured {
    /// Baskets per second.
    pub(crate) rate: f64,
    /// Baskets per second after half of them were decided, when the code is compiled.
    pub(crate) second_half: f64,
    /// The seconds of CPU.
    pub(crate) cpu_seconds: f64,
}

impl Streams {
    /// Makes a folder for its stores. Says what is missing, if it can't run.
    pub(crate) fn find() -> Option<Self> {
        if let Some(reason) = streams::missing() {
            eprintln!("left out: the flow in Kafka Streams. {reason}");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().expect("make a folder") })
    }

    /// Handles the baskets of a topic. It checks what comes of them.
    pub(crate) fn run(&self, kafka: &Kafka, topic: &str, baskets: usize, expected: &Expected) -> Measured {
        let mut program: Command = streams::program().expect("build the program for Kafka Streams");
        let loyal = expected.notifications - expected.orders;
        let numbers = [baskets as u64, expected.orders, loyal, expected.sales_cents.unsigned_abs(), COMMIT_MS.into()];
        program.args([kafka.brokers(), topic]).args(numbers.map(|number| number.to_string())).arg(self.folder.path());
        let output = program.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("run java");
        assert!(output.status.success(), "the program for Kafka Streams failed");
        let line: Value = serde_json::from_slice(&output.stdout).expect("it prints a line of JSON");
        let figure = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}"));
        Measured { rate: figure("rate"), second_half: figure("second_half"), cpu_seconds: figure("cpu_seconds") }
    }
}
