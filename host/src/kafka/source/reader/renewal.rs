//! A new consumer in place of one that Kafka refuses for good, for example after a fence.
//!
//! The partitions of the old consumer are closed. The new one gets them from the group again, or opens them as at the
//! start. Records in flight are settled meanwhile, and the ledger keeps them from taking effect twice. A member that is
//! fenced too often has a rival, and stops.

use super::{Consumers, Reader, Request};
use crate::follow::Pauses;
use crate::kafka::rivalry::Rivalry;
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
    /// When the next consumer is made, if one is needed. Until then the old one is not read.
    due: Option<Instant>,
    /// No more consumers are made, because there is a rival.
    has_given_up: bool,
}

impl Renewal {
    pub(super) fn new(consumers: Consumers) -> Self {
        Self {
            consumers,
            rivalry: Rivalry::default(),
            pauses: Pauses::new(PAUSE_FIRST),
            due: None,
            has_given_up: false,
        }
    }

    /// Schedules a new consumer after a pause.
    fn schedule(&mut self) {
        self.due = Some(Instant::now() + self.pauses.after_failure());
    }
}

impl Reader {
    /// Gives up the consumer, which Kafka refuses for good.
    pub(super) fn consumer_refused(&mut self, code: RDKafkaErrorCode) {
        if self.is_without_consumer() {
            return;
        }
        let (group, source) = (&self.work.config.group, self.work.config.name.clone());
        let rivalry = match code {
            RDKafkaErrorCode::FencedInstanceId => self.renewal.rivalry.fenced(Instant::now()),
            _ => None,
        };
        let cause = match code {
            RDKafkaErrorCode::FencedInstanceId => {
                format!("group {group}: another member has joined with this one's `group.instance.id`")
            }
            code => match self.work.remedy(code) {
                Some(remedy) => format!("group {group}: {code}; {remedy}"),
                None => format!("group {group}: Kafka refuses this client for good: {code}"),
            },
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
                tracing::warn!(source = &*source, "{cause}; it joins again");
                self.work.view.group_error(format!("{cause}; it joins again"));
                self.renewal.schedule();
            }
            Some(often) => {
                let text = format!(
                    "{cause}; {often}; stop the other host, or give one of them another `group.instance.id` in \
                     [sources.{source}.properties], and restart it"
                );
                tracing::error!(source = &*source, "stopped: {text}");
                self.work.view.fatal(text);
                self.renewal.has_given_up = true;
            }
        }
    }

    /// Returns whether there is no consumer to read with.
    pub(super) fn is_without_consumer(&self) -> bool {
        self.renewal.has_given_up || self.renewal.due.is_some()
    }

    /// Makes the new consumer if it is due.
    pub(super) fn renew_consumer(&mut self) -> bool {
        let now = Instant::now();
        if self.renewal.due.take_if(|due| *due <= now).is_none() {
            return false;
        }
        match self.renewal.consumers.make() {
            Ok(consumer) => {
                self.work.rebalances = consumer.context().rebalances().clone();
                self.work.consumer = consumer.clone();
                let _ = self.ends.discovery.send(Request::Consumer(consumer));
            }
            Err(error) => {
                self.work.view.group_error(error.to_string());
                self.renewal.schedule();
            }
        }
        true
    }
}
