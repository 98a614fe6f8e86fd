//! TLS, logins and permissions on a real broker that requires them: what works end to end, and what a person is told if
//! it does not work.

use std::path::Path;
use std::process::Output;
use wasmill_tests::secured::{ADMIN, GUEST, Secured};
use wasmill_tests::setting::Setting;

const ORDER: &str = r#"{"household_id":"7","store_id":"9","placed_at":"2017-01-01T11:53:26Z","items":[{"product_id":"3","quantity":2,"amount_cents":60000,"discount_cents":5}]}"#;

/// The keys of `[kafka]` for a login over TLS.
fn login(brokers: &str, mechanism: &str, user: &str, ca: &Path) -> String {
    format!(
        "brokers = \"{brokers}\"\n[kafka.properties]\nsecurity.protocol = \"sasl_ssl\"\n\
         sasl.mechanism = \"{mechanism}\"\nsasl.username = \"{user}\"\nsasl.password = {{ file = \"password\" }}\n\
         ssl.ca.location = \"{}\"\n",
        ca.display()
    )
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `wasmill kafka` with keys of `[kafka]` and a password.
fn cli(kafka: &str, password: &str, args: &[&str]) -> Output {
    let setting = Setting::new(&format!("[kafka]\n{kafka}"));
    setting.write("password", format!("{password}\n"));
    setting.wasmill(&[&["kafka", "--manifest", "wasmill.toml"], args].concat())
}

/// It must fail, say all of what is expected, and nothing of the password.
fn refused(kafka: &str, password: &str, args: &[&str], expected: &[&str]) {
    let output = cli(kafka, password, args);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(expected.iter().all(|expected| said.contains(expected)), "{expected:?}\n{said}");
    assert!(!said.contains(password), "a secret was printed: {said}");
}

#[test]
fn the_whole_flow_over_tls_and_scram() {
    let Some(node) = Secured::shared() else { return };
    let setting = Setting::grocery_on(&login(&node.sasl_tls(), "SCRAM-SHA-512", ADMIN.0, &node.ca()));
    setting.write("password", ADMIN.1);
    let host = setting.start();
    host.until("the topic is read", |status| status["sources"][0]["state"] == "running");
    setting.write("orders", format!("one={ORDER}\ntwo={ORDER}\n"));
    let cli = |args: &[&str]| setting.wasmill(&[&["kafka", "--manifest", "wasmill.toml"], args].concat());
    let produced = cli(&["produce", "baskets", "orders", "--separator", "="]);
    assert_eq!(said(&produced), "2 records produced to baskets\n");
    host.until("both are confirmed", |status| status["sinks"][0]["published"].as_u64() >= Some(2));
    host.drained();
    let published = host.status()["sinks"][0]["published"].as_u64();
    let read = cli(&["consume", "notifications", "--to", "end", "--json"]);
    assert_eq!(Some(said(&read).lines().count() as u64), published, "{}", said(&read));
    assert!(!host.log().contains(ADMIN.1) && !host.status().to_string().contains(ADMIN.1), "a secret was printed");
    host.stop();
}

#[test]
fn what_is_wrong_with_a_connection_is_said_with_its_remedy() {
    let Some(node) = Secured::shared() else { return };
    let (tls, by_name, no_tls) = (node.sasl_tls(), node.sasl_tls_by_name(), node.sasl());
    let scram = |brokers: &str| login(brokers, "SCRAM-SHA-256", ADMIN.0, &node.ca());
    let list = &["topics", "list"];
    let wrong = |kafka: &str, expected: &[&str]| refused(kafka, ADMIN.1, list, expected);
    refused(&scram(&tls), "wrong-secret", list, &[&tls, "check sasl.username, sasl.password"]);
    let plain = login(&tls, "PLAIN", GUEST.0, &node.ca());
    refused(&plain, "wrong-secret", list, &[&tls, "check sasl.username, sasl.password"]);
    wrong(&scram(&tls).replace("SCRAM-SHA-256", "SCRAM-SHA-1"), &[&tls, "set sasl.mechanism in [kafka.properties]"]);
    let other_ca = login(&tls, "SCRAM-SHA-256", ADMIN.0, &node.other_ca());
    wrong(&other_ca, &[&tls, "name the authority that signed the broker's certificate"]);
    wrong(&scram(&by_name), &[&by_name, "certificate"]);
    wrong(&scram(&tls).replace("sasl_ssl", "sasl_plaintext"), &[&tls, "security.protocol"]);
    wrong(&scram(&no_tls), &[&no_tls, "if the broker's port speaks no TLS"]);
    wrong(&format!("brokers = \"{no_tls}\"\n"), &[&no_tls, "security.protocol"]);
    wrong(&scram("127.0.0.1:9"), &["127.0.0.1:9", "check that the broker runs"]);
}

#[test]
fn what_is_not_granted_is_named() {
    let Some(node) = Secured::shared() else { return };
    let topic = node.topic("guarded");
    let guest = login(&node.sasl_tls(), "SCRAM-SHA-256", GUEST.0, &node.ca());
    let not_granted = |args: &[&str], expected: &[&str]| refused(&guest, GUEST.1, args, expected);
    not_granted(&["consume", &topic], &[&format!("topic {topic}: "), "authoriz", "grant this user"]);
    not_granted(&["topics", "create", "mine"], &["topic mine: it can't be created", "grant this user"]);
    not_granted(&["groups", "describe", "tills"], &["group tills: ", "grant this user"]);

    // A host goes on trying, and says why.
    let source = format!(
        "[kafka]\n{guest}[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n\
         [sources.guarded]\ntopic = \"{topic}\"\naggregate = \"order\"\ncommand = \"CreateOrder\"\n"
    );
    let setting = Setting::new(&source);
    setting.write("password", GUEST.1);
    let host = setting.start();
    host.until("the source says what is missing", |status| {
        let error = status["sources"][0]["error"].as_str().unwrap_or_default();
        error.contains(&topic) && error.contains("grant this")
    });
    host.stop();
}

#[test]
fn a_token_from_a_program_logs_in() {
    let Some(node) = Secured::shared() else { return };
    let manifest = |token: &str| {
        format!(
            "brokers = \"{}\"\n[kafka.properties]\nsecurity.protocol = \"sasl_plaintext\"\n[kafka.oauth]\n\
             token = {token}\n",
            node.sasl()
        )
    };
    let made = cli(&manifest("{ unsecured = \"admin\" }"), "", &["topics", "create", "tokens"]);
    assert_eq!(said(&made), "created topic tokens with 1 partitions\n");
    // {"alg":"none"}.{"sub":"admin","iat":1700000000,"exp":4102444800}.
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.";
    for from in [format!("{{ command = [\"echo\", \"{token}\"] }}"), "{ file = \"password\" }".to_owned()] {
        let listed = cli(&manifest(&from), token, &["topics", "list", "--json"]);
        assert!(said(&listed).contains("\"topic\":\"tokens\""), "{}", said(&listed));
    }
    let ended = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsImlhdCI6MSwiZXhwIjoyfQ.";
    for (from, expected) in [
        (format!("{{ command = [\"echo\", \"{ended}\"] }}"), "the token of [kafka.oauth] has expired"),
        ("{ command = [\"false\"] }".to_owned(), "comes from the program false, which ended with"),
        ("{ env = \"WASMILL_NO_SUCH_VARIABLE\" }".to_owned(), "variable WASMILL_NO_SUCH_VARIABLE, which is not set"),
        ("{ unsecured = \"guest\" }".to_owned(), ""),
    ] {
        let output = cli(&manifest(&from), "", &["topics", "describe", "tokens"]);
        assert!(!output.status.success() && said(&output).contains(expected), "{from}: {}", said(&output));
    }
}
