//! Bytes at the API's port that none of our clients sends. Each line of the table has a request and the answer. After
//! each of them the host serves as before.

use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::{ORDERS, Setting};

const WAIT: Duration = Duration::from_secs(60);

/// Sends bytes and returns all that comes back. An answer may be cut by a reset, when the host closes a connection that it has
/// not read to the end. A client that ends its side takes its request back if it is not answered yet.
fn exchange(host: &TestHost, bytes: &[u8], ends: bool) -> String {
    let mut stream = TcpStream::connect(host.address()).expect("connect");
    stream.set_read_timeout(Some(WAIT)).expect("set a limit");
    // The host may have answered and closed before it has all.
    let sent = stream.write_all(bytes);
    if ends {
        _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer and no end: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(line: &str, more: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

/// What is no HTTP, or not whole: the connection ends, with 400 or without a word, and never with a success.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let mut flood = b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    (0..5_000).for_each(|n| flood.extend(format!("x-{n}: {n}\r\n").as_bytes()));
    let long = |bytes: usize| request(&format!("GET /{}", "a".repeat(bytes)), "");
    vec![
        ("nothing", Vec::new()),
        ("zeros", vec![0; 10_000]),
        ("every byte", (0..=255).cycle().take(5_000).collect()),
        ("a TLS client", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("an HTTP/2 client", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a Kafka client", b"\0\0\0\x16\0\x03\0\x04\0\0\0\x01\0\x07wasmill\xff\xff\xff\xff\0".to_vec()),
        ("a head without an end", b"GET /v1/live HTTP/1.1\r\nHost: local".to_vec()),
        ("a version that is none", b"GET /v1/live HTTP/9.9\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a header with NUL", request("GET /v1/live", "x: a\0b\r\n")),
        ("headers without end", flood),
        ("a path of a mebibyte", long(1 << 20)),
        ("two lengths", request("POST /v1/commands/order/1/CreateOrder", "Content-Length: 1\r\nContent-Length: 2\r\n")),
        ("a negative length", request("POST /v1/commands/order/1/CreateOrder", "Content-Length: -1\r\n")),
        ("a length and chunks", {
            let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n";
            request("POST /v1/commands/order/1/CreateOrder", both)
        }),
        ("a chunk that is too long", {
            let mut bytes = request("POST /v1/commands/order/1/CreateOrder", "Transfer-Encoding: chunked\r\n");
            bytes.extend(b"ffffffffffffffffff\r\n{}");
            bytes
        }),
        ("half a body", {
            let mut bytes = request("POST /v1/commands/order/1/CreateOrder", "Content-Length: 100\r\n");
            bytes.extend(b"{\"items\":");
            bytes
        }),
    ]
}

/// What is HTTP and no good: the status, and a word of the answer.
const REFUSED: [(&str, &str, &str, &str); 32] = [
    ("GET /", "", "404", "nothing is at /"),
    ("GET /../../etc/passwd", "", "404", "nothing is at"),
    ("GET /v1/%2e%2e/%2e%2e/etc", "", "404", "nothing is at"),
    ("GET /v1/live%00", "", "404", "nothing is at"),
    ("GET /v1/streams/order/%FF", "", "400", "is not UTF-8"),
    ("GET /v1/streams/order/%25", "", "404", "no stream"),
    ("GET /v1/streams/order/%", "", "400", "a percent sign at byte 18"),
    ("POST /v1/commands/order/%zz/CreateOrder", "", "400", "a percent sign at byte 19"),
    ("GET /v1/live", "Host: localhost\r\n", "400", "more than one header host"),
    ("GET /v1/live", "Origin: http://localhost\r\nOrigin: http://localhost\r\n", "400", "more than one header origin"),
    (
        "POST /v1/commands/order/1/CreateOrder",
        "idempotency-key: a\r\nidempotency-key: b\r\n",
        "400",
        "more than one header idempotency-key",
    ),
    ("DELETE /v1/events", "", "405", "wrong method"),
    ("BREW /v1/live", "", "405", "wrong method"),
    ("TRACE /v1/live", "", "405", "wrong method"),
    ("GET /v1/commands/order/1/CreateOrder", "", "405", "wrong method"),
    ("POST /v1/commands/order/1", "", "404", "nothing is at"),
    ("POST /v1/commands/order/1/CreateOrder/", "", "404", "nothing is at"),
    ("POST /v1/commands/order/1/CreateOrder", "idempotency-key: \r\n", "400", "idempotency-key must be 1 to 256"),
    ("POST /v1/commands/order/1/CreateOrder", "idempotency-key: \u{e9}\r\n", "400", "printable ASCII"),
    ("POST /v1/commands/order/1/CreateOrder", "x-expected-version: -1\r\n", "400", "x-expected-version must be"),
    ("POST /v1/plugins/nosuch/reload", "", "404", "no plugin is named nosuch; this host has orders"),
    ("POST /v1/store/backup", "", "400", "the body must be JSON such as {\\\"file\\\":"),
    ("GET /v1/events?from=-1", "", "400", "from: must be a whole number"),
    ("GET /v1/events?from=99999999999999999999", "", "400", "from: is too large a number"),
    ("GET /v1/events?form=1", "", "400", "there is no parameter `form`; there are `from`"),
    ("GET /v1/events?from=1&from=2", "", "400", "there must be only one `from`"),
    ("GET /v1/events?type=**.**.%0A", "", "400", "pattern"),
    ("GET /v1/events?type=", "", "400", "empty segment"),
    ("GET /v1/sources/x/wait", "", "400", "the request needs the parameter `handled`"),
    ("GET /v1/dead-letters/first", "", "400", "a whole number where it has \\\"first\\\""),
    ("POST /v1/dead-letters/18446744073709551615/discard", "", "404", "there is no dead letter"),
    ("GET /v1/ready?stalled_ms=99999999999", "", "400", "must be at most"),
];

#[test]
fn no_bytes_at_the_port_do_harm() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    for (what, bytes) in broken() {
        let answer = exchange(&host, &bytes, true);
        let is_refused = answer.is_empty()
            || ["400", "408", "414", "431", "505"].iter().any(|code| answer.starts_with(&format!("HTTP/1.1 {code}")));
        assert!(is_refused, "{what}: {answer}");
        assert_eq!(host.get("/v1/live").status, 200, "{what}");
    }
    for (line, more, status, expected) in REFUSED {
        let answer = exchange(&host, &request(line, more), false);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} {more}: {answer}");
        assert!(answer.contains(expected) && answer.contains("\"detail\":\""), "{line} {more}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{line} {more}: {answer}");
        assert!(!answer.to_lowercase().contains("deserialize"), "the framework's words: {answer}");
    }
    for header in ["Host: evil.example\r\n", "Host: localhost\r\nOrigin: https://evil.example\r\n", ""] {
        let answer =
            exchange(&host, format!("GET /v1/status HTTP/1.1\r\n{header}Connection: close\r\n\r\n").as_bytes(), false);
        assert!(
            answer.starts_with("HTTP/1.1 403") || (header.is_empty() && answer.starts_with("HTTP/1.1 400")),
            "{answer}"
        );
    }
    // None of it left anything.
    let status = host.status();
    assert_eq!((&status["store"]["position"], &status["dead_letters"]["total"]), (&json!(0), &json!(0)), "{status:#}");
    assert_eq!(status["commands"], json!([]), "{status:#}");
    assert!(!host.log().contains("panicked"), "{}", host.log());
    // A plugin that the manifest has since the start is named as that.
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    setting.write("wasmill.toml", manifest + "[plugins.cart]\nfile = \"cart.wasm\"\n");
    let reload = host.post("/v1/plugins/cart/reload", &json!(null), &[]);
    assert_eq!(reload.status, 404, "{reload:?}");
    assert!(
        reload.body["detail"].as_str().is_some_and(|text| text.contains("`wasmill reload` takes it in")),
        "{reload:?}"
    );
    host.stop();
}
