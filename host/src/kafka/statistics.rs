//! The statistics of librdkafka that the host shows. A client hands them over as JSON at intervals.

use serde::Deserialize;
use std::collections::BTreeMap;

/// How often clients of sources and sinks hand over their statistics by default (`statistics.interval.ms`).
pub(super) const INTERVAL_MS: &str = "5000";

/// The statistics of one client.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Statistics {
    /// Messages in the producer's queues.
    #[serde(rename = "msg_cnt")]
    pub queued: u64,
    /// Bytes of the messages in the producer's queues.
    #[serde(rename = "msg_size")]
    pub queued_bytes: u64,
    /// Operations that wait to be served by the host.
    #[serde(rename = "replyq")]
    pub replies: u64,
    /// Requests that were sent since the client started.
    #[serde(rename = "tx")]
    pub requests: u64,
    /// Bytes that were sent.
    #[serde(rename = "tx_bytes")]
    pub sent_bytes: u64,
    /// Bytes that were received.
    #[serde(rename = "rx_bytes")]
    pub received_bytes: u64,
    /// The brokers, by address.
    pub brokers: BTreeMap<String, Broker>,
    /// The consumer group, if the client is a member of one.
    pub cgrp: Option<Group>,
}

/// The statistics of one broker, as a client sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Broker {
    /// The id of the broker. It is negative while it is not known, and for logical brokers that stand for a
    /// coordinator.
    #[serde(rename = "nodeid")]
    pub node: i64,
    /// The state of the connection, such as `UP`.
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
    /// The time from request to answer over the last interval, in microseconds.
    pub rtt: Window,
}

/// The distribution of the values in an interval.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Window {
    /// The number of values.
    pub cnt: i64,
    /// The median.
    pub p50: i64,
    /// The 99th percentile.
    pub p99: i64,
}

/// The statistics of a member of a consumer group.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Group {
    /// The number of rebalances since the client started.
    pub rebalance_cnt: u64,
}

impl Statistics {
    /// Parses librdkafka's JSON; `None` if it is not that.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let mut statistics: Self = serde_json::from_slice(json).ok()?;
        // Bootstrap and coordinator entries also appear under their broker's id.
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
