//! `wasmill kafka offsets`: what the sources of a stopped host have handled, and setting it to another place.
//!
//! The offsets that count are in the store, under the id of their topic: one that is made again has none. A source with
//! `transaction = "kafka"` has them in its consumer group. A running host has its store locked and goes on from what it
//! holds in memory, so both commands are refused while one runs.

use super::{At, Cluster, Failure, confirmed, connection, json_line, output, place};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::{Table, number};
use crate::kafka::Connection;
use crate::kafka::admin::stored::{self, Stored};
use crate::kafka::admin::{Admin, Place};
use crate::manifest::{Manifest, Target, Transaction};
use crate::model::PartitionName;
use crate::store::{self, EventStore};
use std::collections::BTreeSet;
use std::sync::Arc;

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
    /// None where the broker has none.
    topic_id: Option<String>,
    partition: i32,
    /// None where it was never read.
    from: Option<u64>,
    to: u64,
}

/// Who has the offsets of a source.
enum Keeper {
    /// The host's store.
    Store,
    /// The consumer group: each batch and its offsets are one Kafka transaction.
    Group(String),
}

impl Keeper {
    fn of(manifest: &Manifest, source: &str) -> Result<Self, Failure> {
        let Some(settings) = manifest.sources.get(source) else {
            let known: Vec<&str> = manifest.sources.keys().map(String::as_str).collect();
            let place = manifest.path.display();
            return Err(Failure::usage(format!("{place} has no source {source}; it has {}", known.join(", "))));
        };
        let is_transform = match &settings.target {
            Target::Deliveries(deliveries) => deliveries.transaction == Transaction::Kafka,
            Target::Commands(_) => false,
        };
        Ok(if is_transform { Self::Group(settings.group_of(source)) } else { Self::Store })
    }

    fn stored(&self, admin: &Admin, store: &dyn EventStore, source: &str) -> Result<Vec<Stored>, Failure> {
        Ok(match self {
            Self::Store => stored::stored(store, Some(source))?,
            Self::Group(group) => admin.committed_of(source, group)?,
        })
    }

    fn keep(&self, admin: &Admin, store: &dyn EventStore, source: &str, moves: &[Move]) -> Result<(), Failure> {
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

pub(super) fn offsets(cluster: &Cluster, command: Command, json: bool) -> Result<(), Failure> {
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

/// The cluster, whose data must last.
pub(super) fn lasting(manifest: &Manifest) -> Result<Connection, Failure> {
    let connection = connection(manifest)?;
    if connection.is_embedded() {
        let remedy = "its data ends with it, and the next one is read from its start";
        return Err(Failure::usage(format!("there is nothing to reset on the development broker: {remedy}")));
    }
    Ok(connection)
}

/// Lets all sources go on from a place in the topics as they are now: what is said, and a way to do it.
pub(super) fn resets<'a>(
    manifest: &'a Manifest,
    admin: &'a Admin,
    store: &'a dyn EventStore,
    to: At,
) -> Result<(String, impl FnOnce() -> Result<(), Failure> + 'a), Failure> {
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

/// The store of a host that does not run.
pub(super) fn open(manifest: &Manifest) -> Result<Arc<dyn EventStore>, Failure> {
    let location = store::Location::of_folder(&manifest.data);
    let data = manifest.data.display();
    if !store::exists(&location) {
        return Err(Failure::failed(format!("there is no store in {data}: name the host's data folder with --data")));
    }
    if store::is_in_use(&location) {
        return Err(Failure::failed(format!(
            "a host runs on {data} and goes on from what it holds: stop it first; `wasmill status` shows its offsets"
        )));
    }
    store::open(&location, store::Options::default()).map_err(|cause| Failure::failed(cause.to_string()))
}

fn show(manifest: &Manifest, store: &dyn EventStore, source: Option<&str>, json: bool) -> Result<(), Failure> {
    let mut stored = stored::stored(store, source)?;
    // Where the cluster is away, what the store says is worth showing all the same.
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

/// Where the partition is in Kafka; none where its topic is another one now.
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
            table.note(&format!("of a topic with the id {id}, which is not there now"));
        }
    }
    table.to_string()
}

/// Those that the manifest names, and those that were read and are there.
fn topics(manifest: &Manifest, admin: &Admin, stored: &[Stored], source: &str) -> Result<Vec<String>, Failure> {
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
) -> Result<Vec<Move>, Failure> {
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

fn report(source: &str, moves: &[Move], json: bool) -> Result<(), Failure> {
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
        text += &format!("up to {} records are skipped: nothing is done with them\n", number(skipped));
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
                        up to 7 records are skipped: nothing is done with them\n";
        assert_eq!(text, expected);
    }
}
