//! The check that the cluster is the one that a store has worked with so far.
//!
//! Offsets and positions mean nothing on another cluster, and an address does not identify a cluster. The store keeps
//! the id of its cluster in the fact `kafka/cluster`, from the first answer on. If another cluster answers, sources,
//! transforms and sinks do not work until a person has decided which one is right. The development broker is not
//! checked, because the names of its ledgers have its id.

use super::context::{Context, Health};
use super::{Connection, client_error, error_hints, ids};
use crate::ack;
use crate::model::FactName;
use crate::store::{self, EventStore};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Why the cluster may not be read or written now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The id of the cluster is not known. The check is to be repeated.
    Unknown(String),
    /// It is another cluster. A person must decide which one is right.
    Another(String),
}

impl Unfit {
    /// Returns the sentence.
    pub(super) fn text(self) -> String {
        match self {
            Self::Unknown(text) | Self::Another(text) => text,
        }
    }
}

/// Asks the cluster for its id and compares it with the store's. This blocks until the answer.
pub(super) fn check<C: ClientContext>(
    client: &Client<C>,
    connection: &Connection,
    store: &dyn EventStore,
) -> Result<(), Unfit> {
    if connection.is_embedded() {
        return Ok(());
    }
    let brokers = connection.brokers();
    // SAFETY: the client outlives the call.
    let id = unsafe { ids::cluster_id(client.native_ptr(), ANSWER_MAX) }
        .map_err(|code| Unfit::Unknown(format!("Kafka at {brokers} does not answer: {}", error_hints::answer(code))))?;
    // Brokers without a cluster id are too old to be told apart.
    let Some(id) = id else { return Ok(()) };
    match known(store).map_err(|error| Unfit::Unknown(error.to_string()))? {
        None => {
            tracing::info!(cluster = id, "the store works with this Kafka cluster from now on");
            ack::wait(|ack| store.set_fact(&FactName::Cluster.to_string(), Some(id), ack))
                .map_err(|error| Unfit::Unknown(error.to_string()))
        }
        Some(known) if known == id => Ok(()),
        Some(known) => Err(Unfit::Another(another(brokers, &id, &known))),
    }
}

/// Runs [`check`] with a temporary client, for parts whose own clients must not do anything before the check.
pub(super) fn check_first(
    connection: &Connection,
    purpose: &str,
    health: &Health,
    store: &dyn EventStore,
) -> Result<(), Unfit> {
    if connection.is_embedded() {
        return Ok(());
    }
    let context = Context::new(purpose, health.clone());
    let client: BaseConsumer<Context> = (connection.client(purpose).create_with_context(context))
        .map_err(|error| Unfit::Unknown(client_error(purpose, error).to_string()))?;
    connection.log_in(client.client()).map_err(|error| Unfit::Unknown(error.to_string()))?;
    check(client.client(), connection, store).map_err(|unfit| {
        // What the client has heard meanwhile says more than a time-out.
        while client.poll(Duration::ZERO).is_some() {}
        match (unfit, health.trouble()) {
            (Unfit::Unknown(_), Some(cause)) => {
                Unfit::Unknown(format!("Kafka at {} does not answer: {cause}", connection.brokers()))
            }
            (unfit, _) => unfit,
        }
    })
}

/// Returns the id of the cluster that a store has worked with.
pub(super) fn known(store: &dyn EventStore) -> Result<Option<String>, store::Error> {
    store.reader()?.fact(&FactName::Cluster.to_string())
}

fn another(brokers: &str, id: &str, known: &str) -> String {
    format!(
        "Kafka at {brokers} is the cluster {id}, and this store has worked with {known}, whose offsets mean nothing there: \
         check `brokers` of [kafka]; if it is a new cluster, stop the host, run `wasmill kafka accept-cluster --to beginning \
         --yes` with its --manifest, and start it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::testing::{Broker, Folder};

    #[test]
    fn a_store_works_with_the_cluster_that_it_has_met_first() {
        let (one, other, folder) = (Broker::with_topic("a", 1), Broker::with_topic("a", 1), Folder::new());
        let check = |broker: &Broker| {
            let connection = broker.real_connection(&[]);
            let client: BaseConsumer = connection.client("check").create().unwrap();
            super::check(client.client(), &connection, &*folder.store)
        };
        assert_eq!((check(&one), check(&one)), (Ok(()), Ok(())));
        let first = known(&*folder.store).unwrap().unwrap();
        let Err(Unfit::Another(text)) = check(&other) else { panic!("another cluster passed") };
        assert!(text.contains(&first) && text.contains("accept-cluster"), "{text}");
        assert_eq!(known(&*folder.store).unwrap(), Some(first), "it is not forgotten by itself");
        ack::wait(|ack| folder.store.set_fact(&FactName::Cluster.to_string(), None, ack)).unwrap();
        assert_eq!(check(&other), Ok(()));
    }
}
