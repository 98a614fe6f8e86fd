//! Messages to Kafka, once: handed to a producer in order, and waited for until each is acknowledged or has failed. What a
//! failure means, and whether another try follows, is the publisher's to say.

use super::View;
use super::publisher::Interruption;
use crate::kafka::context::Context;
use crate::kafka::deliveries::{DeliveryContext, Failed, OnTheirWay, Producer};
use crate::kafka::message::{self, Envelope};
use crate::kafka::{Error, client_error};
use crate::model::Message;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::Producer as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest rest between looks at the stop flag.
const REST_MAX: Duration = Duration::from_millis(100);
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What a feed's messages have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// How they become records.
    pub(super) envelope: Envelope,
    /// The manifest names their topic.
    pub(super) has_fixed_topic: bool,
}

/// A producer and what is on its way. See the module.
pub(super) struct Sender {
    pub(super) sink: Arc<str>,
    style: Style,
    pub(super) view: Arc<View>,
    config: ClientConfig,
    /// `None` until the first use and after a fatal error.
    producer: Option<Producer>,
    deliveries: Arc<OnTheirWay>,
}

impl Sender {
    /// On the thread that will send: it is the one that acknowledgements wake.
    pub(super) fn new(sink: &Arc<str>, config: ClientConfig, style: Style, view: Arc<View>) -> Result<Self, Error> {
        let deliveries = Arc::new(OnTheirWay::of_this_thread());
        let mut sender = Self { sink: sink.clone(), style, view, config, producer: None, deliveries };
        sender.producer()?;
        Ok(sender)
    }

    pub(super) fn style(&self) -> Style {
        self.style
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
            self.deliveries.wait_for_all(producer, || self.check_given_up())?;
        }
        failed.append(&mut self.deliveries.take_failed());
        failed.sort_by_key(|&(index, _)| index);
        Ok(failed)
    }

    /// Gives a message to the producer.
    fn send_one(&mut self, index: usize, message: &Message) -> Result<Result<(), RDKafkaErrorCode>, Interruption> {
        if let Err(error) = self.producer() {
            self.view.note(Some(error.to_string()));
            return Ok(Err(RDKafkaErrorCode::Fatal));
        }
        let producer = self.producer.as_ref().expect("it was just made");
        let record = message::record(index, message, self.style.envelope);
        self.deliveries.send(producer, record, || self.check_given_up())
    }

    /// The producer, made anew where there is none.
    pub(super) fn producer(&mut self) -> Result<&Producer, Error> {
        if self.producer.is_none() {
            let client = format!("sink {}", self.sink);
            let context = DeliveryContext {
                context: Context::new(client.as_str(), self.view.health.clone()),
                deliveries: self.deliveries.clone(),
            };
            let producer = self.config.create_with_context(context);
            self.producer = Some(producer.map_err(|error| client_error(&client, error))?);
        }
        Ok(self.producer.as_ref().expect("it was just made"))
    }

    /// After a fatal error: this producer refuses everything from now on.
    pub(super) fn discard_producer(&mut self) {
        self.producer = None;
        // What it still had on its way was reported while it was dropped, and is sent again.
        self.deliveries.take_failed();
    }

    /// Tells about trouble that is tried again.
    pub(super) fn note(&self, error: String) {
        tracing::warn!(sink = &*self.sink, "{error}");
        self.view.note(Some(error));
    }

    /// While nothing is published no acknowledgement tells that the brokers are back: asks them, if they were away.
    pub(super) fn look_after_trouble(&self) {
        if let (Some(producer), Some(_)) = (&self.producer, self.view.health.trouble())
            && producer.client().fetch_metadata(None, ANSWER_MAX).is_ok()
        {
            self.view.health.answered();
        }
    }

    /// A pause before another try; a stop ends it.
    pub(super) fn rest(&self, pause: Duration) -> Result<(), Interruption> {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.view.stopping.load(Ordering::Acquire) {
                return Err(Interruption::Stopped);
            }
            std::thread::park_timeout(left.min(REST_MAX));
        }
        Ok(())
    }

    /// Fails when a stop does not want to wait any longer.
    pub(super) fn check_given_up(&self) -> Result<(), Interruption> {
        if self.view.has_given_up() { Err(Interruption::Stopped) } else { Ok(()) }
    }
}
