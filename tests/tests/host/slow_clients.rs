//! Clients that connect and do nothing, or ask and do not read. They lose their connection, and nobody else does.

use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

/// How long an answer may take before the test has failed.
const WAIT: Duration = Duration::from_secs(60);

const CART: &str = "[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n";

fn connect(host: &TestHost) -> TcpStream {
    let stream = TcpStream::connect(host.address()).expect("connect");
    stream.set_read_timeout(Some(WAIT)).expect("set a limit");
    stream
}

fn ask(host: &TestHost, request: &str) -> TcpStream {
    let mut stream = connect(host);
    stream.write_all(request.as_bytes()).expect("ask");
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// Everything until the host closes the connection. One that it closed with bytes of ours unread ends with a reset.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is still open: {error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The status line of an answer.
fn status(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 12];
    stream.read_exact(&mut bytes).expect("an answer");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn who_does_nothing_is_closed_and_probes_have_room_of_their_own() {
    let setting = Setting::new(&format!("[api]\nconnections_max = 4\nidle_seconds = 1\n{CART}"));
    let host = setting.start();
    // Nothing at all, half a head, a head that promises a body, and an answered request that is followed by nothing.
    let mut answered = ask(&host, &get("/v1/live"));
    assert_eq!(status(&mut answered), "HTTP/1.1 200");
    let half_body = "POST /v1/commands/cart/1/AddItems HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
    let idle = [connect(&host), ask(&host, "GET /v1/li"), answered, ask(&host, half_body)].map(rest);
    assert!(idle[3].starts_with("HTTP/1.1 408") && idle[3].contains("api.idle_seconds"), "{idle:?}");
    let api = host.until("they are counted", |status| status["api"]["idle"].as_u64() >= Some(3))["api"].clone();
    assert_eq!(api["commands"]["refused"], 1, "{api}");

    // All room is taken by heads that are under way: probes are answered, others are told, and later there is room.
    let setting = Setting::new(&format!("[api]\nconnections_max = 4\n{CART}"));
    let host = setting.start();
    let mut waiting: Vec<TcpStream> = (0..4).map(|_| ask(&host, "GET /v1/li")).collect();
    for path in ["/v1/live", "/v1/ready", "/metrics"] {
        // The four may still be on their way: then there is room, and the answer is the same.
        let text = rest(ask(&host, &get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")));
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
    }
    let refused = rest(ask(&host, &get("/v1/status")));
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("api.connections_max"), "{refused}");
    host.until_logged("that tells that there is no room", |line| line.contains("api.connections_max"));
    waiting.remove(0);
    let status = host.until_answered("/v1/status", |answer| answer.status == 200).body;
    assert!(status["api"]["turned_away"].as_u64() >= Some(1), "{status}");
    host.stop();
}

#[test]
fn a_reader_that_stalls_loses_its_stream_and_small_reads_need_none() {
    let setting = Setting::new(&format!("[api]\nstreams_max = 2\nstall_seconds = 1\n{CART}"));
    let host = setting.start();
    let item = json!({ "product_id": "x".repeat(200_000), "quantity": 1, "amount_cents": 5 });
    for number in 0..80 {
        let answer = host.send("cart", &number.to_string(), "AddItems", &json!({ "items": [item] }));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // More than the buffers of both ends hold: each waits for its reader, which never reads.
    let stalled: Vec<TcpStream> = (0..2).map(|_| ask(&host, &get("/v1/events?follow=true"))).collect();
    host.until("both stream", |status| status["api"]["streams"] == 2);
    let refused = host.get("/v1/events?follow=true");
    assert_eq!(refused.status, 503, "{:?}", refused.status);
    for position in [1, 80] {
        let one = host.get(&format!("/v1/events?from={position}&limit=1"));
        assert_eq!((one.status, &one.body["position"]), (200, &json!(position)));
    }
    let api = host.until("they are dropped", |status| status["api"]["stalled"] == 2)["api"].clone();
    assert_eq!(api["turned_away"], 1, "{api}");
    host.until("their places are free", |status| status["api"]["streams"] == 0);
    host.until_logged("that tells of them", |line| line.contains("read nothing for 1s"));
    let all = rest(ask(&host, &get("/v1/events").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")));
    assert_eq!(all.matches("{\"position\":").count(), 80, "a reader that reads gets all");
    drop(stalled);
    host.stop();
}

#[test]
fn malformed_commands_are_counted_and_their_lines_are_summed_up() {
    let setting = Setting::new(CART);
    let host = setting.start();
    for number in 0..200 {
        let malformed = host.send("cart", &number.to_string(), "Explode", &Value::Null);
        assert_eq!(malformed.status, 400, "{malformed:?}");
        let refused = host.send("nobody", &number.to_string(), "AddItems", &Value::Null);
        assert_eq!(refused.status, 404, "{refused:?}");
    }
    let shown = String::from_utf8(setting.wasmill(&["status", "--data", "data"]).stdout).expect("text");
    assert!(shown.contains("commands malformed") && shown.contains("commands refused"), "{shown}");
    let commands = &host.status()["api"]["commands"];
    assert_eq!((&commands["malformed"], &commands["refused"]), (&json!(200), &json!(200)));
    host.text_until("/metrics", |text| {
        text.contains("wasmill_api_commands_total{outcome=\"malformed\"} 200")
            && text.contains("wasmill_api_commands_total{outcome=\"refused\"} 200")
    });
    let log = host.log();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    // The first of an interval each; a slow machine may see two or three intervals.
    assert!((1..150).contains(&lines("is malformed")) && (1..150).contains(&lines("is not a valid command")), "{log}");
    let data = setting.path("data/host.log");
    host.stop();
    let log = std::fs::read_to_string(data).expect("the log");
    assert!(log.contains("more lines within 10 s like"), "{log}");
}

#[test]
fn a_thousand_silent_connections_keep_nobody_out() {
    let setting = Setting::new(&format!("[api]\nconnections_max = 100\n{CART}"));
    let host = setting.start();
    assert_eq!(host.get("/v1/status").status, 200);
    let before = host.memory_peak_kib();
    let silent: Vec<TcpStream> = (0..1_000).map(|_| connect(&host)).collect();
    for number in 0..20 {
        for path in ["/v1/live", "/v1/ready", "/metrics"] {
            let text = rest(ask(&host, &get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")));
            assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
        }
        let item = json!({ "product_id": "x", "quantity": 1, "amount_cents": 5 });
        let answer = host.send("cart", &number.to_string(), "AddItems", &json!({ "items": [item] }));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let api = host.until("most of them made room", |status| status["api"]["idle"].as_u64() >= Some(800))["api"].clone();
    assert!(api["connections"].as_u64() <= Some(116), "{api}");
    if let (Some(before), Some(after)) = (before, host.memory_peak_kib()) {
        assert!(after < before + (64 << 10), "{before} KiB before, {after} KiB after");
    }
    drop(silent);
    host.stop();
}
