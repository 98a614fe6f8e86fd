//! Tests of cases from files: which ones pass and fail, and how a difference is shown.

mod projection;
mod saga;
mod subscriber;

use super::*;
use crate::aggregate::Answer;
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
    let event = |(name, payload): &(&str, &str)| NewEvent { name: (*name).into(), payload: (*payload).into() };
    Answer::Decided(events.iter().map(event).collect())
}

fn cases_of_aggregate(file: &str, text: &str) -> Vec<aggregate::Case> {
    match Suite::parse(file, text).unwrap().cases {
        Cases::Aggregate(cases) => cases,
        other => panic!("cases of an aggregate, found {other:?}"),
    }
}

#[test]
fn toml_and_json_say_the_same() {
    let from_toml = cases_of_aggregate("cases", CASES);
    let json = r#"{"aggregate":"order","case":[
        {"name":"made","when":{"name":"Create","payload":{"items":[1,2]},"time_ms":5,"headers":{"shop":"7"}},
         "then":{"events":[{"name":"Created","payload":{"total":3,"items":[1,2]}},{"name":"Priced"}]}},
        {"name":"refused","given":[{"name":"Created","payload":{"items":[1]}}],
         "when":{"name":"Create"},"then":{"rejected":"exists"}}]}"#;
    assert_eq!(from_toml, cases_of_aggregate("cases.json", json));
    assert_eq!(from_toml[1].when.aggregate_id, "test");
    assert_eq!(Suite::parse("cases", CASES).unwrap().to_string(), "aggregate order");
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
    let cases = cases_of_aggregate("cases", CASES);
    let [made, refused] = &cases[..] else { panic!("two cases") };
    let as_expected = events(&[("Created", r#"{"total":3,"items":[1,2]}"#), ("Priced", "null")]);
    assert_eq!(made.check(&as_expected), Ok(()));
    assert_eq!(refused.check(&Answer::Refused(Refusal::Rejected("the order exists".into()))), Ok(()));
    let other = made.check(&events(&[("Created", r#"{"items":[1,2],"total":4}"#)])).unwrap_err();
    let shown: Vec<&str> = other.lines().filter(|line| line.starts_with(['-', '+'])).collect();
    assert_eq!(shown, [r#"-   "total": 3"#, r#"+   "total": 4"#, "- Priced null"], "{other}");
    for (answer, part) in [
        (Answer::Refused(Refusal::Rejected("no".into())), "- exists\n+ no"),
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
        const AGGREGATE: &str = "aggregate = \"door\"\n[[case]]\nname = \"a\"\ngiven = [{ name = \"O\", payload = { n = 1 } }]\n\
            when = { name = \"C\", headers = { h = \"v\" } }\nthen = { rejected = \"no\" }\n";
        const SUBSCRIBER: &str = "subscriber = \"shop\"\n[[case]]\nname = \"a\"\nwhen = { on = \"o/1\", name = \"O\" }\n\
            then.effects = [{ wake = \"t\", after = \"1s\" }, { send = \"C\", to = \"o/1\" }, { topic = \"n\" }]\n";
        let edited = |text: &str| edits.iter().fold(text.to_owned(), |text, (at, cut, piece)| {
            let from = text.floor_char_boundary(at.index(text.len() + 1));
            let to = text.floor_char_boundary((from + cut).min(text.len()));
            [&text[..from], piece.as_str(), &text[to.max(from)..]].concat()
        });
        let (aggregate, subscriber) = (edited(AGGREGATE), edited(SUBSCRIBER));
        for (name, text) in [("a.toml", &text), ("a.json", &text), ("a.toml", &aggregate), ("a.toml", &subscriber)] {
            match Suite::parse(name, text) {
                Ok(suite) => {
                    let names: Vec<_> = match &suite.cases {
                        Cases::Aggregate(cases) => cases.iter().map(|case| &case.name).collect(),
                        Cases::Subscriber(cases) => cases.iter().map(|case| &case.name).collect(),
                        Cases::Saga(_) | Cases::Projection(_) => continue,
                    };
                    let unique: std::collections::BTreeSet<_> = names.iter().collect();
                    prop_assert!(!names.is_empty() && unique.len() == names.len());
                }
                Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
            }
        }
    }
}
