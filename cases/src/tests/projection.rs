//! Tests of cases of projections: what a file may say, and how answers are compared. Also what no file of cases may say.

use crate::projection::{Answer, Case};
use crate::{Cases, Suite, versions};
use serde_json::json;

fn case(then: &str) -> Result<Case, String> {
    let text = format!(
        "projection = \"totals\"\n[[case]]\nname = \"a\"\n\
         given = [{{ on = \"o/1\", name = \"A\" }}, {{ on = \"o/2\", name = \"A\", version = 4 }}, {{ on = \"o/1\", name = \"B\" }}]\n\
         when = {{ query = \"totals\", params = {{ of = 1 }} }}\nthen = {{ {then} }}\n"
    );
    match Suite::parse("totals.toml", &text).map_err(|error| error.to_string())?.cases {
        Cases::Projection(mut cases) => Ok(cases.remove(0)),
        other => panic!("cases of a projection, found {other:?}"),
    }
}

#[test]
fn an_answer_must_be_the_expected_one() {
    let five = case("answer = { sum = 5 }").unwrap();
    assert_eq!(versions(&five.given), [1, 4, 2]);
    assert_eq!(five.when.bytes(), br#"{"of":1}"#);
    assert_eq!(five.check(&Answer::Answer(json!({ "sum": 5 }))), Ok(()));
    assert_eq!(case("malformed = \"field\"").unwrap().check(&Answer::Malformed("missing field".into())), Ok(()));
    assert_eq!(case("failed = \"large\"").unwrap().check(&Answer::Failed("too large".into())), Ok(()));
    let event = &five.given[1];
    for (answer, part) in [
        (Answer::Answer(json!({ "sum": 6 })), "-   \"sum\": 5\n+   \"sum\": 6"),
        (Answer::Malformed("missing field".into()), "expected an answer, got malformed parameters: missing field"),
        (Answer::Unknown(vec!["sums".into()]), "there is no query totals; this projection answers sums"),
        (Answer::not_folded(2, event, "malformed: no"), "event 2 in `given`, A of o/2, is not folded: malformed: no"),
        (Answer::skipped(2, event), "event 2 in `given`, A of o/2, is not folded: the code does not know it"),
    ] {
        let failed = five.check(&answer).unwrap_err();
        assert!(failed.contains(part), "{failed}");
    }
    let failed = case("malformed = \"x\"").unwrap().check(&Answer::Failed("x".into())).unwrap_err();
    assert_eq!(failed, "expected malformed parameters with `x`, got a failure: x");
    let failed = case("malformed = \"x\"").unwrap().check(&Answer::Malformed("y".into())).unwrap_err();
    assert!(failed.contains("- x\n+ y"), "{failed}");
}

#[test]
fn what_a_file_can_not_say_is_told_with_its_place() {
    for (then, part) in [
        ("", "case `a`: `then` is empty: add `answer`, `malformed` or `failed`"),
        ("answer = 1, failed = \"\"", "case `a`: a query ends in one way"),
        ("rejected = \"\"", "unknown field `rejected`"),
    ] {
        let problem = case(then).unwrap_err();
        assert!(problem.starts_with("the cases in totals.toml: ") && problem.contains(part), "{problem}");
    }
    let whole = |head: &str| {
        let text = format!("{head}\n[[case]]\nname = \"a\"\nwhen.query = \"q\"\nthen.answer = 1\n");
        Suite::parse("totals.toml", &text).unwrap_err().to_string()
    };
    for (head, part) in [
        ("", "they do not say what they are for: add `aggregate = \"TYPE\"`"),
        ("[[flow]]\nname = \"a\"", "they are flows: give `wasmill test` the manifest"),
        ("projection = \"a\"\nsaga = \"a\"", "they are for one thing: remove all but one of"),
        ("projection = \"a\"\nsecrets = { key = \"x\" }", "only subscribers and sagas get secrets"),
        ("projection = \"a\"\nsetting = {}", "unknown field `setting`"),
        ("projection = 7", "invalid type: integer `7`, expected a string"),
    ] {
        let problem = whole(head);
        assert!(problem.starts_with("the cases in totals.toml: ") && problem.contains(part), "{problem}");
    }
}
