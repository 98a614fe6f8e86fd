//! The bank example through kills: no cent is lost or made, and each transfer ends once.
//!
//! The choices are drawn from a seed, which is printed and can be given by `WASMILL_TEST_SEED`.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use wasmill::clock::OFFSET_FILE;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const KILLS: usize = 100;
const SEED: &str = "WASMILL_TEST_SEED";
const ACCOUNTS: usize = 12;
const DEPOSIT: i64 = 1_000_000;
/// From this amount on, a transfer needs an approval.
const LARGE: i64 = 100_000;
const HOUR: u64 = 3_600_000;

/// What became of a transfer, by the events of the accounts and of the transfer itself.
#[derive(Debug, Default)]
struct Transfer {
    cents: i64,
    is_approved: bool,
    debits: u32,
    credits: u32,
    refunds: u32,
    ends: Vec<String>,
}

fn post(host: &TestHost, path: &str, body: &Value, id: &str) -> Answered {
    let answer = host.post_through_crashes(&format!("/v1/commands/{path}"), body, &[("idempotency-key", id)]);
    match answer.status {
        200 => Answered::Accepted,
        409 | 422 => Answered::Refused,
        _ => panic!("{path}: {answer:?}"),
    }
}

#[derive(Debug, PartialEq)]
enum Answered {
    Accepted,
    Refused,
}

/// Opens the accounts. The last one is closed.
fn open(host: &TestHost) {
    for account in 0..ACCOUNTS {
        let path = |command: &str| format!("account/a{account}/{command}");
        let holder = json!({ "first_name": "Holder", "last_name": account.to_string() });
        assert_eq!(post(host, &path("Open"), &holder, &format!("open {account}")), Answered::Accepted);
        let (command, body) = match account {
            last if last == ACCOUNTS - 1 => ("Close", Value::Null),
            _ => ("Deposit", json!({ "cents": DEPOSIT })),
        };
        assert_eq!(post(host, &path(command), &body, &format!("fill {account}")), Answered::Accepted);
    }
}

/// Requests a transfer between random accounts, of which one may be closed and one does not exist, and may approve it.
fn request(host: &TestHost, number: usize) {
    let (from, to) = (fastrand::usize(..ACCOUNTS), fastrand::usize(..=ACCOUNTS));
    let cents = if fastrand::bool() { fastrand::i64(1..LARGE) } else { fastrand::i64(LARGE..2 * DEPOSIT) };
    let body = json!({ "from": format!("a{from}"), "to": format!("a{to}"), "cents": cents });
    let requested = post(host, &format!("transfer/t{number}/Request"), &body, &format!("request {number}"));
    assert_eq!(requested == Answered::Accepted, from != to, "{body}");
    if fastrand::bool() {
        // It may be refused, because the transfer has ended or was refused itself.
        post(host, &format!("transfer/t{number}/Approve"), &Value::Null, &format!("approve {number}"));
    }
}

/// Returns the transfers, and the sum of all deposits.
fn transfers(host: &TestHost) -> (BTreeMap<String, Transfer>, i64) {
    let mut transfers = BTreeMap::<String, Transfer>::new();
    let mut deposits = 0;
    for event in host.events("transfer.*") {
        let transfer = transfers.entry(event["aggregate_id"].as_str().expect("an id").to_owned()).or_default();
        match event["name"].as_str().expect("a name") {
            "Requested" => transfer.cents = event["payload"]["cents"].as_i64().expect("an amount"),
            "Approved" => transfer.is_approved = true,
            end => transfer.ends.push(end.to_owned()),
        }
    }
    for event in host.events("account.*") {
        let cents = event["payload"]["cents"].as_i64();
        let Some(id) = event["payload"]["transfer_id"].as_str() else {
            deposits += cents.unwrap_or(0);
            continue;
        };
        let transfer = transfers.get_mut(id).unwrap_or_else(|| panic!("nobody asked for {id}"));
        assert_eq!(cents, Some(transfer.cents), "{id}");
        match event["name"].as_str().expect("a name") {
            "Debited" => transfer.debits += 1,
            "Credited" => transfer.credits += 1,
            "Refunded" => transfer.refunds += 1,
            other => panic!("{other}"),
        }
    }
    (transfers, deposits)
}

#[test]
fn no_cent_is_lost_through_a_hundred_kills_and_each_transfer_ends_once() {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().expect("the seed is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{SEED}={seed}");
    fastrand::seed(seed);
    let setting = Setting::bank();
    setting.write("offset", "0");
    let host = setting.start_in(vec![(OFFSET_FILE, setting.path("offset"))]);
    open(&host);
    let over = AtomicBool::new(false);
    let requested = thread::scope(|scope| {
        let requests = scope.spawn(|| {
            fastrand::seed(seed);
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                request(&host, number);
                number += 1;
            }
            number
        });
        for _ in 0..KILLS {
            thread::park_timeout(Duration::from_millis(fastrand::u64(5..120)));
            host.crash();
        }
        over.store(true, Ordering::Relaxed);
        requests.join().expect("all requests are answered")
    });
    host.drained();
    let (before, _) = transfers(&host);
    let waiting = before.values().filter(|transfer| transfer.ends.is_empty()).count();
    let late = before.values().filter(|transfer| transfer.ends.is_empty() && transfer.is_approved).count();
    assert_eq!(late, 0, "only transfers without an approval wait: {before:#?}");
    // Those that wait for an approval are refunded.
    setting.write("offset", (2 * HOUR).to_string());
    host.until("every transfer has ended", |_| transfers(&host).0.values().all(|transfer| !transfer.ends.is_empty()));
    host.drained();
    let (all, deposits) = transfers(&host);
    for (id, transfer) in &all {
        let Transfer { debits, credits, refunds, ends, .. } = transfer;
        assert_eq!(ends.len(), 1, "{id}: {transfer:?}");
        let expected = if ends[0] == "Completed" { (1, 1, 0) } else { (*debits, 0, *debits) };
        assert!(*debits <= 1 && (*debits, *credits, *refunds) == expected, "{id}: {transfer:?}");
        let stream = host.get(&format!("/v1/streams/transfer-process/{id}")).body;
        assert_eq!(stream["archived"], true, "the saga of {id} has ended: {stream}");
    }
    let totals = host.query("statements", "totals", &Value::Null).body;
    assert_eq!((deposits, &totals["cents"]), ((ACCOUNTS as i64 - 1) * DEPOSIT, &json!(deposits)), "{totals}");
    let count = |is: fn(&Transfer) -> bool| all.values().filter(|transfer| is(transfer)).count();
    let [completed, refused, refunded] = [
        count(|transfer| transfer.credits == 1),
        count(|transfer| transfer.debits == 0),
        count(|transfer| transfer.refunds == 1),
    ];
    eprintln!(
        "{requested} requests, {completed} completed, {refused} refused, {refunded} refunded, {waiting} of them late"
    );
    assert!(completed > 0 && refused > 0 && refunded > waiting && waiting > 0, "all kinds of transfers occur");
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    assert_eq!(host.get("/v1/timers").body["total"], 0);
    host.stop();
}
