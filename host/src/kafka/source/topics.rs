//! The topics that a source reads, and the names of their partitions.

use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// The prefix of the names of a cluster's internal topics, which no pattern matches.
const INTERNAL: &str = "__";

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::kafka) struct TopicPartition {
    pub(in crate::kafka) topic: Arc<str>,
    pub(in crate::kafka) partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {} partition {}", self.topic, self.partition)
    }
}

/// The topics of a source, by name and by pattern.
#[derive(Clone, Debug)]
pub(in crate::kafka) struct Topics {
    written: Vec<String>,
    named: Vec<Arc<str>>,
    patterns: Vec<Regex>,
    /// The topics that no pattern matches.
    excluded: Arc<[String]>,
}

impl Topics {
    /// Takes the topics of the manifest, in which a pattern begins with `^`. No pattern matches the `excluded` topics.
    /// The host writes to these, and would otherwise read its own messages for ever.
    pub(in crate::kafka) fn new(written: &[String], excluded: &[String]) -> Self {
        let (patterns, named): (Vec<_>, Vec<_>) = written.iter().partition(|topic| is_pattern(topic));
        Self {
            written: written.to_vec(),
            named: named.into_iter().map(|topic| topic.as_str().into()).collect(),
            patterns: patterns.into_iter().map(|text| Regex::new(text).expect("the manifest was checked")).collect(),
            excluded: excluded.into(),
        }
    }

    /// Returns the topics as the manifest has them.
    pub(super) fn written(&self) -> &[String] {
        &self.written
    }

    /// Returns the topics that no pattern matches.
    pub(super) fn excluded(&self) -> &[String] {
        &self.excluded
    }

    /// Returns the topics that are listed by name.
    pub(super) fn named(&self) -> &[Arc<str>] {
        &self.named
    }

    pub(super) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether a topic is not to be read although the group may assign its partitions. This happens if the brokers
    /// match the patterns, because they do not know the topics that this host writes to.
    pub(in crate::kafka) fn are_without(&self, topic: &str) -> bool {
        self.excluded.iter().any(|excluded| excluded == topic) && !self.named.iter().any(|named| **named == *topic)
    }

    /// Whether a topic that is not listed by name matches a pattern.
    pub(super) fn are_found_in(&self, topic: &str) -> bool {
        !topic.starts_with(INTERNAL)
            && !self.are_without(topic)
            && !self.named.iter().any(|named| **named == *topic)
            && self.patterns.iter().any(|pattern| pattern.is_match(topic))
    }
}

fn is_pattern(topic: &str) -> bool {
    topic.starts_with('^')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_find_what_is_not_named_and_not_internal() {
        let excluded = ["shop.dead".to_owned(), "orders".into()];
        let topics = Topics::new(&["orders".into(), "^shop\\..*".into(), "^.*s$".into()], &excluded);
        assert_eq!(topics.named(), [Arc::from("orders")]);
        for (topic, found) in [
            ("shop.1", true),
            ("shops", true),
            ("my.shop.1", false),
            ("orders", false),
            ("__consumer_offsets", false),
            ("shop.dead", false),
        ] {
            assert_eq!(topics.are_found_in(topic), found, "{topic}");
        }
        assert!(topics.are_without("shop.dead") && !topics.are_without("orders"), "what is named is wanted");
        assert!(!Topics::new(&["a".into()], &[]).has_patterns());
    }
}
