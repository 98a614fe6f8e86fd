//! Messages to Kafka without transactions: handed to an idempotent producer in order, and waited for until each is
//! acknowledged or has failed. What a failure means, and whether another try follows, is for the publisher to say.

use super::publisher::Interruption;
use super::seat::Seat;
use crate::kafka::context::Context;
use crate::kafka::deliveries::{DeliveryContext, Failed, OnTheirWay, Producer};
use crate::kafka::message::{self, CloudEvents, Envelope};
use crate::kafka::{Error, client_error};
use crate::model::Message;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer as _;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What a feed's messages have in common.
#[derive(Clone, Debug)]
pub(super) struct Style {
    /// How they become records.
    pub(super) envelope: Envelope,
    /// What the CloudEvents among them say.
    pub(super) cloud_events: CloudEvents,
    /// The manifest names their topic.
    pub(super) has_fixed_topic: bool,
}

/// A producer, and what it has not been acknowledged.
pub(super) struct Sender {
    pub(super) seat: Seat,
    style: Style,
    config: ClientConfig,
    /// `None` until the first use and after a fatal error.
    producer: Option<Producer>,
    deliveries: Arc<OnTheirWay>,
}

impl Sender {
    /// On the thread that will send: it is the one that acknowledgements wake.
    pub(super) fn new(seat: Seat, config: ClientConfig, style: Style) -> Result<Self, Error> {
        let deliveries = Arc::new(OnTheirWay::of_this_thread(&config));
        let mut sender = Self { seat, style, config, producer: None, deliveries };
        sender.producer()?;
        Ok(sender)
    }

    pub(super) fn style(&self) -> &Style {
        &self.style
    }

    /// Sends messages of a batch, in order, and waits for all of them. Returns those that failed, by their place.
    pub(super) fn send(&mut self, batch: &[(u64, Message)], todo: &[usize]) -> Result<Vec<Failed>, Interruption> {
        let mut failed = Vec::new();
        for &index in todo {
            if let Err(code) = self.send_one(index, &batch[index].1)? {
                failed.push((index, code));
            }
        }
        if let Some(producer) = &self.producer {
            self.deliveries.wait_for_all(producer, || self.seat.check_given_up())?;
        }
        failed.append(&mut self.deliveries.take_failed());
        failed.sort_by_key(|&(index, _)| index);
        Ok(failed)
    }

    /// Gives a message to the producer.
    fn send_one(&mut self, index: usize, message: &Message) -> Result<Result<(), RDKafkaErrorCode>, Interruption> {
        if let Err(error) = self.producer() {
            self.seat.note(error.to_string());
            return Ok(Err(RDKafkaErrorCode::Fatal));
        }
        let producer = self.producer.as_ref().expect("it was just made");
        let record = message::record(index, message, self.style.envelope, &self.style.cloud_events);
        self.deliveries.send(producer, record, || self.seat.check_given_up())
    }

    /// Makes the producer if there is none.
    fn producer(&mut self) -> Result<(), Error> {
        if self.producer.is_none() {
            let client = format!("sink {}", self.seat.sink);
            let context = DeliveryContext {
                context: Context::new(client.as_str(), self.seat.view.health.clone()),
                deliveries: self.deliveries.clone(),
            };
            let producer = self.config.create_with_context(context);
            self.producer = Some(producer.map_err(|error| client_error(&client, error))?);
        }
        Ok(())
    }

    /// After a fatal error: this producer refuses everything from now on.
    pub(super) fn discard_producer(&mut self) {
        self.producer = None;
        // What it still had in flight was reported while it was dropped, and is sent again.
        self.deliveries.take_failed();
    }

    /// Asks the brokers whether they are back, if they were away: while nothing is published, no acknowledgement tells.
    pub(super) fn look_after_trouble(&self) {
        let health = &self.seat.view.health;
        if let (Some(producer), Some(_)) = (&self.producer, health.trouble())
            && producer.client().fetch_metadata(None, ANSWER_MAX).is_ok()
        {
            health.answered();
        }
    }
}
