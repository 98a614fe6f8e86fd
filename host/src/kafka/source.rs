//! A Kafka topic as a stream of commands, each of which takes effect exactly once.
//!
//! Two threads. The *reader* owns the consumer's queues, one per partition: it turns records into commands, offers
//! them to the aggregates and learns when they are settled. The *scout* asks the brokers the questions that block:
//! which partitions there are, where they begin and end. It opens each partition where the store's ledger says.
//!
//! Promises: a record is settled in the transaction of its events, so redelivery adds nothing; a record that can't
//! be a command is parked and its partition goes on; what retention removed unread is parked as a range and counted.
//! Back-pressure is not reading a partition whose records are not settled yet. Broker trouble never ends a source.

mod completions;
mod lane;
mod reader;
mod scout;
mod view;

use super::context::{Context, Health};
use super::record::Mapping;
use super::{Connection, Error, client_error, join_within, start_thread};
use crate::aggregates::Inbox;
use crate::manifest;
use crate::status::SourceStatus;
use crate::store::EventStore;
use completions::Completions;
use rdkafka::consumer::BaseConsumer;
use reader::Reader;
use scout::Scout;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use view::View;

/// How long closing the consumer may take: with a commit on its way and the broker away it would take for ever.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// What a source reads, and into which commands it turns it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source's name; part of its ledgers' names, so another name starts anew.
    pub name: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The type of the aggregate; the record's key is its id.
    pub aggregate: Arc<str>,
    /// The command's name; the record's value is its payload.
    pub command: Arc<str>,
    /// Where a partition without a ledger starts.
    pub from: manifest::From,
    /// How many records of a partition may be handed on and not settled.
    pub in_flight_max: usize,
    /// How long `stop` waits for records that are handed on.
    pub drain_max: Duration,
}

impl Config {
    /// A source of the manifest.
    pub fn new(name: &str, source: &manifest::Source) -> Self {
        Self {
            name: name.into(),
            topic: source.topic.as_str().into(),
            aggregate: source.aggregate.as_str().into(),
            command: source.command.as_str().into(),
            from: source.from,
            in_flight_max: source.in_flight_max,
            drain_max: Duration::from_secs(10),
        }
    }
}

/// A running source.
pub struct Source {
    config: Arc<Config>,
    view: Arc<View>,
    completions: Arc<Completions>,
    scout: crossbeam_channel::Sender<scout::Request>,
    /// Disconnected once the reader has nothing more to settle.
    drained: crossbeam_channel::Receiver<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Source {
    /// Starts to read. The brokers need not be there yet; only a wrong configuration is an error.
    pub fn start(
        config: Config,
        connection: Connection,
        store: Arc<dyn EventStore>,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Self, Error> {
        let config = Arc::new(config);
        let health = Health::default();
        let view = Arc::new(View::new(health.clone()));
        let completions = Arc::new(Completions::default());
        let (requests, scout_requests) = crossbeam_channel::unbounded();
        let (findings, reader_findings) = crossbeam_channel::unbounded();
        let (draining, drained) = crossbeam_channel::bounded(0);
        let (consumer_out, consumer_in) = crossbeam_channel::bounded(1);

        let reader = {
            let (config, connection, store) = (config.clone(), connection.clone(), store.clone());
            let (view, completions, requests) = (view.clone(), completions.clone(), requests.clone());
            move || {
                let consumer = consumer(&config, &connection, health, &completions)?;
                let _ = consumer_out.send(consumer.clone());
                let mapping = mapping(&config);
                let ends = reader::Ends { scout: requests, findings: reader_findings, draining };
                Ok(Reader::new(config, consumer, mapping, store, inbox, view, completions, ends))
            }
        };
        let reader = start_thread(format!("source-{}", config.name), reader, Reader::run)?;
        let consumer = consumer_in.recv().expect("the reader's thread has sent it");
        let scout = {
            let (config, view, completions) = (config.clone(), view.clone(), completions.clone());
            move || Ok(Scout::new(config, connection, consumer, store, view, scout_requests, findings, completions))
        };
        let source = Self {
            config: config.clone(),
            view,
            completions,
            scout: requests,
            drained,
            threads: Mutex::new(vec![reader]),
        };
        // From here on an error stops the reader, by dropping the source.
        let scout = start_thread(format!("scout-{}", config.name), scout, Scout::run)?;
        source.threads.lock().expect("no holder panics").push(scout);
        Ok(source)
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it is doing. `end` of a partition is as last seen; `refresh_ends` looks again.
    pub fn status(&self) -> SourceStatus {
        self.view.status(&self.config)
    }

    /// Wakes its holder when records were settled: the sum of `next` of all partitions.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.view.progress()
    }

    /// Asks the brokers for the partitions and their ends now. Blocks up to the brokers' answer: not for an async
    /// worker. The error says what is in the way.
    pub fn refresh_ends(&self) -> Result<(), String> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let asked = self.scout.send(scout::Request::Refresh(sender));
        asked
            .ok()
            .and_then(|()| answer.recv().ok())
            .unwrap_or_else(|| Err(format!("source {} is stopped", self.name())))
    }

    /// Whether everything up to the ends as last seen is settled.
    pub fn is_caught_up(&self) -> bool {
        self.view.is_caught_up()
    }

    /// Stops reading, waits for what is handed on (up to `drain_max`), commits for lag tools, and closes. Blocks.
    pub fn stop(&self) {
        self.view.stop();
        self.completions.wake();
        let _ = self.scout.send(scout::Request::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().expect("no holder panics"));
        let _ = self.drained.recv_timeout(self.config.drain_max + CLOSE_MAX);
        for thread in threads {
            join_within(thread, CLOSE_MAX);
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop();
    }
}

fn consumer(
    config: &Config,
    connection: &Connection,
    health: Health,
    completions: &Arc<Completions>,
) -> Result<Arc<BaseConsumer<Context>>, Error> {
    let client = format!("source {}", config.name);
    let context = Context::new(client.as_str(), health);
    let mut consumer: BaseConsumer<Context> =
        connection.consumer(&config.name).create_with_context(context).map_err(|error| client_error(&client, error))?;
    completions.wakes_this_thread();
    let waker = completions.clone();
    consumer.set_nonempty_callback(move || waker.wake());
    Ok(Arc::new(consumer))
}

fn mapping(config: &Config) -> Mapping {
    Mapping::new(config.name.clone(), config.topic.clone(), config.aggregate.clone(), config.command.clone())
}

#[cfg(test)]
mod tests;
