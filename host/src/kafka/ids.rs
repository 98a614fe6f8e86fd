//! The ids of topics and clusters, which tell them from others of the same name or address.
//!
//! A topic that is deleted and recreated gets another id (KIP-516), and another cluster at the same address has another
//! id. What the host knows about offsets is valid for one id only.

use super::native::{self, slice, text};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rdkafka::bindings::*;
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The id of a topic, as Kafka's own tools print it. It has no `/` and no `@`, and is cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TopicId(Arc<str>);

impl TopicId {
    /// Creates an id from its halves; `None` if both are zero, which means that the broker gives topics no ids.
    fn new(most: i64, least: i64) -> Option<Self> {
        let bytes = (u128::from(most as u64) << 64) | u128::from(least as u64);
        (bytes != 0).then(|| Self(BASE64_URL_SAFE_NO_PAD.encode(bytes.to_be_bytes()).into()))
    }

    /// Returns its text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ids of existing topics; `None` if the broker gives topics no ids.
pub(super) type TopicIds = BTreeMap<Arc<str>, Option<TopicId>>;

/// Asks for the ids of topics. Topics that do not exist or may not be described are missing from the answer.
///
/// # Safety
/// The client lives during the call.
pub(super) unsafe fn topic_ids(
    client: *mut rd_kafka_t,
    topics: &[Arc<str>],
    answer_max: Duration,
) -> Result<TopicIds, RDKafkaErrorCode> {
    // Kafka has no topic with a NUL in its name.
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(&**topic).ok()).collect();
    if names.is_empty() {
        return Ok(TopicIds::new());
    }
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let op = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the client lives by the caller's promise; the names are copied by the call, and their collection is
    // destroyed once. Everything in the answer lives as long as the event, and is copied before that is dropped.
    unsafe {
        let broker = native::some_broker(client, answer_max)?;
        let event = native::ask(client, op, Some(broker), answer_max, |options, queue| {
            let collection = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            rd_kafka_DescribeTopics(client, collection, options, queue);
            rd_kafka_TopicCollection_destroy(collection);
        })?;
        let result = rd_kafka_event_DescribeTopics_result(event.pointer());
        let mut count = 0;
        let described = rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let id = |topic: &*const rd_kafka_TopicDescription_t| {
            let error = rd_kafka_TopicDescription_error(*topic);
            if !error.is_null() && rd_kafka_error_code(error) != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            let uuid = rd_kafka_TopicDescription_topic_id(*topic);
            let (most, least) = match uuid.is_null() {
                true => (0, 0),
                false => (rd_kafka_Uuid_most_significant_bits(uuid), rd_kafka_Uuid_least_significant_bits(uuid)),
            };
            Some((text(rd_kafka_TopicDescription_name(*topic)).into(), TopicId::new(most, least)))
        };
        Ok(slice(described, count).iter().filter_map(id).collect())
    }
}

/// Asks for the id of the cluster; `None` if it has none.
///
/// # Safety
/// The client lives during the call.
pub(super) unsafe fn cluster_id(
    client: *mut rd_kafka_t,
    answer_max: Duration,
) -> Result<Option<String>, RDKafkaErrorCode> {
    let op = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER;
    // SAFETY: as above.
    unsafe {
        let broker = native::some_broker(client, answer_max)?;
        let event = native::ask(client, op, Some(broker), answer_max, |options, queue| {
            rd_kafka_DescribeCluster(client, options, queue);
        })?;
        let result = rd_kafka_event_DescribeCluster_result(event.pointer());
        let id = text(rd_kafka_DescribeCluster_result_cluster_id(result));
        Ok(Some(id).filter(|id| !id.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::testing::Broker;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_topic_id_is_written_as_kafka_writes_it() {
        assert_eq!(TopicId::new(0, 0), None);
        let id = TopicId::new(i64::from_be_bytes([0xff; 8]), i64::from_be_bytes([0xfb; 8])).unwrap();
        assert_eq!(id.as_str(), "___________7-_v7-_v7-w");
    }

    #[test]
    fn brokers_tell_the_ids_of_topics_and_of_their_cluster() {
        let (one, other) = (Broker::with_topic("a", 1), Broker::with_topic("a", 1));
        one.cluster.create_topic("b", 1, 1).unwrap();
        let ids = |broker: &Broker| {
            let asker: BaseConsumer = broker.connection(&[]).client("ask").create().unwrap();
            let topics = ["a".into(), "b".into(), "missing".into()];
            // SAFETY: the client outlives the calls.
            unsafe {
                let client = asker.client().native_ptr();
                (topic_ids(client, &topics, WAIT).unwrap(), cluster_id(client, WAIT).unwrap())
            }
        };
        let (of_one, cluster_of_one) = ids(&one);
        let (of_other, cluster_of_other) = ids(&other);
        assert_eq!((of_one.len(), of_other.len()), (2, 1), "{of_one:?} {of_other:?}");
        assert!(of_one["a"].is_some() && of_one["a"] != of_one["b"] && of_one["a"] != of_other["a"], "{of_one:?}");
        assert!(cluster_of_one.is_some() && cluster_of_one != cluster_of_other, "{cluster_of_one:?}");
        assert_eq!(ids(&one).0, of_one);
    }
}
