//! Kafka: records in as commands, messages out of the outbox, and the topics they need.
//!
//! The only place that knows rdkafka. A [`Source`] turns the records of a topic into commands and promises that each
//! takes effect exactly once: the store settles the record's offset in the transaction of its events, and the source
//! starts where the store says. A [`Sink`] publishes the outbox; its position is in the store too. A [`Transform`] needs no
//! store: a batch, what came of it and the group's offsets are one Kafka transaction. Offsets that the others commit
//! to Kafka are for lag tools alone and are never read. Nothing here knows SQL or WebAssembly.

pub mod admin;
mod connection;
mod context;
mod deliveries;
pub mod dev_broker;
mod message;
mod naming;
mod oauth;
mod record;
mod secret;
pub mod sink;
pub mod source;
pub mod statistics;
#[cfg(test)]
mod testing;
pub mod topics;
pub mod transform;
mod trouble;

pub use connection::Connection;
pub use sink::Sink;
pub use source::Source;
pub use statistics::Statistics;
pub use transform::Transform;

use rdkafka::error::KafkaError;

/// Why something about Kafka can't be started or done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Change the manifest.
    #[error("[{section}] `{property}` {cause}")]
    Property {
        /// Where the manifest has it, such as `kafka.properties`.
        section: String,
        /// The librdkafka property.
        property: String,
        /// What is wrong with it and what to do. Never its value: it may be a secret.
        cause: String,
    },
    /// Try again later: the cluster may come back.
    #[error("Kafka at {brokers} does not answer: {cause}")]
    Unreachable {
        /// As in the manifest.
        brokers: String,
        /// In the words of librdkafka.
        cause: String,
    },
    /// The broker refused something about a topic.
    #[error("topic {topic}: {cause}")]
    Topic {
        /// The topic.
        topic: String,
        /// What was refused, why, and what to do.
        cause: String,
    },
    /// The cluster did not do what it was asked for.
    #[error("{what}: {cause}")]
    Refused {
        /// What it is about, such as `group tills` or `topic baskets partition 3`.
        what: String,
        /// Why, and what to do.
        cause: String,
    },
    /// The development broker did not start, or does not go on.
    #[error("development broker: {0}")]
    DevBroker(String),
    /// librdkafka or the operating system refused to make a client.
    #[error("can't start a Kafka client for {client}: {cause}")]
    Client {
        /// Whose client it is.
        client: String,
        /// In the words of librdkafka.
        cause: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// The error of making a client, without values of properties in its text.
fn client_error(client: &str, error: KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, cause, property, _) => {
            let section = "kafka.properties".to_owned();
            Error::Property { section, property, cause: format!("was refused by librdkafka: {cause}") }
        }
        other => Error::Client { client: client.to_owned(), cause: other.to_string() },
    }
}

/// Starts a thread that first makes what it needs, on itself, and then runs it. Fails when making it fails.
fn start_thread<T>(
    name: String,
    make: impl FnOnce() -> Result<T, Error> + Send + 'static,
    run: impl FnOnce(T) + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, Error> {
    let (made, answer) = crossbeam_channel::bounded(1);
    let client = name.clone();
    let failed = |cause: String| Error::Client { client: name.clone(), cause };
    let thread = std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || match make() {
            Ok(value) => {
                let _ = made.send(Ok(()));
                run(value);
            }
            Err(error) => {
                let _ = made.send(Err(error));
            }
        })
        .map_err(|error| failed(error.to_string()))?;
    answer.recv().unwrap_or_else(|_| Err(Error::Client { client, cause: "its thread panicked".into() }))?;
    Ok(thread)
}

/// Joins a thread, but waits no longer than `max`. Dropping a client of librdkafka can block.
fn join_within(thread: std::thread::JoinHandle<()>, max: std::time::Duration) {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    let (ended, end) = crossbeam_channel::bounded(1);
    let joiner = std::thread::Builder::new().name("kafka-join".into()).spawn(move || {
        let _ = ended.send(thread.join().is_ok());
    });
    match joiner.map(|_| end.recv_timeout(max)) {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => tracing::error!(thread = name, "panicked"),
        Ok(Err(_)) | Err(_) => tracing::warn!(thread = name, "did not end in time; left behind"),
    }
}

/// Waits for the answer of the store.
fn wait_for<T: Send + 'static>(write: impl FnOnce(crate::store::Done<T>)) -> Result<T, crate::store::Error> {
    let (sender, answer) = crossbeam_channel::bounded(1);
    write(Box::new(move |result| {
        let _ = sender.send(result);
    }));
    answer.recv().unwrap_or(Err(crate::store::Error::Closed))
}
