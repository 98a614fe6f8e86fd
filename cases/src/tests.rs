//! Tests of cases from files: which ones pass and fail, and how a difference is shown.

use super::*;
use proptest::prelude::*;

const CASES: &str = r#"
aggregate = "order"

[[case]]
name = "made"
when = { name = "Create", payload = { items = [1, 2] }, time_ms = 5, headers = { shop = "7" } }
then.events = [{ name = "Created", payload = { items = [1, 2], total = 3 } }, { name = "Priced" }]

[[case]]
name = "refused"
given = [{ name = "Created", payload = { items = [1] } }]
when.name = "Create"
then.rejected = "exists"
"#;

fn events(events: &[(&str, &str)]) -> Answer {
    Answer::Events(events.iter().map(|(name, payload)| (name.to_string(), payload.as_bytes().to_vec())).collect())
}

#[test]
fn toml_and_json_say_the_same() {
    let from_toml = Suite::parse("cases", CASES).unwrap();
    let json = r#"{"aggregate":"order","case":[
        {"name":"made","when":{"name":"Create","payload":{"items":[1,2]},"time_ms":5,"headers":{"shop":"7"}},
         "then":{"events":[{"name":"Created","payload":{"total":3,"items":[1,2]}},{"name":"Priced"}]}},
        {"name":"refused","given":[{"name":"Created","payload":{"items":[1]}}],
         "when":{"name":"Create"},"then":{"rejected":"exists"}}]}"#;
    assert_eq!(from_toml.cases, Suite::parse("cases.json", json).unwrap().cases);
    assert_eq!((from_toml.aggregate.as_str(), from_toml.cases[1].when.aggregate_id.as_str()), ("order", "test"));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    for (file, text, cause) in [
        ("c.toml", "aggregate = \"a\"\ncase = []", "there is no case"),
        ("c.toml", "aggregate = \"a\"\n[[case]]\nname = \"x\"\nwhen.name = \"C\"\n", "line 2"),
        ("c.toml", "aggregate = \"a\"\n[[case]]\nname = \"x\"\nwhen.name = \"C\"\nthen.rejectd = \"\"\n", "rejectd"),
        ("c.json", "{\"aggregate\":\n1}", "line 2"),
    ] {
        let error = Suite::parse(file, text).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(cause), "{error}");
    }
    let twice = CASES.replace("refused", "made");
    assert!(Suite::parse("c.toml", &twice).unwrap_err().to_string().contains("two cases are named `made`"));
}

#[test]
fn a_case_holds_or_the_difference_is_shown() {
    let suite = Suite::parse("cases", CASES).unwrap();
    let [made, refused] = &suite.cases[..] else { panic!("two cases") };
    let as_expected = events(&[("Created", r#"{"total":3,"items":[1,2]}"#), ("Priced", "null")]);
    assert_eq!(made.check(&as_expected), Ok(()));
    assert_eq!(refused.check(&Answer::Rejected("the order exists".into())), Ok(()));
    let other = made.check(&events(&[("Created", r#"{"items":[1,2],"total":4}"#)])).unwrap_err();
    let shown: Vec<&str> = other.lines().filter(|line| line.starts_with(['-', '+'])).collect();
    assert_eq!(shown, [r#"-   "total": 3"#, r#"+   "total": 4"#, "- Priced null"], "{other}");
    for (answer, part) in [
        (Answer::Rejected("no".into()), "- exists\n+ no"),
        (Answer::Failed("it trapped".into()), "got a failure: it trapped"),
        (events(&[]), "got no events"),
    ] {
        let difference = refused.check(&answer).unwrap_err();
        assert!(difference.contains(part), "{difference}");
    }
}

proptest! {
    /// Any text is either a suite whose cases have unique names, or an error that names the file.
    #[test]
    fn any_text_is_a_suite_or_told_what_is_wrong(
        text in "(?s:.{0,80})",
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..20_usize, "[\\[\\]{}=\",\n a-z]{0,8}"), 0..4),
    ) {
        const SUITE: &str = "aggregate = \"door\"\n[[case]]\nname = \"a\"\ngiven = [{ name = \"O\", payload = { n = 1 } }]\n\
            when = { name = \"C\", headers = { h = \"v\" } }\nthen = { rejected = \"no\" }\n";
        let edited = edits.into_iter().fold(SUITE.to_owned(), |text, (at, cut, piece)| {
            let from = text.floor_char_boundary(at.index(text.len() + 1));
            let to = text.floor_char_boundary((from + cut).min(text.len()));
            [&text[..from], &piece, &text[to.max(from)..]].concat()
        });
        for (name, text) in [("a.toml", &text), ("a.json", &text), ("a.toml", &edited)] {
            match Suite::parse(name, text) {
                Ok(suite) => {
                    let names: std::collections::BTreeSet<_> = suite.cases.iter().map(|case| &case.name).collect();
                    prop_assert!(!names.is_empty() && names.len() == suite.cases.len());
                }
                Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
            }
        }
    }
}
