//! Filters of events: patterns over `aggregate-type.EventName`.

use crate::names::{self, Rule};
use std::fmt;
use wasmill_names::pattern::{Segment, matches};

/// A list of patterns such as `order.OrderCreated`, `order.*` or `**`. An event passes if any pattern matches.
///
/// A pattern is matched segment by segment. Segments are separated by `.`: `*` stands for exactly one segment, and `**`
/// for any number of segments, including none.
///
/// ```
/// let filter = wasmill::filter::Filter::parse(["order.*"]).unwrap();
/// assert!(filter.matches("order", "OrderCreated"));
/// assert!(!filter.matches("household", "PurchaseRecorded"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    patterns: Vec<Vec<Segment<String>>>,
    /// The aggregate types of which events may pass. `None` is all.
    types: Option<Vec<String>>,
}

/// The reason why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{}` {cause}; write for example `order.OrderCreated`, `order.*` or `**`", .pattern.escape_debug())]
pub struct PatternError {
    pattern: String,
    cause: String,
}

impl Filter {
    /// Makes a filter that every event passes.
    pub fn all() -> Self {
        Self { patterns: vec![vec![Segment::Many]], types: None }
    }

    /// Reads patterns. Without any pattern nothing matches.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        Ok(Self { patterns: patterns.into_iter().map(parse_pattern).collect::<Result<_, _>>()?, types: None })
    }

    /// Limits the filter to events of these aggregate types.
    #[must_use]
    pub fn within(self, types: &[String]) -> Self {
        Self { types: Some(types.to_vec()), ..self }
    }

    /// Returns whether an event of this aggregate type and name passes.
    pub fn matches(&self, aggregate_type: &str, event: &str) -> bool {
        if self.types.as_ref().is_some_and(|types| !types.iter().any(|one| one == aggregate_type)) {
            return false;
        }
        let segments: Vec<&str> = aggregate_type.split('.').chain(event.split('.')).collect();
        self.patterns.iter().any(|pattern| matches(pattern, &segments))
    }
}

fn parse_pattern(pattern: &str) -> Result<Vec<Segment<String>>, PatternError> {
    let error = |cause: &str| PatternError { pattern: pattern.chars().take(80).collect(), cause: cause.to_owned() };
    if pattern.split('.').any(str::is_empty) {
        return Err(error("has an empty segment"));
    }
    names::checked(pattern, Rule::Pattern).map_err(|cause| error(&cause.to_string()))?;
    pattern
        .split('.')
        .map(|segment| match Segment::parse(segment) {
            Some(Segment::Text(text)) => Ok(Segment::Text(text.to_owned())),
            Some(Segment::One) => Ok(Segment::One),
            Some(Segment::Many) => Ok(Segment::Many),
            None => Err(error("has a `*` inside a segment")),
        })
        .collect()
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, pattern) in self.patterns.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { ", " })?;
            for (n, segment) in pattern.iter().enumerate() {
                f.write_str(if n == 0 { "" } else { "." })?;
                f.write_str(match segment {
                    Segment::Text(text) => text,
                    Segment::One => "*",
                    Segment::Many => "**",
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segments_match_one_or_many() {
        for (pattern, event, expected) in [
            ("order.OrderCreated", ("order", "OrderCreated"), true),
            ("order.OrderCreated", ("order", "OrderConfirmed"), false),
            ("order.*", ("order", "OrderConfirmed"), true),
            ("order.*", ("order", "item.Added"), false),
            ("order.**", ("order", "item.Added"), true),
            ("*.OrderCreated", ("order", "OrderCreated"), true),
            ("**", ("order", "OrderCreated"), true),
            ("**.Added", ("order", "item.Added"), true),
            ("order", ("order", "OrderCreated"), false),
            ("**.a.**.b", ("order", "a.c.b.b"), true),
            ("**.a.**.b", ("order", "c.b.b.a"), false),
            ("*.**.*", ("order", "a"), true),
            ("*.**.*.*", ("order", "a"), false),
        ] {
            let filter = Filter::parse([pattern]).unwrap();
            assert_eq!(filter.matches(event.0, event.1), expected, "{pattern} on {event:?}");
        }
    }

    #[test]
    fn a_limited_filter_passes_only_its_types() {
        let filter = Filter::parse(["**"]).unwrap().within(&["order".to_owned()]);
        assert!(filter.matches("order", "A"));
        assert!(!filter.matches("household", "A") && !filter.matches("orders", "A"));
    }

    /// Matches a pattern exactly as its definition says.
    fn means(pattern: &[Segment<String>], segments: &[&str]) -> bool {
        match (pattern.split_first(), segments.split_first()) {
            (None, None) => true,
            (Some((Segment::Many, rest)), _) => (0..=segments.len()).any(|taken| means(rest, &segments[taken..])),
            (Some((Segment::One, rest)), Some((_, others))) => means(rest, others),
            (Some((Segment::Text(text), rest)), Some((segment, others))) => text == segment && means(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(
            pattern in prop::collection::vec(prop::sample::select(vec!["*", "**", "a", "b"]), 1..7),
            segments in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..9),
        ) {
            let parsed = parse_pattern(&pattern.join(".")).unwrap();
            prop_assert_eq!(matches(&parsed, &segments), means(&parsed, &segments));
        }

        #[test]
        fn any_text_is_a_pattern_or_says_why_not(text in any::<String>()) {
            match Filter::parse([text.as_str()]) {
                Ok(filter) => prop_assert_eq!(filter.to_string(), text),
                Err(error) => prop_assert!(error.to_string().contains("write for example")),
            }
        }
    }

    #[test]
    fn many_wildcards_over_many_segments_take_no_time() {
        let pattern = vec!["**"; 30].join(".a.") + ".b";
        let event = vec!["a"; 60].join(".");
        assert!(!Filter::parse([&*pattern]).unwrap().matches("order", &event));
    }

    #[test]
    fn bad_patterns_say_why() {
        for pattern in ["", "order.", "order.Order*", "order.\0", "order/x", &"x".repeat(1_000)] {
            assert!(Filter::parse([pattern]).unwrap_err().to_string().contains("write for example"), "{pattern}");
        }
    }
}
