//! The offsets that a store keeps of its sources, for a person to look at and to reset while no host runs.

use crate::kafka::{Error, cluster_identity, transform, wait_for};
use crate::store::EventStore;
use serde::Serialize;
use std::sync::Arc;

/// What a source has handled of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// The source's name in the manifest.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Every record below this offset is settled.
    pub next: u64,
    /// Records from there on that are settled already.
    pub ahead: u64,
    /// The id of the topic: one that is made again under the name has another. On the development broker that of the
    /// broker, whose topics end with it. None where the group has the offset, or the broker gives topics no ids.
    pub topic_id: Option<String>,
}

/// The offsets of one source, or of all.
pub fn stored(store: &dyn EventStore, source: Option<&str>) -> Result<Vec<Stored>, Error> {
    let prefix = source.map_or("kafka/".to_owned(), |source| format!("kafka/{source}/"));
    let ledgers = store.reader()?.ledgers(&prefix)?.into_iter();
    let mut stored: Vec<Stored> = ledgers
        .filter_map(|(name, ledger)| {
            let ahead = ledger.ahead.iter().map(|(first, last)| last - first + 1).sum();
            Some(Stored { next: ledger.next, ahead, ..parse(&name)? })
        })
        .collect();
    stored.sort_by(|one, other| {
        (&one.source, &one.topic, one.partition).cmp(&(&other.source, &other.topic, other.partition))
    });
    Ok(stored)
}

/// Lets a source go on from `next` in a partition. What it reads again takes effect again.
pub fn reset(store: &dyn EventStore, ledger: &Arc<str>, next: u64) -> Result<(), Error> {
    Ok(wait_for(|done| store.reset_ledger(ledger, next, done))?)
}

/// Notes the id of the topic that the offsets of a group are about.
pub fn keep_topic_id(store: &dyn EventStore, source: &str, topic: &str, id: Option<String>) -> Result<(), Error> {
    Ok(wait_for(|done| store.set_fact(&transform::guard::fact(source, topic), id, done))?)
}

/// The id of the cluster that the store has worked with.
pub fn cluster(store: &dyn EventStore) -> Result<Option<String>, Error> {
    Ok(cluster_identity::known(store)?)
}

/// From now on the store works with the cluster of this id.
pub fn keep_cluster(store: &dyn EventStore, id: String) -> Result<(), Error> {
    Ok(wait_for(|done| store.set_fact(cluster_identity::FACT, Some(id), done))?)
}

/// The name of the ledger of a partition of a source, on a topic with this id.
pub fn ledger(source: &str, topic: &str, partition: i32, topic_id: Option<&str>) -> Arc<str> {
    match topic_id {
        Some(id) => format!("kafka/{source}/{topic}/{partition}@{id}").into(),
        None => format!("kafka/{source}/{topic}/{partition}").into(),
    }
}

/// The name of a ledger, taken apart.
fn parse(ledger: &str) -> Option<Stored> {
    let mut parts = ledger.strip_prefix("kafka/")?.splitn(3, '/');
    let (source, topic, last) = (parts.next()?, parts.next()?, parts.next()?);
    let (partition, topic_id) = match last.split_once('@') {
        Some((partition, id)) => (partition, Some(id.to_owned())),
        None => (last, None),
    };
    Some(Stored {
        source: source.to_owned(),
        topic: topic.to_owned(),
        partition: partition.parse().ok()?,
        next: 0,
        ahead: 0,
        topic_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::testing::Folder;

    #[test]
    fn what_is_stored_is_found_by_its_source() {
        let folder = Folder::new();
        for (source, partition, next) in [("tills", 10, 3), ("tills", 2, 7), ("shop", 0, 1)] {
            reset(&*folder.store, &ledger(source, "baskets", partition, None), next).unwrap();
        }
        reset(&*folder.store, &ledger("tills", "baskets", 0, Some("7f")), 5).unwrap();
        let found = stored(&*folder.store, Some("tills")).unwrap();
        let found: Vec<_> = found.iter().map(|stored| (stored.partition, stored.next)).collect();
        assert_eq!(found, [(0, 5), (2, 7), (10, 3)]);
        let all = stored(&*folder.store, None).unwrap();
        assert_eq!((all.len(), all[1].topic_id.as_deref()), (4, Some("7f")));
    }
}
