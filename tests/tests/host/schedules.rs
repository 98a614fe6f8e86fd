//! Schedules. Each due time has its command once, through kills, restarts and jumps of the clock.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wasmill::clock::OFFSET_FILE;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Time within which the host must notice that its clock was moved.
const NOTICED_MAX: Duration = Duration::from_secs(60);

/// A manifest with the plugin `misbehaving`, whose commands are tried once, and with more sections.
fn manifest(sections: &str) -> String {
    let plugin = built::plugin("misbehaving");
    format!("[plugins.misbehaving]\nfile = {plugin:?}\nshards = 1\nattempts_max = 1\n{sections}")
}

/// A section of a schedule that sends to the aggregate with its own name.
fn schedule(name: &str, keys: &str) -> String {
    format!("[schedules.{name}]\naggregate = \"misbehaving\"\nid = \"{name}\"\n{keys}\n")
}

/// The keys of a command that records an event.
fn count(cron: &str) -> String {
    format!("cron = \"{cron}\"\ncommand = \"Count\"\npayload = {{ then = \"Nothing\" }}")
}

/// A clock of a host, which a test sets.
struct MovedClock<'s> {
    setting: &'s Setting,
}

impl<'s> MovedClock<'s> {
    /// Makes a clock that shows this time when a host starts.
    fn at(setting: &'s Setting, ms: u64) -> Self {
        let clock = Self { setting };
        clock.set(ms);
        clock
    }

    fn file(&self) -> PathBuf {
        self.setting.path("clock-offset-ms")
    }

    /// Moves the clock of a host that runs or will be started.
    fn set(&self, ms: u64) {
        let offset = i128::from(ms) - i128::from(machine_ms());
        self.setting.write("clock-offset-ms", offset.to_string());
    }

    fn start(&self) -> TestHost {
        self.setting.start_in(vec![(OFFSET_FILE, self.file())])
    }
}

fn machine_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as u64
}

/// Waits until the clock of a host is before a time. The host shows its clock in the events of commands.
fn until_clock_is_before(host: &TestHost, ms: u64) {
    let deadline = Instant::now() + NOTICED_MAX;
    loop {
        let answer = host.send("misbehaving", "probe", "Count", &json!({ "then": "Nothing" }));
        assert_eq!(answer.status, 200, "{answer:?}");
        let last = host.events("misbehaving.Counted").pop().expect("the event of the command");
        if last["time_ms"].as_u64().expect("a time") < ms {
            return;
        }
        assert!(Instant::now() < deadline, "the clock was not moved: {last}");
    }
}

/// Returns the due times for which a schedule recorded an event, in milliseconds and in the order of the events.
fn ran(host: &TestHost, schedule: &str) -> Vec<u64> {
    let events = host.events("misbehaving.Counted");
    let of_schedule = events.iter().filter(|event| event["aggregate_id"] == schedule);
    let due = |event: &Value| {
        let id = event["causation_id"].as_str().expect("an id");
        let seconds: u64 =
            id.strip_prefix(&format!("schedule:{schedule}:")).expect("its own id").parse().expect("seconds");
        assert_eq!(event["time_ms"], seconds * 1_000, "the time of the command is its due time");
        assert_eq!(event["correlation_id"], event["causation_id"]);
        seconds * 1_000
    };
    of_schedule.map(due).collect()
}

fn status_of(status: &Value, schedule: &str) -> Value {
    let all = status["schedules"].as_array().expect("the status lists schedules");
    all.iter().find(|found| found["name"] == schedule).cloned().unwrap_or_default()
}

fn until_runs(host: &TestHost, schedule: &str, runs: u64) -> Value {
    let has_run = |status: &Value| status_of(status, schedule)["runs"].as_u64() >= Some(runs);
    status_of(&host.until("the schedule has run", has_run), schedule)
}

#[test]
fn each_second_has_its_command_once_through_kills() {
    let setting = Setting::new(&manifest(&schedule("tick", &count("* * * * * *"))));
    let host = setting.start();
    for _ in 0..5 {
        until_runs(&host, "tick", 2);
        host.crash();
    }
    until_runs(&host, "tick", 2);
    let ran = ran(&host, "tick");
    assert!(ran.len() >= 12, "{ran:?}");
    assert!(ran.windows(2).all(|pair| pair[1] == pair[0] + 1_000), "none twice and none left out: {ran:?}");
    let status = host.status();
    let tick = status_of(&status, "tick");
    assert_eq!((&tick["state"], &tick["failures"]), (&json!("running"), &json!(0)), "{tick}");
    assert_eq!(status["dead_letters"]["total"], 0);
    let table = setting.wasmill(&["status", "--data", "data"]);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.contains("SCHEDULE") && table.contains("Count to misbehaving/tick"), "{table}");
    host.stop();
}

#[test]
fn a_clock_that_is_moved_brings_due_times_and_none_of_them_twice() {
    let daily = format!("{}\ntime_zone = \"Europe/Berlin\"", count("0 3 * * *"));
    let setting = Setting::new(&manifest(&schedule("daily", &daily)));
    // 2026-06-01T12:00:00Z. Three o'clock in Berlin is then one o'clock in UTC.
    let begin_ms = 1_780_315_200_000;
    let [first, second] = [1, 2].map(|days| begin_ms + days * DAY_MS - 11 * HOUR_MS);
    let clock = MovedClock::at(&setting, begin_ms);
    let host = clock.start();
    let daily = status_of(&host.status(), "daily");
    assert_eq!((&daily["next_ms"], &daily["last_ms"]), (&json!(first), &Value::Null), "{daily}");
    clock.set(first + 1_000);
    let daily = until_runs(&host, "daily", 1);
    assert_eq!((&daily["next_ms"], &daily["last_ms"]), (&json!(second), &json!(first)), "{daily}");
    clock.set(begin_ms);
    until_clock_is_before(&host, first);
    host.drained();
    clock.set(second + 1_000);
    until_runs(&host, "daily", 2);
    assert_eq!(ran(&host, "daily"), [first, second]);
    host.stop();
}

#[test]
fn due_times_that_passed_without_a_host_are_run_as_the_schedule_says() {
    let kinds = ["latest", "all", "skip"];
    let section = |missed: &str| schedule(missed, &format!("{}\nmissed = {missed:?}", count("0 * * * *")));
    let setting = Setting::new(&manifest(&kinds.map(section).concat()));
    // 2026-06-01T12:00:00Z
    let begin_ms = 1_780_315_200_000;
    let hour = |number: u64| begin_ms + number * HOUR_MS;
    let clock = MovedClock::at(&setting, begin_ms + HOUR_MS / 2);
    let host = clock.start();
    host.drained();
    host.stop();
    clock.set(hour(3) + HOUR_MS / 2);
    let host = clock.start();
    host.drained();
    let all = |host: &TestHost| kinds.map(|kind| ran(host, kind));
    assert_eq!(all(&host), [vec![hour(3)], vec![hour(1), hour(2), hour(3)], vec![]]);
    // What is noticed in time is not missed.
    clock.set(hour(4) + 5_000);
    host.until("all have run", |status| kinds.iter().all(|kind| status_of(status, kind)["last_ms"] == hour(4)));
    assert_eq!(all(&host), [vec![hour(3), hour(4)], vec![hour(1), hour(2), hour(3), hour(4)], vec![hour(4)]]);
    host.stop();
}

#[test]
fn a_rejected_command_is_counted_and_its_schedule_goes_on() {
    // The command says no to everybody. It has no fields, so it needs no payload.
    let setting = Setting::new(&manifest(&schedule("asking", "cron = \"* * * * * *\"\ncommand = \"Tell\"")));
    let host = setting.start();
    until_runs(&host, "asking", 2);
    let status = host.status();
    let counts = &status["commands"][0];
    assert_eq!((&counts["command"], &counts["accepted"]), (&json!("Tell"), &json!(0)), "{counts}");
    assert!(counts["rejected"].as_u64() >= Some(2), "{counts}");
    assert_eq!(
        (&status_of(&status, "asking")["state"], &status["dead_letters"]["total"]),
        (&json!("running"), &json!(0))
    );
    host.stop();
}

#[test]
fn a_command_that_fails_is_a_dead_letter_of_its_schedule() {
    let setting = Setting::new(&manifest(&schedule("failing", "cron = \"0 13 * * *\"\ncommand = \"Panic\"")));
    // 2026-06-01T12:00:00Z
    let begin_ms = 1_780_315_200_000;
    let clock = MovedClock::at(&setting, begin_ms);
    let host = clock.start();
    clock.set(begin_ms + HOUR_MS + 1_000);
    until_runs(&host, "failing", 1);
    host.drained();
    let letters = host.get("/v1/dead-letters?consumer=schedule%2Ffailing").body;
    assert_eq!(letters["total"], 1, "{letters}");
    assert_eq!(letters["letters"][0]["place"], "schedule failing at 2026-06-01T13:00:00Z");
    let number = letters["letters"][0]["number"].to_string();
    let again = host.post(&format!("/v1/dead-letters/{number}/replay"), &Value::Null, &[]);
    assert_eq!(again.status, 422, "{again:?}");
    assert!(again.body.to_string().contains("told to panic"), "its aggregate was asked again: {again:?}");
    host.stop();
}

#[test]
fn a_schedule_that_was_removed_can_be_forgotten() {
    let setting = Setting::new(&manifest(&schedule("tick", &count("* * * * * *"))));
    let host = setting.start();
    until_runs(&host, "tick", 1);
    host.stop();
    setting.manifest(&manifest(""));
    let orphans = |more: &[&str]| {
        let listed = setting.wasmill(&[&["store", "orphans", "wasmill.toml"], more].concat());
        String::from_utf8(listed.stdout).expect("text")
    };
    assert!(orphans(&[]).contains("only in the store: schedule/tick (at 20"), "{}", orphans(&[]));
    assert!(orphans(&["--forget", "schedule/tick"]).contains("forgotten: schedule/tick"));
    assert!(!orphans(&[]).contains("schedule/tick"));
}

/// Sections of a schedule `s`, and what their refusal must say.
const REFUSED: [(&str, &[&str]); 10] = [
    ("cron = \"0 3 * *\"\nCOMMAND", &["wasmill.toml:6", "schedules.s.cron", "five fields", "\"0 3 * *\""]),
    ("cron = \"0 3 30 2 *\"\nCOMMAND", &["wasmill.toml:6", "schedules.s.cron", "never be due"]),
    (
        "cron = \"0 3 * * *\"\ntime_zone = \"Mars/Phobos\"\nCOMMAND",
        &["wasmill.toml:7", "schedules.s.time_zone", "Mars/Phobos"],
    ),
    ("COMMAND", &["wasmill.toml:5", "`schedules.s.cron` is missing"]),
    (
        "cron = \"0 3 * * *\"",
        &["wasmill.toml:5", "`schedules.s.aggregate` is missing", "`schedules.s.command` is missing"],
    ),
    ("cron = \"0 3 * * *\"\nmissed = \"none\"\nCOMMAND", &["schedules.s.missed", "\"latest\", \"all\" or \"skip\""]),
    ("cron = \"0 3 * * *\"\npayload = [nan]\nCOMMAND", &["wasmill.toml:7", "schedules.s.payload", "nan"]),
    ("cron = \"0 3 * * *\"\ncrom = 1\nCOMMAND", &["wasmill.toml:7", "unknown key `schedules.s.crom`", "`cron`"]),
    (
        "cron = \"0 3 * * *\"\naggregate = \"till\"\nid = \"i\"\ncommand = \"Close\"",
        &["wasmill.toml: `schedules.s.aggregate`", "no plugin serves aggregate type till"],
    ),
    (
        "cron = \"0 3 * * *\"\naggregate = \"misbehaving\"\nid = \"i\"\ncommand = \"Close\"",
        &["wasmill.toml: `schedules.s.command`", "has no command Close", "Count"],
    ),
];

#[test]
fn a_schedule_that_could_never_work_is_refused_with_its_place_and_the_remedy() {
    for (keys, expected) in REFUSED {
        let keys = keys.replace("COMMAND", "aggregate = \"misbehaving\"\nid = \"i\"\ncommand = \"Tell\"");
        let setting = Setting::new(&manifest(&format!("[schedules.s]\n{keys}\n")));
        let checked = setting.wasmill(&["check", "wasmill.toml"]);
        let refused = setting.start_refused();
        for output in [checked, refused] {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{keys}\n{said}");
            for part in expected {
                assert!(said.contains(part), "{keys}\nshould say {part:?}: {said}");
            }
        }
    }
}
