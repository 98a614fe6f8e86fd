//! Which topics a source reads, and the names of their partitions.

use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// What the names of a cluster's own topics begin with. No pattern finds them.
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
pub(super) struct Topics {
    written: Vec<String>,
    named: Vec<Arc<str>>,
    patterns: Vec<Regex>,
}

impl Topics {
    /// As the manifest has them: a pattern begins with `^`.
    pub(super) fn new(written: &[String]) -> Self {
        let (patterns, named): (Vec<_>, Vec<_>) = written.iter().partition(|topic| is_pattern(topic));
        Self {
            written: written.to_vec(),
            named: named.into_iter().map(|topic| topic.as_str().into()).collect(),
            patterns: patterns.into_iter().map(|text| Regex::new(text).expect("the manifest was checked")).collect(),
        }
    }

    /// As the manifest has them.
    pub(super) fn written(&self) -> &[String] {
        &self.written
    }

    /// Those that must be there.
    pub(super) fn named(&self) -> &[Arc<str>] {
        &self.named
    }

    pub(super) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether a topic that has not been named is one of them.
    pub(super) fn are_found_in(&self, topic: &str) -> bool {
        !topic.starts_with(INTERNAL)
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
        let topics = Topics::new(&["orders".into(), "^shop\\..*".into(), "^.*s$".into()]);
        assert_eq!(topics.named(), [Arc::from("orders")]);
        for (topic, found) in
            [("shop.1", true), ("shops", true), ("my.shop.1", false), ("orders", false), ("__consumer_offsets", false)]
        {
            assert_eq!(topics.are_found_in(topic), found, "{topic}");
        }
        assert!(!Topics::new(&["a".into()]).has_patterns());
    }
}
