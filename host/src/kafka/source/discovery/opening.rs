//! Where a partition is opened: what the store's ledger says, held against what Kafka has.
//!
//! Where there is a ledger, it alone decides: what somebody has committed to the group is asked for only by a member of
//! it, and only of partitions without one. A ledger is of one topic, told by its id: where a topic of the same name was read
//! under another, the partition stands still, or starts at its beginning. What retention removed before it was read is put
//! aside as a range, or the partition stands still; either way it is said.

use super::{ANSWER_MAX, Discovery, Finding, Opening};
use crate::ack;
use crate::kafka::source::topics::TopicPartition;
use crate::manifest::{Lost, Membership, Recreated};
use crate::model::{DeadLetter, DeadLetterContent, Origin, PartitionName};
use crate::store::{self, Ledger};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;

/// What stands between the store's ledger and what Kafka has.
enum Found {
    Readable { ledger: Ledger, lost: Option<String> },
    GivenUp { next: u64, reason: String },
}

/// What the store knows of the topic of a partition that has no ledger.
enum Past {
    /// Nothing: the source has never read it.
    None,
    /// Other partitions of it were read.
    Same,
    /// One of its name with another id was read: the sentence says so.
    Other(String),
}

/// Why a partition can't be opened now.
enum Failed {
    Kafka(String),
    Store(store::Error),
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// What Kafka has of a partition.
#[derive(Clone, Copy)]
struct Extent {
    low: u64,
    high: u64,
}

impl Discovery {
    pub(super) fn open(&mut self, partition: TopicPartition) -> Result<(), String> {
        let (low, high) = self.watermarks(&partition)?;
        let id = match self.ids.get(&partition.topic) {
            _ if self.connection.is_embedded() => None,
            Some(id) => id.clone(),
            None => return Err(format!("{partition}: the topic's id is not known yet")),
        };
        let ledger_name = self.connection.ledger(&self.config.name, &partition.topic, partition.partition, id.as_ref());
        let found = self.find(&partition, &ledger_name, Extent { low, high }).map_err(|failed| {
            let cause = match failed {
                Failed::Kafka(cause) => cause,
                Failed::Store(error) => {
                    self.reader = None;
                    error.to_string()
                }
            };
            format!("{partition}: {cause}")
        })?;
        match found {
            Found::Readable { ledger, lost } => {
                self.view.open(&partition, ledger.next, high, lost);
                let opening = Opening { partition, ledger_name, ledger, recreations: self.recreations };
                let _ = self.findings.send(Finding::Open(opening));
                self.completions.wake();
            }
            Found::GivenUp { next, reason } => {
                let error = format!("{partition}: {reason}");
                tracing::error!(source = &*self.config.name, "{error}");
                self.view.give_up(&partition, next, high, error);
            }
        }
        Ok(())
    }

    fn find(&mut self, partition: &TopicPartition, name: &Arc<str>, extent: Extent) -> Result<Found, Failed> {
        let Some(mut ledger) = self.ledger(name)? else { return self.find_new(partition, name, extent) };
        let Extent { low, high } = extent;
        let source = &self.config.name;
        let read_until = ledger.ahead.values().next_back().map_or(ledger.next, |&last| last + 1);
        if read_until > high {
            let reason = format!(
                "offset {read_until} comes next but the partition ends at {high}: its newest records were lost, as after an \
                 unclean election of a leader; say where to go on: stop the host, run `wasmill kafka offsets reset {source} \
                 --topic {} --partition {} --to end --yes` (or `--to` an offset), and start it again",
                partition.topic, partition.partition
            );
            return Ok(Found::GivenUp { next: ledger.next, reason });
        }
        if ledger.next >= low {
            return Ok(Found::Readable { ledger, lost: None });
        }
        let (first, last) = (ledger.next, low - 1);
        if self.config.lost == Lost::Stop {
            let reason = format!(
                "offsets {first} to {last}, up to {} records, were removed by the topic's retention before they were \
                 read; it is not read any further, as `lost = \"stop\"` of [sources.{source}] says; to go on without \
                 them set `lost = \"continue\"` and restart",
                last - first + 1
            );
            return Ok(Found::GivenUp { next: ledger.next, reason });
        }
        let lost = Some(self.park_lost(partition, name, first, last)?);
        ledger.settle(first, last);
        Ok(Found::Readable { ledger, lost })
    }

    /// A partition that was never read; or whose topic was recreated since, which its ledgers tell by their names.
    fn find_new(&mut self, partition: &TopicPartition, name: &Arc<str>, extent: Extent) -> Result<Found, Failed> {
        let (next, lost) = match self.past(partition, name)? {
            Past::Other(reason) if self.config.recreated == Recreated::Stop => {
                return Ok(Found::GivenUp { next: 0, reason });
            }
            Past::Other(reason) => (extent.low, Some(format!("{partition}: {reason}; it is read from its beginning"))),
            Past::None | Past::Same => (self.start(partition, name, extent)?, None),
        };
        if let Some(reason) = &lost {
            tracing::warn!(source = &*self.config.name, "{reason}");
        }
        ack::wait(|ack| self.store.start_ledger(name, next, ack))?;
        if !(extent.low..=extent.high).contains(&next) {
            // The group has been elsewhere: it is as if this host had.
            return self.find(partition, name, extent);
        }
        Ok(Found::Readable { ledger: Ledger { next, ..Ledger::default() }, lost: None })
    }

    /// What the store knows of the topic of a partition.
    fn past(&mut self, partition: &TopicPartition, name: &str) -> Result<Past, store::Error> {
        if self.connection.is_embedded() {
            return Ok(Past::None);
        }
        let TopicPartition { topic, .. } = partition;
        let source = self.config.name.clone();
        let mark = |ledger: &str| Some(PartitionName::parse(ledger)?.topic_id?.to_owned());
        let now = mark(name);
        let ledgers = self.ledgers(&PartitionName::prefix_of_topic(&source, topic))?;
        if ledgers.is_empty() {
            return Ok(Past::None);
        }
        if ledgers.iter().any(|(ledger, _)| mark(ledger) == now) {
            return Ok(Past::Same);
        }
        let or_none = |id: Option<String>| id.unwrap_or_else(|| "none".to_owned());
        let was = ledgers.iter().max_by_key(|(_, ledger)| ledger.next).and_then(|(ledger, _)| mark(ledger));
        Ok(Past::Other(format!(
            "the topic was deleted and made again: its id is {}, and this source has read {}. Say where to go on: stop the \
             host, run `wasmill kafka offsets reset {source} --topic {topic} --to beginning --yes` (or `--to end`, or an \
             offset), and start it again; `recreated = \"beginning\"` in [sources.{source}] always starts from the beginning",
            or_none(now),
            or_none(was)
        )))
    }

    /// Where a partition starts that was never read: where the group is, whose other members may have read it, unless that
    /// is beyond the partition's end; else where the manifest says, if it was there when the source was first made; else at
    /// its beginning.
    fn start(&self, partition: &TopicPartition, name: &str, extent: Extent) -> Result<u64, Failed> {
        let Extent { low, high } = extent;
        match self.committed(partition)? {
            Some(committed) if committed <= high => return Ok(committed.max(low)),
            Some(committed) => {
                let (source, group) = (&*self.config.name, &self.config.group);
                tracing::warn!(
                    source,
                    "{partition}: group {group} has committed offset {committed}, which is not there"
                );
            }
            None => {}
        }
        let Some(starts) = &self.starts else {
            return Err(Failed::Kafka("where it starts is not fixed yet".into()));
        };
        let mark = name.split_once('@').map(|(_, mark)| mark);
        let Some(wanted) = starts.of(&partition.topic, mark, partition.partition) else { return Ok(low) };
        let next = wanted.clamp(low, high);
        if next != wanted {
            let source = &*self.config.name;
            tracing::warn!(source, "{partition}: starts at offset {next}, since {wanted} is not there");
        }
        Ok(next)
    }

    /// What the group has committed of a partition, where this host is a member of it.
    fn committed(&self, partition: &TopicPartition) -> Result<Option<u64>, Failed> {
        if self.config.membership != Membership::Group {
            return Ok(None);
        }
        let mut wanted = TopicPartitionList::new();
        partition.add_to(&mut wanted, None);
        let found = self.consumer.committed_offsets(wanted, ANSWER_MAX).map_err(|error| {
            Failed::Kafka(format!("the offset of group {} can't be read: {error}", self.config.group))
        })?;
        match found.find_partition(&partition.topic, partition.partition).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }

    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, store::Error> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.store.reader()?),
        };
        reader.ledgers(prefix)
    }

    fn ledger(&mut self, name: &Arc<str>) -> Result<Option<Ledger>, store::Error> {
        let ledgers = self.ledgers(name)?;
        Ok(ledgers.into_iter().find(|(found, _)| **found == **name).map(|(_, ledger)| ledger))
    }

    /// Records that are gone before they were read: one dead letter for the range settles it.
    fn park_lost(
        &self,
        partition: &TopicPartition,
        name: &Arc<str>,
        first: u64,
        last: u64,
    ) -> Result<String, store::Error> {
        let (source, count) = (&self.config.name, last - first + 1);
        let reason = format!(
            "up to {count} records were removed by the topic's retention before they were read; keep records longer, \
             or let the host run more often"
        );
        let place = format!("{partition} offsets {first} to {last}");
        let error = format!("{place}: {reason}");
        tracing::error!(source = &**source, "{error}");
        let consumer = source.to_string();
        let letter = DeadLetter { consumer, place, key: None, reason, time_ms: None, content: DeadLetterContent::Gone };
        let origin = Origin { ledger: name.clone(), first, last };
        ack::wait(|ack| self.store.dead_letter(letter, Some(origin), ack))?;
        Ok(error)
    }
}
