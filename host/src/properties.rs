//! Property tests of everything that reads text from outside: any text is either read by the rules or refused, and
//! nothing panics.
//!
//! Each property is tested with some hundred random cases. A failure prints its smallest case and its seed, as a line
//! `cc …`. If you put that line into the file of `proptest-regressions` that the message names, it is always tried
//! first. `PROPTEST_CASES` sets the number of cases, and `PROPTEST_RNG_SEED` selects other ones. The property tests of
//! private code are in its module.

use crate::filter::Filter;
use crate::manifest::{Error, Manifest};
use crate::trace;
use proptest::prelude::*;
use std::path::Path;

/// A manifest that has every kind of section.
const MANIFEST: &str = "data = \"d\"\n[api]\nlisten = \"127.0.0.1:1\"\nbody_mib = 2\n[store]\nqueue_max = 10\n\
    [kafka]\nbrokers = \"embedded\"\n[kafka.properties]\n\"linger.ms\" = \"5\"\n[kafka.topics.baskets]\npartitions = 6\n\
    [plugins.orders]\nfile = \"o.wasm\"\nlimits = { memory_mib = 64 }\n[sources.baskets]\ntopic = \"baskets\"\n\
    aggregate = \"order\"\ncommand = { header = \"c\" }\n[subscriptions.orders]\nstart = { position = 3 }\n\
    [projections.sales]\nbatch_max = 9\n[sink]\nmode = \"idempotent\"\n";

fn parse(text: &str) -> Result<Manifest, Error> {
    Manifest::parse(text, Path::new("m.toml"))
}

/// Makes text that is similar to a manifest: the one above with pieces removed, inserted and repeated.
fn nearly_a_manifest() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[\\[\\]{}=\",.'#\\n a-z0-9_-]{0,12}",
        "\\PC{0,6}",
        Just("[[".to_owned()),
        Just(" = \"".to_owned()),
        Just("\u{0}".to_owned()),
        Just("18446744073709551616".to_owned()),
    ];
    let edit = (any::<prop::sample::Index>(), 0..30_usize, piece);
    prop::collection::vec(edit, 0..4).prop_map(|edits| {
        edits.into_iter().fold(MANIFEST.to_owned(), |text, (at, cut, piece)| {
            let from = text.floor_char_boundary(at.index(text.len() + 1));
            let to = text.floor_char_boundary((from + cut).min(text.len()));
            [&text[..from], &piece, &text[to.max(from)..]].concat()
        })
    })
}

/// Matches a pattern in the simplest way, without a bound on the time.
fn matches(pattern: &[&str], segments: &[&str]) -> bool {
    match (pattern, segments) {
        ([], []) => true,
        (["**", rest @ ..], _) => matches(rest, segments) || (!segments.is_empty() && matches(pattern, &segments[1..])),
        (["*", rest @ ..], [_, others @ ..]) => matches(rest, others),
        ([text, rest @ ..], [first, others @ ..]) => text == first && matches(rest, others),
        _ => false,
    }
}

#[test]
fn the_manifest_of_these_properties_is_valid() {
    parse(MANIFEST).unwrap();
}

proptest! {
    #[test]
    fn a_manifest_is_taken_whole_or_each_problem_has_a_place_in_it(text in nearly_a_manifest()) {
        if let Err(error) = parse(&text) {
            let Error::Invalid(problems) = &error else { panic!("{error}") };
            prop_assert!(!problems.is_empty());
            let lines = text.split('\n').count();
            for line in error.to_string().lines() {
                let number = line.strip_prefix("m.toml:").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
                prop_assert!(number.is_some_and(|number| (1..=lines).contains(&number)), "{} of {}", line, lines);
            }
        }
    }

    #[test]
    fn any_text_is_a_manifest_or_none(text in "(?s:.{0,200})") {
        let _ = parse(&text);
    }

    #[test]
    fn a_number_is_in_its_range_or_refused_by_its_name(number in any::<i128>().prop_map(|n| n >> 60)) {
        let read = parse(&format!("[store]\nqueue_max = {number}"));
        match (1..=1_000_000).contains(&number) {
            true => prop_assert_eq!(read.unwrap().store.queue_max as i128, number),
            false => prop_assert!(read.unwrap_err().to_string().starts_with("m.toml:2:")),
        }
    }

    #[test]
    fn a_filter_matches_as_its_pattern_says(
        pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..7),
        segments in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 2..8),
    ) {
        let filter = Filter::parse([pattern.join(".").as_str()]).unwrap();
        let (kind, name) = (segments[0], segments[1..].join("."));
        prop_assert_eq!(filter.matches(kind, &name), matches(&pattern, &segments));
        prop_assert_eq!(Filter::parse(filter.to_string().split(", ")).unwrap(), filter);
    }

    #[test]
    fn any_text_is_a_pattern_or_told_what_one_is(text in "\\PC{0,40}|[a-b.*]{0,40}|(?s:.{0,40})") {
        match Filter::parse([text.as_str()]) {
            Ok(filter) => prop_assert_eq!(filter.to_string(), text),
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control), "{}", error),
        }
    }

    #[test]
    fn a_trace_is_as_the_standard_has_it(
        parent in "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]{0,3})?|[0-9a-fA-F-]{50,60}|(?s:.{0,60})",
        state in prop::option::of("(?s:.{0,600})"),
    ) {
        let headers = trace::headers(Some(&parent), state.as_deref());
        let of_standard = regex::Regex::new("^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}((?s:-.*))?$").unwrap();
        let is_parent = of_standard.captures(&parent).is_some_and(|parts| {
            let is_zero = |part: usize| parts[part].bytes().all(|byte| byte == b'0');
            let is_version = &parts[1] != "ff" && (&parts[1] != "00" || parts.get(4).is_none());
            is_version && !is_zero(2) && !is_zero(3)
        });
        prop_assert_eq!(!headers.is_empty(), is_parent, "{:?}", parent);
        prop_assert!(headers.iter().all(|header| header.value.as_ref().is_some_and(|value| value.len() <= 2_400)));
    }
}
