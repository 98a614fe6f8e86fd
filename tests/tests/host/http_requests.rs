//! HTTP requests of plugins: granted by the manifest, sent once as far as the server can tell, answered, and harmless.

use fastrand::Rng;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::server::{Came, Reply, Server};
use wasmill_tests::setting::Setting;

/// The manifest of the plugin that sends requests, with more keys of its endpoint.
fn manifest(url: &str, endpoint: &str) -> String {
    format!(
        "[plugins.dialer]\nfile = {:?}\nshards = 1\n[plugins.dialer.http.server]\nurl = \"{url}\"\n\
         networks = [\"127.0.0.0/8\"]\nbackoff_ms = 1\n{endpoint}\n",
        built::plugin("dialer")
    )
}

fn dial(host: &TestHost, id: &str, requests: &Value) {
    let answer = host.send("call", id, "Dial", &json!({ "requests": requests }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Returns what the plugin heard for a call.
fn heard(host: &TestHost, id: &str) -> Vec<String> {
    let of_call = host.events("call.Heard").into_iter().filter(|event| event["aggregate_id"] == id);
    of_call.map(|event| event["payload"]["text"].as_str().expect("a text").to_owned()).collect()
}

fn until_heard(host: &TestHost, id: &str, expected: &[&str]) {
    host.until(&format!("{expected:?} is heard"), |_| heard(host, id).len() >= expected.len());
    assert_eq!(heard(host, id), expected);
}

fn endpoint(status: &Value) -> &Value {
    &status["endpoints"][0]
}

fn newest_dead_letter(host: &TestHost) -> Value {
    host.status()["dead_letters"]["newest"][0].clone()
}

#[test]
fn a_request_is_sent_as_the_plugin_says_and_its_answer_comes_back_once() {
    let server = Server::start(|came, _| match came.path.as_str() {
        "/v1/charges/7?expand=fees" => Reply::status(201, &[("X-Kind", "new")], "made"),
        "/v1/none" => Reply::status(404, &[], "no such thing"),
        "/v1/moved" => Reply::status(307, &[("location", "/v1/charges/7?expand=fees")], ""),
        _ => Reply::status(200, &[], ""),
    });
    let setting = Setting::new(&manifest(
        &format!("{}/v1", server.url()),
        "[plugins.dialer.http.server.secrets]\napi_key = { file = \"key\" }\n",
    ));
    setting.write("key", "hush\n");
    let host = setting.start();
    let headers = json!({ "authorization": "Bearer {{api_key}}", "x-own": "1" });
    dial(
        &host,
        "a",
        &json!([
            { "path": "charges/7?expand=fees", "body": "{\"cents\":5}", "headers": headers, "ask": "one" },
            { "method": "GET", "path": "/none", "ask": "two" },
            { "method": "PUT", "path": "moved", "body": "again", "ask": "three" },
            { "method": "DELETE", "path": "charges", "ask": null },
        ]),
    );
    until_heard(
        &host,
        "a",
        &["one after 1: 201 new made", "two after 1: 404  no such thing", "three after 1: 201 new made"],
    );
    host.drained();
    let came = server.came();
    let lines: Vec<String> = came.iter().map(|came| format!("{} {} {}", came.method, came.path, came.body)).collect();
    let expected = [
        "POST /v1/charges/7?expand=fees {\"cents\":5}",
        "GET /v1/none ",
        "PUT /v1/moved again",
        "PUT /v1/charges/7?expand=fees again",
        "DELETE /v1/charges ",
    ];
    assert_eq!(lines, expected, "in the order of the calls, because their key is the same");
    assert_eq!((came[0].header("authorization"), came[0].header("x-own")), ("Bearer hush", "1"));
    assert!(came.iter().all(|came| came.header("wasmill-attempt") == "1"), "{came:?}");
    let keys: BTreeSet<&str> = came.iter().map(|came| came.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 4, "one for each request: {keys:?}");
    assert!(keys.iter().all(|key| key.len() == 36), "{keys:?}");

    // Nothing in the store, in the API or in the log has the secret.
    let status = host.status();
    let found = endpoint(&status);
    assert_eq!((&found["name"], &found["state"]), (&json!("dialer/server"), &json!("running")), "{found}");
    let counts = ["pending", "in_flight", "attempts", "responses", "failed", "refused", "interrupted"];
    assert_eq!(counts.map(|name| found[name].as_u64().unwrap()), [0, 0, 4, 4, 0, 0, 0], "{found}");
    let metrics = host.text_until("/metrics", |_| true);
    assert!(
        metrics.contains("wasmill_http_requests_total{endpoint=\"dialer/server\",answer=\"response\"} 4"),
        "{metrics}"
    );
    assert!(!host.log().contains("hush") && !metrics.contains("hush"));
    host.stop();
    for file in ["data/events.sqlite", "data/events.sqlite-wal"] {
        let bytes = std::fs::read(setting.path(file)).unwrap_or_default();
        assert!(!bytes.windows(4).any(|window| window == b"hush"), "{file} has the secret");
    }
}

#[test]
fn a_saga_sends_a_request_and_ends_with_its_answer() {
    let server = Server::start(|came, before| match (came.path.as_str(), before) {
        ("/no", _) => Reply::status(409, &[], "taken"),
        (_, 0) => Reply::status(503, &[], ""),
        _ => Reply::status(200, &[], "done"),
    });
    let manifest = manifest(&server.url(), "")
        + &format!(
            "[plugins.dial-process]\nfile = {:?}\n[plugins.dial-process.http.server]\nurl = \"{}\"\n\
             networks = [\"127.0.0.1/32\"]\nbackoff_ms = 1\n",
            built::plugin("dial-process"),
            server.url()
        );
    let setting = Setting::new(&manifest);
    let host = setting.start();
    for (id, path, said) in [("a", "yes", "the saga got status 200"), ("b", "no", "the saga got status 409")] {
        assert_eq!(host.send("call", id, "Arrange", &json!({ "path": path })).status, 200);
        until_heard(&host, id, &[said]);
    }
    host.drained();
    let saga = host.status()["subscriptions"][0]["saga"].clone();
    assert_eq!((&saga["completed"], &saga["compensated"]), (&json!(1), &json!(1)), "{saga}");
    let came = server.came();
    let attempts: Vec<&str> = came.iter().map(|came| came.header("wasmill-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "1"]);
    assert_eq!(came[0].header("idempotency-key"), came[1].header("idempotency-key"));
}

#[test]
fn what_fails_in_a_temporary_way_is_repeated_and_later_requests_of_its_key_wait() {
    let server = Server::start(|came, _| match (came.body.as_str(), came.header("wasmill-attempt")) {
        ("busy", "1") => Reply::status(503, &[], ""),
        ("busy", "2") => Reply::status(429, &[("retry-after", "1")], ""),
        ("busy", "3") => Reply::Bytes(Vec::new()),
        ("hopeless", _) => Reply::status(500, &[], "broken"),
        _ => Reply::status(200, &[], "ok"),
    });
    let setting = Setting::new(&manifest(&server.url(), "attempts_max = 4"));
    let host = setting.start();
    dial(&host, "a", &json!([{ "path": "", "body": "busy", "ask": "1" }, { "path": "", "body": "next", "ask": "2" }]));
    dial(&host, "b", &json!([{ "path": "", "body": "other", "ask": "3" }]));
    until_heard(&host, "b", &["3 after 1: 200  ok"]);
    let waiting = host.get("/v1/requests").body;
    let requests = waiting["requests"].as_array().expect("a list");
    assert_eq!(requests.len(), 2, "{waiting}");
    assert_eq!((&requests[0]["key"], &requests[1]["waits"]["for"]), (&json!("a"), &json!("earlier")), "{waiting}");
    until_heard(&host, "a", &["1 after 4: 200  ok", "2 after 1: 200  ok"]);
    let of_a: Vec<String> =
        server.came().iter().filter(|came| came.body != "other").map(|came| came.body.clone()).collect();
    assert_eq!(of_a, ["busy", "busy", "busy", "busy", "next"]);

    // The last answer comes back, or is dead-lettered if nobody asked for it.
    dial(&host, "c", &json!([{ "path": "", "body": "hopeless", "ask": "4" }, { "path": "", "body": "hopeless" }]));
    until_heard(&host, "c", &["4 after 4: 500  broken"]);
    host.drained();
    let letter = newest_dead_letter(&host);
    assert_eq!(letter["consumer"], "dialer");
    assert_eq!(letter["reason"], "the server answered with status 500 (after 4 attempts)");
    let number = letter["number"].to_string();
    let shown = host.get(&format!("/v1/dead-letters/{number}")).body;
    assert_eq!((&shown["kind"], &shown["content"]["body"]), (&json!("http_request"), &json!("hopeless")), "{shown}");
    let (code, said, _) = setting.told(&["dead-letters", "replay", &number, "--data", "data"]);
    assert_eq!(code, Some(0), "{said}");
    host.drained();
    let came = server.came();
    let newest = came.last().expect("it was sent again");
    let first = came.iter().rfind(|came| came.header("wasmill-attempt") == "4").expect("the fourth attempt");
    assert_eq!(newest.header("wasmill-attempt"), "5", "the attempts are counted on: {newest:?}");
    assert_eq!(newest.header("idempotency-key"), first.header("idempotency-key"));
}

#[test]
fn what_is_not_granted_or_breaks_a_rule_is_refused_with_the_reason() {
    let server = Server::start(|came, _| match came.path.as_str() {
        "/v1/away" => Reply::status(302, &[("location", "http://169.254.169.254/latest/meta-data")], ""),
        "/v1/up" => Reply::status(302, &[("location", "/admin")], ""),
        "/v1/round" => Reply::status(302, &[("location", "/v1/round")], ""),
        _ => Reply::status(200, &[], "ok"),
    });
    let setting = Setting::new(&manifest(&format!("{}/v1", server.url()), ""));
    let host = setting.start();
    let request = |method: &str, path: &str, headers: Value| json!([{ "method": method, "path": path, "headers": headers, "ask": "" }]);
    for (id, request, said) in [
        ("up", request("GET", "../admin", json!({})), "its path has `..`, which could leave what is granted"),
        ("coded", request("GET", "%2e%2e/admin", json!({})), "its path has `..`"),
        ("host", request("GET", "", json!({ "host": "evil" })), "the header host is the host's own"),
        (
            "secret",
            request("GET", "", json!({ "a": "{{key}}" })),
            "there is no `plugins.dialer.http.server.secrets.key`",
        ),
        ("method", request("get", "", json!({})), "is no method"),
        (
            "away",
            request("GET", "away", json!({})),
            "the server's redirect is not followed: it leads to http://169.254.169.254/",
        ),
        ("climb", request("GET", "up", json!({})), "the server's redirect is not followed"),
        ("round", request("GET", "round", json!({})), "redirects more than 5 times"),
    ] {
        dial(&host, id, &request);
        host.until("it is answered", |_| !heard(&host, id).is_empty());
        assert!(heard(&host, id)[0].contains(said), "{id}: {:?}", heard(&host, id));
    }
    let reached: BTreeSet<String> = server.came().iter().map(|came| came.path.clone()).collect();
    assert_eq!(reached.into_iter().collect::<Vec<_>>(), ["/v1/away", "/v1/round", "/v1/up"]);

    // The plugin may not name an endpoint that it does not declare.
    dial(&host, "other", &json!([{ "endpoint": "other", "path": "" }]));
    host.until("it is dead-lettered", |status| status["dead_letters"]["total"] == 1);
    let reason = newest_dead_letter(&host)["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("add it to `ENDPOINTS`")), "{reason}");
}

#[test]
fn a_name_that_leads_to_an_address_of_the_own_network_is_refused() {
    let server = Server::start(|_, _| Reply::status(200, &[], "ok"));
    let url = format!("http://localhost:{}", server.port());
    let private = manifest(&url, "").replace("networks = [\"127.0.0.0/8\"]\n", "");
    let setting = Setting::new(&private);
    let host = setting.start();
    dial(&host, "a", &json!([{ "path": "", "ask": "1" }]));
    host.until("it is answered", |_| !heard(&host, "a").is_empty());
    let said = &heard(&host, "a")[0];
    assert!(said.contains("which is not public") && said.contains("plugins.dialer.http.server.networks"), "{said}");
    host.stop();
    setting.manifest(&manifest(&url, "").replace("127.0.0.0/8\"", "127.0.0.0/8\", \"::1/128\""));
    let host = setting.start();
    dial(&host, "b", &json!([{ "path": "", "ask": "2" }]));
    until_heard(&host, "b", &["2 after 1: 200  ok"]);
    host.stop();
    assert_eq!(server.came().len(), 1, "nothing came without the grant");

    // An address in the URL itself is seen before anything starts.
    let address = private.replace("localhost", "127.0.0.1");
    setting.manifest(&address);
    let (code, _, said) = setting.told(&["check", "wasmill.toml"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("has the address 127.0.0.1, which is not public") && said.contains("\"127.0.0.1/32\""),
        "{said}"
    );
    // So is an endpoint that the plugin declares and nobody grants.
    let cut = address.split("[plugins.dialer.http").next().expect("a plugin");
    setting.manifest(cut);
    let (code, _, said) = setting.told(&["check", "wasmill.toml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("grants plugin dialer no endpoint server: add a section [plugins.dialer.http.server]"),
        "{said}"
    );
}

/// Without room for a dead letter, a request that needs one holds its own key and one place alone, and nobody else's.
#[test]
fn without_room_for_dead_letters_other_requests_go_on() {
    let server = Server::start(|came, _| Reply::status(if came.body == "bad" { 404 } else { 200 }, &[], "ok"));
    let process = format!(
        "[plugins.dial-process]\nfile = {:?}\n[plugins.dial-process.http.server]\nurl = \"{}\"\n\
         networks = [\"127.0.0.1/32\"]\n[store]\ndead_letters_max = 1\n",
        built::plugin("dial-process"),
        server.url()
    );
    let setting = Setting::new(&(manifest(&server.url(), "in_flight_max = 2") + &process));
    let host = setting.start();
    // The first one takes the room. The others find none: one after an attempt, one that is never sent.
    for (id, body, path) in [("a", "bad", ""), ("b", "bad", ""), ("c", "", "../up")] {
        dial(&host, id, &json!([{ "path": path, "body": body }]));
        host.until("it is dead-lettered or waits", |status| {
            status["dead_letters"]["total"] == 1
                && (id == "a" || status["endpoints"].to_string().contains("no room for more"))
        });
    }
    for id in ["d", "e", "f"] {
        dial(&host, id, &json!([{ "path": "", "body": "good", "ask": "1" }]));
        until_heard(&host, id, &["1 after 1: 200  ok"]);
    }
    assert_eq!(host.send("call", "g", "Arrange", &json!({ "path": "" })).status, 200);
    until_heard(&host, "g", &["the saga got status 200"]);
    let status = host.status();
    let of_saga =
        status["endpoints"].as_array().expect("a list").iter().find(|found| found["name"] == "dial-process/server");
    assert_eq!(of_saga.expect("the saga's")["state"], "running", "{status}");
    // With room again, the others follow.
    for total in [2, 1, 0] {
        let number = newest_dead_letter(&host)["number"].to_string();
        assert_eq!(host.post(&format!("/v1/dead-letters/{number}/discard"), &json!({}), &[]).status, 200);
        host.until("the next one has room", |status| {
            status["dead_letters"]["total"] == u64::from(total > 0)
                && host.get("/v1/requests").body["total"] == total.max(1) - 1
        });
    }
    host.drained();
}

/// What no client can send is refused by itself, however large it is.
#[test]
fn a_request_that_is_too_large_for_a_client_is_refused_and_others_go_on() {
    let server = Server::start(|_, _| Reply::status(200, &[], "ok"));
    let setting = Setting::new(&manifest(&server.url(), ""));
    let host = setting.start();
    let many: BTreeMap<String, String> = (0..30_000).map(|number| (format!("x-{number}"), String::new())).collect();
    let large = json!({ "x-large": "x".repeat(100_000) });
    for (id, request, said) in [
        ("many", json!({ "path": "", "headers": many, "ask": "1" }), "it has 30000 headers, and at most 100 are sent"),
        ("large", json!({ "path": "", "headers": large, "ask": "1" }), "its headers have 100007 bytes"),
        ("long", json!({ "path": "x".repeat(100_000), "ask": "1" }), "its path has 100000 bytes"),
    ] {
        dial(&host, id, &json!([request]));
        host.until("it is answered", |_| !heard(&host, id).is_empty());
        assert!(heard(&host, id)[0].contains(said), "{id}: {:?}", heard(&host, id));
    }
    dial(&host, "fine", &json!([{ "path": "", "ask": "1" }]));
    until_heard(&host, "fine", &["1 after 1: 200  ok"]);
    assert_eq!(server.came()[0].header("content-length"), "0", "a POST says that its body is empty");
}

/// A missing secret is seen before the host starts. Later, requests wait for it, and no attempt is counted.
#[test]
fn requests_wait_for_a_secret_that_can_t_be_read() {
    let server = Server::start(|_, _| Reply::status(200, &[], "ok"));
    let secrets = "attempts_max = 1\n[plugins.dialer.http.server.secrets]\nkey = { file = \"key\" }\n";
    let setting = Setting::new(&manifest(&server.url(), secrets));
    for refused in [setting.told(&["check", "wasmill.toml"]), text_of(setting.start_refused())] {
        let (code, _, said) = refused;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the secret `plugins.dialer.http.server.secrets.key` is in the file"), "{said}");
    }
    setting.write("key", "hush");
    let host = setting.start();
    std::fs::remove_file(setting.path("key")).expect("remove the secret");
    dial(&host, "a", &json!([{ "path": "", "headers": { "x-key": "{{key}}" }, "ask": "1" }]));
    let status = host.until("it waits", |status| endpoint(status)["state"] == "retrying");
    assert!(endpoint(&status)["error"].as_str().is_some_and(|error| error.starts_with("the secret")), "{status}");
    assert_eq!((&endpoint(&status)["attempts"], heard(&host, "a").len()), (&json!(0), 0));
    setting.write("key", "hush again");
    until_heard(&host, "a", &["1 after 1: 200  ok"]);
    assert_eq!(server.came()[0].header("x-key"), "hush again");
}

fn text_of(output: std::process::Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Requests to an endpoint that was granted when they were made are refused, not forgotten.
#[test]
fn a_request_whose_grant_is_gone_waits_for_nobody() {
    let server = Server::start(|_, _| Reply::Hangs(Vec::new()));
    let setting = Setting::new(&manifest(&server.url(), ""));
    let host = setting.start();
    dial(&host, "a", &json!([{ "path": "", "ask": "1" }]));
    host.until("it is under way", |status| endpoint(status)["in_flight"] == 1);
    let number = host.get("/v1/requests").body["requests"][0]["number"].clone();
    let refused = host.post(&format!("/v1/requests/{number}/give-up"), &json!({}), &[]);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.body["detail"].as_str().is_some_and(|error| error.contains("under way")), "{refused:?}");
    drop(host);

    // The host was killed in the middle, and now the server can't be reached.
    let gone = manifest("http://127.0.0.1:9", "backoff_ms = 3600000").replace("backoff_ms = 1\n", "");
    setting.manifest(&gone);
    let host = setting.start();
    let status = host.until("the attempt has failed", |status| endpoint(status)["state"] == "retrying");
    assert_eq!(endpoint(&status)["interrupted"], 1, "{status}");
    let (_, listed, _) = setting.told(&["requests", "list", "--data", "data"]);
    assert!(
        listed.contains("POST server/") && listed.contains("attempts that the end of a host interrupted: 1"),
        "{listed}"
    );
    let drained = host.get("/v1/drained?timeout_ms=100").body;
    let waiting = drained["waiting_for"].as_str().expect("it waits");
    assert!(waiting.starts_with("HTTP requests: endpoint dialer/server: "), "{waiting}");
    let (code, said, _) = setting.told(&["requests", "give-up", &number.to_string(), "--data", "data"]);
    assert_eq!((code, said.as_str()), (Some(0), format!("{number}: given up\n").as_str()));
    until_heard(&host, "a", &["1 after 2: failed: a person has given it up"]);
    host.drained();
    host.stop();
    let (_, said, _) = setting.told(&["store", "verify", "data"]);
    assert!(said.ends_with("sound\n"), "{said}");
}

/// Each of these would hold a careless client for ever, or fill its memory.
#[test]
fn a_hostile_server_harms_nobody() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n";
    let hostile = |came: &Came, _| match came.path.trim_start_matches('/') {
        "silent" => Reply::Hangs(Vec::new()),
        "slow-head" => Reply::Drips(HEAD.to_vec()),
        "slow-body" => Reply::Drips([HEAD, b"content-length: 10000000\r\n\r\n"].concat()),
        "endless" => Reply::Floods([HEAD, b"\r\n"].concat()),
        "huge" => Reply::Floods([HEAD, b"content-length: 10737418240\r\n\r\n"].concat()),
        "lies" => Reply::Bytes([HEAD, b"content-length: 100\r\n\r\nshort"].concat()),
        "garbage" => Reply::Bytes(b"\x16\x03\x01 this is no HTTP at all\r\n\r\n".to_vec()),
        "no-status" => Reply::Bytes(b"HTTP/1.1 abc OK\r\n\r\n".to_vec()),
        "chunks" => Reply::Bytes([HEAD, b"transfer-encoding: chunked\r\n\r\nzz\r\n"].concat()),
        "headers" => Reply::Floods([HEAD, b"x-a: "].concat()),
        "many-headers" => Reply::Bytes([HEAD, "x: y\r\n".repeat(100_000).as_bytes(), b"\r\n"].concat()),
        "status-1000" => Reply::status(999, &[], ""),
        "informed" => Reply::Hangs(b"HTTP/1.1 102 Wait\r\n\r\n".repeat(10)),
        _ => Reply::status(200, &[], "ok"),
    };
    let server = Server::start(hostile);
    let keys = "timeout_ms = 500\nresponse_kib = 64\nattempts_max = 2\nin_flight_max = 4\n";
    let setting = Setting::new(&manifest(&server.url(), keys));
    let host = setting.start();
    let paths = [
        "silent",
        "slow-head",
        "slow-body",
        "endless",
        "huge",
        "lies",
        "garbage",
        "no-status",
        "chunks",
        "headers",
        "many-headers",
        "status-1000",
        "informed",
    ];
    for path in paths {
        dial(&host, path, &json!([{ "path": path, "ask": path }, { "path": "fine", "ask": "then" }]));
    }
    for path in paths {
        host.until(&format!("{path} is over"), |_| heard(&host, path).len() == 2);
        let heard = heard(&host, path);
        assert_eq!(heard[1], "then after 1: 200  ok", "{path}");
        let expected = match path {
            "silent" | "slow-head" | "informed" => "after 2: failed: the server did not answer within 500 ms",
            "slow-body" => {
                "after 2: failed: the server answered with status 200, and its body broke off: it did not come in time"
            }
            "endless" | "huge" => {
                "after 1: failed: the server answered with status 200, and its body has more than 64 KiB"
            }
            "lies" | "chunks" => "after 2: failed: the server answered with status 200, and its body broke off: ",
            "status-1000" => "after 1: 999",
            _ => "after 2: failed: ",
        };
        assert!(heard[0].contains(expected), "{path}: {heard:?}");
    }
    host.drained();
    let peak_kib = host.memory_peak_kib();
    assert!(peak_kib.is_none_or(|kib| kib < 400 << 10), "{peak_kib:?} KiB");
}

#[test]
fn requests_keep_to_their_rate_and_to_their_number_at_a_time() {
    let server = Server::start(|_, _| {
        std::thread::park_timeout(Duration::from_millis(20));
        Reply::status(200, &[], "ok")
    });
    let setting = Setting::new(&manifest(&server.url(), "in_flight_max = 2\nper_second = 20\n"));
    let host = setting.start();
    let begun = std::time::Instant::now();
    for number in 0..21 {
        dial(&host, &format!("call-{number}"), &json!([{ "path": "", "ask": "x" }]));
    }
    let most = Cell::new(0);
    host.until("all are answered", |status| {
        most.set(most.get().max(endpoint(status)["in_flight"].as_u64().unwrap_or_default()));
        endpoint(status)["responses"] == 21
    });
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "20 intervals of 50 ms, less a burst: {:?}",
        begun.elapsed()
    );
    assert!(most.get() <= 2, "{most:?} at the same time");
}

/// However often the host is killed, the server sees each request under one key, and the plugin hears of each once.
#[test]
fn each_request_takes_effect_once_at_its_server_through_kills() {
    const KILLS: u32 = 50;
    const CALLS: u32 = 400;
    let server = Server::start(|_, before| {
        std::thread::park_timeout(Duration::from_millis(5));
        if before % 7 == 3 { Reply::status(503, &[], "") } else { Reply::status(200, &[], "ok") }
    });
    let setting = Setting::new(&manifest(&server.url(), "in_flight_max = 8\nattempts_max = 1000\n"));
    let (mut rng, mut sent) = (Rng::with_seed(16), 0);
    let host = setting.start();
    for _ in 0..KILLS {
        for _ in 0..CALLS / KILLS {
            let ask = json!([{ "path": "effects", "body": format!("effect {sent}"), "ask": "x" }]);
            dial(&host, &format!("call-{}", sent % 100), &ask);
            sent += 1;
        }
        std::thread::park_timeout(Duration::from_millis(rng.u64(0..60)));
        host.crash();
    }
    host.drained();
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut attempts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for came in server.came() {
        keys.entry(came.body.clone()).or_default().insert(came.header("idempotency-key").to_owned());
        attempts.entry(came.body.clone()).or_default().push(came.header("wasmill-attempt").parse().expect("a number"));
    }
    assert_eq!(keys.len() as u32, CALLS, "each request came");
    assert!(keys.values().all(|keys| keys.len() == 1), "each has one key");
    let distinct: BTreeSet<&String> = keys.values().flatten().collect();
    assert_eq!(distinct.len() as u32, CALLS, "no key is that of two requests");
    let increase = |attempts: &Vec<u32>| attempts.is_sorted_by(|one, next| one < next);
    assert!(attempts.values().all(increase), "no attempt has the number of an earlier one");
    let of_calls = host.events("call.Heard");
    assert_eq!(of_calls.len() as u32, CALLS, "each answer was heard once");
    assert!(of_calls.iter().all(|event| event["payload"]["text"].as_str().is_some_and(|text| text.contains("200"))));
    assert_eq!(host.get("/v1/requests").body["total"], 0);
    host.stop();
    let (_, said, _) = setting.told(&["store", "verify", "data"]);
    assert!(said.ends_with("sound\n"), "{said}");
}
