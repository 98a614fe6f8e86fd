//! The opening of a partition, which compares the store's ledger with what Kafka has.
//!
//! If there is a ledger, only the ledger decides. Only a member of a group asks for the group's committed offset, and
//! only if a partition has no ledger. A ledger belongs to one topic, identified by its id. If a topic of the same name
//! was read under another id, the partition is given up, or starts at its beginning. Records that retention removed
//! before they were read are dead-lettered as a range, or the partition is given up. Log and status report both.

use super::{ANSWER_MAX, Discovery, Finding, Opening};
use crate::ack;
use crate::kafka::source::topics::TopicPartition;
use crate::manifest::{Lost, Membership, Recreated};
use crate::model::{DeadLetter, DeadLetterContent, Origin, PartitionName};
use crate::store::{self, Ledger};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;

/// The result of comparing the store's ledger with what Kafka has.
enum Found {
    Readable { ledger: Ledger, lost: Option<String> },
    GivenUp { next: u64, reason: String },
}

/// What the store knows about the topic of a partition that has no ledger.
enum Past {
    /// The source has never read the topic.
    None,
    /// The source has read other partitions of the topic.
    Same,
    /// The source has read a topic of this name with another id. The sentence says so.
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

/// The beginning and end of a partition in Kafka.
#[derive(Clone, Copy)]
struct Extent {
    low: u64,
    high: u64,
}

impl Discovery {
    pub(super) fn open(&mut self, partition: TopicPartition) -> Result<(), String> {
        let id = match self.known.ids.get(&partition.topic) {
            _ if self.connection.is_embedded() => None,
            Some(id) => id.clone(),
            None => return Err(format!("{partition}: the topic's id is not known yet")),
        };
        let ledger_name = self.connection.ledger(&self.config.name, &partition.topic, partition.partition, id.as_ref());
        // The ledger is read first: a host that does not know yet that it has lost the partition may settle further records, up to a
        // later end.
        let ledger = self.ledger(&ledger_name).map_err(|error| self.explained(&partition, error.into()))?;
        let (low, high) = self.watermarks(&partition)?;
        let extent = Extent { low, high };
        let found = match ledger {
            Some(ledger) => self.find(&partition, &ledger_name, ledger, extent),
            None => self.find_new(&partition, &ledger_name, extent),
        };
        match found.map_err(|failed| self.explained(&partition, failed))? {
            Found::Readable { ledger, lost } => {
                self.view.open(&partition, ledger.next, high, lost);
                let opening = Opening { partition, ledger_name, ledger, recreations: self.known.recreations };
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

    /// Says why a partition can't be opened now. After a failure of the store, a new reader is made for the next attempt.
    fn explained(&mut self, partition: &TopicPartition, failed: Failed) -> String {
        let cause = match failed {
            Failed::Kafka(cause) => cause,
            Failed::Store(error) => {
                self.known.reader = None;
                error.to_string()
            }
        };
        format!("{partition}: {cause}")
    }

    /// Compares a partition's ledger with what Kafka has.
    fn find(
        &mut self,
        partition: &TopicPartition,
        name: &Arc<str>,
        mut ledger: Ledger,
        Extent { low, high }: Extent,
    ) -> Result<Found, Failed> {
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
        let lost = Some(self.dead_letter_lost(partition, name, first, last)?);
        ledger.settle(first, last);
        Ok(Found::Readable { ledger, lost })
    }

    /// Handles a partition without a ledger: it was never read, or its topic was recreated, as the names of the topic's
    /// other ledgers show.
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
        ack::wait(|ack| self.store.begin_ledger(name, next, ack))?;
        let begun = Ledger { next, ..Ledger::default() };
        if self.ledger(name)?.is_none_or(|ledger| ledger != begun) {
            return Err(Failed::Kafka(
                "another host of the store has begun to read it, so it is looked at again".into(),
            ));
        }
        if !(extent.low..=extent.high).contains(&next) {
            // The group's offset is outside of the partition, and is treated like one of this host's ledger.
            return self.find(partition, name, begun, extent);
        }
        Ok(Found::Readable { ledger: begun, lost: None })
    }

    /// Returns what the store knows about the topic of a partition.
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
            "the topic was deleted and recreated: its id is {}, and this source has read {}. Say where to go on: stop the \
             host, run `wasmill kafka offsets reset {source} --topic {topic} --to beginning --yes` (or `--to end`, or an \
             offset), and start it again; `recreated = \"beginning\"` in [sources.{source}] always starts from the beginning",
            or_none(now),
            or_none(was)
        )))
    }

    /// Returns where a partition starts that was never read. The first of these counts: the group's committed offset,
    /// unless it is beyond the partition's end, because other members may have read the partition; the manifest's
    /// start, if the partition existed when the source first started; its beginning.
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
        let Some(starts) = &self.known.starts else {
            return Err(Failed::Kafka("its start offset is not fixed yet".into()));
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

    /// Returns the group's committed offset of a partition, if this host is a member of the group.
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
        let reader = match &mut self.known.reader {
            Some(reader) => reader,
            None => self.known.reader.insert(self.store.reader()?),
        };
        reader.ledgers(prefix)
    }

    fn ledger(&mut self, name: &Arc<str>) -> Result<Option<Ledger>, store::Error> {
        let ledgers = self.ledgers(name)?;
        Ok(ledgers.into_iter().find(|(found, _)| **found == **name).map(|(_, ledger)| ledger))
    }

    /// Dead-letters and settles the range of records that were removed before they were read.
    fn dead_letter_lost(
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
