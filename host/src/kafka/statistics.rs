//! What librdkafka counts by itself, as far as it is shown: read from the JSON that a client hands over now and then.

use serde::Deserialize;
use std::collections::BTreeMap;

/// How often clients of sources and sinks hand over their statistics, unless `statistics.interval.ms` is set.
pub(super) const INTERVAL_MS: &str = "5000";

/// One client.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// Messages in the producer's queues.
    #[serde(rename = "msg_cnt")]
    pub queued: u64,
    /// Their bytes.
    #[serde(rename = "msg_size")]
    pub queued_bytes: u64,
    /// Operations that wait to be served by the host.
    #[serde(rename = "replyq")]
    pub replies: u64,
    /// Requests sent since it started.
    #[serde(rename = "tx")]
    pub requests: u64,
    /// Bytes sent.
    #[serde(rename = "tx_bytes")]
    pub sent_bytes: u64,
    /// Bytes received.
    #[serde(rename = "rx_bytes")]
    pub received_bytes: u64,
    /// By address.
    pub brokers: BTreeMap<String, Broker>,
    /// Of a member of a consumer group.
    pub cgrp: Option<Group>,
}

/// One broker, as a client sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Broker {
    /// Negative before it is known, and for the logical ones that stand for a coordinator.
    #[serde(rename = "nodeid")]
    pub node: i64,
    /// Such as `UP`.
    pub state: String,
    /// Requests that wait to be sent.
    #[serde(rename = "outbuf_cnt")]
    pub waiting: i64,
    /// Requests that wait for their answer.
    #[serde(rename = "waitresp_cnt")]
    pub unanswered: i64,
    /// Requests that got no answer in time.
    #[serde(rename = "req_timeouts")]
    pub timeouts: u64,
    /// Connections that ended.
    pub disconnects: u64,
    /// From request to answer, in microseconds, over the last interval.
    pub rtt: Window,
}

/// A window of values.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Window {
    /// How many there were.
    pub cnt: i64,
    /// The middle one.
    pub p50: i64,
    /// All but one in a hundred are below.
    pub p99: i64,
}

/// A member of a consumer group.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Group {
    /// Since it started.
    pub rebalance_cnt: u64,
}

impl Statistics {
    /// From librdkafka's JSON; `None` where it is not that.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let mut statistics: Self = serde_json::from_slice(json).ok()?;
        // Those to start from and those that stand for a coordinator have a twin with a number.
        statistics.brokers.retain(|_, broker| broker.node >= 0);
        Some(statistics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_librdkafka_is_read() {
        let json = br#"{"name": "rdkafka#producer-1", "msg_cnt": 3, "msg_size": 99, "tx": 7, "replyq": 1,
            "brokers": {
                "b:1/bootstrap": {"nodeid": -1, "state": "UP"},
                "b:1/1": {"nodeid": 1, "state": "UP", "outbuf_cnt": 2, "rtt": {"min": 1, "p50": 800, "p99": 2000, "cnt": 5}}
            },
            "topics": {"t": {"partitions": {}}}, "cgrp": {"rebalance_cnt": 4}}"#;
        let read = Statistics::read(json).unwrap();
        assert_eq!((read.queued, read.queued_bytes, read.requests), (3, 99, 7));
        assert_eq!(read.cgrp.unwrap().rebalance_cnt, 4);
        let brokers: Vec<_> = read.brokers.iter().map(|(name, broker)| (name.as_str(), broker.rtt.p99)).collect();
        assert_eq!(brokers, [("b:1/1", 2000)]);
        assert!(Statistics::read(b"no").is_none());
    }
}
