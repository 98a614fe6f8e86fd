//! The positions that sinks keep in Kafka, which a person can inspect and reset while no host runs.
//!
//! A sink whose batches are transactions has its position in Kafka, which a restore of the store does not change.

use super::Admin;
use crate::kafka::Error;
use crate::kafka::sink;
use crate::manifest::{Manifest, POSITIONS_TOPIC, SinkMode};
use crate::store::Newest;
use serde::Serialize;
use std::iter;
use uuid::Uuid;

/// The position of a sink in Kafka, beside what the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinkPosition {
    /// The name of the sink.
    pub sink: String,
    /// What its numbers count, in the plural.
    pub counts: &'static str,
    /// The number up to which it has published, or none if Kafka has no position of it.
    pub published: Option<u64>,
    /// The newest number in the store.
    pub newest: u64,
}

impl SinkPosition {
    /// Returns whether the sink would stop, because it has published what the store does not have.
    pub fn is_ahead(&self) -> bool {
        self.published.is_some_and(|published| published > self.newest)
    }
}

impl Admin {
    /// Returns the positions of a manifest's sinks that keep one in Kafka, for a store with this identity.
    pub fn sink_positions(&self, manifest: &Manifest, store: Uuid, newest: Newest) -> Result<Vec<SinkPosition>, Error> {
        let of = |(sink, counts, newest): (String, &'static str, u64)| -> Result<SinkPosition, Error> {
            let committed = self.committed_of(&sink, &sink::group(&sink, store))?.into_iter();
            let published = committed.filter(|stored| stored.topic == POSITIONS_TOPIC && stored.partition == 0);
            let published = published.map(|stored| stored.next).next();
            Ok(SinkPosition { sink, counts, published, newest })
        };
        transactional(manifest, newest).into_iter().map(of).collect()
    }

    /// Makes a sink continue after a number.
    pub fn set_sink_position(&self, sink: &str, store: Uuid, number: u64) -> Result<(), Error> {
        self.set_committed(&sink::group(sink, store), &[(POSITIONS_TOPIC, 0, number)])
    }
}

/// Lists the sinks whose batches are transactions, with what they count and the newest number of it.
fn transactional(manifest: &Manifest, newest: Newest) -> Vec<(String, &'static str, u64)> {
    let events = manifest.sinks.iter().map(|(name, sink)| (sink.settings.mode, name.clone(), "events", newest.event));
    let outbox = iter::once((sink::Config::new(&manifest.sink), "messages", newest.message));
    let letters = manifest.sources.iter().filter_map(|(name, source)| {
        let config = sink::Config::letters(name, source, &manifest.sink)?;
        Some((config, "dead letters", newest.dead_letter))
    });
    let others =
        outbox.chain(letters).map(|(config, counts, newest)| (config.mode, config.name.to_string(), counts, newest));
    let transactional = events.chain(others).filter(|(mode, ..)| *mode == SinkMode::Transactional);
    transactional.map(|(_, name, counts, newest)| (name, counts, newest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sinks_that_keep_a_position_in_kafka_are_those_with_transactions() {
        let text = "[kafka]\nbrokers = 'k:9'\n[plugins.p]\nfile = 'p'\n[sinks.a]\nevents = ['**']\ntopic = 'a'\n\
                    [sinks.b]\nevents = ['**']\ntopic = 'b'\nmode = 'idempotent'\n\
                    [sources.s]\ntopic = 's'\naggregate = 'x'\ncommand = 'C'\ndead_letter_topic = 'd'\n";
        let newest = Newest { event: 3, message: 2, dead_letter: 1 };
        let names = |text: &str| -> Vec<String> {
            let manifest = Manifest::parse(text, "m.toml".as_ref()).expect("a manifest");
            transactional(&manifest, newest).into_iter().map(|(name, _, newest)| format!("{name} {newest}")).collect()
        };
        assert_eq!(names(text), ["a 3", "outbox 2", "dead-letters-s 1"]);
        assert_eq!(names(&format!("{text}[sink]\nmode = 'idempotent'\n")), ["a 3"]);
    }
}
