//! Requests to servers that the test answers.

use super::sagas::{Errand, ErrandEvent};
use super::*;
use crate::subscriber::{HttpAnswer, Request, Response};
use wasmill_cases::flows::http::ServerAnswer;

/// A subscriber that sends a request for each note: to the note's id, with what the note says as its body.
struct Caller;

impl Subscriber for Caller {
    const SUBSCRIPTIONS: &'static [&'static str] = &["note.Said"];
    const ENDPOINTS: &'static [&'static str] = &["shop", "mail"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let (endpoint, path) = delivery.aggregate_id()?.split_once('-').unwrap();
        let request = Request::post(endpoint, path).bearer_secret("key").json(&delivery.json::<Json>()?)?;
        match path {
            "quiet" => outbox.http(request),
            "twice" => {
                outbox.http(Request::get(endpoint, "first").asking_response("a")?);
                outbox.http(Request::get(endpoint, "second").asking_response("b")?);
            }
            "later" => outbox.wake("later", SECOND, endpoint)?,
            _ => outbox.http(request.asking_response(path)?),
        }
        Ok(())
    }

    fn timer(timer: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        outbox.http(Request::get(timer.json::<String>()?, "late").asking_response("c")?);
        Ok(())
    }

    fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let (attachment, key) = (response.attachment::<String>()?, String::from_utf8_lossy(response.key().unwrap()));
        let (id, time_ms) = (response.request_id(), response.metadata().time_ms() - START_MS);
        let causation = response.metadata().causation_id().unwrap_or_default();
        let body = match response.answer() {
            HttpAnswer::Response(http) => String::from_utf8_lossy(http.body()).into_owned(),
            other => other.to_string(),
        };
        SEEN.with_borrow_mut(|seen| {
            seen.push(format!(
                "{attachment} {key} {response} {id} {causation} {time_ms}: {} {body}",
                response.answer()
            ));
        });
        if attachment == "bad" {
            return Err(Failure::rejected("a response"));
        }
        outbox.publish(Message::to("answered").key(attachment));
        Ok(())
    }
}

fn callers() -> Plugins {
    SEEN.take();
    Plugins::new().aggregate::<Note>().subscriber::<Caller>("caller")
}

fn note(world: &mut Plugins, id: &str) -> Settled {
    world.send("note", id, &say(Do::Nothing))
}

fn post(endpoint: &str, path: &str) -> Request {
    Request::post(endpoint, path).bearer_secret("key").json("Nothing").unwrap()
}

#[test]
fn an_answer_comes_back_to_who_asked() {
    let mut world = callers().answering("shop", |request| {
        assert_eq!(request.header("Authorization"), Some(&b"Bearer {{key}}"[..]));
        ServerAnswer::json(402, &request.json::<Json>().unwrap())
    });
    note(&mut world, "shop-buy")
        .then_events("note", "shop-buy", [NoteEvent::Said(Do::Nothing)])
        .then_http(post("shop", "buy").asking_response("buy").unwrap())
        .then_message(Message::to("answered").key("buy"))
        .then_nothing();
    assert_eq!(seen(), ["buy shop-buy POST shop/buy caller:1:0 event-1 0: status 402 \"Nothing\""]);
    world.answer_with("shop", |_| ServerAnswer::failed("no route"));
    note(&mut world, "shop-sell");
    assert_eq!(seen(), ["sell shop-sell POST shop/sell caller:2:0 event-2 0: failed: no route failed: no route"]);
    note(&mut world, "shop-bad").then_dead_letter("caller", "rejected: a response");
    note(&mut world, "shop-bad").then_dead_letter("caller", "rejected: a response");
    assert_eq!(seen().len(), 2, "a response that is dead-lettered holds nothing");
}

#[test]
fn a_request_that_fails_and_asks_nothing_is_a_dead_letter() {
    let mut world = callers();
    for (answer, reason) in [
        (ServerAnswer::status(200), None),
        (ServerAnswer::status(299), None),
        (ServerAnswer::status(300), Some("the server answered with status 300")),
        (ServerAnswer::status(503), Some("the server answered with status 503")),
        (ServerAnswer::failed("no route"), Some("no route")),
    ] {
        world.answer_with("mail", move |_| answer.clone());
        let sent = note(&mut world, "mail-quiet").then_http(post("mail", "quiet"));
        if let Some(reason) = reason {
            drop(sent.then_dead_letter("caller", reason));
        }
    }
    assert_eq!(seen(), [""; 0]);
}

#[test]
fn requests_and_their_answers_keep_their_order_and_have_the_time_of_their_timer() {
    let mut world = callers().answering("shop", |request| ServerAnswer::bytes(200, request.path.clone()));
    let get = |path: &str, attachment: &str| Request::get("shop", path).asking_response(attachment).unwrap();
    let twice = note(&mut world, "shop-twice");
    twice.then_http(get("first", "a")).then_http(get("second", "b"));
    let ids: Vec<String> = seen().iter().map(|seen| seen.split(' ').take(5).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(ids, ["a shop-twice GET shop/first caller:1:0", "b shop-twice GET shop/second caller:1:1"]);
    note(&mut world, "shop-later").then_events("note", "shop-later", [NoteEvent::Said(Do::Nothing)]).then_nothing();
    world.advance(3 * SECOND).then_http(get("late", "c"));
    assert_eq!(seen(), ["c shop-later GET shop/late caller:callback-3:0 timer:3 1000: status 200 late"]);
}

#[test]
fn requests_must_be_answered_and_expected() {
    let mut world = callers();
    let unanswered = panic_of(|| drop(note(&mut world, "mail-a")));
    let expected = "plugin caller: nothing answers POST mail/a: add an answer to `answers` of the flow, such as { endpoint = \
                    \"mail\", method = \"POST\", path = \"a\", status = 200 }; in a test without a flow, add \
                    `.answering(\"mail\", |request| …)` to the plugins";
    assert_eq!(unanswered, expected);
    let mut world = callers().answering("mail", |_| ServerAnswer::status(200));
    let unexpected = panic_of(|| {
        let sent = note(&mut world, "mail-quiet").then_events("note", "mail-quiet", [NoteEvent::Said(Do::Nothing)]);
        sent.then_nothing();
    });
    assert!(unexpected.contains("expected nothing more, got:\nrequest {") && unexpected.contains("\"mail\""));
    let other = panic_of(|| drop(note(&mut world, "mail-quiet").then_http(post("mail", "loud"))));
    assert!(other.contains("the request (left) is not the expected one (right)") && other.contains("loud"), "{other}");
    let none = panic_of(|| drop(note(&mut world, "mail-quiet").then_http(post("shop", "quiet"))));
    assert!(none.contains("left: None"), "{none}");
}

#[test]
fn endpoints_are_checked() {
    let mut world = callers().answering("shpo", |_| ServerAnswer::status(200));
    let unknown = panic_of(|| drop(note(&mut world, "mail-a")));
    assert_eq!(unknown, "there is no endpoint shpo; did you mean shop? there are: mail, shop");
    note(&mut callers(), "geo-a").then_dead_letter("caller", "\"geo\", which the plugin does not declare");
    note(&mut callers(), "mail-..").then_message(Message::to("answered").key(".."));
    let refused = &seen()[0];
    assert!(refused.contains("refused: the request POST mail/..: its path has `..`"), "{refused}");
    struct Loud;
    impl Subscriber for Loud {
        const SUBSCRIPTIONS: &'static [&'static str] = &[];
        const ENDPOINTS: &'static [&'static str] = &["Mail"];

        fn handle(_: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
            Ok(())
        }
    }
    let refused = panic_of(|| drop(Plugins::new().subscriber::<Loud>("loud")));
    assert!(refused.contains("Loud must be 1 to 64 characters") && refused.contains("\"Mail\""), "{refused}");
}

#[test]
fn a_saga_gets_its_responses_until_it_ends() {
    /// A saga that asks once, and ends when the answer arrives or when a note is about the end.
    #[derive(Default)]
    struct Asking;
    impl Saga for Asking {
        const TYPE: &'static str = "asking";
        const STARTS: &'static [&'static str] = Errand::STARTS;
        const ENDPOINTS: &'static [&'static str] = &["shop"];
        type Event = ErrandEvent;

        fn handle(&self, event: &Delivery, step: &mut Step<ErrandEvent>) -> Result<(), Failure> {
            step.record(ErrandEvent::Stepped);
            step.http(Request::get("shop", "").asking_response("")?);
            if let NoteEvent::Said(Do::End) = event.decode()? {
                step.complete();
            }
            Ok(())
        }

        fn response(&self, _: &Response<'_>, step: &mut Step<ErrandEvent>) -> Result<(), Failure> {
            step.record(ErrandEvent::Stepped);
            step.complete();
            Ok(())
        }

        fn apply(&mut self, _: ErrandEvent) {}
    }
    let plugins = Plugins::new().aggregate::<Note>().saga::<Asking>();
    let mut world = plugins.answering("shop", |_| ServerAnswer::status(500));
    for (id, what, steps) in [("a", Do::Nothing, 2), ("b", Do::End, 1)] {
        world.send("note", id, &say(what)).then_http(Request::get("shop", "").asking_response("").unwrap());
        assert_eq!(world.events_of("asking", id).len(), steps, "{id}");
    }
}

#[test]
fn a_flow_file_answers_requests_and_compares_them() {
    let text = r#"
        [[flow]]
        name = "the flow answers first"
        answers = [{ endpoint = "shop", method = "POST", path = "buy", times = 1, status = 402, json = { error = "no funds" } }]
        steps = [
            { send = "Say", to = "note/shop-buy", payload = "Nothing", then.requests = [
                { endpoint = "shop", method = "POST", path = "buy", json = "Nothing" },
            ], then.messages = [{ topic = "answered" }] },
            { send = "Say", to = "note/shop-buy", payload = "Nothing", then.requests = [{ endpoint = "shop" }] },
            { send = "Say", to = "note/mail-quiet", payload = "Nothing", then.requests = [{ endpoint = "mail" }] },
        ]
        [[flow]]
        name = "a failure"
        answers = [{ endpoint = "mail", failed = "no route" }]
        steps = [
            { send = "Say", to = "note/mail-quiet", payload = "Nothing", then.dead_letters = [{ consumer = "caller", reason = "no route" }] },
            { send = "Say", to = "note/mail-a", payload = "Nothing", then.requests = [] },
        ]
        [[flow]]
        name = "no such endpoint"
        answers = [{ endpoint = "mall", failed = "no route" }]
        steps = [{ send = "Say", to = "note/mail-quiet", payload = "Nothing" }]
        [[flow]]
        name = "no answer"
        steps = [{ send = "Say", to = "note/shop-buy", payload = "Nothing" }]
    "#;
    let file = std::env::temp_dir().join(format!("wasmill-http-flows-{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let plugins = || callers().answering("mail", |_| ServerAnswer::status(200));
    let answered = |plugins: Plugins| plugins.answering("shop", |_| ServerAnswer::status(200));
    let failed = panic_of(|| crate::testing::flows(&file, || answered(plugins())));
    let unanswered = panic_of(|| crate::testing::flows(&file, plugins));
    std::fs::remove_file(&file).unwrap();
    for part in [
        "2 of 4 flows failed",
        "a failure\nstep 2, Say to note/mail-a: the requests are not the expected ones",
        "+ mail request method POST path a body \"Nothing\"",
        "no such endpoint\nanswer 1: there is no endpoint mall; did you mean mail? there are: mail, shop",
    ] {
        assert!(failed.contains(part), "no `{part}` in:\n{failed}");
    }
    for part in [
        "4 of 4 flows failed",
        "the flow answers first\nstep 2, Say to note/shop-buy: plugin caller: nothing answers POST shop/buy",
        "no answer\nstep 1, Say to note/shop-buy: plugin caller: nothing answers POST shop/buy: add an answer to `answers`",
    ] {
        assert!(unanswered.contains(part), "no `{part}` in:\n{unanswered}");
    }
}

#[test]
fn requests_that_follow_from_each_other_end_with_a_dead_letter() {
    /// A subscriber that sends a request about each answer.
    struct Poller;
    impl Subscriber for Poller {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.Said"];
        const ENDPOINTS: &'static [&'static str] = &["shop"];

        fn handle(_: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
            outbox.http(Request::get("shop", "").asking_response("")?);
            Ok(())
        }

        fn response(_: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
            outbox.http(Request::get("shop", "").asking_response("")?);
            Ok(())
        }
    }
    let asked = std::rc::Rc::new(Cell::new(0));
    let count = asked.clone();
    let mut world = Plugins::new().aggregate::<Note>().subscriber::<Poller>("poller").answering("shop", move |_| {
        count.set(count.get() + 1);
        ServerAnswer::status(200)
    });
    note(&mut world, "1").then_dead_letter("poller", "passed 100 subscribers");
    assert_eq!(asked.get(), 100);
}
