//! Tests of reading flows and of comparing what happened.

mod http;

use super::*;

/// A world in which each step has a given result.
#[derive(Default)]
struct Scripted {
    ended: Option<Ended>,
    answered: Option<Answered>,
    happened: Happened,
    advanced: Duration,
}

impl World for Scripted {
    fn send(&mut self, _: &FlowCommand) -> Result<Ended, String> {
        Ok(self.ended.clone().unwrap_or(Ended::Accepted))
    }

    fn advance(&mut self, by: Duration) -> Result<(), String> {
        self.advanced += by;
        Ok(())
    }

    fn query(&mut self, projection: &str, _: &str, _: &Json) -> Result<Answered, String> {
        self.answered.clone().ok_or(format!("there is no projection {projection}"))
    }

    fn settle(&mut self) -> Result<Happened, String> {
        Ok(self.happened.clone())
    }

    fn check_event(&self, on: &Stream, name: &str) -> Result<(), String> {
        if name.ends_with("ed") { Ok(()) } else { Err(format!("{} has no event {name}", on.aggregate_type)) }
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<(), String> {
        if endpoint == "payments" { Ok(()) } else { Err(format!("no plugin declares endpoint {endpoint}")) }
    }
}

fn flow(steps: &str) -> Flow {
    let file = format!("[[flow]]\nname = \"a flow\"\nsteps = [{steps}]\n");
    FlowFile::parse("flows.toml", &file).unwrap_or_else(|error| panic!("{error}")).flows.remove(0)
}

fn refused(text: &str) -> String {
    FlowFile::parse("flows.toml", text).unwrap_err().to_string()
}

fn occurred(on: (&str, &str), name: &str, payload: &str) -> Occurred {
    Occurred { on: Stream::new(on.0, on.1), name: name.into(), payload: payload.into() }
}

#[test]
fn a_file_that_can_not_be_used_says_where_and_why() {
    let step = |step: &str| refused(&format!("[[flow]]\nname = \"a\"\nsteps = [{{ advance = \"1s\" }}, {{ {step} }}]"));
    for (problem, part) in [
        (refused(""), "there is no flow: add a `[[flow]]`"),
        (refused("flow = []"), "there is no flow: add a `[[flow]]`"),
        (refused("aggregate = \"a\"\n[[case]]\nname = \"a\""), "they are cases: give `wasmill test` the .wasm file"),
        (refused("[[flow]]\nname = \"a\"\nsteps = []"), "flow `a` has no steps"),
        (refused("[[flow]]\nname = \"a\"\nstart = \"now\"\nsteps = []"), "`start` must be a time such as"),
        (refused("[[flow]]\nnaem = \"a\"\nsteps = []"), "unknown field `naem`"),
        (step("send = \"Open\""), "flow `a`, step 2: `to` is missing"),
        (step("send = \"Open\", to = \"account\""), "must be given as \"type/id\", found \"account\""),
        (step("send = \"Open\", to = \"a/1\", advance = \"1s\""), "step 2: a step has `send`"),
        (step("advance = \"soon\""), "`advance` must be a time such as \"1h 30m\", found \"soon\""),
        (step("query = \"totals\""), "`query` must be \"projection/query\""),
        (step("advance = \"1s\", then.answer = 1"), "`then.answer` is only for a query"),
        (step("advance = \"1s\", then.rejected = \"no\""), "`then.rejected` is only for a command"),
        (step("send = \"A\", to = \"a/1\", then = { rejected = \"\", malformed = \"\" }"), "ends in one way"),
        (step("advance = \"1s\", then.event = []"), "unknown field `event`"),
    ] {
        assert!(problem.starts_with("the flows in flows.toml: ") && problem.contains(part), "{problem}");
    }
    let twice = "[[flow]]\nname = \"a\"\nsteps = [{ advance = \"1s\" }]\n";
    assert!(refused(&twice.repeat(2)).contains("two flows are named `a`"));
}

#[test]
fn a_command_must_end_as_the_step_says() {
    let run = |then: &str, ended: Ended| {
        let mut world = Scripted { ended: Some(ended), ..Scripted::default() };
        flow(&format!("{{ send = \"Open\", to = \"account/a/b\"{then} }}")).run(&mut world)
    };
    let rejected = || Ended::Rejected("the account exists".to_owned());
    assert_eq!(run("", Ended::Accepted), Ok(()));
    assert_eq!(run(", then.rejected = \"exists\"", rejected()), Ok(()));
    assert_eq!(run(", then.malformed = \"field\"", Ended::Malformed("missing field".to_owned())), Ok(()));
    let failed = run("", rejected()).unwrap_err();
    assert_eq!(
        failed,
        "step 1, Open to account/a/b: expected it to be accepted, and it was rejected: the account exists"
    );
    assert!(run(", then.rejected = \"closed\"", rejected()).unwrap_err().contains("- closed\n+ the account exists"));
    let failed = run(", then.rejected = \"closed\"", Ended::Accepted).unwrap_err();
    assert!(failed.contains("expected it to be rejected with `closed`, and it was accepted"), "{failed}");
    assert!(run("", Ended::Otherwise("it timed out".to_owned())).unwrap_err().ends_with("and it timed out"));
}

#[test]
fn events_are_compared_by_aggregate_and_other_types_are_left_out() {
    let happened = Happened {
        events: vec![
            occurred(("account", "b"), "Credited", r#"{"@schema":2,"cents":5}"#),
            occurred(("account", "a"), "Debited", r#"{"cents":5}"#),
            occurred(("transfer", "1"), "Completed", "null"),
        ],
        ..Happened::default()
    };
    let run = |events: &str| {
        let mut world = Scripted { happened: happened.clone(), ..Scripted::default() };
        flow(&format!("{{ advance = \"1h\", then.events = [{events}] }}")).run(&mut world)
    };
    let debited = "{ on = \"account/a\", name = \"Debited\" }";
    let credited = "{ on = \"account/b\", name = \"Credited\", payload = { cents = 5 } }";
    assert_eq!(run(&format!("{debited}, {credited}")), Ok(()));
    assert_eq!(run("{ on = \"transfer/1\", name = \"Completed\" }"), Ok(()));
    let missing = run(debited).unwrap_err();
    assert!(missing.contains("+ account/b Credited {") && missing.contains("1h"), "{missing}");
    let other = run(&format!("{debited}, {}", credited.replace('5', "6"))).unwrap_err();
    assert!(other.contains("-   \"cents\": 6") && other.contains("+   \"cents\": 5"), "{other}");
    assert!(run("").unwrap_err().contains("+ transfer/1 Completed null"), "an empty list means no event at all");
}

#[test]
fn messages_refusals_dead_letters_and_answers_are_compared() {
    let message = |topic: &str, key: &str, value: &str| (topic.into(), Some(key.into()), Some(value.into()));
    let happened = Happened {
        messages: vec![message("news", "k", r#"{"a":1}"#), message("news", "l", "text")],
        refused: vec![(Stream::new("account", "a"), "Debit".into(), "too little".into())],
        dead_letters: vec![("notifier".into(), "no such customer".into())],
        ..Happened::default()
    };
    let run = |then: &str| {
        let answered = Some(Ok(serde_json::json!({ "cents": 5 })));
        let mut world = Scripted { happened: happened.clone(), answered, ..Scripted::default() };
        flow(&format!("{{ query = \"statements/Balance\", then = {{ {then} }} }}")).run(&mut world)
    };
    let letters = "dead_letters = [{ consumer = \"notifier\", reason = \"no such\" }]";
    assert_eq!(run(letters), Ok(()));
    assert!(run("").unwrap_err().contains("+ notifier: no such customer"), "a dead letter must be expected");
    let news =
        "messages = [{ topic = \"news\", key = \"k\", value = { a = 1 } }, { topic = \"news\", value = \"text\" }]";
    let refused = "refused = [{ to = \"account/a\", name = \"Debit\", reason = \"little\" }]";
    assert_eq!(run(&format!("{letters}, {news}, {refused}, answer = {{ cents = 5 }}")), Ok(()));
    let wrong = |then: &str, part: &str| {
        let failed = run(&format!("{letters}, {then}")).unwrap_err();
        assert!(failed.starts_with("step 1, query statements/Balance: ") && failed.contains(part), "{failed}");
    };
    wrong("messages = [{ topic = \"news\", key = \"m\" }, { topic = \"news\" }]", "- news message key m");
    let swapped = r#"messages = [{ topic = "news", key = "l" }, { topic = "news", key = "k" }]"#;
    assert_eq!(run(&format!("{letters}, {swapped}")), Ok(()), "messages of different keys have no order");
    wrong("messages = [{ topic = \"news\", key = \"l\" }, { topic = \"news\" }]", "- news message key l");
    wrong("messages = []", "+ news message key l value \"text\"");
    wrong("refused = []", "+ Debit to account/a: too little");
    wrong("refused = [{ to = \"account/b\", name = \"Debit\" }]", "- Debit to account/b: ");
    wrong("answer = { cents = 6 }", "-   \"cents\": 6");
    wrong("malformed = \"no\"", "expected no answer, and got");
}

#[test]
fn a_flow_begins_at_its_time_and_ends_at_its_first_problem() {
    let text = "[[flow]]\nname = \"a\"\nstart = \"2026-03-01T00:00:00Z\"\nsteps = [{ advance = \"2h 1s\" }]";
    let file = FlowFile::parse("flows.toml", text).unwrap();
    assert_eq!(file.flows[0].start_ms, 1_772_323_200_000);
    let days = |by: &str| flow(&format!("{{ advance = \"{by}\" }}")).steps[0].action.to_string();
    assert_eq!(days("42days"), "the clock moves by 42days");
    assert_eq!(days("25h 1s"), "the clock moves by 1day 1h 1s");
    let mut world = Scripted::default();
    assert_eq!(file.flows[0].run(&mut world), Ok(()));
    assert_eq!(world.advanced, Duration::from_secs(7201));
    let failed = flow("{ query = \"none/Of\" }, { advance = \"1s\" }").run(&mut world).unwrap_err();
    assert_eq!(failed, "step 1, query none/Of: there is no projection none");
    assert_eq!(world.advanced, Duration::from_secs(7201), "nothing is done after a failure");
    let steps = "{ advance = \"1s\" }, { advance = \"1s\", then.events = [{ on = \"account/a\", name = \"Debit\" }] }";
    let failed = flow(steps).run(&mut world).unwrap_err();
    assert_eq!(failed, "step 2, the clock moves by 1s: account has no event Debit");
    assert_eq!(world.advanced, Duration::from_secs(7201), "nothing is done at all");
}
