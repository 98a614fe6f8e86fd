//! Where a partition is opened: what the store's ledger says, held against what Kafka has.
//!
//! The ledger alone decides. Offsets that somebody has committed to the group are never asked for. What retention
//! removed before it was read is put aside as a range, or the partition stands still; either way it is said.

use super::{ANSWER_MAX, Opening, Scout};
use crate::clock::Clock;
use crate::kafka::source::topics::TopicPartition;
use crate::kafka::wait_for;
use crate::manifest::{From as StartAt, Lost};
use crate::model::{DeadLetter, Origin, Parked};
use crate::store::{self, Ledger};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;

/// What stands between the store's ledger and what Kafka has.
enum Found {
    Readable { ledger: Ledger, lost: Option<String> },
    GivenUp { next: u64, reason: String },
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

impl Scout {
    pub(super) fn open(&mut self, partition: TopicPartition) -> Result<(), String> {
        let (low, high) = self.watermarks(&partition)?;
        let ledger_name = self.connection.ledger(&self.config.name, &partition.topic, partition.partition);
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
                let _ = self.openings.send(Opening { partition, ledger_name, ledger });
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
        let Some(mut ledger) = self.ledger(name)? else {
            let next = self.start(partition, extent)?;
            wait_for(|done| self.store.start_ledger(name, next, done))?;
            return Ok(Found::Readable { ledger: Ledger { next, ..Ledger::default() }, lost: None });
        };
        let Extent { low, high } = extent;
        let source = &self.config.name;
        let read_until = ledger.ahead.values().next_back().map_or(ledger.next, |&last| last + 1);
        if read_until > high {
            let reason = format!(
                "offset {read_until} comes next but the partition ends at {high}: the topic was made anew or lost \
                 records; to read it from its start give [sources.{source}] another name and restart"
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

    /// Where a partition starts that was never read.
    fn start(&self, partition: &TopicPartition, Extent { low, high }: Extent) -> Result<u64, Failed> {
        match self.config.from {
            StartAt::Beginning => Ok(low),
            StartAt::End => Ok(high),
            StartAt::Offset(wanted) => {
                let next = wanted.clamp(low, high);
                if next != wanted {
                    let source = &*self.config.name;
                    tracing::warn!(source, "{partition}: starts at offset {next}, since {wanted} is not there");
                }
                Ok(next)
            }
            StartAt::Time(ms) => self.offset_at(partition, ms).map(|found| found.unwrap_or(high)),
        }
    }

    /// The offset of the first record that is not older.
    fn offset_at(&self, partition: &TopicPartition, time_ms: u64) -> Result<Option<u64>, Failed> {
        let failed = |error: rdkafka::error::KafkaError| Failed::Kafka(format!("asked for an offset by time: {error}"));
        let mut asked = TopicPartitionList::new();
        let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
        asked.add_partition_offset(&partition.topic, partition.partition, time).map_err(failed)?;
        let found = self.consumer.offsets_for_times(asked, ANSWER_MAX).map_err(failed)?;
        let found = found.find_partition(&partition.topic, partition.partition);
        found.as_ref().map_or(Ok(()), |found| found.error()).map_err(failed)?;
        match found.map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }

    fn ledger(&mut self, name: &Arc<str>) -> Result<Option<Ledger>, store::Error> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(self.store.reader()?),
        };
        let ledgers = reader.ledgers(name)?;
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
        let letter =
            DeadLetter { consumer, place, key: None, reason, time_ms: Clock::system().now_ms(), content: Parked::Gone };
        let origin = Origin { ledger: name.clone(), first, last };
        wait_for(|done| self.store.park(letter, Some(origin), done))?;
        Ok(error)
    }
}
