//! Batches of commands: an answer for each line, in order; the commands of an aggregate in their order; and no client that is slow,
//! silent or gone does harm.

use serde_json::{Value, json};
use std::io::Write as _;
use std::thread;
use wasmill_tests::host::TestHost;
use wasmill_tests::raw::Exchange;
use wasmill_tests::setting::{ORDERS, Setting};

const CART: &str = "[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n";
/// A plugin with a command that takes 2.5 s.
const MISBEHAVING: &str = "[plugins.misbehaving]\nfile = \"PLUGINS/misbehaving.wasm\"\nattempts_max = 1\n\
                           [plugins.misbehaving.limits]\nevent_time_ms = 2500\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// A line that adds something to a cart, with more members.
fn add(cart: &str, more: &str) -> String {
    let payload = r#"{"items":[{"product_id":"1","quantity":1,"amount_cents":5}]}"#;
    format!("{{\"type\":\"cart\",\"aggregate_id\":\"{cart}\",\"name\":\"AddItems\",\"payload\":{payload}{more}}}\n")
}

fn begin(host: &TestHost, headers: &str) -> Exchange {
    Exchange::begin(&host.address(), "POST /v1/commands", headers)
}

/// Sends a batch and then reads all answers.
fn answers(host: &TestHost, lines: &str) -> Vec<Value> {
    let mut exchange = Exchange::post(&host.address(), "/v1/commands", lines.as_bytes());
    let (status, headers) = exchange.head();
    assert!(status == 200 && headers.contains("content-type: application/x-ndjson"), "{status} {headers}");
    let answers = exchange.lines();
    assert!(exchange.is_complete(), "{answers:?}");
    answers.iter().map(|line| parse(line)).collect()
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn accepted(host: &TestHost) -> u64 {
    host.status()["api"]["commands"]["accepted"].as_u64().expect("a count")
}

#[test]
fn each_line_is_answered_in_order_as_a_single_command_would_be() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    let line = |id: &str, more: Value| {
        let mut line = json!({ "type": "order", "aggregate_id": id, "name": "CreateOrder", "payload": order });
        line.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        line.to_string()
    };
    let other = json!({ "household_id": "9", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    let lines = [
        line("1", json!({ "idempotency_key": "first", "correlation_id": "all" })),
        line("1", json!({ "expected_version": "no-stream" })),
        String::new(),
        line("2", json!({ "payload": { "items": 7 } })),
        "nonsense".to_owned(),
        line("3", json!({ "type": "ordr" })),
        line("", json!({})),
        line("1", json!({ "idempotency_key": "first", "correlation_id": "all" })),
        line("1", json!({ "idempotency_key": "first", "payload": other })),
        line("4", json!({ "colour": "red" })),
        line("5", json!({})),
    ];
    let answers = answers(&host, &lines.join("\n"));
    let shown: Vec<_> = answers.iter().map(|answer| (answer["line"].as_u64(), answer["status"].as_u64())).collect();
    let expected =
        [(1, 200), (2, 409), (4, 400), (5, 400), (6, 404), (7, 400), (8, 200), (9, 409), (10, 400), (11, 200)];
    assert_eq!(shown, expected.map(|(line, status)| (Some(line), Some(status))), "{answers:#?}");
    // The aggregates of the first and the last line may be in different shards, so either may be recorded first.
    let position = answers[0]["position"].clone();
    assert!(position == 1 || position == 2, "{position}");
    let first = json!({ "line": 1, "status": 200, "command_id": "first", "outcome": "accepted", "version": 1, "position": position, "events": 1 });
    assert_eq!(answers[0], first);
    assert_eq!((&answers[1]["outcome"], &answers[1]["actual"]), (&json!("conflict"), &json!(1)));
    assert_eq!(answers[2]["outcome"], "malformed");
    assert!(answers[6]["remembered_from_ms"].is_u64() && answers[6]["position"] == position, "{:?}", answers[6]);
    assert_eq!(answers[7]["outcome"], "id_reused");
    for (at, words) in [(3, "JSON object"), (4, "order"), (5, "aggregate id is empty"), (8, "it can't have `colour`")] {
        assert!(answers[at].to_string().contains(words), "{:?}", answers[at]);
    }
    // What the line says is what is recorded.
    let events = host.events("order.OrderCreated");
    let event = events.iter().find(|event| event["aggregate_id"] == "1").expect("the event of the first line");
    assert_eq!((&event["correlation_id"], &event["causation_id"]), (&json!("all"), &json!("first")));
    let commands = &host.status()["api"]["commands"];
    let counts = ["accepted", "malformed", "conflict", "id_reused", "refused"].map(|outcome| &commands[outcome]);
    assert_eq!(counts, [&json!(3), &json!(1), &json!(1), &json!(1), &json!(4)], "{commands}");

    // By the command line, too, with the numbers of the file's lines.
    setting.write("commands.ndjson", lines.join("\n"));
    let (code, out, error) = setting.told(&["send", "--lines", "commands.ndjson", "--data", "data"]);
    assert_eq!((code, out.lines().count()), (Some(1), 10), "{out}{error}");
    assert!(error.contains("8 of 10 commands were not accepted"), "{error}");
    let many: String = (0..2_300).map(|number| line(&format!("m{number}"), json!({})) + "\n").collect();
    setting.write("commands.ndjson", many);
    let (code, out, error) = setting.told(&["send", "--lines", "commands.ndjson", "--data", "data", "--json"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    let numbers: Vec<_> = out.lines().map(|line| parse(line)["line"].as_u64()).collect();
    assert_eq!(numbers, (1..=2_300).map(Some).collect::<Vec<_>>());
    host.stop();
}

#[test]
fn commands_of_one_aggregate_are_decided_in_the_order_of_their_lines() {
    // The queue has room for one command, and an aggregate for one that waits: both are full all the time.
    for limits in ["", "queue_max = 1\nin_flight_max = 4\nshards = 2\n"] {
        let setting = Setting::new(&format!("{CART}{limits}"));
        let host = setting.start();
        let count = if limits.is_empty() { 3_000 } else { 200 };
        let lines: String = (0..count)
            .flat_map(|version| ["a", "b", "c"].map(|cart| add(cart, &format!(",\"expected_version\":{version}"))))
            .collect();
        let answers = answers(&host, &lines);
        let versions: Vec<_> = answers.iter().map(|answer| answer["version"].as_u64()).collect();
        let expected: Vec<_> = (1..=count).flat_map(|version| [Some(version); 3]).collect();
        assert!(versions == expected, "{limits}: {:?}", answers.iter().find(|answer| answer["status"] != 200));

        // Several senders fill the queues for each other. All wait for room.
        let before = accepted(&host);
        let lines: String = (0..100).map(|_| add("hot", "")).collect();
        thread::scope(|scope| {
            let senders: Vec<_> = (0..4).map(|_| scope.spawn(|| self::answers(&host, &lines))).collect();
            for sender in senders {
                let answers = sender.join().expect("no panic");
                assert!(answers.iter().all(|answer| answer["status"] == 200), "{limits}: {answers:?}");
            }
        });
        assert_eq!(accepted(&host) - before, 400);
        host.stop();
    }
}

#[test]
fn body_and_answers_stream_at_the_same_time() {
    let setting = Setting::new(CART);
    let host = setting.start();
    let mut exchange = begin(&host, CHUNKED);
    assert_eq!(exchange.head().0, 200, "the answer begins before the body");
    for number in 1..=3 {
        let line = add("1", "");
        let (begin, end) = line.split_at(20);
        exchange.write_chunk(begin.as_bytes());
        exchange.write_chunk(end.as_bytes());
        let answer = parse(&exchange.line().expect("an answer"));
        assert_eq!((&answer["line"], &answer["version"]), (&json!(number), &json!(number)));
    }
    // The last line needs no line break.
    exchange.write_chunk(add("1", "").trim_end().as_bytes());
    exchange.write_chunk(b"");
    assert_eq!(exchange.lines().len(), 1);
    assert!(exchange.is_complete());

    // A client that waits for `100 Continue` gets it.
    let mut exchange = begin(&host, &format!("{CHUNKED}Expect: 100-continue\r\n"));
    assert_eq!(exchange.head().0, 100);
    exchange.write_chunk(add("1", "").as_bytes());
    assert_eq!(exchange.head().0, 200);
    assert_eq!(parse(&exchange.line().expect("an answer"))["version"], 5);

    // Who sends everything first, and reads then, gets all of it if it is not too much.
    let lines: String = (0..10_000).map(|number| add(&(number % 100).to_string(), "")).collect();
    let answers = answers(&host, &lines);
    assert!(answers.len() == 10_000 && answers.iter().all(|answer| answer["status"] == 200));
    host.stop();
}

#[test]
fn a_line_may_be_as_long_as_a_body_and_a_batch_much_longer() {
    let setting = Setting::new(&format!("[api]\nbody_mib = 1\n{CART}"));
    let host = setting.start();
    let of_length = |cart: &str, length: usize| {
        let line = add(cart, "");
        // Spaces between two members.
        let (begin, end) = line.trim_end().split_at(1);
        format!("{begin}{}{end}\n", " ".repeat(length - begin.len() - end.len()))
    };
    let lines: Vec<String> = (0..6).map(|number| of_length("1", (1 << 20) + number % 2)).collect();
    let answers = answers(&host, &(lines.concat() + &add("1", "")));
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64().expect("a status")).collect();
    assert_eq!(statuses, [200, 413, 200, 413, 200, 413, 200]);
    assert!(answers[1]["detail"].as_str().is_some_and(|text| text.contains("api.body_mib")), "{:?}", answers[1]);
    host.stop();
}

#[test]
fn what_was_read_is_decided_although_the_client_is_gone() {
    let setting = Setting::new(CART);
    let host = setting.start();
    let mut exchange = begin(&host, CHUNKED);
    let lines: String = (0..500).map(|number| add(&(number % 7).to_string(), "")).collect();
    exchange.write_chunk((lines + add("half", "").split_at(30).0).as_bytes());
    // All of it has arrived when the first answers have.
    assert_eq!(exchange.head().0, 200);
    assert!(exchange.line().is_some());
    drop(exchange);
    host.until("all lines are decided", |status| status["api"]["commands"]["accepted"] == 500);
    host.until("nobody is connected but this test", |status| status["api"]["connections"] == 1);
    assert_eq!(host.status()["store"]["position"], 500);
    assert_eq!(host.status()["api"]["commands"]["refused"], 0, "half a line is none");
    host.stop();
}

#[test]
fn who_reads_no_answers_is_not_read_either_and_who_sends_nothing_is_told() {
    let setting = Setting::new(&format!("[api]\nstall_seconds = 2\nidle_seconds = 1\n{CART}"));
    let host = setting.start();
    let mut silent = begin(&host, CHUNKED);
    silent.write_chunk((add("1", "") + "\n{\"type\":").as_bytes());
    assert_eq!(silent.head().0, 200);
    let told: Vec<Value> = silent.lines().iter().map(|line| parse(line)).collect();
    let shown: Vec<_> = told.iter().map(|answer| (answer["line"].as_u64(), answer["status"].as_u64())).collect();
    assert_eq!(shown, [(Some(1), Some(200)), (Some(3), Some(408))], "{told:?}");
    assert!(told[1].to_string().contains("api.idle_seconds"), "{told:?}");

    let before = host.memory_peak_kib();
    let stuck = begin(&host, "Content-Length: 1000000000\r\n");
    let mut writer = stuck.writer();
    let line = add("1", "").repeat(100);
    // It ends when the host closes the connection, which it does because it can't send its answers.
    let sent = (0..).take_while(|_| writer.write_all(line.as_bytes()).is_ok()).count() * 100;
    host.until("the connection is closed", |status| status["api"]["stalled"] == 1);
    let taken = host.until("what was taken is decided", |status| {
        let accepted = status["api"]["commands"]["accepted"].as_u64();
        accepted == status["store"]["position"].as_u64() && status["api"]["connections"] == 1
    });
    let taken = taken["store"]["position"].as_u64().expect("a position") as usize;
    assert!(taken > 20_000 && taken < sent.min(400_000), "{taken} of {sent} lines were taken");
    if let (Some(before), Some(after)) = (before, host.memory_peak_kib()) {
        assert!(after < before + (64 << 10), "{before} KiB, then {after} KiB");
    }
    host.stop();
}

#[test]
fn batches_have_a_number_and_end_with_the_host() {
    let setting = Setting::new(CART);
    let host = setting.start();
    let mut open: Vec<Exchange> = (0..64).map(|_| begin(&host, CHUNKED)).collect();
    assert!(open.iter_mut().all(|exchange| exchange.head().0 == 200));
    let mut refused = Exchange::post(&host.address(), "/v1/commands", b"");
    assert_eq!(refused.head().0, 503);
    drop(refused);
    open.truncate(1);
    let until_free = || {
        let mut exchange = Exchange::post(&host.address(), "/v1/commands", b"");
        exchange.head().0 == 200
    };
    host.until("there is room again", |_| until_free());
    let wrong = host.post("/v1/commands?wait=flow", &Value::Null, &[]);
    assert_eq!(wrong.status, 400, "{wrong:?}");

    let mut last = open.remove(0);
    last.write_chunk((add("1", "") + "{").as_bytes());
    assert_eq!(parse(&last.line().expect("an answer"))["status"], 200);
    host.terminate();
    let told: Vec<Value> = last.lines().iter().map(|line| parse(line)).collect();
    assert_eq!((told.len(), &told[0]["line"], &told[0]["status"]), (1, &json!(2), &json!(503)), "{told:?}");
    assert!(last.is_complete() && told[0].to_string().contains("the host is stopping"), "{told:?}");
    drop(last);
    assert_eq!(host.ended(), Some(0));
}

#[test]
fn each_line_is_answered_once_although_the_host_stops() {
    for is_whole in [false, true] {
        let setting = Setting::new(CART);
        let host = setting.start();
        let lines: String = (0..3_000).map(|number| add(&(number % 10).to_string(), "")).collect();
        let mut exchange = match is_whole {
            true => Exchange::post(&host.address(), "/v1/commands", lines.as_bytes()),
            false => begin(&host, CHUNKED),
        };
        if !is_whole {
            exchange.write_chunk(lines.as_bytes());
        }
        assert_eq!(exchange.head().0, 200);
        let mut answers = vec![parse(&exchange.line().expect("an answer"))];
        host.terminate();
        answers.extend(exchange.lines().iter().map(|line| parse(line)));
        assert!(exchange.is_complete());
        let numbers: Vec<_> = answers.iter().filter_map(|answer| answer["line"].as_u64()).collect();
        assert_eq!(numbers, (1..=answers.len() as u64).collect::<Vec<_>>(), "{:?}", answers.last());
        let refused = |answer: &Value| answer["type"] == "urn:problem-type:wasmill:host-stopping";
        let count = answers.iter().filter(|answer| refused(answer)).count();
        // Half a body has more lines to come, so one line is refused in any case, and it is the last.
        assert_eq!(count, usize::from(!is_whole || answers.len() - count < 3_000), "{:?}", answers.last());
        assert!(count == 0 || answers.last().is_some_and(refused), "{:?}", answers.last());
        assert!(answers.len() <= 3_000 + usize::from(!is_whole));
        drop(exchange);
        assert_eq!(host.ended(), Some(0));
    }
}

#[test]
fn batches_of_long_lines_share_the_room_of_all_bodies() {
    let setting = Setting::new(&format!("[api]\nbody_mib = 1\nin_flight_mib = 1\n{CART}"));
    let host = setting.start();
    let line = |cart: usize| {
        let line = add(&cart.to_string(), "");
        let (begin, end) = line.trim_end().split_at(1);
        format!("{begin}{}{end}\n", " ".repeat((1 << 20) - line.len() + 1))
    };
    // Eight lines that have begun do not find room at the same time. All of them are completed nevertheless.
    thread::scope(|scope| {
        let senders: Vec<_> = (0..8)
            .map(|cart| (&host, line(cart)))
            .map(|(host, line)| scope.spawn(move || answers(host, &line.repeat(3))))
            .collect();
        for sender in senders {
            let answers = sender.join().expect("no panic");
            assert!(answers.len() == 3 && answers.iter().all(|answer| answer["status"] == 200), "{answers:?}");
        }
    });
    // All of the room was given back.
    let payload = r#"{"items":[{"product_id":"1","quantity":1,"amount_cents":5}]}"#;
    let payload = format!("{payload}{}", " ".repeat((1 << 20) - payload.len()));
    let mut single = Exchange::post(&host.address(), "/v1/commands/cart/single/AddItems", payload.as_bytes());
    assert_eq!(single.head().0, 200);
    drop(single);
    host.stop();
}

#[test]
fn a_client_that_waits_for_an_answer_is_not_silent() {
    let setting = Setting::new(&format!("[api]\nidle_seconds = 1\n{MISBEHAVING}"));
    let host = setting.start();
    let mut exchange = begin(&host, CHUNKED);
    exchange.write_chunk(b"{\"type\":\"misbehaving\",\"aggregate_id\":\"1\",\"name\":\"Loop\"}\n");
    assert_eq!(exchange.head().0, 200);
    // The command takes longer than the client may be silent. The time begins when nothing but the client is waited for.
    let answer = parse(&exchange.line().expect("an answer"));
    assert_eq!((&answer["line"], &answer["outcome"]), (&json!(1), &json!("failed")), "{answer}");
    exchange.write_chunk(b"{\"type\":\"misbehaving\",\"aggregate_id\":\"2\",\"name\":\"Tell\"}\n");
    let answer = parse(&exchange.line().expect("an answer"));
    assert_eq!((&answer["line"], &answer["outcome"]), (&json!(2), &json!("rejected")), "{answer}");
    let told = parse(&exchange.line().expect("an answer"));
    assert_eq!((&told["line"], &told["status"]), (&json!(3), &json!(408)), "{told}");
    assert!(exchange.line().is_none() && exchange.is_complete());
    host.stop();
}
