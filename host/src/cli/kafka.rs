//! `wasmill kafka`: topics, groups and records of a cluster, and the offsets of its topics in a store.
//!
//! Only this part of the command line talks to Kafka itself, through `kafka::admin`. The connection to the cluster
//! comes from a manifest or from `--brokers`. Commands that delete or repeat something require `--yes`.

mod accept_cluster;
mod consume;
mod groups;
mod line;
mod matching;
mod offsets;
mod produce;
mod sinks;
mod topics;

use super::failure::{CommandFailure, confirmed};
use super::{default_manifest, output};
use crate::kafka::admin::Admin;
use crate::kafka::{self, Connection, dev_broker};
use crate::manifest::{Brokers, From as At, Manifest, Overrides, Properties};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List, describe, create or delete topics.
    #[command(subcommand)]
    Topics(topics::Command),
    /// List or describe consumer groups, with members and lag.
    #[command(subcommand)]
    Groups(groups::Command),
    /// Write records to a topic and wait until all are acknowledged.
    Produce(produce::Args),
    /// Read records of a topic, and keep reading new ones.
    Consume(consume::Args),
    /// Show or reset the offsets of a source, while its host is stopped.
    #[command(subcommand)]
    Offsets(offsets::Command),
    /// Show or reset the positions that the sinks of a stopped host have in Kafka.
    #[command(subcommand)]
    Sinks(sinks::Command),
    /// Accept another cluster than before for a stopped host: its sources resume at a given place there.
    AcceptCluster(accept_cluster::Args),
}

/// The cluster that a command talks to.
#[derive(clap::Args)]
pub(super) struct Cluster {
    /// The brokers, instead of the manifest's: HOST:PORT,….
    #[arg(long, global = true, value_name = "BROKERS")]
    brokers: Option<String>,
    /// The manifest whose [kafka] section has the connection to the cluster, with TLS and login; without this and
    /// `--brokers`, wasmill.toml in the working folder.
    #[arg(long, global = true, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The data folder, instead of the manifest's.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn kafka(args: Args, json: bool) -> Result<(), CommandFailure> {
    let Args { cluster, command } = args;
    match command {
        Command::Topics(command) => topics::topics(&cluster, command, json),
        Command::Groups(command) => groups::groups(&cluster, command, json),
        Command::Produce(args) => produce::produce(&cluster, args, json),
        Command::Consume(args) => consume::consume(&cluster, args, json),
        Command::Offsets(command) => offsets::offsets(&cluster, command, json),
        Command::Sinks(command) => sinks::sinks(&cluster, command, json),
        Command::AcceptCluster(args) => accept_cluster::accept_cluster(&cluster, &args, json),
    }
}

impl Cluster {
    /// Connects to the cluster.
    fn admin(&self) -> Result<Admin, CommandFailure> {
        let connection = match (&self.manifest, &self.brokers) {
            (None, Some(brokers)) => Connection::new(brokers, &Properties::default())?,
            (None, None) if default_manifest::found().is_none() => {
                return Err(CommandFailure::usage(
                    "which cluster? name it with --brokers HOST:PORT or --manifest FILE",
                ));
            }
            _ => connection(&self.manifest()?)?,
        };
        Ok(Admin::connect(&connection)?)
    }

    /// Reads the manifest that is named, or the default one. One of them is required.
    fn manifest(&self) -> Result<Manifest, CommandFailure> {
        let path = self.manifest.clone().or_else(default_manifest::found);
        let path =
            path.ok_or_else(|| CommandFailure::usage("whose offsets? name the manifest with --manifest FILE"))?;
        let overrides = Overrides { data: self.data.clone(), brokers: self.brokers.clone(), ..Overrides::default() };
        Ok(Manifest::load(path)?.with(overrides)?)
    }
}

/// Returns the connection to a manifest's cluster.
pub(super) fn connection(manifest: &Manifest) -> Result<Connection, CommandFailure> {
    let place = manifest.path.display();
    let Some(kafka) = &manifest.kafka else {
        return Err(CommandFailure::usage(format!("{place} has no [kafka] section; add one, or use --brokers")));
    };
    match &kafka.brokers {
        Brokers::Addresses(brokers) => {
            Ok(Connection::new(brokers, &kafka.properties)?.with_oauth(kafka.oauth.as_ref())?)
        }
        Brokers::Embedded => {
            let data = manifest.data.display();
            let broker = dev_broker::find(&manifest.data).ok_or_else(|| {
                let remedy = "start the host with `wasmill run`, or name a cluster with --brokers";
                CommandFailure::failed(format!("no development broker runs for {data}: {remedy}"))
            })?;
            Ok(Connection::of_dev_broker(&kafka.properties)?.at(&broker))
        }
    }
}

impl From<kafka::Error> for CommandFailure {
    fn from(error: kafka::Error) -> Self {
        match error {
            kafka::Error::Property { .. } => Self::usage(error.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}

/// Parses a place in a partition, as people write it.
fn place(text: &str) -> Result<At, String> {
    match text {
        "beginning" => return Ok(At::Beginning),
        "end" => return Ok(At::End),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(At::Offset(offset));
    }
    let time = humantime::parse_rfc3339(text).map_err(|_| {
        "neither `beginning`, `end`, an offset nor a time in UTC such as 2026-01-31T12:00:00Z".to_owned()
    })?;
    Ok(At::Time(time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)))
}

/// Prints a value as a line of JSON.
fn json_line(value: &impl serde::Serialize) -> Result<(), CommandFailure> {
    output::line(&serde_json::json!(value).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_offsets_or_times() {
        for (text, expected) in [
            ("beginning", At::Beginning),
            ("end", At::End),
            ("17", At::Offset(17)),
            ("1970-01-01T00:00:01.500Z", At::Time(1_500)),
        ] {
            assert_eq!(place(text), Ok(expected));
        }
        assert!(place("-3").is_err() && place("yesterday").is_err());
    }
}
