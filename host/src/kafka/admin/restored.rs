//! What Kafka says about a store that was restored: which parts can't resume from the older store by themselves.

use super::positions::SinkPosition;
use super::stored::{self, Stored};
use super::{Admin, Place};
use crate::kafka::Error;
use crate::manifest::{From, Manifest, Membership, Source};
use crate::model::FactName;
use crate::store::{Newest, Reader};
use uuid::Uuid;

/// A part that can't resume from a store by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is in the way, as a sentence.
    pub text: String,
    /// The command line that resolves it, without the manifest and the data folder.
    pub command: String,
}

impl Admin {
    /// Compares a store with the cluster of its manifest. A cluster that does not answer is an error.
    pub fn compare(
        &self,
        manifest: &Manifest,
        store: Uuid,
        newest: Newest,
        reader: &mut dyn Reader,
    ) -> Result<Vec<Finding>, Error> {
        let known = reader.fact(&FactName::Cluster.to_string())?;
        let found = self.cluster_id()?;
        if let (Some(known), Some(found)) = (&known, &found)
            && known != found
        {
            // Offsets and positions mean nothing there.
            return Ok(vec![Finding {
                text: format!("the store works with the Kafka cluster {known}, and the cluster {found} answers"),
                command: "wasmill kafka accept-cluster --to beginning --yes".to_owned(),
            }]);
        }
        let mut findings: Vec<Finding> =
            self.sink_positions(manifest, store, newest)?.iter().filter_map(of_sink).collect();
        for (name, source) in &manifest.sources {
            if source.is_transform() {
                // The store has nothing of a transform.
                continue;
            }
            findings.extend(self.of_source(name, source, &stored::of(reader, Some(name))?)?);
        }
        Ok(findings)
    }

    fn of_source(&self, name: &str, source: &Source, stored: &[Stored]) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let mut topics: Vec<&str> = stored.iter().map(|stored| stored.topic.as_str()).collect();
        topics.dedup();
        let there: Vec<String> = self.topics(true)?.into_iter().map(|found| found.topic).collect();
        for topic in topics {
            if !there.iter().any(|there| there == topic) {
                findings.push(Finding {
                    text: format!("source {name} has read topic {topic}, which does not exist"),
                    command: format!("wasmill kafka topics create {topic}"),
                });
                continue;
            }
            let id = self.topic_id(topic)?;
            let is_current = |stored: &&Stored| stored.topic == topic && stored.topic_id == id;
            let current: Vec<&Stored> = stored.iter().filter(is_current).collect();
            if current.is_empty() {
                findings.push(Finding {
                    text: format!("topic {topic} of source {name} was deleted and recreated since the backup, so its offsets are those of another topic"),
                    command: reset(name, topic, None, "beginning"),
                });
                continue;
            }
            let partitions: Vec<i32> = current.iter().map(|stored| stored.partition).collect();
            for place in self.places(topic, &partitions, From::End)? {
                let of_place = |stored: &&&Stored| stored.partition == place.partition;
                findings.extend(current.iter().find(of_place).and_then(|stored| of_partition(stored, &place)));
            }
        }
        if source.membership == Membership::Group {
            findings.extend(self.of_group(name, &source.group_of(name), stored)?);
        }
        Ok(findings)
    }

    /// Finds partitions that the store has never read and whose group is ahead.
    fn of_group(&self, name: &str, group: &str, stored: &[Stored]) -> Result<Vec<Finding>, Error> {
        let committed = self.committed_of(name, group)?.into_iter().filter(|committed| {
            let is_known =
                |stored: &Stored| (&stored.topic, stored.partition) == (&committed.topic, committed.partition);
            committed.next > 0 && !stored.iter().any(is_known)
        });
        let finding = |Stored { topic, partition, next, .. }: Stored| Finding {
            text: format!(
                "source {name} has no offset of topic {topic} partition {partition} in the store and would resume at offset \
                 {next} of its group {group}, so records before it whose effects the store does not have would be skipped"
            ),
            command: reset(name, &topic, Some(partition), "beginning"),
        };
        Ok(committed.map(finding).collect())
    }
}

fn of_sink(position: &SinkPosition) -> Option<Finding> {
    let SinkPosition { sink, counts, published, newest } = position;
    let published = published.filter(|_| position.is_ahead())?;
    Some(Finding {
        text: format!(
            "sink {sink} has published {counts} up to number {published}, and the store ends at {newest}, so the sink would stop, or \
             take others with these numbers for published ones: resolve it before the host starts"
        ),
        command: format!("wasmill kafka sinks reset {sink} --yes"),
    })
}

fn of_partition(stored: &Stored, place: &Place) -> Option<Finding> {
    let Stored { source, topic, partition, next, ahead, .. } = stored;
    let Place { beginning, end, .. } = place;
    let name = format!("source {source} resumes topic {topic} partition {partition} at offset {next}");
    if next < beginning {
        let text =
            format!("{name}, and the topic now begins at {beginning}: its retention has removed what is between them");
        return Some(Finding { text, command: reset(source, topic, Some(*partition), "beginning") });
    }
    let read_until = next.saturating_add(*ahead);
    (read_until > *end).then(|| Finding {
        text: format!("{name}, and the partition ends at {end}: its newest records were lost"),
        command: reset(source, topic, Some(*partition), "end"),
    })
}

fn reset(source: &str, topic: &str, partition: Option<i32>, to: &str) -> String {
    let partition = partition.map(|partition| format!(" --partition {partition}")).unwrap_or_default();
    format!("wasmill kafka offsets reset {source} --topic {topic}{partition} --to {to} --yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_a_finding_if_its_offset_is_not_there() {
        let stored = |next, ahead| Stored {
            source: "tills".into(),
            topic: "baskets".into(),
            partition: 2,
            next,
            ahead,
            topic_id: None,
        };
        let place = Place { partition: 2, beginning: 10, end: 20, offset: 20 };
        for (next, ahead, expected) in [
            (10, 0, None),
            (20, 0, None),
            (15, 5, None),
            (9, 0, Some(("begins at 10", "--to beginning"))),
            (21, 0, Some(("ends at 20", "--to end"))),
            (15, 6, Some(("ends at 20", "--to end"))),
        ] {
            let finding = of_partition(&stored(next, ahead), &place);
            match (finding, expected) {
                (None, None) => {}
                (Some(finding), Some((text, to))) => {
                    assert!(finding.text.contains(text), "{finding:?}");
                    let command = format!("wasmill kafka offsets reset tills --topic baskets --partition 2 {to} --yes");
                    assert_eq!(finding.command, command);
                }
                (finding, expected) => panic!("{next}: {finding:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_sink_is_a_finding_if_it_has_published_what_the_store_does_not_have() {
        let position = |published| SinkPosition { sink: "feed".into(), counts: "events", published, newest: 7 };
        assert_eq!((of_sink(&position(None)), of_sink(&position(Some(7)))), (None, None));
        let finding = of_sink(&position(Some(8))).expect("it is ahead");
        assert!(finding.text.contains("up to number 8, and the store ends at 7"), "{finding:?}");
        assert_eq!(finding.command, "wasmill kafka sinks reset feed --yes");
    }
}
