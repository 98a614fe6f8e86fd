//! Whether the cluster is the one that a store has worked with so far.
//!
//! Offsets and positions mean nothing on another cluster, and an address does not tell one from another. The store keeps
//! the id of its cluster in the fact `kafka/cluster`, from the first answer on. Where another one answers, sources,
//! transforms and sinks stop until a person has said which is right. The development broker ends with its data, which
//! the names of ledgers tell; it is not asked.

use super::context::{Context, Health};
use super::{Connection, client_error, error_hints, ids};
use crate::ack;
use crate::model::FactName;
use crate::store::{self, EventStore};
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Why nothing may be read or written now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Nobody says which cluster it is: ask again.
    Unknown(String),
    /// It is another one: a person must say which is right.
    Another(String),
}

impl Unfit {
    /// The sentence.
    pub(super) fn text(self) -> String {
        match self {
            Self::Unknown(text) | Self::Another(text) => text,
        }
    }
}

/// Asks the cluster for its id and holds it against the store's. Blocks up to the answer.
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
    // Brokers without an id are older than all that could be told apart.
    let Some(id) = id else { return Ok(()) };
    match known(store).map_err(|error| Unfit::Unknown(error.to_string()))? {
        None => {
            tracing::info!(cluster = id, "works with this Kafka cluster from now on");
            ack::wait(|ack| store.set_fact(&FactName::Cluster.to_string(), Some(id), ack))
                .map_err(|error| Unfit::Unknown(error.to_string()))
        }
        Some(known) if known == id => Ok(()),
        Some(known) => Err(Unfit::Another(another(brokers, &id, &known))),
    }
}

/// The same with a client that is made for it, for parts whose own clients are not to do anything before.
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
        // What the client has heard meanwhile tells more than a time-out.
        while client.poll(Duration::ZERO).is_some() {}
        match (unfit, health.trouble()) {
            (Unfit::Unknown(_), Some(cause)) => {
                Unfit::Unknown(format!("Kafka at {} does not answer: {cause}", connection.brokers()))
            }
            (unfit, _) => unfit,
        }
    })
}

/// The id of the cluster that a store has worked with.
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
