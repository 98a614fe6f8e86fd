//! `wasmill kafka offsets`: what the sources of a stopped host have handled, and setting it to another place.
//!
//! The offsets that count are in the store, not in Kafka. A running host has its store locked and goes on from what it
//! holds in memory, so both commands are refused while one runs.

use super::{At, Cluster, Failure, confirmed, connection, json_line, output, place};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::{Table, number};
use crate::kafka::Connection;
use crate::kafka::admin::stored::{self, Stored};
use crate::kafka::admin::{Admin, Place};
use crate::manifest::Manifest;
use crate::store::EventStore;
use crate::store::sqlite::{self, Options, SqliteStore};
use std::collections::BTreeSet;

#[derive(clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Show what each source has handled, partition by partition.
    Show {
        /// Only this source of the manifest.
        source: Option<String>,
    },
    /// Let a source go on from another place. What it reads again becomes commands again, which take effect again.
    Reset {
        /// The source of the manifest.
        source: String,
        /// Where to go on: beginning, end, an offset, or a time in UTC such as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "PLACE", value_parser = place)]
        to: At,
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition; may be given several times.
        #[arg(long, value_name = "N")]
        partition: Vec<i32>,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// A partition that goes on from another place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
struct Move {
    topic: String,
    partition: i32,
    /// None where it was never read.
    from: Option<u64>,
    to: u64,
}

pub(super) fn offsets(cluster: &Cluster, command: Command, json: bool) -> Result<(), Failure> {
    let manifest = cluster.manifest()?;
    let store = open(&manifest)?;
    match command {
        Command::Show { source } => show(&manifest, &store, source.as_deref(), json),
        Command::Reset { source, to, topic, partition, yes } => {
            let connection = connection(&manifest)?;
            if connection.is_embedded() {
                let remedy = "its data ends with it, and the next one is read from its start";
                return Err(Failure::usage(format!("there is nothing to reset on the development broker: {remedy}")));
            }
            let topics = topics(&manifest, &store, &source, topic)?;
            let moves = moves(&Admin::connect(&connection)?, &store, &source, &topics, &partition, to)?;
            reset(&connection, &store, &source, &moves, yes, json)
        }
    }
}

/// The store of a host that does not run.
fn open(manifest: &Manifest) -> Result<SqliteStore, Failure> {
    let file = manifest.data.join(sqlite::FILE_NAME);
    let data = manifest.data.display();
    if !file.exists() {
        return Err(Failure::failed(format!("there is no store in {data}: name the host's data folder with --data")));
    }
    if sqlite::is_in_use(&file) {
        return Err(Failure::failed(format!(
            "a host runs on {data} and goes on from what it holds: stop it first; `wasmill status` shows its offsets"
        )));
    }
    SqliteStore::open(&file, Options::default()).map_err(|cause| Failure::failed(cause.to_string()))
}

fn show(manifest: &Manifest, store: &SqliteStore, source: Option<&str>, json: bool) -> Result<(), Failure> {
    let stored = stored::stored(store, source)?;
    // Where the cluster is away, what the store says is worth showing all the same.
    let (admin, away) = match connection(manifest).and_then(|connection| Ok(Admin::connect(&connection)?)) {
        Ok(admin) => (Some(admin), None),
        Err(failure) => (None, Some(failure)),
    };
    let place = |stored: &Stored| {
        let admin = admin.as_ref().filter(|_| stored.incarnation.is_none())?;
        admin.places(&stored.topic, &[stored.partition], At::End).ok()?.pop()
    };
    let places: Vec<Option<Place>> = stored.iter().map(place).collect();
    if json {
        return stored.iter().zip(&places).try_for_each(|(stored, place)| {
            let mut line = serde_json::json!(stored);
            line["beginning"] = place.map(|place| place.beginning).into();
            line["end"] = place.map(|place| place.end).into();
            json_line(&line)
        });
    }
    output::text(&table(&stored, &places))?;
    away.map_or(Ok(()), |failure| output::line(&format!("beginnings and ends are not known: {}", failure.text())))
}

fn table(stored: &[Stored], places: &[Option<Place>]) -> String {
    let mut table = Table::new([
        ("SOURCE", Left),
        ("TOPIC", Left),
        ("PARTITION", Right),
        ("NEXT", Right),
        ("AHEAD", Right),
        ("BEGINNING", Right),
        ("END", Right),
        ("BEHIND", Right),
    ]);
    for (stored, place) in stored.iter().zip(places) {
        let Stored { source, topic, partition, next, ahead, incarnation } = stored;
        let or_dash = |count: Option<u64>| count.map_or("-".to_owned(), number);
        table.row([
            source.clone(),
            topic.clone(),
            partition.to_string(),
            number(*next),
            number(*ahead),
            or_dash(place.map(|place| place.beginning)),
            or_dash(place.map(|place| place.end)),
            or_dash(place.map(|place| place.end.saturating_sub(*next).saturating_sub(*ahead))),
        ]);
        if let Some(incarnation) = incarnation {
            table.note(&format!("of the development broker {incarnation}"));
        }
    }
    table.to_string()
}

/// Those that are named, those of the manifest, and those that were read.
fn topics(
    manifest: &Manifest,
    store: &SqliteStore,
    source: &str,
    topic: Option<String>,
) -> Result<Vec<String>, Failure> {
    let Some(settings) = manifest.sources.get(source) else {
        let known: Vec<&str> = manifest.sources.keys().map(String::as_str).collect();
        let place = manifest.path.display();
        return Err(Failure::usage(format!("{place} has no source {source}; it has {}", known.join(", "))));
    };
    if let Some(topic) = topic {
        return Ok(vec![topic]);
    }
    let named = settings.topics.iter().filter(|topic| !topic.starts_with('^')).cloned();
    let read = stored::stored(store, Some(source))?.into_iter().filter(|stored| stored.incarnation.is_none());
    Ok(named.chain(read.map(|stored| stored.topic)).collect::<BTreeSet<_>>().into_iter().collect())
}

fn moves(
    admin: &Admin,
    store: &SqliteStore,
    source: &str,
    topics: &[String],
    partitions: &[i32],
    to: At,
) -> Result<Vec<Move>, Failure> {
    let stored = stored::stored(store, Some(source))?;
    let mut moves = Vec::new();
    for topic in topics {
        for Place { partition, offset, .. } in admin.places(topic, partitions, to)? {
            let is_it = |stored: &&Stored| {
                stored.topic == *topic && stored.partition == partition && stored.incarnation.is_none()
            };
            let from = stored.iter().find(is_it).map(|stored| stored.next);
            moves.push(Move { topic: topic.clone(), partition, from, to: offset });
        }
    }
    Ok(moves)
}

fn reset(
    connection: &Connection,
    store: &SqliteStore,
    source: &str,
    moves: &[Move],
    yes: bool,
    json: bool,
) -> Result<(), Failure> {
    confirmed(yes, consequence(source, moves).trim_end())?;
    for Move { topic, partition, to, .. } in moves {
        stored::reset(store, &connection.ledger(source, topic, *partition), *to)?;
    }
    store.close();
    if json {
        moves.iter().try_for_each(json_line)
    } else {
        output::text(&format!("{}done\n", consequence(source, moves)))
    }
}

/// What a reset does, in words.
fn consequence(source: &str, moves: &[Move]) -> String {
    let mut text = String::new();
    let (mut again, mut skipped) = (0, 0);
    for Move { topic, partition, from, to } in moves {
        let was = from.map_or("never read".to_owned(), |from| format!("from offset {from}"));
        text += &format!("source {source} topic {topic} partition {partition}: {was} to {to}\n");
        again += from.unwrap_or(0).saturating_sub(*to);
        skipped += from.map_or(0, |from| to.saturating_sub(from));
    }
    if again > 0 {
        text += &format!(
            "up to {} records are read again: each becomes a command again and takes effect again\n",
            number(again)
        );
    }
    if skipped > 0 {
        text += &format!("up to {} records are skipped: nothing is done with them\n", number(skipped));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_says_what_it_does() {
        let to = |partition, from, to| Move { topic: "baskets".into(), partition, from, to };
        let text = consequence("tills", &[to(0, Some(1_500), 0), to(1, Some(3), 10), to(2, None, 0)]);
        let expected = "source tills topic baskets partition 0: from offset 1500 to 0\n\
                        source tills topic baskets partition 1: from offset 3 to 10\n\
                        source tills topic baskets partition 2: never read to 0\n\
                        up to 1,500 records are read again: each becomes a command again and takes effect again\n\
                        up to 7 records are skipped: nothing is done with them\n";
        assert_eq!(text, expected);
    }
}
