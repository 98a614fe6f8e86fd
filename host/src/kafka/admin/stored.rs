//! The offsets that a store keeps of its sources, for a person to look at and to reset while no host runs.

use crate::kafka::{Error, wait_for};
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
    /// The development broker whose partition it was: its data ended with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
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

/// The name of a ledger, taken apart; see `Connection::ledger`, which makes it.
fn parse(ledger: &str) -> Option<Stored> {
    let mut parts = ledger.strip_prefix("kafka/")?.splitn(3, '/');
    let (source, topic, last) = (parts.next()?, parts.next()?, parts.next()?);
    let (partition, incarnation) = match last.split_once('@') {
        Some((partition, incarnation)) => (partition, Some(incarnation.to_owned())),
        None => (last, None),
    };
    Some(Stored {
        source: source.to_owned(),
        topic: topic.to_owned(),
        partition: partition.parse().ok()?,
        next: 0,
        ahead: 0,
        incarnation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::testing::Folder;

    #[test]
    fn what_is_stored_is_found_by_its_source() {
        let folder = Folder::new();
        let cluster = crate::kafka::Connection::new("127.0.0.1:9", &Default::default()).unwrap();
        for (source, partition, next) in [("tills", 10, 3), ("tills", 2, 7), ("shop", 0, 1)] {
            reset(&*folder.store, &cluster.ledger(source, "baskets", partition), next).unwrap();
        }
        reset(&*folder.store, &"kafka/tills/baskets/0@7f".into(), 5).unwrap();
        let found = stored(&*folder.store, Some("tills")).unwrap();
        let found: Vec<_> = found.iter().map(|stored| (stored.partition, stored.next)).collect();
        assert_eq!(found, [(0, 5), (2, 7), (10, 3)]);
        let all = stored(&*folder.store, None).unwrap();
        assert_eq!((all.len(), all[1].incarnation.as_deref()), (4, Some("7f")));
    }
}
