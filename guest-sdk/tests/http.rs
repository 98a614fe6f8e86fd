//! HTTP requests of subscribers and sagas: what is sent, what comes back, and what happens if nobody handles it.

use wasmill_guest::prelude::*;
use wasmill_guest::testing::{ServerAnswer, deliver, event_json, given_saga, refused_request, response};

/// A subscriber that sends what its events are called.
struct Caller;

impl Subscriber for Caller {
    const SUBSCRIPTIONS: &'static [&'static str] = &["desk.*"];
    const ENDPOINTS: &'static [&'static str] = &["payments", "mail"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        outbox.http(match delivery.name() {
            "Charge" => charge()?,
            "Report" => Request::get("payments", "report?page=2").secret_header("x-api-key", "key"),
            endpoint => Request::put(endpoint, ""),
        });
        Ok(())
    }

    fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let HttpAnswer::Response(http) = response.answer() else {
            return Err(Failure::rejected(format_args!("{response}: {}", response.answer())));
        };
        let note: String = response.attachment()?;
        let kind = http.header("Content-Type").unwrap_or_default();
        let said = json!([note, http.status(), kind, http.json::<Json>()?]);
        outbox.publish(Message::to("said").json(&said)?);
        Ok(())
    }
}
export_subscriber!(Caller);

fn charge() -> Result<Request, wasmill_guest::codec::Error> {
    Request::post("payments", "charges").bearer_secret("key").json(&json!({ "cents": 5 }))?.asking_response("seven")
}

fn desk(name: &str) -> Delivery {
    event_json("desk", "1", name, "null")
}

#[test]
fn a_request_is_sent_as_it_was_built() {
    deliver::<Caller>(desk("Charge")).then_http(charge().unwrap()).then_nothing();
    // Headers have any order and case, and JSON any form.
    let same = Request::new("payments", "POST", "charges")
        .header("Content-Type", "application/json")
        .header("Authorization", "Bearer {{key}}")
        .body(r#"{ "cents": 5 }"#);
    deliver::<Caller>(desk("Charge")).then_http(same.asking_response("seven").unwrap()).then_nothing();
    let report = Request::new("payments", "GET", "report?page=2").header("x-api-key", "{{key}}");
    deliver::<Caller>(desk("Report")).then_http(report).then_nothing();
}

#[test]
fn another_request_is_shown_beside_the_expected_one() {
    let other = |expected: Request| {
        let panic = std::panic::catch_unwind(|| deliver::<Caller>(desk("Charge")).then_http(expected)).err().unwrap();
        *panic.downcast::<String>().unwrap()
    };
    let expected = || Request::post("payments", "charges").bearer_secret("key").json(&json!({ "cents": 5 })).unwrap();
    let unasked = other(expected());
    assert!(unasked.contains("String(\"seven\")") && unasked.contains("\"attachment\": Null"), "{unasked}");
    let asking = |request: Request| other(request.asking_response("seven").unwrap());
    assert!(asking(expected().json(&json!({ "cents": 6 })).unwrap()).contains("\"cents\": Number(6)"));
    assert!(asking(expected().header("a", "b")).contains("String(\"a\")"));
    assert!(asking(Request::post("mail", "charges")).contains("\"endpoint\": String(\"mail\")"));
}

#[test]
fn json_keeps_the_content_type_that_is_there() {
    let typed = Request::patch("mail", "").header("Content-Type", "application/merge-patch+json").json("a").unwrap();
    let expected = "Request(Request { endpoint: \"mail\", method: \"PATCH\", path: \"\", headers: [HttpHeader { name: \
                    \"Content-Type\"";
    let shown = format!("{typed:?}");
    assert!(shown.starts_with(expected) && shown.matches("name").count() == 1, "{shown}");
    assert_eq!(Request::delete("mail", "a?b=c").to_string(), "DELETE mail/a?b=c");
}

#[test]
fn an_attachment_that_is_too_large_is_an_error() {
    let attached = |bytes: usize| Request::get("mail", "").asking_response(&"a".repeat(bytes - 2)).map(drop);
    assert!(attached(1_024).is_ok());
    let refused = attached(1_025).unwrap_err().to_string();
    let expected = "the attachment to a request has 1025 bytes, and at most 1024 come back with its response: attach an id, \
                    and look the rest up";
    assert_eq!(refused, expected);
    let command = OutgoingCommand::new("desk", "1", &AnyCommand::Any).unwrap().asking_outcome(&"a".repeat(1_023));
    let expected = "the attachment to a command has 1025 bytes, and at most 1024 come back with its outcome: ";
    assert!(command.unwrap_err().to_string().starts_with(expected));
}

#[derive(Serialize)]
enum AnyCommand {
    Any,
}

#[test]
fn a_request_to_an_endpoint_that_is_not_declared_is_malformed() {
    deliver::<Caller>(desk("mail")).then_http(Request::put("mail", "")).then_nothing();
    deliver::<Caller>(desk("geo")).then_malformed(
        "the request PUT geo/ is for endpoint \"geo\", which the plugin does not declare: add it to `ENDPOINTS`",
    );
    given_saga::<Process>([Event::Begun]).when(desk("geo")).then_malformed("for endpoint \"geo\"");
}

#[test]
fn an_answer_comes_back_with_its_attachment() {
    let answered = |answer| deliver::<Caller>(response("payments", "POST", "charges", answer, "seven"));
    let said = |status: u16, kind: &str, body: Json| {
        Message::to("said").json(&json!(["seven", status, kind.as_bytes(), body])).unwrap()
    };
    answered(ServerAnswer::json(402, &json!({ "a": 1 })))
        .then_message(said(402, "application/json", json!({ "a": 1 })))
        .then_nothing();
    answered(ServerAnswer::bytes(200, "[]").with_header("CONTENT-TYPE", "x"))
        .then_message(said(200, "x", json!([])))
        .then_nothing();
    answered(ServerAnswer::status(204)).then_malformed("EOF while parsing");
    answered(ServerAnswer::failed("no route")).then_rejected("POST payments/charges: failed: no route");
    let refused = refused_request("payments", "POST", "charges", "it is not granted", "seven");
    deliver::<Caller>(refused).then_rejected("POST payments/charges: refused: it is not granted");
}

#[test]
fn a_response_says_which_request_it_answers() {
    struct Witness;
    impl Subscriber for Witness {
        const SUBSCRIPTIONS: &'static [&'static str] = &[];

        fn handle(delivery: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
            Err(Failure::rejected(delivery.name()))
        }

        fn response(response: &Response<'_>, _: &mut Outbox) -> Result<(), Failure> {
            assert_eq!((response.endpoint(), response.method(), response.path()), ("mail", "GET", "a?b=c"));
            assert_eq!((response.request_id(), response.attempts()), ("test", 1));
            assert_eq!((response.key(), response.first_ms(), response.metadata().time_ms()), (Some(&b"k"[..]), 3, 7));
            assert!(response.answer().is_success());
            let HttpAnswer::Response(http) = response.answer() else { panic!("{}", response.answer()) };
            assert_eq!((http.is_success(), http.body(), http.header("a")), (true, &b"b"[..], None));
            assert_eq!(http.headers().collect::<Vec<_>>(), [("x", &b"1"[..]), ("x", b"2")]);
            Ok(())
        }
    }
    let answer = ServerAnswer::bytes(299, "b").with_header("x", "1").with_header("X", "2");
    let delivery = response("mail", "GET", "a?b=c", answer, "").with_key("k").at(7).first_at(3);
    deliver::<Witness>(delivery).then_nothing();
}

#[test]
fn an_answer_that_nobody_handles_is_malformed() {
    struct Deaf;
    impl Subscriber for Deaf {
        const SUBSCRIPTIONS: &'static [&'static str] = &[];

        fn handle(delivery: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
            // A response is neither an event nor a record.
            delivery.aggregate_id().map(drop)
        }
    }
    let answer = response("mail", "GET", "", ServerAnswer::status(200), "");
    deliver::<Deaf>(answer)
        .then_malformed("the response to GET mail/ arrived, and `Subscriber::response` is not implemented");
}

/// A saga that undoes nothing, but says why it ends.
#[derive(Default)]
struct Process;

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Begun,
    Failed { reason: String },
}

impl Saga for Process {
    const TYPE: &'static str = "process";
    const STARTS: &'static [&'static str] = &["desk.*"];
    const ENDPOINTS: &'static [&'static str] = &["payments"];
    type Event = Event;

    fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
        step.record(Event::Begun);
        step.http(Request::put(event.name(), ""));
        Ok(())
    }

    fn compensate(&self, reason: &str, step: &mut Step<Event>) -> Result<(), Failure> {
        step.record(Event::Failed { reason: reason.to_owned() });
        step.compensated();
        Ok(())
    }

    fn apply(&mut self, _: Event) {}
}
export_saga!(Process);

#[test]
fn a_saga_goes_on_after_a_success_and_compensates_anything_else() {
    let saga = given_saga::<Process>([])
        .when(desk("payments"))
        .then_events([Event::Begun])
        .then_http(Request::put("payments", ""))
        .then_goes_on();
    let answer = |answer| response("payments", "PUT", "a", answer, "");
    saga.when(answer(ServerAnswer::status(204))).then_goes_on();
    for (input, reason) in [
        (answer(ServerAnswer::status(300)), "PUT payments/a: status 300"),
        (answer(ServerAnswer::status(199)), "PUT payments/a: status 199"),
        (answer(ServerAnswer::failed("no route")), "PUT payments/a: failed: no route"),
        (refused_request("payments", "PUT", "a", "no", ""), "PUT payments/a: refused: no"),
    ] {
        let ended = given_saga::<Process>([Event::Begun]).when(input);
        ended.then_events([Event::Failed { reason: reason.to_owned() }]).then_compensated();
    }
}
