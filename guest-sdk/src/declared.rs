//! What a plugin declares about itself. The export macros check it at compile time, and `describe` tells it to the host.

use crate::bindings::types::{EventShape, Identity};
use crate::reading::Shape;
use crate::{Aggregate, Projection, Saga, Subscriber};
use wasmill_names::{Rule, pattern};

/// A plugin's crate, which the export macros implement.
pub trait Crate: 'static {
    /// The name of the crate.
    const NAME: &'static str;
    /// The version of the crate.
    const VERSION: &'static str;
}

/// Returns the identity of a plugin.
pub(crate) fn identity<C: Crate>() -> Identity {
    Identity { name: C::NAME.to_owned(), version: C::VERSION.to_owned() }
}

impl From<Shape> for EventShape {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Recorded => Self::Recorded,
            Shape::Newest => Self::Newest,
        }
    }
}

/// Returns the texts of a list, for a description.
pub(crate) fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Fails the build if the names of a crate can't be those of a plugin.
#[track_caller]
pub const fn assert_crate<C: Crate>() {
    assert!(Rule::Crate.allows(C::NAME), "the crate's name must be 1 to 64 characters of a-z, A-Z, 0-9, _ and -");
    assert!(Rule::Version.allows(C::VERSION), "the crate's version must be 1 to 64 characters and begin with a digit");
}

/// Fails the build if an aggregate declares something that can't be.
#[track_caller]
pub const fn assert_aggregate<A: Aggregate>() {
    assert_name(A::TYPE);
}

/// Fails the build if a subscriber declares something that can't be.
#[track_caller]
pub const fn assert_subscriber<S: Subscriber>() {
    assert_subscriptions(S::SUBSCRIPTIONS);
    assert_endpoints(S::ENDPOINTS);
    S::SHAPE.check(S::READS);
}

/// Fails the build if a saga declares something that can't be.
#[track_caller]
pub const fn assert_saga<S: Saga>() {
    assert_name(S::TYPE);
    assert!(!S::STARTS.is_empty(), "STARTS must name an event: without one there is never a saga");
    assert_subscriptions(S::STARTS);
    assert_subscriptions(S::SUBSCRIPTIONS);
    assert_endpoints(S::ENDPOINTS);
    S::SHAPE.check(S::READS);
}

/// Fails the build if a projection declares something that can't be.
#[track_caller]
pub const fn assert_projection<P: Projection>() {
    assert_name(P::NAME);
    assert_subscriptions(P::SUBSCRIPTIONS);
    P::SHAPE.check(P::READS);
}

/// Fails the build of an aggregate that decides on no command, once its code is made.
#[track_caller]
pub const fn assert_handles<A: Aggregate>() {
    assert!(size_of::<A>() > isize::MAX as usize, "implement `Aggregate::handle` or `Aggregate::handle_with`");
}

/// Fails the build of an aggregate that applies no event, once its code is made.
#[track_caller]
pub const fn assert_applies<A: Aggregate>() {
    assert!(size_of::<A>() > isize::MAX as usize, "implement `Aggregate::apply` or `Aggregate::apply_with`");
}

#[track_caller]
const fn assert_name(name: &str) {
    assert!(Rule::Part.allows(name), "TYPE and NAME must be 1 to 64 characters of a-z, 0-9 and -");
}

#[track_caller]
const fn assert_subscriptions(patterns: &[&str]) {
    let mut at = 0;
    while at < patterns.len() {
        assert!(
            Rule::Pattern.allows(patterns[at]),
            "a subscription must be `aggregate-type.EventName`: letters, digits, -, _, . and *, without empty parts"
        );
        assert!(
            pattern::has_whole_wildcards(patterns[at]),
            "a `*` in a subscription must stand alone between dots, as in `order.*` or `**`"
        );
        at += 1;
    }
}

#[track_caller]
const fn assert_endpoints(endpoints: &[&str]) {
    let mut at = 0;
    while at < endpoints.len() {
        assert!(
            Rule::Part.allows(endpoints[at]),
            "an endpoint in ENDPOINTS must be 1 to 64 characters of a-z, 0-9 and -"
        );
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_rules_is_declared() {
        assert_name("transfer-process");
        assert_subscriptions(&["order.*", "**"]);
        assert_endpoints(&["bank", "mail-2"]);
    }

    #[test]
    #[should_panic(expected = "an endpoint in ENDPOINTS must be 1 to 64 characters of a-z, 0-9 and -")]
    fn an_endpoint_that_the_manifest_can_not_name_is_refused() {
        assert_endpoints(&["mail", "Payments"]);
    }

    #[test]
    #[should_panic(expected = "a subscription must be `aggregate-type.EventName`")]
    fn a_subscription_that_selects_no_event_is_refused() {
        assert_subscriptions(&["order.*", "order..Placed"]);
    }

    #[test]
    #[should_panic(expected = "a `*` in a subscription must stand alone")]
    fn a_subscription_with_a_part_of_a_name_is_refused() {
        assert_subscriptions(&["order.*", "order.*Placed"]);
    }

    #[test]
    #[should_panic(expected = "TYPE and NAME must be 1 to 64 characters")]
    fn a_type_that_is_no_name_is_refused() {
        assert_name("Order");
    }
}
