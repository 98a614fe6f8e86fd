//! Tests of the answers of servers, and of comparing the requests that were sent.

use super::*;
use crate::flows::http::{Answers, FlowAnswer, SentRequest, ServerAnswer};

fn answers(answers: &str) -> Result<Vec<FlowAnswer>, String> {
    let text = format!("[[flow]]\nname = \"a\"\nanswers = [{answers}]\nsteps = [{{ advance = \"1s\" }}]");
    let file = FlowFile::parse("flows.toml", &text).map_err(|error| error.to_string())?;
    Ok(file.flows.into_iter().next().unwrap().answers)
}

fn charge(method: &str, path: &str) -> SentRequest {
    SentRequest::new("payments", method, path)
}

#[test]
fn the_first_answer_that_fits_and_is_not_used_up_answers() {
    let answers = answers(
        r#"{ endpoint = "payments", method = "POST", path = "charges", times = 2, status = 503 },
           { endpoint = "payments", method = "POST", status = 201, headers = { X-A = "b" }, json = { id = 1 } },
           { endpoint = "payments", path = "report", status = 200, text = "a;b" },
           { endpoint = "payments", status = 404 },
           { endpoint = "mail", method = "POST", status = 400, headers = { Content-Type = "problem" }, json = [] },
           { endpoint = "mail", failed = "no route" }"#,
    );
    let answers = Answers::new(&answers.unwrap());
    let answer = |request| answers.answer(&request).unwrap();
    assert_eq!(answer(charge("POST", "charges")), ServerAnswer::status(503));
    let created = ServerAnswer::json(201, &serde_json::json!({ "id": 1 })).with_header("x-a", "b");
    assert_eq!(answer(charge("POST", "refunds")), created);
    assert_eq!(answer(charge("POST", "charges")), ServerAnswer::status(503));
    assert_eq!(answer(charge("POST", "charges")), created, "the first answer is used up");
    assert_eq!(answer(charge("GET", "report")), ServerAnswer::bytes(200, "a;b"));
    assert_eq!(answer(charge("GET", "report?page=2")), ServerAnswer::status(404));
    let problem = ServerAnswer::bytes(400, "[]").with_header("content-type", "problem");
    assert_eq!(answer(SentRequest::new("mail", "POST", "")), problem);
    assert_eq!(answer(SentRequest::new("mail", "PUT", "")), ServerAnswer::failed("no route"));
    assert_eq!(answers.answer(&SentRequest::new("geo", "GET", "")), None);
    let shared: &(dyn Send + Sync) = &answers;
    let _ = shared;
}

#[test]
fn an_answer_that_can_not_be_used_says_why() {
    for (problem, part) in [
        (answers("{ status = 200 }"), "missing field `endpoint`"),
        (answers("{ endpoint = \"a\" }"), "flow `a`, answer 1: `status` is missing, such as 200, or `failed`"),
        (answers("{ endpoint = \"a\", json = 1 }"), "answer 1: `status` is missing"),
        (answers("{ endpoint = \"a\", failed = \"\", status = 500 }"), "an answer has `status` with"),
        (answers("{ endpoint = \"a\", failed = \"\", text = \"\" }"), "an answer has `status` with"),
        (answers("{ endpoint = \"a\", failed = \"\", headers = { a = \"b\" } }"), "an answer has `status` with"),
        (answers("{ endpoint = \"a\", status = 200, json = 1, text = \"\" }"), "one body: remove `json` or `text`"),
        (answers("{ endpoint = \"a\", status = 100 }"), "`status` must be from 200 to 599, found 100"),
        (answers("{ endpoint = \"a\", status = 200, times = 0 }"), "`times` must be at least 1"),
        (answers("{ endpoint = \"a\", status = 200, time = 1 }"), "unknown field `time`"),
        (
            answers("{ endpoint = \"a\", status = 200 }, { endpoint = \"a\", path = \"b\", status = 404 }"),
            "flow `a`, answer 2 is never used, because answer 1 fits all its requests",
        ),
    ] {
        let problem = problem.unwrap_err();
        assert!(problem.starts_with("the flows in flows.toml: ") && problem.contains(part), "{problem}");
    }
    let narrow = "{ endpoint = \"a\", path = \"b\", status = 404 }";
    for before in ["times = 1", "path = \"c\"", "method = \"PUT\""] {
        assert!(answers(&format!("{{ endpoint = \"a\", {before}, status = 200 }}, {narrow}")).is_ok(), "{before}");
    }
    let two_bodies = "then.requests = [{ endpoint = \"payments\", json = 1, text = \"1\" }]";
    let two_bodies = refused(&format!("[[flow]]\nname = \"a\"\nsteps = [{{ advance = \"1s\", {two_bodies} }}]"));
    assert!(two_bodies.contains("flow `a`, step 1: the request to payments in `then.requests` has one body"));
}

#[test]
fn an_endpoint_that_no_plugin_declares_is_found_before_anything_is_done() {
    let mut world = Scripted::default();
    let wrong = "then.requests = [{ endpoint = \"paymets\" }]";
    let failed = flow(&format!("{{ advance = \"1s\" }}, {{ advance = \"1s\", {wrong} }}")).run(&mut world);
    assert_eq!(failed.unwrap_err(), "step 2, the clock moves by 1s: no plugin declares endpoint paymets");
    let mut flow = flow("{ advance = \"1s\" }");
    flow.answers = answers("{ endpoint = \"payments\", status = 200 }, { endpoint = \"mail\", status = 200 }").unwrap();
    assert_eq!(flow.run(&mut world).unwrap_err(), "answer 2: no plugin declares endpoint mail");
    assert!(world.advanced.is_zero());
}

#[test]
fn requests_are_compared_as_far_as_the_flow_describes_them() {
    let request = |method: &str, path: &str, body: &str| SentRequest { body: body.into(), ..charge(method, path) };
    let requests = vec![request("POST", "charges", r#"{ "cents": 5 }"#), request("PUT", "log", "a line")];
    let happened = Happened { requests, ..Happened::default() };
    let run = |requests: &str| {
        let mut world = Scripted { happened: happened.clone(), ..Scripted::default() };
        flow(&format!("{{ advance = \"1h\", then.requests = [{requests}] }}")).run(&mut world)
    };
    let any = "{ endpoint = \"payments\" }";
    let charge = "{ endpoint = \"payments\", method = \"POST\", path = \"charges\", json = { cents = 5 } }";
    let log = "{ endpoint = \"payments\", path = \"log\", text = \"a line\" }";
    assert_eq!(run(&format!("{any}, {any}")), Ok(()));
    assert_eq!(run(&format!("{charge}, {log}")), Ok(()));
    for (requests, part) in [
        (String::new(), "+ payments request method PUT path log body text a line"),
        (any.to_owned(), "+ payments request method PUT path log body text a line"),
        (format!("{any}, {any}, {any}"), "- payments request"),
        (format!("{}, {any}", charge.replace("POST", "GET")), "- payments request method GET path charges body {"),
        (format!("{}, {any}", charge.replace("cents = 5", "cents = 6")), "-   \"cents\": 6"),
        (format!("{any}, {}", log.replace("a line", "b")), "- payments request path log body text b"),
        // A text is not a JSON string.
        (format!("{any}, {}", log.replace("text", "json")), "+ payments request path log body text a line"),
        (format!("{log}, {charge}"), "+ payments request path charges body text { \"cents\": 5 }"),
    ] {
        let failed = run(&requests).unwrap_err();
        assert!(failed.contains("the requests are not the expected ones") && failed.contains(part), "{failed}");
    }
}

#[test]
fn a_request_that_nothing_answers_says_what_to_add() {
    let expected = "nothing answers POST payments/charges: add an answer to `answers` of the flow, such as \
                    { endpoint = \"payments\", method = \"POST\", path = \"charges\", status = 200 }";
    assert_eq!(charge("POST", "charges").unanswered(), expected);
}

#[test]
fn what_a_server_gets_and_answers_is_read_easily() {
    let mut request = charge("POST", "");
    request.headers.push(("Content-Type".to_owned(), b"text/plain".to_vec()));
    request.body = b"[1]".to_vec();
    assert_eq!(request.header("content-type"), Some(&b"text/plain"[..]));
    assert_eq!(request.header("accept"), None);
    assert_eq!(request.json::<Vec<u8>>().unwrap(), [1]);
    assert!(request.json::<String>().is_err());
    let json = ServerAnswer::bytes(200, "[1]").with_header("Content-Type", "application/json");
    assert_eq!(ServerAnswer::json(200, &[1]), json);
    assert_eq!(ServerAnswer::failed("no").with_header("a", "b"), ServerAnswer::failed("no"));
}
