//! The project's own tasks: `cargo xtask setup | build | demo | test | torture | bench | deny | kafka | postgres`.
//!
//! Each task checks what it needs, builds it, and says in a sentence what is missing. Only this crate compiles guests
//! to WebAssembly. Everything native shares the release profile and the workspace's target folder, so that a heavy
//! dependency is compiled once. Nothing here knows what a plugin does. [`kafka`] and [`postgres`] are public because the tests start
//! the same broker and server, [`fuzzer`] because they use it, [`guest_build`] because they build a plugin outside of the workspace, and
//! [`root`] because tests and the example find their files by it.

mod against;
mod contract;
mod deny;
pub mod fuzzer;
mod guests;
pub mod kafka;
mod native;
mod once;
pub mod postgres;
mod process;
mod setup;
#[cfg(test)]
mod tidy;
mod toolchain;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use guests::Which;
use setup::May;
use std::process::ExitCode;
use workspace::Workspace;

pub use workspace::root;

/// Returns a `cargo build` with a profile for a guest outside of the workspace.
pub fn guest_build(profile: &str) -> Result<std::process::Command> {
    Ok(setup::ensure(May::AskRustup)?.cargo_build(profile))
}

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the tools that a build needs and install the wasm target: with rustup, or on Debian with apt-get.
    Setup,
    /// Build the host, the example and all plugins; the plugins go to target/plugins/NAME.wasm.
    Build {
        /// Build only this plugin.
        #[arg(long, value_name = "NAME")]
        plugin: Option<String>,
    },
    /// Build the host, the example and its plugins, and run the example; `cargo xtask demo --help` lists its options.
    #[command(disable_help_flag = true)]
    Demo {
        /// Passed on to the example.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build everything and run all tests.
    Test {
        /// Run them so often, up to the first run that fails: it finds tests that fail by chance. Stands before the
        /// rest.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
        /// Passed on to `cargo test`, such as `--test host` or a part of the name of a test.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build everything and run the benchmarks; the results go to target/bench.json.
    Bench {
        /// Run only these, such as `commands` or `guest`; the others keep their rows in the results.
        #[arg(value_name = "GROUP")]
        groups: Vec<String>,
        /// Build another commit too, run the benchmarks of both in turn, and print how this tree's figures compare to
        /// the other's. The results go nowhere else.
        #[arg(long, value_name = "COMMIT")]
        against: Option<String>,
        /// How often both run.
        #[arg(long, value_name = "N", default_value_t = 3, requires = "against", value_parser = clap::value_parser!(u8).range(1..))]
        rounds: u8,
    },
    /// Build everything, kill a host under load at random moments with other faults beside, and check what is left.
    Torture {
        /// How often it is killed.
        #[arg(long, value_name = "N", default_value_t = 100)]
        kills: usize,
        /// Over how long.
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        seconds: u64,
        /// Several hosts share a store in PostgreSQL, and one of them at a time is killed, frozen, cut off or stopped. It needs a
        /// PostgreSQL server's programs and a Kafka of this machine.
        #[arg(long)]
        postgres: bool,
        /// The number of these hosts.
        #[arg(long, value_name = "N", default_value_t = 3, requires = "postgres", value_parser = clap::value_parser!(u32).range(2..))]
        hosts: u32,
        /// What everything random is drawn from: the number that an earlier run printed.
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Hold the dependencies against deny.toml: their licences, duplicate versions and sources.
    Deny {
        /// Look for security advisories instead; needs the database on GitHub.
        #[arg(long)]
        advisories: bool,
    },
    /// Copy the text of `wit/` to docs/contract.md.
    Contract,
    /// Start or stop a real Kafka on this machine: one node of Apache Kafka, empty at each start.
    Kafka {
        #[command(subcommand)]
        task: KafkaTask,
    },
    /// Start or stop a PostgreSQL server on this machine, with an empty database at each start.
    Postgres {
        #[command(subcommand)]
        task: PostgresTask,
    },
}

#[derive(Subcommand)]
enum PostgresTask {
    /// Start it in the background and print the URL of its database.
    Up,
    /// Stop it.
    Down,
}

#[derive(Subcommand)]
enum KafkaTask {
    /// Start it in the background and print its address; the first time, fetch it with Maven.
    Up,
    /// Stop it.
    Down,
}

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Kafka { task: KafkaTask::Up } => kafka::background::up(),
        Task::Kafka { task: KafkaTask::Down } => kafka::background::down(),
        Task::Postgres { task: PostgresTask::Up } => postgres::background::up(),
        Task::Postgres { task: PostgresTask::Down } => postgres::background::down(),
        Task::Deny { advisories } => deny::check(&Workspace::load()?, advisories),
        Task::Contract => contract::write(&root()),
        task => build_and_perform(task),
    }
}

fn build_and_perform(task: Task) -> Result<()> {
    let workspace = Workspace::load()?;
    let toolchain = setup::ensure(if matches!(task, Task::Setup) { May::Install } else { May::AskRustup })?;
    match task {
        Task::Setup => setup::report(&toolchain),
        Task::Build { plugin: Some(name) } => guests::build(&workspace, &toolchain, Which::One(&name)),
        Task::Build { plugin: None } => build_all(&workspace, &toolchain),
        Task::Demo { args } => build_demo(&workspace, &toolchain).and_then(|()| native::demo(&workspace, &args)),
        Task::Test { repeat, args } => {
            build_all(&workspace, &toolchain).and_then(|()| native::test(&workspace, repeat, &args))
        }
        Task::Bench { groups, against, rounds } => {
            let groups = native::benches(&workspace, &groups)?;
            build_all(&workspace, &toolchain)?;
            match against {
                Some(commit) => against::compare(&workspace, &groups, &commit, rounds.into()),
                None => native::bench(&workspace, &groups),
            }
        }
        Task::Torture { kills, seconds, postgres, hosts, seed } => {
            let hosts = postgres.then_some(hosts);
            build_all(&workspace, &toolchain).and_then(|()| native::torture(&workspace, kills, seconds, hosts, seed))
        }
        Task::Contract | Task::Deny { .. } | Task::Kafka { .. } | Task::Postgres { .. } => {
            unreachable!("done above, without a build")
        }
    }
}

fn build_all(workspace: &Workspace, toolchain: &toolchain::Toolchain) -> Result<()> {
    guests::build(workspace, toolchain, Which::All)?;
    native::build(workspace)
}

fn build_demo(workspace: &Workspace, toolchain: &toolchain::Toolchain) -> Result<()> {
    guests::build(workspace, toolchain, Which::Example)?;
    native::build_demo(workspace)
}
