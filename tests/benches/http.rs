//! The HTTP API of a host, as ratios to an axum handler that does nothing.
//!
//! The client and the requests are the same for both, and both are measured in turn. The client takes a thread and a share
//! of the machine too, so a ratio says what a sender gets, not what the host costs. Every command is answered after its
//! commit, and counts only if it is accepted.

#[path = "support/http_client.rs"]
mod http_client;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use http_client::{Address, Plain, Secured, batch, load, request};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use wasmill_tests::certificates::Authority;
use wasmill_tests::command_path::{CommandPath, Load, PAYLOAD};
use wasmill_tests::host::TestHost;
use wasmill_tests::report::{self, Budget, Report, middle, rounds};
use wasmill_tests::setting::Setting;

/// Number of requests in one measurement.
const REQUESTS: u64 = 60_000;
/// Number of commands of a batch in one measurement.
const BATCHED: u64 = 400_000;
/// Number of commands in one measurement without HTTP.
const COMMANDS: u64 = 100_000;
/// Number of queries in one measurement.
const QUERIES: u64 = 20_000;
/// Number of orders that the queries are about.
const ORDERS: u64 = 100;
/// Number of aggregates, which get the commands in turn.
const AGGREGATES: u64 = 1_000;
/// Number of requests in flight, each on a connection of its own.
const IN_FLIGHT: usize = 64;
/// Number of measurements of one thing.
const ROUNDS: usize = 9;

/// A benchmark and its name.
type Benchmark = (&'static str, fn(&mut Report));

const ALL: [Benchmark; 4] = [("commands", commands), ("batches", batches), ("secured", secured), ("queries", queries)];

fn main() {
    report::run(ALL);
}

/// A server whose handler reads the request and does nothing.
struct NoOp {
    address: Address,
    /// It serves for as long as this lives.
    _runtime: Runtime,
}

impl NoOp {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen on loopback");
        let address = listener.local_addr().expect("an address").to_string();
        let router = Router::new()
            .route("/v1/commands/{type}/{id}/{command}", post(nothing))
            .route("/v1/queries/{projection}/{query}", post(nothing));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, _runtime: runtime }
    }
}

async fn nothing(_: Bytes) {}

/// A host with carts, and its folder.
fn carts() -> (Setting, TestHost) {
    let setting = Setting::new("[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n");
    let host = setting.start();
    (setting, host)
}

/// Checks that a host has accepted this many commands and refused none.
fn all_accepted(host: &TestHost, accepted: u64) {
    let outcomes = &host.status()["api"]["commands"];
    let sum: u64 = outcomes.as_object().expect("counts").values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!((outcomes["accepted"].as_u64(), sum), (Some(accepted), accepted), "{outcomes}");
}

/// Makes the requests with a command for each aggregate. `more` has further headers, each with its line end.
fn adding(more: &str) -> Vec<Bytes> {
    let path = |number: u64| format!("/v1/commands/cart/cart-{number}/AddItems");
    (0..AGGREGATES).map(|number| request(&path(number), more, PAYLOAD)).collect()
}

/// Measures commands that are sent one by one.
fn commands(report: &mut Report) {
    let requests = adding("");
    let (no_op, (_setting, host)) = (NoOp::start(), carts());
    let address = host.address();
    let rate = |address: &str| load(&Plain(address.to_owned()), &requests, IN_FLIGHT, REQUESTS);
    let [nothing, one_by_one] = rounds(ROUNDS, [&mut || rate(&no_op.address), &mut || rate(&address)]);
    all_accepted(&host, ROUNDS as u64 * REQUESTS);
    judge(report, "http/commands", &one_by_one, &nothing, 0.35);
    host.stop();
}

/// Measures commands that are sent as lines of one request, as ratios to the requests of the no-op handler and to commands that are
/// sent without HTTP.
fn batches(report: &mut Report) {
    let line = |number: u64| {
        format!(
            "{{\"type\":\"cart\",\"aggregate_id\":\"cart-{number}\",\"name\":\"AddItems\",\"payload\":{PAYLOAD}}}\n"
        )
    };
    let lines: Bytes = (0..AGGREGATES).map(line).collect::<String>().into();
    let requests = [request("/v1/commands/cart/cart-1/AddItems", "", PAYLOAD)];
    let (no_op, (_setting, host)) = (NoOp::start(), carts());
    let client = Plain(host.address());
    let [nothing, batched, direct] = rounds(
        ROUNDS,
        [
            &mut || load(&Plain(no_op.address.clone()), &requests, IN_FLIGHT, REQUESTS),
            &mut || batch(&client, &lines, AGGREGATES, BATCHED),
            &mut || CommandPath::wasm().run(&Load::new(COMMANDS, AGGREGATES)).rate,
        ],
    );
    all_accepted(&host, ROUNDS as u64 * BATCHED);
    let (rate, baseline) = middle(&batched, &nothing);
    report.ratio("http/batches", rate, "1/s", baseline);
    let (rate, baseline) = middle(&batched, &direct);
    report.ratio("http/batches-direct", rate, "1/s", baseline);
    host.stop();
}

/// Measures what TLS and a token cost, for commands that are sent one by one and in batches, as ratios to those of a host without
/// both.
fn secured(report: &mut Report) {
    const TOKEN: &str = "bench-token-0123456789";
    let authority = Authority::new("the authority of the benchmark");
    let issued = authority.issue(&["localhost", "127.0.0.1"]);
    let safe = Setting::new(
        "[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n[api.tls]\ncertificate_file = 'host.pem'\nkey_file = 'host.key'\n\
         [api.clients.bench]\ntokens = [{ file = 'token' }]\nscopes = ['commands', 'read']\n",
    );
    [("host.pem", &*issued.certificate), ("host.key", &*issued.key), ("token", TOKEN)]
        .into_iter()
        .for_each(|(name, content)| safe.write(name, content));
    let safe_host = safe.start().secured(&authority.pem(), TOKEN);
    let (_setting, host) = carts();
    let (plain, secured) = (Plain(host.address()), Secured::new(safe_host.address(), &authority.pem()));
    let (open, named) = (adding(""), adding(&format!("Authorization: Bearer {TOKEN}\r\n")));
    let [without, with] = rounds(
        ROUNDS,
        [&mut || load(&plain, &open, IN_FLIGHT, REQUESTS), &mut || load(&secured, &named, IN_FLIGHT, REQUESTS)],
    );
    all_accepted(&safe_host, ROUNDS as u64 * REQUESTS);
    judge(report, "http/commands-secured", &with, &without, 0.85);
    host.stop();
    safe_host.stop();
}

/// Measures queries.
fn queries(report: &mut Report) {
    let plugins = ["orders", "sales"].map(|name| format!("[plugins.{name}]\nfile = \"PLUGINS/{name}.wasm\"\n"));
    let setting = Setting::new(&plugins.concat());
    let host = setting.start();
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    for number in 0..ORDERS {
        let answer = host.send("order", &number.to_string(), "CreateOrder", &order);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    host.drained();
    let requests = [request("/v1/queries/sales/totals", "", "null")];
    let no_op = NoOp::start();
    let address = host.address();
    let rate = |address: &str| load(&Plain(address.to_owned()), &requests, IN_FLIGHT, QUERIES);
    let [nothing, answered] = rounds(ROUNDS, [&mut || rate(&no_op.address), &mut || rate(&address)]);
    let (rate, baseline) = middle(&answered, &nothing);
    report.ratio("http/queries", rate, "1/s", baseline);
    host.stop();
}

fn judge(report: &mut Report, name: &str, rates: &[f64], baselines: &[f64], budget: f64) {
    let (rate, baseline) = middle(rates, baselines);
    report.judge(name, rate, "1/s", baseline, Budget::AtLeast(budget));
}
