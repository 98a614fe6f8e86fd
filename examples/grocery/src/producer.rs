//! The producer, which writes every line of the input to the topic `baskets`, in order and not too far ahead of the
//! host.
//!
//! The embedded development broker keeps only the newest 5 MiB of a partition and drops the rest silently. So the
//! producer waits for the host to consume. A real broker keeps everything, so there the producer does not wait.

use crate::api::{Api, Progress};
use crate::baskets::Record;
use crate::consumed::Unconsumed;
use crate::flow::Stall;
use anyhow::{Context, Result, anyhow};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The topic of the baskets.
pub(crate) const TOPIC: &str = "baskets";
/// The most bytes of a partition ahead of the host on the embedded broker, well below what it keeps.
const AHEAD_BYTES_MAX: usize = 3 << 20;
/// The bytes of a record besides its key and value.
const RECORD_OVERHEAD: usize = 64;
/// The longest time of one request for the host's progress.
const LOOK: Duration = Duration::from_millis(500);
/// The time of one poll for deliveries. rdkafka's poll always takes all of its time, even if events arrive.
const POLL: Duration = Duration::from_millis(2);

/// A producer that sends baskets to Kafka.
pub(crate) struct Producer {
    kafka: BaseProducer<Deliveries>,
    ahead_bytes_max: Option<usize>,
}

/// The deliveries that Kafka has reported.
#[derive(Default)]
struct Deliveries(Mutex<State>);

#[derive(Default)]
struct State {
    unconsumed: Unconsumed,
    in_flight_bytes: usize,
    failed: Option<KafkaError>,
}

impl Producer {
    /// Makes a producer. With `embedded` it waits for the host to consume.
    pub(crate) fn new(brokers: &str, embedded: bool) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("client.id", "grocery-demo").set("enable.idempotence", "true");
        // This is the partitioner of the Java clients, so a basket goes to the same partition as with them.
        config.set("partitioner", "murmur2_random").set("linger.ms", "5");
        let kafka = config.create_with_context(Deliveries::default()).context("create the Kafka producer")?;
        Ok(Self { kafka, ahead_bytes_max: embedded.then_some(AHEAD_BYTES_MAX) })
    }

    /// Sends all records and waits until Kafka has acknowledged them. Returns their number.
    pub(crate) fn produce(&self, records: impl Iterator<Item = io::Result<Record>>, api: &Api<'_>) -> Result<u64> {
        let mut produced = 0;
        for record in records {
            let record = record.context("read the input")?;
            self.hold_back(size(&record), api)?;
            self.send(&record)?;
            produced += 1;
        }
        self.settle()?;
        Ok(produced)
    }

    /// Waits until a record of `bytes` fits.
    fn hold_back(&self, bytes: usize, api: &Api<'_>) -> Result<()> {
        if self.fits(bytes) {
            return Ok(());
        }
        self.settle()?;
        let mut stall = Stall::new();
        let mut progress = Progress::default();
        while !self.fits(bytes) {
            // This waits for a quarter of the waiting records, so that there is neither a call per record nor an idle
            // host.
            let target = progress.handled + self.state().unconsumed.records().div_ceil(4);
            progress = api.wait_source(target, LOOK)?;
            self.state().unconsumed.handled(&progress);
            stall.check(progress.handled, api, || "the host to handle what the topic baskets holds".to_owned())?;
        }
        Ok(())
    }

    /// Returns whether a record fits. A record that exceeds the limit is still sent if nothing else waits.
    fn fits(&self, bytes: usize) -> bool {
        let Some(max) = self.ahead_bytes_max else { return true };
        let state = self.state();
        // The partition of a record in flight is not known until it is delivered, so it counts for every partition.
        let ahead = state.unconsumed.bytes_max() + state.in_flight_bytes;
        ahead == 0 || ahead + bytes <= max
    }

    fn send(&self, record: &Record) -> Result<()> {
        let bytes = size(record);
        self.state().in_flight_bytes += bytes;
        let mut message =
            BaseRecord::<String, [u8], Box<usize>>::with_opaque_to(TOPIC, Box::new(bytes)).payload(&record.value);
        if let Some(key) = &record.key {
            message = message.key(key);
        }
        loop {
            match self.kafka.send(message) {
                Ok(()) => return self.look(Duration::ZERO),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    message = again;
                    self.look(POLL)?;
                }
                Err((error, _)) => return Err(error).context("produce to the topic baskets"),
            }
        }
    }

    /// Waits until Kafka has acknowledged everything.
    fn settle(&self) -> Result<()> {
        while self.kafka.in_flight_count() > 0 {
            self.look(POLL)?;
        }
        Ok(())
    }

    fn look(&self, wait: Duration) -> Result<()> {
        self.kafka.poll(wait);
        match self.state().failed.take() {
            None => Ok(()),
            Some(error) => Err(anyhow!(error).context("Kafka did not take a record of the topic baskets")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.kafka.context().lock()
    }
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, bytes: Box<usize>) {
        let mut state = self.lock();
        state.in_flight_bytes -= *bytes;
        match result {
            Ok(message) => {
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                state.unconsumed.delivered(message.partition(), offset, *bytes);
            }
            Err((error, _)) => state.failed = Some(error.clone()),
        }
    }
}

fn size(record: &Record) -> usize {
    record.value.len() + record.key.as_ref().map_or(0, String::len) + RECORD_OVERHEAD
}
