//! The sending of messages to Kafka without transactions. They are handed to an idempotent producer in order, and the
//! sender waits until each is acknowledged or has failed. The publisher decides whether a failed message is retried.

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

/// The settings that all messages of a feed share.
#[derive(Clone, Debug)]
pub(super) struct Style {
    /// The form of their records.
    pub(super) envelope: Envelope,
    /// The attributes of the CloudEvents among them.
    pub(super) cloud_events: CloudEvents,
    /// Whether the manifest names their topic.
    pub(super) has_fixed_topic: bool,
}

/// A producer with its unacknowledged messages.
pub(super) struct Sender {
    pub(super) seat: Seat,
    style: Style,
    config: ClientConfig,
    /// The producer. `None` until the first use and after a fatal error.
    producer: Option<Producer>,
    deliveries: Arc<OnTheirWay>,
}

impl Sender {
    /// Creates a sender. This must be called on the thread that will send, because acknowledgements wake that thread.
    pub(super) fn new(seat: Seat, config: ClientConfig, style: Style) -> Result<Self, Error> {
        let deliveries = Arc::new(OnTheirWay::of_this_thread(&config));
        let mut sender = Self { seat, style, config, producer: None, deliveries };
        sender.producer()?;
        Ok(sender)
    }

    pub(super) fn style(&self) -> &Style {
        &self.style
    }

    /// Sends messages of a batch, in order, and waits for all of them. Returns those that failed, by their index.
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

    /// Hands a message to the producer.
    fn send_one(&mut self, index: usize, message: &Message) -> Result<Result<(), RDKafkaErrorCode>, Interruption> {
        if let Err(error) = self.producer() {
            self.seat.note(error.to_string());
            return Ok(Err(RDKafkaErrorCode::Fatal));
        }
        let producer = self.producer.as_ref().expect("it was just made");
        let record = message::record(index, message, self.style.envelope, &self.style.cloud_events);
        self.deliveries.send(producer, record, || self.seat.check_given_up())
    }

    /// Creates the producer if there is none.
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

    /// Drops the producer after a fatal error, because it refuses everything from then on.
    pub(super) fn discard_producer(&mut self) {
        self.producer = None;
        // The messages in flight were reported as failed while it was dropped, and are sent again.
        self.deliveries.take_failed();
    }

    /// Asks unreachable brokers whether they are back, because without messages there is no acknowledgement to show it.
    pub(super) fn look_after_trouble(&self) {
        let health = &self.seat.view.health;
        if let (Some(producer), Some(_)) = (&self.producer, health.trouble())
            && producer.client().fetch_metadata(None, ANSWER_MAX).is_ok()
        {
            health.answered();
        }
    }
}
