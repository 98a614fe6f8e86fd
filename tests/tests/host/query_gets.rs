//! Queries by GET, for browsers and caches: the same answer as by POST, with a tag by which a client knows it again.

use serde_json::{Value, json};
use wasmill_tests::host::TestHost;
use wasmill_tests::raw::Exchange;
use wasmill_tests::setting::Setting;

const SALES: &str =
    "[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\n";

fn get(host: &TestHost, query: &str, headers: &str) -> (u16, String, String) {
    let line = format!("GET /v1/queries/sales/{query}");
    let mut exchange = Exchange::begin(&host.address(), &line, &format!("{headers}Connection: close\r\n"));
    let (status, headers) = exchange.head();
    (status, headers, exchange.rest())
}

fn tag(headers: &str) -> &str {
    headers.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_else(|| panic!("no tag: {headers}"))
}

/// Creates an order, and returns its position.
fn create(host: &TestHost, id: &str) -> u64 {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    let answer = host.send("order", id, "CreateOrder", &order);
    answer.body["position"].as_u64().unwrap_or_else(|| panic!("{answer:?}"))
}

#[test]
fn a_query_by_get_is_answered_as_by_post_and_has_a_tag() {
    let setting = Setting::new(SALES);
    let host = setting.start();
    let position = create(&host, "1");
    let at = format!("store-sales?position={position}&params=%7B%22limit%22%3A1%7D");
    let (status, headers, body) = get(&host, &at, "");
    assert_eq!((status, headers.contains("cache-control: no-cache")), (200, true), "{headers}");
    let posted = host.query("sales", "store-sales", &json!({ "limit": 1 }));
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON"), posted.body);

    let tag = tag(&headers).to_owned();
    let (status, headers, body) = get(&host, &at, &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((status, self::tag(&headers), &*body), (304, &*tag, ""));
    let position = create(&host, "2");
    let at = format!("store-sales?position={position}&params=%7B%22limit%22%3A1%7D");
    let (status, headers, _) = get(&host, &at, &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((status, self::tag(&headers) != tag), (200, true), "another answer has another tag");

    for (query, status, words) in [
        ("totals", 200, "placed"),
        ("totals?params=", 200, "placed"),
        ("store-sales?params=7", 400, "store-sales"),
        ("store-sales?params=%7B", 400, "store-sales"),
        ("totals?parameters=1", 400, "there is no parameter `parameters`"),
        ("nothing", 404, "totals"),
        ("totals?position=99&timeout_ms=1", 504, "did not reach 99"),
        ("totals?timeout_ms=3600001", 400, "timeout_ms must be at most"),
    ] {
        let (found, headers, body) = get(&host, query, "");
        assert!(found == status && body.contains(words), "{query}: {found} {body}");
        assert_eq!(headers.contains("etag: "), status == 200, "{query}: {headers}");
    }
    host.stop();
}
