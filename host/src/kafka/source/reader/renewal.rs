//! A new consumer in place of one that Kafka refuses for good, for example after a fence.
//!
//! The partitions of the old consumer are closed. The new one gets them from the group again, or opens them as at the
//! start. Records in flight are settled meanwhile, and the ledger keeps them from taking effect twice. A member that is
//! fenced too often has a rival, and stops.

use super::{Consumers, Reader, Request};
use crate::backoff::Pauses;
use crate::kafka::rivalry::{Rivalry, member_was_fenced};
use crate::manifest::Membership;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use std::time::{Duration, Instant};

const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The schedule for a new consumer, and what it is made from.
pub(super) struct Renewal {
    consumers: Consumers,
    rivalry: Rivalry,
    pauses: Pauses,
    phase: Phase,
}

/// What is done about the consumer.
enum Phase {
    /// It is read.
    Reads,
    /// A new one is made at this time. Until then nothing is read.
    Waits(Instant),
    /// No more consumers are made, because there is a rival.
    HasGivenUp,
}

impl Renewal {
    pub(super) fn new(consumers: Consumers) -> Self {
        Self { consumers, rivalry: Rivalry::default(), pauses: Pauses::new(PAUSE_FIRST), phase: Phase::Reads }
    }

    /// Schedules a new consumer after a pause.
    fn schedule(&mut self) {
        self.phase = Phase::Waits(Instant::now() + self.pauses.after_failure());
    }
}

impl Reader {
    /// Gives up the consumer, which Kafka refuses for good.
    pub(super) fn consumer_refused(&mut self, code: RDKafkaErrorCode) {
        if self.is_without_consumer() {
            return;
        }
        let (group, source) = (&self.work.config.group, self.work.config.name.clone());
        let (cause, rivalry) = match (code, self.work.remedy(code)) {
            (RDKafkaErrorCode::FencedInstanceId, _) => {
                (member_was_fenced(group), self.renewal.rivalry.fenced(Instant::now()))
            }
            (_, Some(remedy)) => (format!("group {group}: {code}; {remedy}"), None),
            (_, None) => (format!("group {group}: Kafka refuses this client for good: {code}"), None),
        };
        self.let_all_go();
        self.leaving = None;
        if self.work.config.membership == Membership::Group {
            // The group must assign the partitions again. Until the old consumer is closed, its callback answers.
            self.work.rebalances.end();
            let view = &self.work.view;
            view.revoke(view.opened().iter().chain(&view.unopened()), true);
        }
        match rivalry {
            None => {
                let text = format!("{cause}; it joins again");
                tracing::warn!(source = &*source, "{text}");
                self.work.view.group_error(text);
                self.renewal.schedule();
            }
            Some(often) => {
                let text = format!(
                    "{cause}; {often}; stop the other host, or give one of them another `group.instance.id` in \
                     [sources.{source}.properties], and restart it"
                );
                tracing::error!(source = &*source, "stopped: {text}");
                self.work.view.fatal(text);
                self.renewal.phase = Phase::HasGivenUp;
            }
        }
    }

    /// Returns whether there is no consumer to read with.
    pub(super) fn is_without_consumer(&self) -> bool {
        !matches!(self.renewal.phase, Phase::Reads)
    }

    /// Makes the new consumer if it is due.
    pub(super) fn renew_consumer(&mut self) -> bool {
        if !matches!(self.renewal.phase, Phase::Waits(due) if due <= Instant::now()) {
            return false;
        }
        match self.renewal.consumers.make() {
            Ok(consumer) => {
                self.work.rebalances = consumer.context().rebalances().clone();
                self.work.consumer = consumer.clone();
                let _ = self.ends.discovery.send(Request::Consumer(consumer));
                self.renewal.phase = Phase::Reads;
            }
            Err(error) => {
                self.work.view.group_error(error.to_string());
                self.renewal.schedule();
            }
        }
        true
    }
}
