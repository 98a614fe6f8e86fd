//! `wasmill kafka offsets`: shows and resets the offsets of the sources of a stopped host.
//!
//! The offsets that count are in the store, under the id of their topic, so a recreated topic has none. A source with
//! `transaction = "kafka"` has them in its consumer group. A running host locks its store and continues from its
//! offsets in memory, so both commands are refused while a host runs.

use super::{At, Cluster, CommandFailure, confirmed, connection, json_line, output, place};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::{Table, number};
use crate::kafka::Connection;
use crate::kafka::admin::stored::{self, Stored};
use crate::kafka::admin::{Admin, Place};
use crate::manifest::Manifest;
use crate::model::PartitionName;
use crate::store::{self, EventStore};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Show the offsets of each source, partition by partition.
    Show {
        /// Only this source of the manifest.
        source: Option<String>,
    },
    /// Make a source resume at another place. Records that it reads again become commands again, which take effect
    /// again.
    Reset {
        /// The source of the manifest.
        source: String,
        /// Where to resume: beginning, end, an offset, or a time in UTC such as 2026-01-31T12:00:00Z.
        #[arg(long, value_name = "PLACE", value_parser = place)]
        to: At,
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only this partition; may be given several times.
        #[arg(long, value_name = "N")]
        partition: Vec<i32>,
        /// Confirm the change.
        #[arg(long)]
        yes: bool,
    },
}

/// A partition that resumes at another place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
struct Move {
    topic: String,
    /// The id of the topic, or none if the broker has no topic ids.
    topic_id: Option<String>,
    partition: i32,
    /// The offset where it would have resumed, or none if it was never read.
    from: Option<u64>,
    to: u64,
}

/// The place that keeps the offsets of a source.
enum Keeper {
    /// The host's store.
    Store,
    /// The consumer group: each batch and its offsets are one Kafka transaction.
    Group(String),
}

impl Keeper {
    fn of(manifest: &Manifest, source: &str) -> Result<Self, CommandFailure> {
        let Some(settings) = manifest.sources.get(source) else {
            let known: Vec<&str> = manifest.sources.keys().map(String::as_str).collect();
            let place = manifest.path.display();
            return Err(CommandFailure::usage(format!("{place} has no source {source}; it has {}", known.join(", "))));
        };
        Ok(if settings.is_transform() { Self::Group(settings.group_of(source)) } else { Self::Store })
    }

    fn stored(&self, admin: &Admin, store: &dyn EventStore, source: &str) -> Result<Vec<Stored>, CommandFailure> {
        Ok(match self {
            Self::Store => stored::stored(store, Some(source))?,
            Self::Group(group) => admin.committed_of(source, group)?,
        })
    }

    fn keep(&self, admin: &Admin, store: &dyn EventStore, source: &str, moves: &[Move]) -> Result<(), CommandFailure> {
        match self {
            Self::Store => {
                for Move { topic, topic_id, partition, to, .. } in moves {
                    let topic_id = topic_id.as_deref();
                    stored::reset(store, PartitionName { source, topic, partition: *partition, topic_id }, *to)?;
                }
            }
            Self::Group(group) => {
                let offsets: Vec<_> = moves.iter().map(|to| (to.topic.as_str(), to.partition, to.to)).collect();
                admin.set_committed(group, &offsets)?;
                for topic in moves.iter().map(|to| &to.topic).collect::<BTreeSet<_>>() {
                    stored::keep_topic_id(store, source, topic, admin.topic_id(topic)?)?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn offsets(cluster: &Cluster, command: Command, json: bool) -> Result<(), CommandFailure> {
    let manifest = cluster.manifest()?;
    let store = open(&manifest)?;
    match command {
        Command::Show { source } => show(&manifest, &*store, source.as_deref(), json),
        Command::Reset { source, to, topic, partition, yes } => {
            let admin = Admin::connect(&lasting(&manifest)?)?;
            let keeper = Keeper::of(&manifest, &source)?;
            let stored = keeper.stored(&admin, &*store, &source)?;
            let topics = match topic {
                Some(topic) => vec![topic],
                None => topics(&manifest, &admin, &stored, &source)?,
            };
            let moves = moves(&admin, &stored, &keeper, &topics, &partition, to)?;
            confirmed(yes, consequence(&source, &moves).trim_end())?;
            keeper.keep(&admin, &*store, &source, &moves)?;
            store.close();
            report(&source, &moves, json)
        }
    }
}

/// Returns the connection to the cluster. The development broker is refused, because its data is not kept.
pub(super) fn lasting(manifest: &Manifest) -> Result<Connection, CommandFailure> {
    let connection = connection(manifest)?;
    if connection.is_embedded() {
        let remedy = "its data ends with it, and the next one is read from the beginning";
        return Err(CommandFailure::usage(format!("there is nothing to reset on the development broker: {remedy}")));
    }
    Ok(connection)
}

/// Prepares a reset of all sources to a place in the current topics. Returns a description, and a function that resets
/// them.
pub(super) fn resets<'a>(
    manifest: &'a Manifest,
    admin: &'a Admin,
    store: &'a dyn EventStore,
    to: At,
) -> Result<(String, impl FnOnce() -> Result<(), CommandFailure> + 'a), CommandFailure> {
    let (mut text, mut all) = (String::new(), Vec::new());
    for source in manifest.sources.keys() {
        let keeper = Keeper::of(manifest, source)?;
        let stored = keeper.stored(admin, store, source)?;
        let topics = topics(manifest, admin, &stored, source)?;
        let moves = moves(admin, &stored, &keeper, &topics, &[], to)?;
        text += &consequence(source, &moves);
        all.push((source, keeper, moves));
    }
    let keep =
        move || all.into_iter().try_for_each(|(source, keeper, moves)| keeper.keep(admin, store, source, &moves));
    Ok((text, keep))
}

/// Opens the store of a host that is not running.
pub(super) fn open(manifest: &Manifest) -> Result<Arc<dyn EventStore>, CommandFailure> {
    let location = stopped(manifest)?;
    store::open(&location, store::Options::default()).map_err(|cause| CommandFailure::failed(cause.to_string()))
}

/// Opens the store of a host that is not running for reading.
pub(super) fn open_for_reading(manifest: &Manifest) -> Result<store::Inspection, CommandFailure> {
    store::inspect(&stopped(manifest)?).map_err(|cause| CommandFailure::failed(cause.to_string()))
}

/// Returns the location of the store of a host that is not running.
fn stopped(manifest: &Manifest) -> Result<store::Location, CommandFailure> {
    let location = crate::host::store_location(manifest).map_err(CommandFailure::failed)?;
    let data = match &location {
        store::Location::Sqlite(_) => manifest.data.display().to_string(),
        store::Location::Postgres(address) => address.to_string(),
    };
    if !store::exists(&location) {
        return Err(CommandFailure::failed(format!(
            "there is no store in {data}: name the host's data folder with --data"
        )));
    }
    if store::is_in_use(&location) {
        return Err(CommandFailure::failed(format!(
            "a host runs on {data} and would continue from its own offsets: stop it first; `wasmill status` shows them"
        )));
    }
    Ok(location)
}

fn show(manifest: &Manifest, store: &dyn EventStore, source: Option<&str>, json: bool) -> Result<(), CommandFailure> {
    let mut stored = stored::stored(store, source)?;
    // If the cluster is not available, the offsets in the store are still worth showing.
    let (admin, away) = match connection(manifest).and_then(|connection| Ok(Admin::connect(&connection)?)) {
        Ok(admin) => (Some(admin), None),
        Err(failure) => (None, Some(failure)),
    };
    if let Some(admin) = &admin {
        let wanted = manifest.sources.keys().filter(|name| source.is_none_or(|source| **name == *source));
        for name in wanted {
            let keeper = Keeper::of(manifest, name)?;
            if matches!(keeper, Keeper::Group(_)) {
                stored.extend(keeper.stored(admin, store, name)?);
            }
        }
    }
    let places: Vec<Option<Place>> = stored.iter().map(|stored| place_of(admin.as_ref()?, stored)).collect();
    if json {
        return stored.iter().zip(&places).try_for_each(|(stored, place)| {
            let mut line = serde_json::json!(stored);
            line["beginning"] = place.map(|place| place.beginning).into();
            line["end"] = place.map(|place| place.end).into();
            json_line(&line)
        });
    }
    output::text(&table(&stored, &places))?;
    away.map_or(Ok(()), |failure| {
        let unseen = "beginnings and ends, and the offsets of sources with `transaction = \"kafka\"`, are not known";
        output::line(&format!("{unseen}: {}", failure.text()))
    })
}

/// Returns the partition's place in Kafka, or none if its topic was recreated.
fn place_of(admin: &Admin, stored: &Stored) -> Option<Place> {
    if stored.topic_id.is_some() && admin.topic_id(&stored.topic).ok()? != stored.topic_id {
        return None;
    }
    admin.places(&stored.topic, &[stored.partition], At::End).ok()?.pop()
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
        let Stored { source, topic, partition, next, ahead, topic_id } = stored;
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
        if let (Some(id), None) = (topic_id, place) {
            table.note(&format!("of a topic with id {id}, which does not exist now"));
        }
    }
    table.to_string()
}

/// Returns the topics that the manifest names, and those that were read before and still exist.
fn topics(manifest: &Manifest, admin: &Admin, stored: &[Stored], source: &str) -> Result<Vec<String>, CommandFailure> {
    let named = manifest.sources.get(source).map_or(&[][..], |settings| &settings.topics);
    let named = named.iter().filter(|topic| !topic.starts_with('^')).cloned();
    let there: BTreeSet<String> = admin.topics(true)?.into_iter().map(|found| found.topic).collect();
    let read = stored.iter().map(|stored| stored.topic.clone()).filter(|topic| there.contains(topic));
    Ok(named.chain(read).collect::<BTreeSet<_>>().into_iter().collect())
}

fn moves(
    admin: &Admin,
    stored: &[Stored],
    keeper: &Keeper,
    topics: &[String],
    partitions: &[i32],
    to: At,
) -> Result<Vec<Move>, CommandFailure> {
    let mut moves = Vec::new();
    for topic in topics {
        let topic_id = match keeper {
            Keeper::Store => admin.topic_id(topic)?,
            Keeper::Group(_) => None,
        };
        for Place { partition, offset, .. } in admin.places(topic, partitions, to)? {
            let is_it =
                |stored: &&Stored| (&stored.topic, stored.partition, &stored.topic_id) == (topic, partition, &topic_id);
            let from = stored.iter().find(is_it).map(|stored| stored.next);
            moves.push(Move { topic: topic.clone(), topic_id: topic_id.clone(), partition, from, to: offset });
        }
    }
    Ok(moves)
}

fn report(source: &str, moves: &[Move], json: bool) -> Result<(), CommandFailure> {
    if json {
        moves.iter().try_for_each(json_line)
    } else {
        output::text(&format!("{}done\n", consequence(source, moves)))
    }
}

/// Describes the effect of a reset.
fn consequence(source: &str, moves: &[Move]) -> String {
    let mut text = String::new();
    let (mut again, mut skipped) = (0, 0);
    for Move { topic, partition, from, to, .. } in moves {
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
        text += &format!("up to {} records are skipped and have no effect\n", number(skipped));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_says_what_it_does() {
        let to = |partition, from, to| Move { topic: "baskets".into(), topic_id: None, partition, from, to };
        let text = consequence("tills", &[to(0, Some(1_500), 0), to(1, Some(3), 10), to(2, None, 0)]);
        let expected = "source tills topic baskets partition 0: from offset 1500 to 0\n\
                        source tills topic baskets partition 1: from offset 3 to 10\n\
                        source tills topic baskets partition 2: never read to 0\n\
                        up to 1,500 records are read again: each becomes a command again and takes effect again\n\
                        up to 7 records are skipped and have no effect\n";
        assert_eq!(text, expected);
    }
}
