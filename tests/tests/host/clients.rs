//! Clients of the API with tokens: who is let in, what each may do, and what the audit log says.

use serde_json::{Value, json};
use std::fs;
use wasmill_driver::api::Client;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::raw::Exchange;
use wasmill_tests::setting::Setting;
use wasmill_tests::waiting::until;

/// One client for each scope, and one that is limited to some types and projections.
const CLIENTS: [(&str, &str); 6] = [
    ("read", "scopes = ['read']"),
    ("commands", "scopes = ['commands']"),
    ("queries", "scopes = ['queries']"),
    ("operate", "scopes = ['operate']"),
    ("admin", "scopes = ['admin']"),
    ("limited", "scopes = ['read', 'commands', 'queries']\naggregates = ['order']\nprojections = ['members']"),
];

fn token(client: &str) -> String {
    format!("{client}-token-0123456789")
}

fn order() -> Value {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

fn manifest() -> String {
    let clients: String = CLIENTS
        .map(|(name, keys)| format!("[api.clients.{name}]\ntokens = [{{ file = 'tokens/{name}' }}]\n{keys}\n"))
        .concat();
    format!(
        "[plugins.orders]\nfile = 'PLUGINS/orders.wasm'\n[plugins.sales]\nfile = 'PLUGINS/sales.wasm'\n\
         [api]\nname_clients = true\n{clients}"
    )
}

fn setting() -> Setting {
    let setting = Setting::new(&manifest());
    CLIENTS.into_iter().for_each(|(name, _)| setting.write(&format!("tokens/{name}"), token(name)));
    setting
}

fn as_client(token: Option<&str>) -> Client {
    Client::new(std::time::Duration::from_secs(60)).with_token(token)
}

/// Asks a host as a client, with GET or POST.
fn asked(host: &TestHost, token: Option<&str>, method: &str, path: &str) -> Answer {
    let (client, url) = (as_client(token), host.url(path));
    let answer = match method {
        "GET" => client.get(&url),
        _ => client.post(&url, &json!({}), &[]),
    };
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}")).into()
}

/// Requests, each with the scope that it needs.
const REQUESTS: [(&str, &str, &str); 32] = [
    ("GET", "/v1/status", "read"),
    ("GET", "/metrics", "read"),
    ("GET", "/v1/events?limit=1", "read"),
    ("GET", "/v1/drained?timeout_ms=1", "read"),
    ("GET", "/v1/plugins/orders", "read"),
    ("GET", "/v1/plugins/orders/history", "read"),
    ("GET", "/v1/subscriptions", "read"),
    ("GET", "/v1/clock", "read"),
    ("GET", "/v1/timers", "read"),
    ("GET", "/v1/requests", "read"),
    ("GET", "/v1/dead-letters", "read"),
    ("GET", "/v1/dead-letters/1", "read"),
    ("GET", "/v1/streams/order/1", "read"),
    ("GET", "/v1/streams/order/1/events", "read"),
    ("GET", "/v1/streams/order/1/state", "read"),
    ("GET", "/v1/trace/1", "read"),
    ("GET", "/v1/store/stats", "read"),
    ("POST", "/v1/commands/order/1/CreateOrder", "commands"),
    ("POST", "/v1/queries/sales/none", "queries"),
    ("POST", "/v1/subscriptions/none/pause", "operate"),
    ("POST", "/v1/subscriptions/none/reset", "operate"),
    ("POST", "/v1/timers/1/cancel", "operate"),
    ("POST", "/v1/requests/1/give-up", "operate"),
    ("POST", "/v1/projections/none/skip?position=1", "operate"),
    ("POST", "/v1/projections/none/rebuild", "operate"),
    ("POST", "/v1/dead-letters/1/replay", "operate"),
    ("POST", "/v1/dead-letters/discard", "operate"),
    ("POST", "/v1/clock", "admin"),
    ("POST", "/v1/manifest/reload?dry_run=true", "admin"),
    ("POST", "/v1/plugins/none/reload", "admin"),
    ("POST", "/v1/streams/order/none/archive", "admin"),
    ("POST", "/v1/store/backup", "admin"),
];

fn includes(scope: &str, needed: &str) -> bool {
    scope == needed || matches!((scope, needed), ("operate", "read") | ("admin", "read") | ("admin", "operate"))
}

#[test]
fn each_request_needs_its_scope() {
    let setting = setting();
    let host = setting.start().with_token(&token("read"));
    for (method, path, needed) in REQUESTS {
        for (scope, _) in &CLIENTS[..5] {
            let answer = asked(&host, Some(&token(scope)), method, path);
            let is_let_in = !matches!(answer.status, 401 | 403);
            assert_eq!(is_let_in, includes(scope, needed), "{scope}: {method} {path}: {answer:?}");
            if !is_let_in {
                let detail = answer.body.to_string();
                assert!(answer.status == 403 && detail.contains(&format!("lacks the scope `{needed}`")), "{detail}");
            }
        }
        for token in [None, Some("no-such-token-0123456789"), Some("")] {
            let answer = asked(&host, token, method, path);
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        }
    }
    for path in ["/v1/live", "/v1/ready"] {
        assert_eq!(asked(&host, None, "GET", path).status, 200);
    }
    let status = host.status();
    assert!(status["api"]["unauthorized"].as_u64() > Some(100), "{}", status["api"]);
    let log = host.log();
    for (name, _) in CLIENTS {
        assert!(!log.contains(&token(name)) && !status.to_string().contains(&token(name)), "no token is shown");
    }
}

#[test]
fn a_limited_client_is_held_to_its_types_and_projections() {
    let setting = setting();
    let host = setting.start();
    let (limited, commands) = (token("limited"), token("commands"));
    let as_limited = |method: &str, path: &str| asked(&host, Some(&limited), method, path);
    for (method, path, words) in [
        ("POST", "/v1/commands/household/1/RecordPurchase", "may not use the aggregate type `household`"),
        ("GET", "/v1/streams/household/1/events", "may not use the aggregate type `household`"),
        ("POST", "/v1/queries/sales/best_sellers", "may not ask the projection `sales`"),
        ("GET", "/v1/status", "limited to some aggregate types"),
        ("GET", "/v1/trace/1", "limited to some aggregate types"),
        ("GET", "/v1/dead-letters", "limited to some aggregate types"),
        ("GET", "/metrics", "limited to some aggregate types"),
    ] {
        let answer = as_limited(method, path);
        assert!(answer.status == 403 && answer.body.to_string().contains(words), "{method} {path}: {answer:?}");
    }
    assert_eq!(as_limited("POST", "/v1/queries/members/all").status, 404, "there is no such projection");
    for client in [&limited, &commands] {
        let order = order();
        let url = host.url(&format!("/v1/commands/order/{}/CreateOrder", &client[..3]));
        let answer = as_client(Some(client)).post(&url, &order, &[]).expect("an answer");
        assert_ne!(answer.status, 403, "{}", answer.text);
    }
    assert_eq!(as_limited("GET", "/v1/events?limit=10").status, 200);
}

#[test]
fn a_token_is_rotated_while_the_host_runs() {
    let setting = setting();
    let host = setting.start().with_token(&token("read"));
    let is_let_in = |token: &str| asked(&host, Some(token), "GET", "/v1/clock").status == 200;
    assert!(is_let_in(&token("admin")));
    // A second token is added to the manifest, and valid beside the first.
    setting.write("tokens/admin-2", token("newer"));
    let both =
        manifest().replace("[{ file = 'tokens/admin' }]", "[{ file = 'tokens/admin' }, { file = 'tokens/admin-2' }]");
    setting.manifest(&both);
    let answer = asked(&host, Some(&token("admin")), "POST", "/v1/manifest/reload");
    assert_eq!(answer.status, 200, "{answer:?}");
    until("the second token is valid", || is_let_in(&token("newer")));
    assert!(is_let_in(&token("admin")));
    // The first is rotated out by its file.
    fs::remove_file(setting.path("tokens/admin")).expect("remove a token");
    until("the first token is rotated out", || !is_let_in(&token("admin")));
    assert!(is_let_in(&token("newer")));
    let status = host.until("the missing file is told", |status| !status["api"]["error"].is_null());
    assert!(status["api"]["error"].as_str().is_some_and(|error| error.contains("api.clients.admin.tokens[0]")));
    // A file with something else in it lets nobody in, and comes into effect once it is right.
    setting.write("tokens/admin", "short");
    until("the wrong file is told", || host.status()["api"]["error"].to_string().contains("is no token"));
    setting.write("tokens/admin", token("newest"));
    until("the right file is valid", || is_let_in(&token("newest")));
    assert_eq!(host.status()["api"]["error"], Value::Null);
    // A manifest with a token that can't be read is refused as a whole.
    setting.manifest(&both.replace("tokens/admin-2", "tokens/none"));
    let answer = asked(&host, Some(&token("newer")), "POST", "/v1/manifest/reload");
    assert!(answer.status == 422 && answer.body.to_string().contains("tokens[1]"), "{answer:?}");
    assert!(is_let_in(&token("newer")));
}

#[test]
fn what_is_changed_is_in_the_audit_log() {
    let setting = setting();
    let host = setting.start();
    for (client, path) in [
        ("operate", "/v1/subscriptions/none/pause"),
        ("admin", "/v1/manifest/reload?dry_run=true"),
        ("operate", "/v1/plugins/orders/reload"),
    ] {
        asked(&host, Some(&token(client)), "POST", path);
    }
    let file = setting.path("data/audit.jsonl");
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&file).expect("read the log");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let found = lines();
    let requests: Vec<_> = found.iter().filter(|line| !line["path"].is_null()).collect();
    let of =
        |line: &Value| (line["client"].clone(), line["method"].clone(), line["path"].clone(), line["body"].clone());
    assert_eq!(requests.len(), 2, "what was refused changed nothing: {found:?}");
    assert_eq!(of(requests[0]), (json!("operate"), json!("POST"), json!("/v1/subscriptions/none/pause"), json!({})));
    assert_eq!(of(requests[1]), (json!("admin"), json!("POST"), json!("/v1/manifest/reload?dry_run=true"), json!({})));
    for (request, status) in requests.into_iter().zip([404, 200]) {
        let answer =
            found.iter().find(|line| line["id"] == request["id"] && !line["status"].is_null()).expect("an answer");
        assert_eq!(answer["status"], status);
        assert!(request["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{request}");
    }
    // Nothing is changed that can't be written.
    fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("put a folder in its place");
    host.crash();
    let answer = asked(&host, Some(&token("admin")), "POST", "/v1/plugins/orders/reload");
    assert!(answer.status == 503 && answer.body.to_string().contains("audit.jsonl"), "{answer:?}");
    let plugin = &asked(&host, Some(&token("read")), "GET", "/v1/status").body["plugins"][0];
    assert_eq!(plugin["loads"], 1, "{plugin}");
}

#[test]
fn events_name_the_client_that_sent_their_command() {
    let setting = setting();
    let host = setting.start();
    let order = order();
    let url = host.url("/v1/commands/order/1/CreateOrder");
    let sent = as_client(Some(&token("commands"))).post(&url, &order, &[]).expect("an answer");
    assert_eq!(sent.status, 200, "{}", sent.text);
    let host = host.with_token(&token("read"));
    let events = host.events("order.*");
    assert_eq!(events[0]["headers"], json!([{ "name": "wasmill-client", "value": "commands" }]), "{events:?}");
}

#[test]
fn a_stream_ends_with_the_token_that_opened_it() {
    let setting = setting();
    let host = setting.start().with_token(&token("admin"));
    let open = |client: &str, accept: &str| {
        let headers = format!("Accept: {accept}\r\nAuthorization: Bearer {}\r\n", token(client));
        let mut exchange = Exchange::begin(&host.address(), "GET /v1/events?follow=true", &headers);
        assert_eq!(exchange.head().0, 200);
        exchange
    };
    let ended = [open("read", "*/*"), open("read", "text/event-stream")];
    let mut stays = open("limited", "*/*");
    host.until("they stream", |status| status["api"]["streams"] == 3);
    setting.write("tokens/read", "another-token-0123456789");
    host.until("the streams of the old token have ended", |status| status["api"]["streams"] == 1);
    for mut exchange in ended {
        // The answer breaks off: its last chunk never comes.
        let rest = exchange.lines();
        assert!(!exchange.is_complete(), "{rest:?}");
    }
    let order = order();
    let url = host.url("/v1/commands/order/7/CreateOrder");
    let sent = as_client(Some(&token("commands"))).post(&url, &order, &[]).expect("an answer");
    assert_eq!(sent.status, 200, "{}", sent.text);
    assert!(stays.line().is_some_and(|line| line.contains("OrderCreated")), "the other stream goes on");
}
