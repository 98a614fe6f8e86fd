//! Error hints: the remedies for errors of librdkafka and of brokers.
//!
//! Texts are matched, because a code such as "authentication failed" or "SSL error" has many causes. An unknown text is
//! passed on as it is.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Texts of librdkafka or of a broker, in lower case, each with its remedy. The remedy is empty if the text already has
/// one. The first match counts.
const CONNECTION: &[(&str, &str)] = &[
    (
        "connecting to a ssl listener?",
        "if the broker's port speaks TLS, set security.protocol = \"ssl\" or \"sasl_ssl\" in [kafka.properties]; brokers \
         older than 0.10 are not supported",
    ),
    ("broker version < 0.10", "brokers older than 0.10 are not supported: check the address, or use a newer broker"),
    (
        "connecting to a plaintext",
        "if the broker's port speaks no TLS, set security.protocol = \"plaintext\" or \"sasl_plaintext\" in \
         [kafka.properties], or use its TLS port",
    ),
    (
        "wrong version number",
        "if the broker's port speaks no TLS, set security.protocol = \"plaintext\" or \"sasl_plaintext\" in \
         [kafka.properties], or use its TLS port",
    ),
    (
        "could not be verified",
        "name the authority that signed the broker's certificate with ssl.ca.location or ssl.ca.pem in \
         [kafka.properties], and in `brokers` a host that the certificate is for",
    ),
    (
        "certificate verify failed",
        "name the authority that signed the broker's certificate with ssl.ca.location or ssl.ca.pem in \
         [kafka.properties]",
    ),
    (
        "client ssl authentication might be required",
        "give this client a certificate with ssl.certificate.location and ssl.key.location in [kafka.properties]",
    ),
    (
        "certificate required",
        "give this client a certificate with ssl.certificate.location and ssl.key.location in [kafka.properties]",
    ),
    ("might require sasl authentication", LOGIN),
    ("mechanism handshake failed", NO_MECHANISM),
    ("unsupported sasl mechanism", NO_MECHANISM),
    ("connection closed by peer", HANDSHAKE),
    // A port with another protocol closes the connection during the handshake. The text depends on which side was
    // faster.
    ("in state apiversion_query", HANDSHAKE),
    ("in state ssl_handshake", HANDSHAKE),
    ("in state auth_legacy", HANDSHAKE),
    // A port that wants a login closes the connection at the first request after the handshake, and the next one may be under way.
    ("/bootstrap: send failed", LOGIN),
    ("/bootstrap: receive failed", LOGIN),
    ("token of [kafka.oauth]", ""),
    ("oauthbearer", "check that [kafka.oauth] gives a token that the broker accepts, and that it has not expired"),
    (
        "sasl authentication error",
        "check sasl.username, sasl.password and sasl.mechanism in [kafka.properties], and that the broker knows the user",
    ),
    (
        "authentication failed",
        "check sasl.username, sasl.password and sasl.mechanism in [kafka.properties], and that the broker knows the user",
    ),
    ("failed to resolve", "check the host's name in `brokers`, and in the broker's advertised.listeners"),
    ("connection refused", "check that the broker runs, and its address in `brokers`"),
    ("connection setup timed out", "check that the broker can be reached from here, and its address in `brokers`"),
];

const NO_MECHANISM: &str = "the broker has no such mechanism on this port: set sasl.mechanism in [kafka.properties] to \
                            one that it has, without [kafka.oauth] unless it is OAUTHBEARER";
const LOGIN: &str = "if the broker's port wants a login, set security.protocol = \"sasl_plaintext\" or \"sasl_ssl\", sasl.mechanism, \
                     sasl.username and sasl.password in [kafka.properties]";
const HANDSHAKE: &str = "the broker closed the connection: check that security.protocol in [kafka.properties] is what its port speaks \
     (plaintext, ssl, sasl_plaintext or sasl_ssl), and that it is not older than 0.10";

/// Returns librdkafka's text for a failed connection, with the remedy if one is known.
pub(super) fn connection(reason: &str) -> String {
    // The match needs the state of the connection, which is removed from the text because it differs between attempts.
    let lower = reason.to_ascii_lowercase();
    let reason = without_counts(reason);
    match CONNECTION.iter().find(|(words, _)| lower.contains(words)) {
        Some((_, remedy)) if !remedy.is_empty() => format!("{reason}; {remedy}"),
        _ => reason.to_owned(),
    }
}

/// Returns a line of librdkafka's log without its thread, and with the name of its broker only once.
pub(super) fn without_thread(line: &str) -> &str {
    let line = line.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(line, |(_, rest)| rest);
    match line.split_once(": ") {
        Some((broker, rest)) if rest.starts_with(broker) => rest,
        _ => line,
    }
}

/// Removes the duration and the count, which differ between attempts.
fn without_counts(reason: &str) -> &str {
    match reason.rfind(" (after ") {
        Some(end) if reason.ends_with(')') => &reason[..end],
        _ => reason.trim_end(),
    }
}

/// Returns the text of a broker's answer, with the remedy if one is known.
pub(super) fn answer(code: Code) -> String {
    match remedy(code) {
        Some(remedy) => format!("{code}; {remedy}"),
        None => code.to_string(),
    }
}

/// Returns the text of a failed call, with the remedy if one is known.
pub(super) fn call(error: &KafkaError) -> String {
    match error.rdkafka_error_code().and_then(remedy) {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

/// Returns librdkafka's text for a broker's refusal of messages, with the remedy if one is known.
pub(super) fn refusal(error: &str) -> String {
    let lower = error.to_ascii_lowercase();
    let remedy = if lower.contains("in-sync replicas") {
        "fewer replicas than min.insync.replicas are in sync: bring the brokers back that are missing"
    } else if lower.contains("leader") {
        "the partition is changing its leader, or has none: check that its brokers run"
    } else if lower.contains("disk error") {
        "check the disks of the broker"
    } else {
        return error.to_owned();
    };
    format!("{error}; {remedy}")
}

fn remedy(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::TopicAuthorizationFailed => {
            "grant this user what it needs on the topic: Describe and Read to read, Describe and Write to write, Create, \
             Delete or DescribeConfigs to manage it"
        }
        Code::GroupAuthorizationFailed => "grant this user Describe and Read on the consumer group",
        Code::ClusterAuthorizationFailed => {
            "grant this user what it needs on the cluster, such as Create for topics, Describe for groups, or \
             IdempotentWrite"
        }
        Code::TransactionalIdAuthorizationFailed => "grant this user Describe and Write on the transactional id",
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            "make the topic with `wasmill kafka topics create`, or list it as [kafka.topics.NAME] in the manifest"
        }
        Code::UnknownPartition => "the topic has fewer partitions: leave the partition to the partitioner",
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            "raise max.message.bytes of the topic and message.max.bytes in [kafka.properties], or write less"
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            "the broker is too old for that: use a newer one, or leave out the property that asks for it"
        }
        Code::InvalidReplicationFactor => "ask for no more replicas than the cluster has brokers",
        Code::InvalidPartitions => "ask for at least one partition",
        Code::InvalidConfig => "check the topic's properties and their values",
        Code::PolicyViolation => "the cluster's policy forbids it: ask who runs it",
        Code::TopicDeletionDisabled => "the cluster has delete.topic.enable=false",
        Code::TopicAlreadyExists => "`wasmill kafka topics describe` shows what is there",
        Code::GroupIdNotFound => "`wasmill kafka groups list` shows which there are",
        Code::OperationTimedOut | Code::RequestTimedOut => "try again: the cluster is slow or away",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_and_a_remedy_comes() {
        let reason = "sasl_ssl://k:9/bootstrap: SASL authentication error: Authentication failed during authentication due \
                      to invalid credentials with SASL mechanism SCRAM-SHA-256 (after 312ms in state AUTH_REQ, 1 identical \
                      error(s) suppressed)";
        let explained = connection(reason);
        assert!(explained.contains("SCRAM-SHA-256; check sasl.username, sasl.password"), "{explained}");
        assert_eq!(connection("something (else)"), "something (else)");
        let line = "[thrd:k:9/bootstrap]: k:9/bootstrap: k:9/bootstrap: Disconnected: requesting ApiVersion";
        assert_eq!(without_thread(line), "k:9/bootstrap: Disconnected: requesting ApiVersion");
    }

    #[test]
    fn a_port_that_speaks_another_protocol_is_told_whatever_ends_the_connection() {
        for words in [
            "Send failed: Broken pipe",
            "Receive failed: Connection reset by peer",
            "Disconnected: connection reset by peer",
            "Disconnected: connection closed by peer",
        ] {
            for state in ["APIVERSION_QUERY", "SSL_HANDSHAKE"] {
                let said = connection(&format!("k:9/bootstrap: {words} (after 0ms in state {state})"));
                assert!(said.starts_with(&format!("k:9/bootstrap: {words}; ")), "{said}");
                assert!(said.contains("check that security.protocol in [kafka.properties]"), "{said}");
            }
        }
        let first = connection("k:9/bootstrap: Send failed: Broken pipe (after 3ms in state UP)");
        assert!(first.contains("if the broker's port wants a login, set security.protocol"), "{first}");
        let later = "k:9/1: Send failed: Broken pipe (after 9000ms in state UP)";
        assert_eq!(connection(later), "k:9/1: Send failed: Broken pipe");
    }

    #[test]
    fn every_entry_can_be_found() {
        for (words, _) in CONNECTION {
            assert_eq!(*words, words.to_ascii_lowercase());
        }
    }
}
