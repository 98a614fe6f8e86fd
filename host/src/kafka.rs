//! Kafka: sources read records, sinks publish messages, and the host creates the topics that they need.
//!
//! This is the only module that uses rdkafka. A [`Source`] turns the records of a topic into commands, and each takes
//! effect exactly once: the store settles the record's offset in the transaction of its events, and the source resumes
//! where the store says. A [`Sink`] publishes messages, and its position is also in the store. A [`Transform`] does not
//! need the store for its progress: a batch of records, their messages and the group's offsets are one Kafka
//! transaction. Offsets that sources commit to Kafka are for lag tools, and for members of a group whose store does not
//! know a partition. This module uses neither SQL nor WebAssembly.

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
mod rivalry;
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

/// Why an operation on Kafka failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A property in the manifest is wrong.
    #[error("[{section}] `{property}` {cause}")]
    Property {
        /// The section of the manifest that has it, such as `kafka.properties`.
        section: String,
        /// The librdkafka property.
        property: String,
        /// What is wrong with it, and the remedy. The text never has the value, which may be a secret.
        cause: String,
    },
    /// The cluster does not answer. A retry may succeed.
    #[error("Kafka at {brokers} does not answer: {cause}")]
    Unreachable {
        /// The addresses, as in the manifest.
        brokers: String,
        /// The cause, in the words of librdkafka.
        cause: String,
    },
    /// The broker refused a request about a topic.
    #[error("topic {topic}: {cause}")]
    Topic {
        /// The topic.
        topic: String,
        /// What was refused, the cause, and the remedy.
        cause: String,
    },
    /// The cluster refused another request.
    #[error("{what}: {cause}")]
    Refused {
        /// The object of the request, such as `group tills` or `topic baskets partition 3`.
        what: String,
        /// The cause and the remedy.
        cause: String,
    },
    /// The development broker did not start, or failed.
    #[error("development broker: {0}")]
    DevBroker(String),
    /// librdkafka or the operating system refused to create a client.
    #[error("can't start a Kafka client for {client}: {cause}")]
    Client {
        /// The owner of the client.
        client: String,
        /// The cause, in the words of librdkafka.
        cause: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// Converts an error from the creation of a client. Its text has no values of properties.
fn client_error(client: &str, error: KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, cause, property, _) => {
            let section = "kafka.properties".to_owned();
            Error::Property { section, property, cause: format!("was refused by librdkafka: {cause}") }
        }
        other => Error::Client { client: client.to_owned(), cause: other.to_string() },
    }
}

/// Starts a thread that creates its worker with `first` and then runs `work`. If `first` fails, the thread does not
/// start. After a panic, `again` resets the worker.
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
