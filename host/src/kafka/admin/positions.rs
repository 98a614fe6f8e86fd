//! The positions that sinks keep in Kafka, which a person can inspect and reset while no host runs.
//!
//! A sink whose batches are transactions has its position in Kafka, which a restore of the store does not change.

use super::Admin;
use crate::kafka::Error;
use crate::kafka::sink;
use crate::manifest::{Manifest, POSITIONS_TOPIC, SinkMode, Target, Transaction};
use crate::store::Newest;
use serde::Serialize;
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
    let is_transactional = |sink: &crate::manifest::Sink| sink.mode == SinkMode::Transactional;
    let of_events = manifest.sinks.iter().filter(|(_, sink)| is_transactional(&sink.settings));
    let mut sinks: Vec<_> = of_events.map(|(name, _)| (name.clone(), "events", newest.event)).collect();
    if is_transactional(&manifest.sink) {
        sinks.push(("outbox".to_owned(), "messages", newest.message));
        let letters = manifest.sources.iter().filter(|(_, source)| {
            let is_transform = matches!(&source.target, Target::Deliveries(to) if to.transaction == Transaction::Kafka);
            source.dead_letter_topic.is_some() && !is_transform
        });
        let name = |name: &String| format!("{}{name}", sink::DEAD_LETTERS);
        sinks.extend(letters.map(|(source, _)| (name(source), "dead letters", newest.dead_letter)));
    }
    sinks
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
