//! Kafka: records in as commands, messages out of the outbox, and the topics they need.
//!
//! The only place that knows rdkafka. A [`Source`] turns the records of a topic into commands and promises that each
//! takes effect exactly once: the store settles the record's offset in the transaction of its events, and the source
//! starts where the store says. A [`Sink`] publishes the outbox; its position is in the store too. A [`Transform`] needs no
//! store: a batch, what came of it and the group's offsets are one Kafka transaction. Offsets that the others commit
//! to Kafka are for lag tools, and for members of a group whose store does not know a partition. Nothing here knows SQL or
//! WebAssembly.

pub mod admin;
mod check;
mod cluster_identity;
mod connection;
mod context;
mod deliveries;
pub mod dev_broker;
mod error_hints;
mod headers;
mod ids;
mod message;
mod naming;
mod native;
mod oauth;
mod record;
mod secret;
pub mod sink;
pub mod source;
pub mod statistics;
#[cfg(test)]
mod testing;
pub mod topics;
mod transaction;
pub mod transform;
mod watermarks;

pub use check::check;
pub use connection::Connection;
pub use sink::Sink;
pub use source::Source;
pub use statistics::Statistics;
pub use transform::Transform;

use crate::supervise;
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

/// Starts a thread that makes its worker on itself and has it work. Fails when making it fails. After a panic `again`
/// has the worker begin again.
fn start_thread<W: 'static>(
    name: String,
    first: impl FnOnce() -> Result<W, Error> + Send + 'static,
    again: impl FnMut(&mut W) -> Result<(), Error> + Send + 'static,
    work: impl FnMut(&mut W) + Send + 'static,
) -> Result<supervise::Thread, Error> {
    supervise::restarting(name.clone(), first, again, work).map_err(|error| match error {
        supervise::Unstarted::Thread(cause) => Error::Client { client: name, cause },
        supervise::Unstarted::Needs(error) => error,
    })
}
