//! Several hosts on one store in PostgreSQL: commands and queries on every host, each other part on one of them, and another one
//! takes it over when its host is gone.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use wasmill_tests::host::{TestHost, signal};
use wasmill_tests::postgres::{Postgres, sql};
use wasmill_tests::setting::Setting;
use wasmill_tests::waiting::until;

const URL: &str = "WASMILL_TEST_STORE";

const MANIFEST: &str = "[store]\nurl = { env = \"WASMILL_TEST_STORE\" }\n\
    [plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n[plugins.households]\nfile = \"PLUGINS/households.wasm\"\n\
    [plugins.warehouse]\nfile = \"PLUGINS/warehouse.wasm\"\n[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\n\
    [schedules.sweep]\ncron = \"0 0 1 1 *\"\naggregate = \"household\"\nid = \"1\"\ncommand = \"RecordPurchase\"\n";

/// The parts of the manifest that run on one host.
const PARTS: [&str; 2] = ["schedules", "subscription warehouse"];

/// The folder of a host, and its process. They have nothing in common with those of the others.
struct Member {
    setting: Setting,
    host: TestHost,
}

fn start(setting: &Setting, url: &str) -> TestHost {
    setting.start_in(vec![(URL, PathBuf::from(url))])
}

fn member(url: &str) -> Member {
    let setting = Setting::new(MANIFEST);
    let host = start(&setting, url);
    Member { setting, host }
}

fn order(household: usize) -> Value {
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60, "discount_cents": 0 });
    json!({ "household_id": household.to_string(), "store_id": "1", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

/// Returns the parts that each host says it runs alone, after it was asked about all of them.
fn parts(host: &TestHost) -> Vec<String> {
    let status = host.status();
    let hosts = status["hosts"].as_array().expect("hosts").clone();
    let this = hosts.into_iter().find(|host| host["this"] == true).unwrap_or_default();
    let parts = this["parts"].as_array().cloned().unwrap_or_default();
    parts.into_iter().map(|part| part.as_str().expect("a name").to_owned()).collect()
}

/// Waits until all parts of the manifest run, each on one of these hosts, and as evenly as possible.
fn divided(hosts: &[&TestHost]) {
    divided_as(hosts, &PARTS);
}

/// Returns which of the hosts runs a part.
fn runs(hosts: &[&TestHost], part: &str) -> usize {
    hosts.iter().position(|host| parts(host).iter().any(|other| other == part)).expect("one of them runs it")
}

fn confirmed(host: &TestHost, count: usize) {
    until("all orders are confirmed", || host.events("order.OrderConfirmed").len() >= count);
    let events = host.events("order.OrderConfirmed");
    let orders: BTreeSet<String> = events.iter().map(|event| event["aggregate_id"].to_string()).collect();
    assert_eq!((events.len(), orders.len()), (count, count), "each order is confirmed once");
}

#[test]
fn commands_and_queries_work_on_every_host_and_the_other_parts_move_to_who_is_there() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let (one, two) = (member(&url), member(&url));
    divided(&[&one.host, &two.host]);
    let mut sent = 0;
    let mut send = |hosts: &[&TestHost], count: usize| {
        for _ in 0..count {
            let answer = hosts[sent % hosts.len()].send("order", &sent.to_string(), "CreateOrder", &order(sent % 3));
            assert_eq!(answer.status, 200, "{answer:?}");
            sent += 1;
            // What one host has recorded, another one answers, if it is asked for the position.
            let position = answer.body["position"].as_u64().expect("a position");
            let path = format!("/v1/queries/sales/store-sales?position={position}");
            let sales = hosts[sent % hosts.len()].post(&path, &json!({ "limit": 5 }), &[]);
            assert_eq!(sales.body, json!([["1", 60 * sent]]), "{sales:?}");
        }
        sent
    };
    let hosts = [&one.host, &two.host];
    confirmed(&one.host, send(&hosts, 20));
    confirmed(&two.host, send(&hosts, 1));

    // A third one takes nothing away from hosts that have their share, or one part of who has more.
    let three = member(&url);
    let hosts = [&one.host, &two.host, &three.host];
    divided(&hosts);
    confirmed(&three.host, send(&hosts, 10));

    // A killed one: its process is gone, so others need not wait for its lease.
    let members = [one, two, three];
    let worker = runs(&[&members[0].host, &members[1].host, &members[2].host], "subscription warehouse");
    let (mut left, mut gone) = (Vec::new(), None);
    for (n, member) in members.into_iter().enumerate() {
        if n == worker { gone = Some(member) } else { left.push(member) }
    }
    let Member { setting, host } = gone.expect("one of them");
    let pid = host.status()["host"]["pid"].as_u64().expect("a process").try_into().expect("a process id");
    let hosts: Vec<&TestHost> = left.iter().map(|member| &member.host).collect();
    send(&hosts, 5);
    signal(pid, libc::SIGKILL);
    assert_eq!(host.ended(), None, "it was killed");
    confirmed(hosts[0], send(&hosts, 10));
    divided(&hosts);

    // It comes back, and one that stops in order leaves nothing behind.
    let back = start(&setting, &url);
    divided(&[&back, hosts[0], hosts[1]]);
    let stopped = left.pop().expect("two of them");
    stopped.host.stop();
    let hosts = [&back, &left[0].host];
    divided(&hosts);
    confirmed(&back, send(&hosts, 10));
    let versions = "SELECT count(*) FROM (SELECT 1 FROM wasmill.events GROUP BY aggregate_type, aggregate_id
                    HAVING max(version) <> count(*)) AS gaps";
    assert_eq!(sql(&url, versions), ["0"], "versions have no gaps");
    back.stop();
    left.into_iter().for_each(|member| member.host.stop());
    assert_eq!(sql(&url, "SELECT count(*) FROM wasmill.hosts"), ["0"]);
}

#[test]
fn a_frozen_host_that_others_have_replaced_ends_without_an_effect() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let (one, two) = (member(&url), member(&url));
    divided(&[&one.host, &two.host]);
    let (worker, other) = match runs(&[&one.host, &two.host], "subscription warehouse") {
        0 => (one, two),
        _ => (two, one),
    };
    for n in 0..20 {
        assert_eq!(worker.host.send("order", &n.to_string(), "CreateOrder", &order(n)).status, 200);
    }
    let name =
        sql(&url, "SELECT h.name FROM wasmill.hosts h JOIN wasmill.leases l ON l.host = h.id WHERE l.part LIKE 'sub%'");
    worker.host.freeze();
    sql(
        &url,
        &format!(
            "UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 second' WHERE name = '{}'",
            name[0]
        ),
    );
    divided(&[&other.host]);
    for n in 20..40 {
        assert_eq!(other.host.send("order", &n.to_string(), "CreateOrder", &order(n)).status, 200);
    }
    confirmed(&other.host, 40);
    worker.host.wake();
    assert_eq!(worker.host.ended(), Some(4));
    confirmed(&other.host, 40);
    other.host.stop();
}

#[test]
fn a_host_with_another_manifest_runs_no_part_of_one_host_and_says_what_differs() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let one = member(&url);
    divided(&[&one.host]);
    let setting = Setting::new(&MANIFEST.replace("0 0 1 1 *", "0 0 2 1 *"));
    let two = start(&setting, &url);
    let told = |host: &TestHost| {
        let hosts = host.status()["hosts"].as_array().expect("hosts").clone();
        hosts.iter().map(|host| host["differs"].clone()).collect::<Vec<_>>()
    };
    until("both know each other", || told(&one.host).len() == 2 && told(&two).get(1) != Some(&json!([])));
    assert_eq!(told(&two), [json!([]), json!(["schedules.sweep.cron"])]);
    assert_eq!((parts(&one.host).len(), parts(&two).len()), (2, 0));
    assert_eq!(two.send("order", "1", "CreateOrder", &order(1)).status, 200, "it takes commands");
    confirmed(&two, 1);
    // What is asked of a part is asked of the host that runs it.
    let refused = two.post("/v1/subscriptions/warehouse/pause", &Value::Null, &[]);
    assert_eq!(refused.status, 409, "{refused:?}");
    let detail = refused.body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("runs on another host") && detail.contains(&one.host.address()), "{detail}");
    assert_eq!(one.host.post("/v1/subscriptions/warehouse/pause", &Value::Null, &[]).status, 200);
    assert_eq!(one.host.post("/v1/subscriptions/warehouse/resume", &Value::Null, &[]).status, 200);
    // A rolling change: the older host gets the new manifest, and both agree.
    one.setting.manifest(&MANIFEST.replace("0 0 1 1 *", "0 0 2 1 *"));
    assert_eq!(one.host.post("/v1/manifest/reload", &json!({}), &[]).status, 200);
    divided(&[&one.host, &two]);
    until("they agree", || told(&two) == [json!([]), json!([])]);
    // The last one that is left runs everything, whatever it differed in.
    setting.manifest(MANIFEST);
    assert_eq!(two.post("/v1/manifest/reload", &json!({}), &[]).status, 200);
    divided(&[&one.host]);
    one.host.stop();
    divided(&[&two]);
    assert_eq!(two.send("order", "2", "CreateOrder", &order(1)).status, 200);
    confirmed(&two, 2);
    two.stop();
}

#[test]
fn a_part_that_the_longest_running_host_does_not_have_is_said_to_run_nowhere() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let without = MANIFEST.replace("[plugins.warehouse]\nfile = \"PLUGINS/warehouse.wasm\"\n", "");
    let setting = Setting::new(&without);
    let (one, two) = (start(&setting, &url), member(&url));
    until("it is known", || two.host.status()["hosts"][1]["differs"].as_array().is_some_and(|keys| !keys.is_empty()));
    let drained = two.host.get("/v1/drained?timeout_ms=1000").body;
    let elsewhere = drained["elsewhere"].to_string();
    assert!(elsewhere.contains("subscription warehouse, which runs on no host"), "{drained}");
    let refused = two.host.post("/v1/subscriptions/warehouse/pause", &Value::Null, &[]);
    let detail = refused.body["detail"].as_str().unwrap_or_default();
    assert!(
        refused.status == 409 && detail.contains("runs on no host") && detail.contains("plugins.warehouse"),
        "{refused:?}"
    );
    two.host.until_logged("how it differs", |line| line.contains("on no host run subscription warehouse"));
    assert_eq!(two.host.send("order", "1", "CreateOrder", &order(1)).status, 200);
    one.stop();
    divided(&[&two.host]);
    confirmed(&two.host, 1);
    two.host.stop();
}

/// Waits until these parts run, each on one of the hosts, and as evenly as possible.
fn divided_as(hosts: &[&TestHost], all: &[&str]) {
    let share = all.len().div_ceil(hosts.len());
    until("these parts run, each on one host", || {
        let running: Vec<Vec<String>> = hosts.iter().map(|host| parts(host)).collect();
        let mut names: Vec<&str> = running.iter().flatten().map(String::as_str).collect();
        names.sort_unstable();
        names == all && running.iter().all(|parts| parts.len() <= share)
    });
}

#[test]
fn the_segments_of_a_subscription_are_divided_among_the_hosts_and_their_number_changes_host_by_host() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let text = |segments: u32| {
        let (before, schedules) = MANIFEST.split_once("[schedules").expect("a schedule");
        format!("{before}[subscriptions.warehouse]\nsegments = {segments}\n[schedules{schedules}")
    };
    let mut members: Vec<Member> = (0..3)
        .map(|_| {
            let setting = Setting::new(&text(3));
            let host = start(&setting, &url);
            Member { setting, host }
        })
        .collect();
    let mut sent = 0;
    let mut send = |members: &[Member], count: usize| {
        for _ in 0..count {
            let host = &members[sent % members.len()].host;
            assert_eq!(host.send("order", &sent.to_string(), "CreateOrder", &order(sent % 5)).status, 200);
            sent += 1;
        }
        sent
    };
    fn all(members: &[Member]) -> Vec<&TestHost> {
        members.iter().map(|member| &member.host).collect()
    }
    let three = ["schedules", "subscription warehouse:1", "subscription warehouse:2", "subscription warehouse:3"];
    divided_as(&all(&members), &three);
    confirmed(&members[0].host, send(&members, 40));
    let checkpoints =
        "SELECT subscription FROM wasmill.checkpoints WHERE subscription LIKE 'ware%' AND commands > 0 ORDER BY 1";
    assert_eq!(
        sql(&url, checkpoints),
        ["warehouse:1of3", "warehouse:2of3", "warehouse:3of3"],
        "each has handled events"
    );

    // One is killed: the others run its segment.
    let Member { host, .. } = members.pop().expect("three of them");
    let pid = host.status()["host"]["pid"].as_u64().expect("a process").try_into().expect("a process id");
    signal(pid, libc::SIGKILL);
    assert_eq!(host.ended(), None, "it was killed");
    divided_as(&all(&members), &three);
    confirmed(&members[1].host, send(&members, 20));

    // Another number, host by host. While they differ, nobody runs a segment of the one division beside one of the other.
    members[0].setting.manifest(&text(2));
    assert_eq!(members[0].host.post("/v1/manifest/reload", &json!({}), &[]).status, 200);
    send(&members, 10);
    members[1].setting.manifest(&text(2));
    assert_eq!(members[1].host.post("/v1/manifest/reload", &json!({}), &[]).status, 200);
    let two = ["schedules", "subscription warehouse:1", "subscription warehouse:2"];
    divided_as(&all(&members), &two);
    confirmed(&members[0].host, send(&members, 20));
    assert_eq!(sql(&url, checkpoints), ["warehouse:1of2", "warehouse:2of2"]);
    members.into_iter().for_each(|member| member.host.stop());
}

/// Whatever somebody has done to the rows, each part comes to run on one host again.
#[test]
fn leases_that_were_changed_by_hand_are_set_right() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let (one, two) = (member(&url), member(&url));
    let hosts = [&one.host, &two.host];
    divided(&hosts);
    let from = runs(&hosts, "subscription warehouse");
    for change in [
        "UPDATE wasmill.leases SET host = (SELECT min(id) FROM wasmill.hosts WHERE id <> host) WHERE part LIKE 'sub%'",
        "DELETE FROM wasmill.leases",
    ] {
        sql(&url, change);
        divided(&hosts);
        let answer = hosts[from].send("order", &change.len().to_string(), "CreateOrder", &order(1));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    confirmed(&one.host, 2);
    one.host.stop();
    two.host.stop();
}

#[test]
fn hosts_that_can_not_share_are_refused_with_the_remedy() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let one = member(&url);
    let told = |setting: &Setting, data: &str| {
        let mut command = std::process::Command::new(wasmill_tests::built::program("wasmill"));
        command.args(["run", "wasmill.toml", "--data", data, "--listen", "127.0.0.1:0"]);
        let output = command.current_dir(setting.path("")).env(URL, &url).output().expect("run wasmill");
        assert_ne!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("text")
    };
    let said = told(&one.setting, "data");
    assert!(said.contains("data folder") && said.contains("give each host its own"), "{said}");
    let embedded = Setting::new(&format!("{MANIFEST}[kafka]\nbrokers = \"embedded\"\n"));
    let said = told(&embedded, "data");
    assert!(said.contains("development broker") && said.contains("kafka.brokers"), "{said}");
    let renamed = Setting::new(
        &MANIFEST.replace("[plugins.warehouse]", "[subscriptions.depot]\nwas = \"warehouse\"\n[plugins.depot]"),
    );
    let said = told(&renamed, "data");
    assert!(said.contains("can't get the name depot while other hosts share the store"), "{said}");
    assert_eq!(one.host.send("order", "1", "CreateOrder", &order(1)).status, 200, "the host does not notice");
    confirmed(&one.host, 1);
    one.host.stop();
}
