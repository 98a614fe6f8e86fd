//! Requests to every route that are made from the host's own OpenAPI document, good and bad ones. The host never fails, says
//! what its document says, and refuses in words of its own.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;
use xtask::fuzzer::Fuzzer;

/// The plugins of the grocery that need no Kafka, and a clock that requests can move.
const GROCERY: &str = r#"
clock = "manual"
[plugins.orders]
file = "PLUGINS/orders.wasm"
[plugins.households]
file = "PLUGINS/households.wasm"
settings = { loyal_from_cents = 50_000 }
[plugins.warehouse]
file = "PLUGINS/warehouse.wasm"
[plugins.sales]
file = "PLUGINS/sales.wasm"
"#;

/// The seed of the requests, unless the environment has another one.
const SEED: u64 = 19;

/// The checks of schemathesis and of `hooks.py` that each answer must pass.
const CHECKS: &str = "status_code_conformance,content_type_conformance,response_schema_conformance,\
                      negative_data_rejection,the_host_never_fails,every_refusal_is_a_problem,the_scope_is_kept";

/// One run of the fuzzer.
struct Run<'r> {
    /// The document of the routes.
    document: &'r Path,
    /// The token of the client, and its scopes. Without a token the host is open.
    client: Option<(&'r str, &'r [&'r str])>,
    /// Requests to each route beside those at the bounds of its parameters.
    examples: u32,
    seed: u64,
}

impl Run<'_> {
    /// Sends requests to every route, and panics if a check fails.
    fn against(&self, fuzzer: &Fuzzer, host: &TestHost, folder: &Path) {
        let hooks = built::workspace().join("tests/fuzz/hooks.py");
        let mut command = fuzzer.python();
        command.args(["-m", "schemathesis.cli", "run"]).arg(self.document);
        command.args(["--url", &format!("http://{}", host.address()), "--checks", CHECKS]);
        command.args(["--phases", "coverage,fuzzing", "--max-examples", &self.examples.to_string()]);
        command.args(["--seed", &self.seed.to_string(), "--generation-database", "none"]);
        command.args(["--suppress-health-check", "all", "--request-timeout", "60", "--warnings", "off", "--no-color"]);
        command.env("SCHEMATHESIS_HOOKS", hooks).env("WASMILL_FUZZ_FOLDER", folder).current_dir(folder);
        if let Some((token, scopes)) = self.client {
            command.args(["--header", &format!("Authorization: Bearer {token}")]);
            command.env("WASMILL_FUZZ_SCOPES", scopes.join(","));
        }
        let output = command.stdin(Stdio::null()).output().expect("run schemathesis");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "WASMILL_TEST_SEED={} {:?}\n{said}\n{}",
            self.seed,
            self.client.map(|(_, scopes)| scopes),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{said}");
    }
}

/// Returns the fuzzer. CI must have it; elsewhere a line says what is left out.
fn fuzzer() -> Option<Fuzzer> {
    let fuzzer = Fuzzer::ensure();
    let missing = fuzzer.as_ref().err().map(|cause| format!("the fuzzer of the API: {cause:#}"));
    if built::left_out(missing) { None } else { fuzzer.ok() }
}

fn seed() -> u64 {
    let seed = std::env::var("WASMILL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("WASMILL_TEST_SEED={seed}");
    seed
}

/// Makes the host do something, so that requests find streams, events and rows.
fn work(host: &TestHost) {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    for id in ["1", "2", "a%2Fb"] {
        assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
    }
    host.drained();
}

/// Writes the document of a host to a file, which must be valid.
fn document(fuzzer: &Fuzzer, setting: &Setting, document: &Value) -> std::path::PathBuf {
    setting.write("openapi.json", document.to_string());
    let file = setting.path("openapi.json");
    let validated = succeeds(fuzzer.python().args(["-m", "openapi_spec_validator"]).arg(&file));
    assert!(validated.0, "{}", validated.1);
    file
}

fn succeeds(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().expect("run Python");
    (
        output.status.success(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

#[test]
fn no_request_to_any_route_makes_the_host_fail() {
    let Some(fuzzer) = fuzzer() else { return };
    let setting = Setting::new(GROCERY);
    let host = setting.start();
    work(&host);
    let described = host.get("/v1/openapi.json").body;
    let file = document(&fuzzer, &setting, &described);
    let run = Run { document: &file, client: None, examples: 30, seed: seed() };
    let folder = setting.path("fuzz");
    std::fs::create_dir_all(&folder).expect("make a folder");
    run.against(&fuzzer, &host, &folder);
    assert!(!host.log().contains("panicked"), "{}", host.log());
    assert_eq!(host.get("/v1/live").status, 200);
    host.stop();
}

/// The scopes of clients, each with the token of its client.
const CLIENTS: [(&str, &[&str]); 6] = [
    ("token-of-nobody-0123", &[]),
    ("token-of-reader-0123", &["read"]),
    ("token-of-sender-0123", &["commands"]),
    ("token-of-asker-01234", &["queries"]),
    ("token-of-operator-01", &["read", "operate"]),
    ("token-of-admin-01234", &["read", "operate", "admin"]),
];

#[test]
fn no_token_gets_further_than_its_scopes() {
    let Some(fuzzer) = fuzzer() else { return };
    let mut manifest = GROCERY.to_owned();
    for (number, (_, scopes)) in CLIENTS.iter().enumerate().filter(|(_, (_, scopes))| !scopes.is_empty()) {
        manifest +=
            &format!("[api.clients.client-{number}]\ntokens = [{{ file = 'token-{number}' }}]\nscopes = {scopes:?}\n");
    }
    manifest += "[api.clients.all]\ntokens = [{ file = 'token' }]\nscopes = ['admin', 'commands', 'queries']\n";
    let setting = Setting::new(&manifest);
    CLIENTS.iter().enumerate().for_each(|(number, (token, _))| setting.write(&format!("token-{number}"), token));
    setting.write("token", "token-of-everything-01");
    let host = setting.start().with_token("token-of-everything-01");
    work(&host);
    let described = host.get("/v1/openapi.json").body;
    let file = document(&fuzzer, &setting, &described);
    let folder = setting.path("fuzz");
    std::fs::create_dir_all(&folder).expect("make a folder");
    for client in CLIENTS {
        Run { document: &file, client: Some(client), examples: 3, seed: seed() }.against(&fuzzer, &host, &folder);
    }
    assert!(!host.log().contains("panicked"), "{}", host.log());
    assert!(CLIENTS.iter().all(|(token, _)| !host.log().contains(token)), "a token is in the log");
    assert_eq!(host.get("/v1/status").status, 200);
    host.stop();
}
