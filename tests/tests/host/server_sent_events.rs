//! Events as Server-Sent Events: a client that reconnects with the id of its last event gets each event once.

use serde_json::{Value, json};
use wasmill_tests::host::TestHost;
use wasmill_tests::raw::Exchange;
use wasmill_tests::setting::Setting;

const CART: &str = "[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n";
const ACCEPT: &str = "Accept: text/event-stream\r\n";

fn open(host: &TestHost, path: &str, headers: &str) -> Exchange {
    let mut exchange = Exchange::begin(&host.address(), &format!("GET {path}"), &format!("{ACCEPT}{headers}"));
    let (status, headers) = exchange.head();
    assert!(status == 200 && headers.contains("content-type: text/event-stream"), "{status} {headers}");
    assert!(headers.contains("cache-control: no-cache"), "{headers}");
    exchange
}

/// Reads the next event, or the next heartbeat: its id, and its data. `None` at the end.
fn next_or_heartbeat(exchange: &mut Exchange) -> Option<(u64, Option<Value>)> {
    let line = exchange.line()?;
    let id = line.strip_prefix("id: ").and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no id: {line}"));
    let data = exchange.line().expect("data, or the end of a heartbeat");
    if data.is_empty() {
        return Some((id, None));
    }
    let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("no data: {data}"));
    assert_eq!(exchange.line().as_deref(), Some(""), "an empty line ends an event");
    Some((id, Some(serde_json::from_str(data).expect("JSON"))))
}

/// Reads the next event: its id, and its data. `None` at the end.
fn next(exchange: &mut Exchange) -> Option<(u64, Value)> {
    loop {
        if let (id, Some(data)) = next_or_heartbeat(exchange)? {
            return Some((id, data));
        }
    }
}

fn add(host: &TestHost, count: u64) {
    let payload = json!({ "items": [{ "product_id": "1", "quantity": 1, "amount_cents": 5 }] });
    for _ in 0..count {
        assert_eq!(host.send("cart", "1", "AddItems", &payload).status, 200);
    }
}

#[test]
fn a_client_that_reconnects_gets_each_event_once() {
    let setting = Setting::new(&format!("[api]\nstreams_max = 2\n{CART}"));
    let host = setting.start();
    let mut quiet = open(&host, "/v1/events?type=nobody.*", "");
    add(&host, 3);
    let (mut seen, mut last) = (Vec::new(), String::new());
    for round in 0..4 {
        let mut exchange = open(&host, "/v1/events?type=cart.*", &last);
        let refused = host.get("/v1/events?follow=true");
        assert_eq!(refused.status, 503, "it is a stream like others");
        // Some are recorded before, some while it follows; the connection ends in the middle.
        add(&host, 2);
        for _ in 0..if round == 3 { 5 } else { 2 } {
            let (id, data) = next(&mut exchange).expect("an event");
            assert_eq!((&data["position"], &data["type"]), (&json!(id), &json!("cart")));
            last = format!("Last-Event-ID: {id}\r\n");
            seen.push(id);
        }
        drop(exchange);
        host.until("its place is free", |status| status["api"]["streams"] == 1);
    }
    assert_eq!(seen, (1..=11).collect::<Vec<_>>());
    // The larger of both places wins, and a limit ends the stream.
    for (from, id, expected) in [(5, 2, 5), (2, 5, 6), (1, 10, 11)] {
        let path = format!("/v1/events?from={from}&limit=1");
        let mut exchange = open(&host, &path, &format!("Last-Event-ID: {id}\r\n"));
        assert_eq!(next(&mut exchange).map(|(id, _)| id), Some(expected));
        assert!(next(&mut exchange).is_none() && exchange.is_complete());
        host.until("its place is free", |status| status["api"]["streams"] == 1);
    }
    // One that gets no events gets heartbeats with the position that was reached, and ends with the host.
    loop {
        let (reached, data) = next_or_heartbeat(&mut quiet).expect("a heartbeat");
        assert!(data.is_none() && reached <= 11, "{reached} {data:?}");
        if reached == 11 {
            break;
        }
    }
    host.terminate();
    assert!(next(&mut quiet).is_none(), "only heartbeats are left");
    assert!(quiet.is_complete());
    drop(quiet);
    assert_eq!(host.ended(), Some(0));
}

#[test]
fn what_can_not_be_streamed_is_refused() {
    let setting = Setting::new(CART);
    let host = setting.start();
    add(&host, 2);
    for (path, headers, expected, words) in [
        ("/v1/events", "Last-Event-ID: first\r\n", 400, "Last-Event-ID must be one position"),
        ("/v1/events", "Last-Event-ID: -1\r\n", 400, "Last-Event-ID must be one position"),
        // As if the store had been restored from a backup.
        ("/v1/events", "Last-Event-ID: 3\r\n", 409, "the store is older than what the client has"),
        ("/v1/events?from=1", "Last-Event-ID: 18446744073709551615\r\n", 409, "newest event has position 2"),
        ("/v1/events?correlation_id=a", "", 400, "new events are not searched"),
        ("/v1/events?backwards=true", "", 400, "new events are not searched"),
        ("/v1/events?type=a..b", "", 400, "pattern"),
    ] {
        let headers = format!("{ACCEPT}{headers}Connection: close\r\n");
        let mut exchange = Exchange::begin(&host.address(), &format!("GET {path}"), &headers);
        let (status, _) = exchange.head();
        let text = exchange.rest();
        assert!(status == expected && text.contains(words), "{path}: {status} {text}");
    }
    host.stop();
}
