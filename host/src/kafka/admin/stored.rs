//! The offsets of sources in a store, which a person can inspect and reset while no host runs.

use crate::ack;
use crate::kafka::{Error, cluster_identity};
use crate::model::{FactName, PartitionName};
use crate::store::{EventStore, Reader};
use serde::Serialize;

/// The progress of a source in a partition.
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
    /// The number of offsets from there on that are already settled.
    pub ahead: u64,
    /// The id of the topic, which changes if the topic is recreated. On the development broker it is the broker's id,
    /// because its topics end with it. It is `None` if the group has the offset, or the broker gives topics no ids.
    pub topic_id: Option<String>,
}

/// Returns the offsets of one source, or of all.
pub fn stored(store: &dyn EventStore, source: Option<&str>) -> Result<Vec<Stored>, Error> {
    of(&mut *store.reader()?, source)
}

/// Returns the offsets of one source, or of all, in the store that a reader reads.
pub fn of(reader: &mut dyn Reader, source: Option<&str>) -> Result<Vec<Stored>, Error> {
    let prefix = source.map(PartitionName::prefix_of_source).unwrap_or_default();
    let ledgers = reader.ledgers(&prefix)?.into_iter();
    let mut stored: Vec<Stored> = ledgers
        .filter_map(|(name, ledger)| {
            let ahead = ledger.ahead.iter().map(|(first, last)| last - first + 1).sum();
            let PartitionName { source, topic, partition, topic_id } = PartitionName::parse(&name)?;
            let (source, topic, topic_id) = (source.to_owned(), topic.to_owned(), topic_id.map(str::to_owned));
            Some(Stored { source, topic, partition, next: ledger.next, ahead, topic_id })
        })
        .collect();
    stored.sort_by(|one, other| {
        (&one.source, &one.topic, one.partition).cmp(&(&other.source, &other.topic, other.partition))
    });
    Ok(stored)
}

/// Makes a source resume from `next` in a partition. Records that it reads again take effect again.
pub fn reset(store: &dyn EventStore, partition: PartitionName<'_>, next: u64) -> Result<(), Error> {
    Ok(ack::wait(|ack| store.reset_ledger(&partition.to_string(), next, ack))?)
}

/// Records the id of the topic to which the offsets of a group belong.
pub fn keep_topic_id(store: &dyn EventStore, source: &str, topic: &str, id: Option<String>) -> Result<(), Error> {
    Ok(ack::wait(|ack| store.set_fact(&FactName::TopicId { source, topic }.to_string(), id, ack))?)
}

/// Returns the id of the cluster that the store has worked with.
pub fn cluster(store: &dyn EventStore) -> Result<Option<String>, Error> {
    Ok(cluster_identity::known(store)?)
}

/// Records the id of the cluster that the store works with from now on.
pub fn keep_cluster(store: &dyn EventStore, id: String) -> Result<(), Error> {
    Ok(ack::wait(|ack| store.set_fact(&FactName::Cluster.to_string(), Some(id), ack))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::testing::Folder;

    #[test]
    fn what_is_stored_is_found_by_its_source() {
        let folder = Folder::new();
        for (source, partition, next) in [("tills", 10, 3), ("tills", 2, 7), ("shop", 0, 1)] {
            reset(&*folder.store, PartitionName { source, topic: "baskets", partition, topic_id: None }, next).unwrap();
        }
        let with_id = PartitionName { source: "tills", topic: "baskets", partition: 0, topic_id: Some("7f") };
        reset(&*folder.store, with_id, 5).unwrap();
        let found = stored(&*folder.store, Some("tills")).unwrap();
        let found: Vec<_> = found.iter().map(|stored| (stored.partition, stored.next)).collect();
        assert_eq!(found, [(0, 5), (2, 7), (10, 3)]);
        let all = stored(&*folder.store, None).unwrap();
        assert_eq!((all.len(), all[1].topic_id.as_deref()), (4, Some("7f")));
    }
}
