//! Patterns over `aggregate-type.EventName`, as a host matches them.

use std::collections::BTreeMap;
use wasmill_names::Rule;
use wasmill_names::pattern::{Segment, matches};

/// Returns the patterns, or panics if a host would refuse one.
#[track_caller]
pub(in crate::testing) fn checked(owner: &str, patterns: &[&'static str]) -> Vec<&'static str> {
    for pattern in patterns {
        let has_star_inside = pattern.split('.').any(|segment| Segment::parse(segment).is_none());
        assert!(
            Rule::Pattern.allows(pattern) && !has_star_inside,
            "{owner} subscribes to {pattern:?}: write for example `order.OrderCreated`, `order.*` or `**`"
        );
    }
    patterns.to_vec()
}

/// Returns what is wrong with a pattern that names a type of these plugins, and an event that the type does not have.
pub(super) fn unmatched(owner: &str, pattern: &str, recorded: &BTreeMap<&'static str, Vec<String>>) -> Option<String> {
    let (aggregate_type, events) = recorded.get_key_value(pattern.split('.').next()?)?;
    if events.iter().any(|event| select(&[pattern], aggregate_type, event)) {
        return None;
    }
    let events = events.join(", ");
    Some(format!("{owner} subscribes to `{pattern}`, and {aggregate_type} has no such event; its events are {events}"))
}

/// Returns whether one of the patterns, which were checked, selects an event.
pub(in crate::testing) fn select(patterns: &[&str], aggregate_type: &str, event: &str) -> bool {
    let segments: Vec<&str> = aggregate_type.split('.').chain(event.split('.')).collect();
    patterns.iter().any(|pattern| {
        let pattern: Vec<Segment<&str>> = pattern.split('.').filter_map(Segment::parse).collect();
        matches(&pattern, &segments)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_for_an_event_that_a_type_does_not_have_is_found() {
        let recorded = BTreeMap::from([("account", vec!["Opened".to_owned(), "Debited".to_owned()])]);
        for pattern in ["account.Opened", "account.*", "*.Nothing", "**", "order.Created"] {
            assert_eq!(unmatched("fees", pattern, &recorded), None);
        }
        let said = unmatched("fees", "account.Debitted", &recorded).unwrap();
        let expected =
            "fees subscribes to `account.Debitted`, and account has no such event; its events are Opened, Debited";
        assert_eq!(said, expected);
    }

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
            ("*.**.*.*", ("order", "a"), false),
        ] {
            assert_eq!(select(&[pattern], event.0, event.1), expected, "{pattern} on {event:?}");
        }
    }
}
