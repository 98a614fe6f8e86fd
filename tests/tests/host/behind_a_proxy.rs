//! The grocery host behind a reverse proxy on another loopback address, over TLS, under load, while its token and its certificate
//! are replaced. No request fails.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wasmill_driver::api::Client;
use wasmill_tests::certificates::Authority;
use wasmill_tests::proxy::{Proxy, Upstream};
use wasmill_tests::setting::Setting;
use wasmill_tests::waiting::until;

const WAIT: Duration = Duration::from_secs(60);
const SENDERS: u64 = 4;
const ROUNDS: u64 = 5;

const API: &str = "[api]\nhosts = ['shop.example']\n[api.tls]\ncertificate_file = 'host.pem'\nkey_file = 'host.key'\n\
                   [api.clients.proxy]\ntokens = [{ file = 'token-1' }, { file = 'token-2' }]\n\
                   scopes = ['commands', 'queries', 'read']\n";

#[test]
fn tokens_and_certificates_are_replaced_under_load_without_a_failed_request() {
    let authority = Authority::new("the shop's authority");
    let grocery = Setting::grocery();
    let manifest = std::fs::read_to_string(grocery.path("wasmill.toml")).expect("read the manifest");
    grocery.write("wasmill.toml", format!("{manifest}\n{API}"));
    let renew = || {
        let issued = authority.issue(&["host.internal"]);
        grocery.write("host.key", issued.key);
        grocery.write("host.pem", issued.certificate);
    };
    let token = |round: u64| format!("proxy-token-of-round-{round:04}");
    renew();
    [(1, 0), (2, 1)].into_iter().for_each(|(file, round)| grocery.write(&format!("token-{file}"), token(round)));
    grocery.write("proxy-token", token(0));
    grocery.write("ca.pem", authority.pem());
    let host = grocery.start();
    let upstream = Upstream {
        address: host.address().parse().expect("an address"),
        name: "host.internal".to_owned(),
        authority: grocery.path("ca.pem"),
        token: grocery.path("proxy-token"),
    };
    let proxy = Proxy::start("127.0.0.2", upstream);
    let url = format!("http://{}", proxy.address());
    let read = || -> Value {
        let answer = Client::new(WAIT).get_as(&format!("{url}/v1/status"), "shop.example").expect("an answer");
        serde_json::from_str(&answer.text).expect("JSON")
    };
    let (ends, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (url, ends, sent) = (&url, &ends, &sent);
            scope.spawn(move || {
                let client = Client::new(WAIT);
                for number in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
                    let basket = json!({
                        "household_id": format!("h{sender}"), "store_id": "2", "placed_at": "2017-01-01T11:53:26Z",
                        "items": [item],
                    });
                    let path = format!("{url}/v1/commands/order/p{sender}-{number}/CreateOrder");
                    let answer = client.post(&path, &basket, &[("host", "shop.example")]).expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.text);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            assert!(read()["api"]["certificate_ends_ms"].is_u64());
            for round in 1..=ROUNDS {
                // The proxy takes the second token, and the first is replaced by the one after it.
                grocery.write("proxy-token", token(round));
                let gone = if round % 2 == 1 { "token-1" } else { "token-2" };
                // The proxy reads its token for each request, so no request with the old one is on its way after a while.
                let quiet = sent.load(Ordering::Relaxed) + 4 * SENDERS;
                until("requests carry the second token", || sent.load(Ordering::Relaxed) >= quiet);
                grocery.write(gone, token(round + 1));
                renew();
                let quiet = sent.load(Ordering::Relaxed) + 100;
                until("the host has read them again", || {
                    let count = host.log().matches("tokens and certificates of the API were read again").count() as u64;
                    count >= round && sent.load(Ordering::Relaxed) >= quiet
                });
                let status = read();
                assert_eq!(status["api"]["error"], Value::Null, "round {round}");
                assert!(status["api"]["certificate_ends_ms"].is_u64());
            }
        }));
        ends.store(true, Ordering::Relaxed);
        served.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let status = read();
    assert_eq!(status["api"]["unauthorized"], 0, "{}", status["api"]);
    assert_eq!(status["api"]["handshakes_failed"], 0, "{}", status["api"]);
    let accepted = status["api"]["commands"]["accepted"].as_u64().expect("a number");
    assert_eq!(accepted, sent.load(Ordering::Relaxed), "each request was answered once");
}
