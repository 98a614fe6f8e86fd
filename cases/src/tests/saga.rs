//! Tests of cases of sagas: what a file may say, and how decisions are compared.

use crate::effect::Effect;
use crate::saga::{Answer, Case, End, Handled};
use crate::{Cases, NewEvent, Suite};

const PAID: &str = r#"on = "order/7", name = "Paid""#;
const STARTED: &str = "{ name = \"Started\" }";

fn case(given: &str, when: &str, then: &str) -> Result<Case, String> {
    let text = format!(
        "saga = \"checkout\"\n[[case]]\nname = \"a\"\ngiven = [{given}]\nwhen = {{ {when} }}\nthen = {{ {then} }}\n"
    );
    match Suite::parse("checkout.toml", &text).map_err(|error| error.to_string())?.cases {
        Cases::Saga(mut cases) => Ok(cases.remove(0)),
        other => panic!("cases of a saga, found {other:?}"),
    }
}

fn decided(events: &[&str], effects: Vec<Effect>, end: Option<End>) -> Answer {
    let event = |name: &&str| NewEvent { name: (*name).to_owned(), payload: b"null".to_vec() };
    Answer::Decided(Handled::Decision { events: events.iter().map(event).collect(), effects, end })
}

#[test]
fn what_a_saga_can_not_get_or_do_says_why() {
    for (given, when, then, part) in [
        (STARTED, "source = \"s\", value = 1", "events = []", "a saga gets no records of Kafka"),
        (
            "",
            "timer = \"t\"",
            "events = []",
            "there is no saga yet, and a host ignores an outcome, a timer or a response",
        ),
        ("", PAID, "", "`then` is empty: add `events`, `effects`, `end`, `skipped`, `no_saga`, `rejected`"),
        ("", PAID, "end = \"done\"", "unknown variant `done`, expected `completed` or `compensated`"),
        ("", PAID, "skipped = true, effects = []", "or `skipped`, or `no_saga`: remove the others"),
        ("", PAID, "skipped = true, no_saga = true", "or `skipped`, or `no_saga`: remove the others"),
        (STARTED, "timer = \"t\"", "no_saga = true", "only an event is skipped or for no saga"),
        ("", PAID, "events = [], retry = \"\"", "an input ends in one way"),
    ] {
        let problem = case(given, when, then).unwrap_err();
        assert!(problem.starts_with("the cases in checkout.toml: ") && problem.contains(part), "{problem}");
    }
}

#[test]
fn events_effects_and_the_end_of_a_saga_are_compared() {
    let cancel = || vec![Effect::Cancel("unpaid".into())];
    let check = |then: &str, answer: &Answer| case(STARTED, PAID, then).unwrap().check(answer);
    let paid = decided(&["Paid"], cancel(), Some(End::Completed));
    let expected = "events = [{ name = \"Paid\" }], effects = [{ cancel = \"unpaid\" }], end = \"completed\"";
    assert_eq!(check(expected, &paid), Ok(()));
    assert_eq!(check("events = []", &decided(&[], vec![], None)), Ok(()));
    let all_wrong = check("end = \"compensated\"", &paid).unwrap_err();
    for part in ["+ Paid null", "+ cancel unpaid", "expected that it is compensated, and it is completed"] {
        assert!(all_wrong.contains(part), "{all_wrong}");
    }
    let goes_on = check(&expected.replace(", end = \"completed\"", ""), &paid).unwrap_err();
    assert_eq!(goes_on, "expected that it goes on, and it is completed");
    let skipped = check("skipped = true", &paid).unwrap_err();
    assert!(
        skipped.contains("got a saga that is completed, with 1 event:\nPaid null\nand 1 effect:\ncancel"),
        "{skipped}"
    );
    assert_eq!(check("no_saga = true", &Answer::Decided(Handled::NoSaga)), Ok(()));
    assert!(check("no_saga = true", &Answer::Decided(Handled::Skipped)).is_err());
}

#[test]
fn the_first_step_has_an_event_and_the_key_is_that_of_the_case() {
    let first = case("", PAID, "effects = [{ cancel = \"unpaid\" }]").unwrap();
    let failed = first.check(&decided(&[], vec![Effect::Cancel("unpaid".into())], None)).unwrap_err();
    assert!(failed.starts_with("the first step of a saga has no event"), "{failed}");
    let slash = case(STARTED, PAID, "effects = [{ cancel = \"a/b\" }]").unwrap();
    let failed = slash.check(&decided(&[], vec![Effect::Cancel("a/b".into())], None)).unwrap_err();
    assert_eq!(failed, "it names a timer \"a/b\", and the name of a saga's timer has no `/`");
    assert_eq!(first.key_of_event("7".into()), Ok("7".into()));
    let keyed = Case { key: Some("8".into()), ..first };
    assert_eq!(keyed.key_of_event("7".into()), Err("the event is for saga 7, and not for 8".into()));
    assert_eq!(keyed.key_of_callback(), "8");
}
