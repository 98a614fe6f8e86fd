//! Which events a consumer wants: patterns over `aggregate-type.EventName`.

use std::fmt;

/// Patterns such as `order.OrderCreated`, `order.*` or `**`. An event passes when any pattern matches.
///
/// A pattern is matched segment by segment, segments being separated by `.`: `*` stands for exactly one segment,
/// `**` for any number of them, also none.
///
/// ```
/// let filter = wasmill::filter::Filter::parse(["order.*"]).unwrap();
/// assert!(filter.matches("order", "OrderCreated"));
/// assert!(!filter.matches("household", "PurchaseRecorded"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    patterns: Vec<Vec<Segment>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(String),
    One,
    Many,
}

/// Why a pattern is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{pattern}` {cause}; write for example `order.OrderCreated`, `order.*` or `**`")]
pub struct PatternError {
    pattern: String,
    cause: &'static str,
}

impl Filter {
    /// A filter that every event passes.
    pub fn all() -> Self {
        Self { patterns: vec![vec![Segment::Many]] }
    }

    /// Reads patterns; none at all match nothing.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        Ok(Self { patterns: patterns.into_iter().map(parse_pattern).collect::<Result<_, _>>()? })
    }

    /// Whether an event of this aggregate type and name passes.
    pub fn matches(&self, aggregate_type: &str, event: &str) -> bool {
        let segments: Vec<&str> = aggregate_type.split('.').chain(event.split('.')).collect();
        self.patterns.iter().any(|pattern| matches(pattern, &segments))
    }
}

fn parse_pattern(pattern: &str) -> Result<Vec<Segment>, PatternError> {
    let error = |cause| PatternError { pattern: pattern.to_owned(), cause };
    pattern
        .split('.')
        .map(|segment| match segment {
            "" => Err(error("has an empty segment")),
            "*" => Ok(Segment::One),
            "**" => Ok(Segment::Many),
            text if text.contains('*') => Err(error("has a `*` inside a segment")),
            text => Ok(Segment::Text(text.to_owned())),
        })
        .collect()
}

fn matches(pattern: &[Segment], segments: &[&str]) -> bool {
    match (pattern.split_first(), segments.split_first()) {
        (None, None) => true,
        (Some((Segment::Many, rest)), _) => (0..=segments.len()).any(|skipped| matches(rest, &segments[skipped..])),
        (Some((Segment::One, rest)), Some((_, others))) => matches(rest, others),
        (Some((Segment::Text(text), rest)), Some((segment, others))) => text == segment && matches(rest, others),
        _ => false,
    }
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
        ] {
            let filter = Filter::parse([pattern]).unwrap();
            assert_eq!(filter.matches(event.0, event.1), expected, "{pattern} on {event:?}");
        }
    }

    #[test]
    fn bad_patterns_say_why() {
        for pattern in ["", "order.", "order.Order*"] {
            assert!(Filter::parse([pattern]).unwrap_err().to_string().contains("write for example"), "{pattern}");
        }
    }
}
