//! The API over TLS: certificates of the host and of clients, their replacement, and an address that other machines reach.

use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use wasmill_driver::api::Client;
use wasmill_tests::certificates::{Authority, Issued};
use wasmill_tests::setting::Setting;
use wasmill_tests::waiting::until;

const WAIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "boss-token-0123456789";

const PLUGIN: &str = "[plugins.orders]\nfile = 'PLUGINS/orders.wasm'\n";
const BOSS: &str = "[api.clients.boss]\ntokens = [{ file = 'token' }]\nscopes = ['admin', 'commands']\n";
const TLS: &str = "[api.tls]\ncertificate_file = 'host.pem'\nkey_file = 'host.key'\n";

fn put(setting: &Setting, name: &str, issued: &Issued) {
    setting.write(&format!("{name}.pem"), &issued.certificate);
    setting.write(&format!("{name}.key"), &issued.key);
}

fn setting(manifest: &str, authority: &Authority) -> Setting {
    let setting = Setting::new(&format!("{PLUGIN}{manifest}"));
    put(&setting, "host", &authority.issue(&["localhost", "127.0.0.1"]));
    setting.write("ca.pem", authority.pem());
    setting.write("token", TOKEN);
    setting
}

#[test]
fn a_client_and_the_host_recognise_each_other() {
    let authority = Authority::new("the shop's authority");
    let setting = setting(&format!("{TLS}{BOSS}"), &authority);
    let host = setting.start().secured(&authority.pem(), TOKEN);
    assert_eq!(host.get("/v1/status").status, 200);
    assert!(host.url("/").starts_with("https://127.0.0.1:"));
    // The command line.
    let url = host.url("");
    let told = |args: &[&str]| setting.told(&[args, &["--url", &url]].concat());
    let (code, out, errors) = told(&["status", "--ca", "ca.pem", "--token-file", "token"]);
    assert_eq!(code, Some(0), "{out}{errors}");
    let (code, out, errors) = setting.told(&["status", "--data", "data", "--ca", "ca.pem", "--token-file", "token"]);
    assert_eq!(code, Some(0), "{out}{errors}");
    setting.write("other-ca.pem", Authority::new("another").pem());
    setting.write("wrong", "wrong-token-0123456789");
    setting.write("broken", "-----BEGIN CERTIFICATE-----\n");
    for (args, words) in [
        (&["status", "--token-file", "token"][..], "can't be secured"),
        (&["status", "--ca", "other-ca.pem", "--token-file", "token"], "can't be secured"),
        (&["status", "--ca", "ca.pem"], "the request needs a token"),
        (&["status", "--ca", "ca.pem", "--token-file", "wrong"], "no client has this token"),
        (&["status", "--ca", "ca.pem", "--token-file", "none"], "is in the file none, which can't be read"),
        (&["status", "--ca", "none", "--token-file", "token"], "none of --ca can't be read"),
        (&["status", "--ca", "broken", "--token-file", "token"], "broken of --ca can't be read"),
    ] {
        let (code, out, errors) = told(args);
        assert!(code != Some(0) && errors.contains(words), "{args:?}: {out}{errors}");
        assert!(!errors.contains("wrong-token"), "{errors}");
    }
    let plain = url.replace("https://", "http://");
    let (code, _, errors) = setting.told(&["status", "--url", &plain, "--token-file", "token"]);
    assert!(code != Some(0) && errors.contains("this address serves TLS"), "{errors}");
}

#[test]
fn what_is_not_tls_is_told_so_and_tls_on_a_plain_address_fails_at_once() {
    let authority = Authority::new("the shop's authority");
    let setting = setting(&format!("{TLS}{BOSS}"), &authority);
    let host = setting.start().secured(&authority.pem(), TOKEN);
    let exchange = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(host.address()).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("set a limit");
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = exchange(b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("tls-required"), "{answer}");
    for bytes in [&b"\0\0\0\x16"[..], b"\x16\x03\x01\x00\x05hello", b"\x16\xff\xff\xff\xff\xff\xff", b""] {
        assert!(!exchange(bytes).contains("200"), "{bytes:?}");
    }
    // A client that connects and sends nothing, or half of a handshake, is cut off, and others are served meanwhile.
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(host.address()).expect("connect")).collect();
    silent.iter().for_each(|mut stream| stream.write_all(b"\x16\x03\x01\x02").expect("send"));
    assert_eq!(host.get("/v1/status").status, 200);
    let status = host.until("the silent ones are cut off", |status| {
        status["api"]["handshakes_failed"].as_u64() >= Some(100) && status["api"]["connections"].as_u64() < Some(50)
    });
    assert_eq!(status["api"]["error"], Value::Null);
    drop(silent);
    // And the reverse.
    let plain = Setting::new(PLUGIN);
    let host = plain.start();
    let client = Client::secured(WAIT, &authority.pem()).expect("a certificate");
    assert!(client.get(&format!("https://{}/v1/live", host.address())).is_err());
    assert_eq!(host.get("/v1/live").status, 200);
}

#[test]
fn a_client_is_recognised_by_its_certificate() {
    let (authority, other) = (Authority::new("the shop's authority"), Authority::new("another"));
    let clients = "[api.clients.till]\ncertificate_names = ['till.shop.example']\nscopes = ['read']\n";
    let setting = setting(&format!("{TLS}client_ca_file = 'ca.pem'\n{BOSS}{clients}"), &authority);
    let host = setting.start().secured(&authority.pem(), TOKEN);
    let asked = |issued: &Issued, path: &str, method: &str| {
        let client =
            Client::certified(WAIT, &authority.pem(), &issued.certificate, &issued.key).expect("a certificate");
        match method {
            "GET" => client.get(&host.url(path)),
            _ => client.post(&host.url(path), &json!({}), &[]),
        }
    };
    let till = authority.issue(&["till.shop.example"]);
    assert_eq!(asked(&till, "/v1/status", "GET").expect("an answer").status, 200);
    assert_eq!(asked(&till, "/v1/manifest/reload", "POST").expect("an answer").status, 403);
    let stranger = asked(&authority.issue(&["cellar.shop.example"]), "/v1/status", "GET").expect("an answer");
    assert!(
        stranger.status == 401 && stranger.text.contains("no client has a name of this certificate"),
        "{}",
        stranger.text
    );
    for refused in [other.issue(&["till.shop.example"]), authority.issue_until(&["till.shop.example"], Some(2001))] {
        assert!(asked(&refused, "/v1/status", "GET").is_err(), "it is not trusted, or has expired");
    }
    // A name that is taken from the manifest is recognised no more, also on a connection that is open.
    let client = Client::certified(WAIT, &authority.pem(), &till.certificate, &till.key).expect("a certificate");
    assert_eq!(client.get(&host.url("/v1/status")).expect("an answer").status, 200);
    setting.manifest(&format!("{PLUGIN}{TLS}client_ca_file = 'ca.pem'\n{BOSS}"));
    assert_eq!(host.post("/v1/manifest/reload", &json!({}), &[]).status, 200);
    until("it is recognised no more", || client.get(&host.url("/v1/status")).expect("an answer").status == 401);
}

#[test]
fn a_start_without_its_files_says_which() {
    let authority = Authority::new("the shop's authority");
    let setting = setting(&format!("{TLS}{BOSS}"), &authority);
    let other = authority.issue(&["localhost"]);
    let good = fs::read_to_string(setting.path("host.key")).expect("read a key");
    for (file, content, words) in [
        ("host.key", Some(other.key.as_str()), "is not the key of the certificate in"),
        ("host.key", Some("nothing"), "`api.tls.key_file`"),
        ("host.key", None, "`api.tls.key_file`"),
        ("token", None, "`api.clients.boss.tokens[0]` is in the file"),
        ("token", Some("short"), "is no token"),
        ("host.pem", Some(""), "`api.tls.certificate_file`"),
    ] {
        match content {
            Some(content) => setting.write(file, content),
            None => fs::remove_file(setting.path(file)).expect("remove a file"),
        }
        let refused = setting.start_refused();
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && errors.contains(words), "{file}: {errors}");
        let (code, _, errors) = setting.told(&["check", "wasmill.toml"]);
        assert!(code != Some(0) && errors.contains(words), "check of {file}: {errors}");
        setting.write("host.key", &good);
        setting.write("token", TOKEN);
    }
}

#[test]
fn an_address_that_others_reach_needs_clients_and_tls() {
    let authority = Authority::new("the shop's authority");
    let everywhere = ["run", "wasmill.toml", "--data", "data", "--listen", "0.0.0.0:0"];
    for (manifest, words) in [
        (String::new(), "a client in `api.clients` and a certificate in `api.tls`"),
        (BOSS.to_owned(), "needs a certificate in `api.tls` (or `api.allow_plain = true`"),
        (TLS.to_owned(), "needs a client in `api.clients`"),
    ] {
        let setting = setting(&manifest, &authority);
        let (code, _, errors) = setting.told(&everywhere);
        assert!(code != Some(0) && errors.contains(words), "{errors}");
    }
    let plain = setting(&format!("[api]\nallow_plain = true\nhosts = ['shop.example']\n{BOSS}"), &authority);
    let host = plain.start_with(&["--listen", "0.0.0.0:0"], Vec::new()).with_token(TOKEN);
    assert!(host.log().contains("is served without TLS on 0.0.0.0"), "{}", host.log());
    assert_eq!(host.get("/v1/status").status, 200, "programs of this machine use a loopback address");
    let port = host.address().rsplit_once(':').expect("a port").1.to_owned();
    let status = |name: &str| {
        let mut stream = TcpStream::connect(format!("127.0.0.2:{port}")).expect("connect");
        let request = format!(
            "GET /v1/clock HTTP/1.1\r\nhost: {name}\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(status("shop.example"), "200");
    assert_eq!(status("shop.example:8443"), "200");
    assert_eq!(status("evil.example"), "403");
}

#[test]
fn probes_have_a_listener_of_their_own() {
    let authority = Authority::new("the shop's authority");
    let probes = "[api]\nprobes_listen = '127.0.0.1:0'\n";
    let setting = setting(&format!("{probes}{TLS}{BOSS}"), &authority);
    let host = setting.start().secured(&authority.pem(), TOKEN);
    let line = "serving probes and metrics on ";
    host.until_logged("about probes", |logged| logged.contains(line));
    let log = host.log();
    let url = log.lines().find_map(|logged| logged.split_once(line)).expect("a URL").1.trim();
    let client = Client::new(WAIT);
    let status = |path: &str| client.get(&format!("{url}{path}")).expect("an answer").status;
    assert_eq!(["/v1/live", "/v1/ready", "/metrics"].map(&status), [200; 3]);
    assert_eq!(["/v1/status", "/v1/events"].map(&status), [404; 2]);
    assert!(
        client.get(&format!("{url}/metrics")).expect("metrics").text.contains("wasmill_api_certificate_end_timestamp")
    );
}

#[test]
fn a_head_that_drips_is_cut_off_and_a_connection_that_waits_is_not() {
    let setting = Setting::new(&format!("{PLUGIN}[api]\nheader_seconds = 1\n"));
    let host = setting.start();
    let mut waiting = TcpStream::connect(host.address()).expect("connect");
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("send");
        let mut answer = [0; 4096];
        stream.read(&mut answer).expect("an answer")
    };
    assert!(ask(&mut waiting) > 0);
    let mut drips = TcpStream::connect(host.address()).expect("connect");
    drips.set_read_timeout(Some(WAIT)).expect("set a limit");
    let begun = std::time::Instant::now();
    let mut head = b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\nx: ".to_vec();
    head.extend([b'x'; 1_000]);
    let sent = head.iter().take_while(|byte| {
        std::thread::park_timeout(Duration::from_millis(50));
        drips.write_all(&[**byte]).is_ok()
    });
    let sent = sent.count();
    assert!(sent < 500, "{sent} bytes were taken in {:?}", begun.elapsed());
    assert!(ask(&mut waiting) > 0, "a connection between two requests stays open");
    host.until("it is counted", |status| status["api"]["idle"] == 1);
}

#[test]
fn bodies_beyond_the_room_for_all_are_refused() {
    let setting = Setting::new(&format!("{PLUGIN}[api]\nbody_mib = 1\nin_flight_mib = 1\n"));
    let host = setting.start();
    let half = |chunked: bool| {
        let mut stream = TcpStream::connect(host.address()).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("set a limit");
        let length = if chunked { "transfer-encoding: chunked" } else { "content-length: 700001" };
        let head = format!("POST /v1/commands/order/1/CreateOrder HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("send");
        // All but the end of the body. What was only announced takes no room.
        let part = "x".repeat(700_000);
        let part = if chunked { format!("{:x}\r\n{part}\r\n", part.len()) } else { part };
        stream.write_all(part.as_bytes()).expect("send");
        stream
    };
    for chunked in [false, true] {
        let mut held = half(chunked);
        let body = json!("y".repeat(700_000));
        until("there is no room", || {
            let answer = host.post("/v1/commands/order/1/CreateOrder", &body, &[]);
            let is_refused = answer.status == 503;
            assert!(!is_refused || answer.body.to_string().contains("api.in_flight_mib"), "{answer:?}");
            if !is_refused {
                // This request found room before the one that should hold it, which may have been refused.
                held = half(chunked);
            }
            is_refused
        });
        assert_eq!(host.post("/v1/commands/order/1/Nonsense", &json!({}), &[]).status, 400, "a small body finds room");
        drop(held);
        until("the room is free again", || host.post("/v1/commands/order/1/Nonsense", &body, &[]).status != 503);
    }
}
