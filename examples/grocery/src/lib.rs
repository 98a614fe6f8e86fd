//! The grocery example from end to end: it writes baskets to Kafka and reads the results back.
//!
//! It starts a host on the example's manifest, produces the baskets, waits until everything is drained, and prints the
//! figures of the read model, the store and the topic. With `--crash N` it kills a host N times on the way, and with `--hosts N`
//! several hosts divide the work. It knows the hosts only from outside, and the producer counts nothing of what it prints. [`wasmill_driver`] starts the host
//! and calls it.

mod api;
mod baskets;
mod consumed;
mod crash;
mod database;
mod figures;
mod flow;
mod hosts;
mod producer;
mod progress;
mod run;
mod start;
mod summary;

use anyhow::{Result, bail};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the grocery example from end to end and reads back what came of it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo")]
pub(crate) struct Options {
    /// The baskets: one JSON object a line, as text or gzip [default: the 2,000 baskets of the example]
    #[arg(long, value_name = "FILE[.gz]", default_value_os_t = folder().join("data/baskets.jsonl.gz"), hide_default_value = true)]
    pub(crate) input: PathBuf,
    /// Print one line of JSON instead of the summary.
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the data folder: store, read model and log stay in DIR.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Kill the host N times at random moments and start it again on the same folder.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) crash: usize,
    /// Use this Kafka cluster instead of the embedded development broker.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) brokers: Option<String>,
    /// Start a PostgreSQL server of this machine's programs, and keep the store there instead of in the data folder.
    #[arg(long, conflicts_with = "keep")]
    pub(crate) postgres: bool,
    /// Run this many hosts on the store in PostgreSQL, which divide the work. They need a cluster, because a development broker
    /// belongs to one host.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9), requires = "postgres")]
    pub(crate) hosts: u32,
    /// The host's program [default: `wasmill` beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) wasmill: Option<PathBuf>,
    /// The host's manifest [default: the example's]
    #[arg(long, value_name = "FILE", default_value_os_t = folder().join("wasmill.toml"), hide_default_value = true)]
    pub(crate) manifest: PathBuf,
}

/// The folder of the example, in the checkout that this run belongs to.
fn folder() -> PathBuf {
    xtask::root().join("examples/grocery")
}

/// Runs the program with the arguments of the command line.
pub fn main() -> ExitCode {
    match demo(&Options::parse()) {
        Ok(left_undone) if left_undone.is_empty() => ExitCode::SUCCESS,
        Ok(left_undone) => {
            left_undone.iter().for_each(|sentence| eprintln!("left undone: {sentence}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(options: &Options) -> Result<Vec<String>> {
    if options.hosts > 1 && options.brokers.is_none() {
        bail!("several hosts need a Kafka cluster: start one with `cargo xtask kafka up`, and name it with --brokers");
    }
    let outcome = run::run(options)?;
    match options.json {
        true => println!("{}", serde_json::to_string(&outcome.figures)?),
        false => summary::print(&outcome),
    }
    Ok(outcome.left_undone)
}
