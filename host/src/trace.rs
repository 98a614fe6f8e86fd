//! W3C trace context: two headers that are passed to everything that follows from one first cause.
//!
//! A command gets them from its sender or its record, an event from its command, and a command or message of a
//! subscriber from the event or record that it handled. They are stored with the events, so a trace continues after a
//! crash, or a day later. The host makes no spans of its own, so the parent is always that of the sender.

use crate::model::Header;

/// The header with the trace and the parent span.
pub const PARENT: &str = "traceparent";

/// The header with additional data of tracing systems.
pub const STATE: &str = "tracestate";

/// The longest state that is kept. The standard requires no more, and others keep no more either.
const STATE_BYTES_MAX: usize = 512;

/// Returns the headers of a trace. If the parent is invalid there are none: by the standard there is no trace then.
pub fn headers(parent: Option<&str>, state: Option<&str>) -> Vec<Header> {
    let Some(parent) = parent.filter(|parent| is_parent(parent)) else { return Vec::new() };
    let state = state.filter(|state| !state.is_empty() && state.len() <= STATE_BYTES_MAX);
    let header = |name: &str, value: &str| Header { name: name.to_owned(), value: Some(value.as_bytes().to_vec()) };
    std::iter::once(header(PARENT, parent)).chain(state.map(|state| header(STATE, state))).collect()
}

/// Adds the trace of the cause to headers, unless they have their own.
pub fn inherit(headers: &mut Vec<Header>, cause: &[Header]) {
    if headers.iter().any(|header| is(header, PARENT)) {
        return;
    }
    headers.extend(cause.iter().filter(|header| is(header, PARENT) || is(header, STATE)).cloned());
}

/// Returns the trace in headers.
pub fn context(headers: &[Header]) -> Vec<Header> {
    let mut context = Vec::new();
    inherit(&mut context, headers);
    context
}

fn is(header: &Header, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name)
}

/// Returns whether a text is `version-trace-parent-flags` in lower-case hexadecimal digits. A later version may have
/// more text after them.
fn is_parent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        parts.next().filter(|part| {
            part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let (version, trace, parent, flags) = (hex(2), hex(32), hex(16), hex(2));
    let is_set = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|byte| byte != b'0'));
    let more = parts.next().is_some();
    flags.is_some()
        && is_set(trace)
        && is_set(parent)
        && version.is_some_and(|version| version != "ff" && (version != "00" || !more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_that_is_none_is_left_out() {
        for (parent, expected) in [
            (GOOD, true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false),
            ("", false),
        ] {
            assert_eq!(is_parent(parent), expected, "{parent}");
        }
        assert!(headers(None, Some("a=b")).is_empty());
        assert_eq!(headers(Some(GOOD), Some("a=b")).len(), 2);
        assert_eq!(headers(Some(GOOD), Some(&"x".repeat(513))).len(), 1);
    }

    /// Makes a parent with some characters changed, added or removed.
    fn nearly_a_parent() -> impl Strategy<Value = String> {
        let other = prop::sample::select(vec!['0', 'f', 'F', 'g', '-', '\0', 'é', ' ']);
        let edits = prop::collection::vec((0..3u8, any::<prop::sample::Index>(), other), 0..4);
        edits.prop_map(|edits| {
            let mut text: Vec<char> = GOOD.chars().collect();
            for (kind, at, other) in edits {
                let at = at.index(text.len());
                match kind {
                    0 => text[at] = other,
                    1 => text.insert(at, other),
                    _ => _ = text.remove(at),
                }
            }
            text.into_iter().collect()
        })
    }

    proptest! {
        #[test]
        fn a_parent_is_what_the_standards_grammar_takes(text in prop_oneof![nearly_a_parent(), any::<String>()]) {
            let grammar = regex::Regex::new("^(?s)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$").unwrap();
            let parts: Vec<&str> = text.splitn(5, '-').collect();
            let is_zero = |part: usize| parts[part].bytes().all(|byte| byte == b'0');
            let expected = grammar.is_match(&text)
                && parts[0] != "ff"
                && !(parts[0] == "00" && parts.len() == 5)
                && !is_zero(1)
                && !is_zero(2);
            prop_assert_eq!(is_parent(&text), expected);
            prop_assert_eq!(headers(Some(&text), None).len(), usize::from(expected));
        }
    }

    #[test]
    fn what_follows_has_the_trace_of_its_cause_unless_it_has_its_own() {
        let mut cause = headers(Some(GOOD), Some("a=b"));
        cause.push(Header { name: "tenant".into(), value: None });
        let mut follows = vec![Header { name: "type".into(), value: None }];
        inherit(&mut follows, &cause);
        let names: Vec<&str> = follows.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["type", PARENT, STATE]);
        let own = vec![Header { name: "Traceparent".into(), value: Some(b"own".to_vec()) }];
        let mut follows = own.clone();
        inherit(&mut follows, &cause);
        assert_eq!(follows, own);
    }
}
