//! The command line: its commands, what they print and how they exit.
//!
//! `run`, `dev` and `check` work on a manifest, `new` and `build` work on the sources of plugins, `test` works on a plugin, and `store`,
//! `events export` and `events import` also work on a store that no host has open. All others talk to a running host, only through its HTTP API. Results go to standard output, everything else
//! goes to standard error. `--json` prints machine-readable output. Exit codes: 0 done; 1 failed or refused; 2 wrong
//! usage or a bad manifest; 3 under way, not done yet; 4 another host has the store; 130 interrupted.

mod build;
mod cases;
mod check;
mod client;
mod clock;
mod dead_letters;
mod default_manifest;
mod descriptors;
mod dev;
mod events;
mod exports;
mod failure;
mod flows;
mod histories;
mod host_file;
mod kafka;
mod manifest_file;
mod migrate;
mod new;
mod output;
mod plugins;
mod progress;
mod projections;
mod query;
mod reload;
mod render;
mod requests;
mod restore;
mod run;
mod send;
mod store;
mod store_place;
mod streams;
mod subscriptions;
mod table;
mod test;
mod timers;

pub use host_file::HostFile;

use clap::{Parser, Subcommand};
use client::{Client, Target};
use default_manifest::ManifestArg;
use failure::CommandFailure;
use std::path::PathBuf;
use std::process::ExitCode;

/// A WebAssembly plugin host for event handlers.
#[derive(Parser)]
#[command(name = "wasmill", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    /// Print machine-readable output: JSON, one value per line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed or refused; 2 wrong usage or a bad manifest; 3 under way, not done yet; \
     4 another host has the store; 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    /// Run a host until it is told to stop (ctrl-c or SIGTERM).
    Run(run::Args),
    /// Make the crate of a new plugin, and its entry in wasmill.toml.
    New(new::Args),
    /// Build plugins from their sources.
    Build(build::Args),
    /// Run a host, and build, swap and test its plugins whenever their sources change.
    Dev(dev::Args),
    /// Check a manifest and load its plugins, without starting anything.
    Check(ManifestArg),
    /// Run test cases (given, when, then) from files against a compiled plugin.
    Test(test::Args),
    /// Send a command to an aggregate and wait until its events are durable.
    Send(send::Args),
    /// Query a projection.
    Query(query::Args),
    /// Show recorded events, export them to a file, or import them into an empty store.
    Events(events::Args),
    /// Show what followed from a command or an event: later events, timers that wait, and dead letters.
    Trace(histories::TraceArgs),
    /// Show the state that an aggregate's code makes from its events.
    #[command(disable_version_flag = true)]
    State(histories::StateArgs),
    /// Show what the host is doing, what was refused, and what is blocked.
    Status(Target),
    /// Apply the manifest of a running host as it is on disk now, or show what that would change.
    Reload(reload::Args),
    /// List, describe, reload, load or unload plugins.
    #[command(subcommand)]
    Plugins(plugins::Command),
    /// List projections, rebuild one, or make one skip the event that it stopped at.
    #[command(subcommand)]
    Projections(projections::Command),
    /// List, show, replay or discard dead letters.
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// List, pause, resume or reset subscriptions.
    #[command(subcommand)]
    Subscriptions(subscriptions::Command),
    /// List or cancel timers.
    #[command(subcommand)]
    Timers(timers::Command),
    /// List HTTP requests of plugins, or give one up.
    #[command(subcommand)]
    Requests(requests::Command),
    /// Show the host's clock, or move a manual one.
    Clock(clock::Args),
    /// Show, archive or restore a stream.
    #[command(subcommand)]
    Streams(streams::Command),
    /// Check, copy, restore, move or measure a store.
    #[command(subcommand)]
    Store(store::Command),
    /// Inspect and change a Kafka cluster: topics, groups, records, offsets.
    Kafka(kafka::Args),
    /// Run the development broker in the foreground. With `brokers = "embedded"` the host starts one by itself.
    DevBroker {
        /// The data folder whose dev-broker.json names the broker.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.execute(cli.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.json),
    }
}

impl Command {
    fn execute(self, json: bool) -> Result<(), CommandFailure> {
        match self {
            Self::Run(args) => run::run(args, json),
            Self::New(args) => new::new(&args, json),
            Self::Build(args) => build::build(args, json),
            Self::Dev(args) => dev::dev(args, json),
            Self::Check(manifest) => check::check(&manifest.path()?, json),
            Self::Test(args) => test::test(args, json),
            Self::Send(args) => send::send(args, json),
            Self::Query(args) => query::query(args, json),
            Self::Events(args) => events::events(args, json),
            Self::Trace(args) => histories::trace(&args, json),
            Self::State(args) => histories::state(&args, json),
            Self::Status(target) => status(&target, json),
            Self::Reload(args) => reload::reload(&args, json),
            Self::Plugins(command) => plugins::plugins(command, json),
            Self::Projections(command) => projections::projections(command, json),
            Self::DeadLetters(command) => dead_letters::dead_letters(command, json),
            Self::Subscriptions(command) => subscriptions::subscriptions(command, json),
            Self::Timers(command) => timers::timers(command, json),
            Self::Requests(command) => requests::requests(command, json),
            Self::Clock(args) => clock::clock(&args, json),
            Self::Streams(command) => streams::streams(command, json),
            Self::Store(command) => store::store(command, json),
            Self::Kafka(args) => kafka::kafka(args, json),
            Self::DevBroker { data } => {
                crate::kafka::dev_broker::run(&data).map_err(|cause| CommandFailure::failed(cause.to_string()))
            }
        }
    }
}

fn status(target: &Target, json: bool) -> Result<(), CommandFailure> {
    let reply = Client::new(target)?.get("/v1/status")?.successful()?;
    if json { output::line(&reply.text()) } else { output::text(&render::status(&reply.decoded()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood() {
        for line in [
            "run wasmill.toml --data d --brokers embedded --listen 127.0.0.1:0",
            "run --listen 127.0.0.1:0",
            "new aggregate counter --path plugins/counter --sdk ../guest-sdk --json",
            "build",
            "build counter totals --manifest wasmill.toml --json",
            "dev",
            "dev wasmill.toml --data d --no-tests --json",
            "check wasmill.toml --json",
            "check",
            "test flows.toml",
            "test counter counter/cases/counter.toml",
            "test orders.wasm a.toml b.json --json",
            "--json send order 1 Create {} --id a --expect no-stream",
            "send order 1 Count -5 --data d --json",
            "send --lines commands.ndjson --data d --json",
            "send --lines -",
            "query sales totals --json",
            "query sales totals {} --position 3 --timeout-ms 5 --url http://127.0.0.1:1",
            "events --from 3 --follow --type order.* --limit 9",
            "status --json",
            "reload --dry-run --data d --json",
            "plugins load p.wasm --name p --data d",
            "plugins unload p --json",
            "plugins list --json",
            "plugins describe orders --json",
            "plugins reload orders --force",
            "plugins history orders --json",
            "plugins revert orders 0123abcd --data d",
            "plugins revert orders --json",
            "subscriptions list --json",
            "subscriptions pause warehouse --data d",
            "subscriptions resume source/baskets --json",
            "subscriptions reset warehouse --to beginning --yes",
            "timers list --subscription warehouse --limit 5 --json",
            "timers cancel 7 --data d",
            "requests list --subscription warehouse --after 3 --limit 5 --json",
            "requests give-up 7 --data d",
            "clock --advance 2h --json",
            "plugins reload sales --timeout-ms 5 --json",
            "projections list --json",
            "projections skip sales 24",
            "dead-letters list --consumer baskets --before 9 --limit 3 --json",
            "dead-letters show 7",
            "dead-letters replay 7 8 --data d",
            "dead-letters replay --all --consumer baskets",
            "dead-letters discard 7 --json",
            "streams show order 1",
            "streams archive order 1 --json",
            "streams restore order 1",
            "store verify d --json",
            "events export events.ndjson --data d --json",
            "events export - --url http://127.0.0.1:1",
            "events import events.ndjson wasmill.toml --data d --subscriptions beginning --sinks after",
            "store backup",
            "store backup copy.sqlite --data d",
            "store restore copy.sqlite",
            "store restore copy.sqlite wasmill.toml --data d --dry-run --json",
            "store stats --count --json",
            "store stats --manifest wasmill.toml",
            "store migrate --from d --to postgres://u@h/d --json",
            "store reopen d --yes",
            "store orphans",
            "store orphans wasmill.toml --data d --forget subscription/old --forget sink/feed --json",
            "kafka topics list --brokers k:9092 --internal --json",
            "kafka --manifest m topics create t --partitions 6 --replication 3 --config retention.ms=1",
            "kafka topics delete t --yes --manifest m",
            "kafka groups describe g --brokers k:9092 --json",
            "kafka produce t f --format json --partition 1 --header a=b --brokers k:9092",
            "kafka consume t --from 3 --to end --limit 9 --key k --header a=b --field c.0=d --isolation uncommitted",
            "kafka offsets show --manifest m --data d",
            "kafka sinks show --manifest m --data d --json",
            "kafka sinks reset feed --yes --manifest m",
            "kafka accept-cluster --to beginning --yes --manifest m",
            "kafka offsets reset s --to 2026-01-31T12:00:00Z --topic t --partition 1 --partition 2 --yes --manifest m",
            "dev-broker --data d",
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("wasmill").chain(line.split(' ')));
            let json = parsed.unwrap_or_else(|error| panic!("{line}: {error}")).json;
            assert_eq!(json, line.contains("--json"), "{line}");
        }
    }
}
