//! Readers of events that have changed, that are new, or that are misspelt, in each role.
#![cfg(feature = "testing-sql")]

use wasmill_guest::prelude::*;
use wasmill_guest::testing::{ReadModel, deliver, event_json, event_of, given_saga, key_of, record};

/// The commands of accounts.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum AccountCommand {
    Debit { cents: i64 },
}

/// The events of accounts, of which `Opened` is in its third version.
#[derive(Debug, PartialEq, Serialize, Deserialize, Contract)]
#[contract(Account, type = "account", command = AccountCommand, upcasts = UPCASTS)]
enum AccountEvent {
    Opened {
        first: String,
        last: String,
    },
    #[serde(rename = "closed.now")]
    Closed,
}

const UPCASTS: &[Upcasts] = &[Upcasts::of("Opened", &[named, split]), Upcasts::of("Begun", &[])];

fn named(event: Json) -> Result<Json, String> {
    Ok(json!({ "name": event.as_str().ok_or("it is no text")? }))
}

fn split(event: Json) -> Result<Json, String> {
    let (first, last) = event["name"].as_str().and_then(|name| name.split_once(' ')).ok_or("it has no last name")?;
    Ok(json!({ "first": first, "last": last }))
}

/// What the readers know: one event.
#[derive(Deserialize)]
enum Known {
    Opened { last: String },
}

struct Fees;

impl Subscriber for Fees {
    const SUBSCRIPTIONS: &'static [&'static str] = &[Account::ALL_EVENTS, "other.Named"];
    const READS: &'static [Reads] = &[Reads::of::<Account>()];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        outbox.cancel("before it is decoded");
        let Known::Opened { last } = delivery.decode()?;
        Ok(outbox.send_to::<Account>(last, &AccountCommand::Debit { cents: 1 })?)
    }
}
export_subscriber!(Fees);

struct Strict;

impl Subscriber for Strict {
    const SUBSCRIPTIONS: &'static [&'static str] = &[Account::ALL_EVENTS];
    const UNKNOWN_EVENTS: UnknownEvents = UnknownEvents::Refuse;

    fn handle(delivery: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
        let Known::Opened { .. } = delivery.decode()?;
        Ok(())
    }
}

#[derive(Default)]
struct Welcome;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Welcomed {
    Begun { last: String },
}

impl Saga for Welcome {
    const TYPE: &'static str = "welcome";
    const STARTS: &'static [&'static str] = &[Account::ALL_EVENTS];
    const READS: &'static [Reads] = &[Reads::of::<Account>()];
    type Event = Welcomed;

    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        let Known::Opened { last } = event.decode()?;
        Ok(Some(last))
    }

    fn handle(&self, event: &Delivery, step: &mut Step<Welcomed>) -> Result<(), Failure> {
        let Known::Opened { last } = event.decode()?;
        step.record(Welcomed::Begun { last });
        Ok(())
    }

    fn apply(&mut self, _: Welcomed) {}
}

struct Names;

#[derive(Serialize, Deserialize)]
enum Query {
    All,
}

impl Projection for Names {
    const NAME: &'static str = "names";
    const SUBSCRIPTIONS: &'static [&'static str] = &[Account::ALL_EVENTS];
    const READS: &'static [Reads] = &[Reads::of::<Account>()];
    const SCHEMA: &'static str = "CREATE TABLE names (last TEXT NOT NULL)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        if event.name() == "Early" {
            sql.execute("INSERT INTO names VALUES ('too early')", params![])?;
        }
        let Known::Opened { last } = event.decode()?;
        sql.execute("INSERT INTO names VALUES (?1)", params![last])?;
        Ok(())
    }

    fn query(Query::All: Query, sql: &Sql) -> Result<Answer, QueryError> {
        Answer::json(&sql.rows::<String>("SELECT last FROM names", params![])?)
    }
}

/// The same event in all versions, as it is recorded.
const OPENED: [&str; 3] =
    [r#""Ada Lovelace""#, r#"{"@schema":2,"name":"Ada Lovelace"}"#, r#"{"@schema":3,"first":"Ada","last":"Lovelace"}"#];

/// Contents that can't be read, with the reason.
const WRONG: [(&str, &str); 5] = [
    ("7", "can't be migrated from schema version 1: it is no text"),
    (r#"{"@schema":2,"name":"Ada"}"#, "can't be migrated from schema version 2: it has no last name"),
    (r#"{"@schema":4,"first":"Ada"}"#, "schema version 4 and this code knows up to 3"),
    (r#"{"@schema":0}"#, "not a schema version"),
    (r#"{"@schema":3,"first":"Ada"}"#, "missing field `last`"),
];

fn opened(payload: &str) -> Delivery {
    event_json("account", "7", "Opened", payload)
}

#[test]
fn each_role_reads_each_version() {
    let mut names = ReadModel::<Names>::new();
    for payload in OPENED {
        deliver::<Fees>(opened(payload))
            .then_cancel("before it is decoded")
            .then_command("account", "Lovelace", &AccountCommand::Debit { cents: 1 })
            .then_nothing();
        assert_eq!(key_of::<Welcome>(&opened(payload)), Ok(Some("Lovelace".to_owned())));
        given_saga::<Welcome>([])
            .when(opened(payload))
            .then_events([Welcomed::Begun { last: "Lovelace".into() }])
            .then_goes_on();
        names.project_json("account", "7", "Opened", payload);
    }
    let typed = AccountEvent::Opened { first: "Bob".into(), last: "Noyce".into() };
    names.project_of::<Account>("8", &typed);
    deliver::<Fees>(event_of::<Account>("8", &typed))
        .then_cancel("before it is decoded")
        .then_command("account", "Noyce", &AccountCommand::Debit { cents: 1 })
        .then_nothing();
    assert_eq!(names.query(&Query::All), json!(["Lovelace", "Lovelace", "Lovelace", "Noyce"]));
}

#[test]
fn what_no_role_can_read_is_malformed_and_says_why() {
    let mut names = ReadModel::<Names>::new();
    for (payload, reason) in WRONG {
        deliver::<Fees>(opened(payload)).then_malformed(reason);
        given_saga::<Welcome>([]).when(opened(payload)).then_malformed(reason);
        let failure = key_of::<Welcome>(&opened(payload)).unwrap_err().to_string();
        assert!(failure.contains(reason), "{failure}");
        let failure = names.try_project("account", "7", "Opened", payload).unwrap_err();
        assert!(matches!(&failure, Failure::Malformed(found) if found.contains(reason)), "{failure}");
    }
}

#[test]
fn an_unknown_event_is_skipped_unless_a_subscription_names_it_or_the_reader_refuses_it() {
    let unknown = || event_json("account", "7", "Frozen", "{}");
    deliver::<Fees>(unknown()).then_skipped();
    deliver::<Fees>(event_json("other", "7", "Named", "{}")).then_malformed("unknown name `Named`");
    deliver::<Fees>(record("accounts", None, Some(b"{}"))).then_malformed("unknown name `accounts`");
    deliver::<Strict>(unknown()).then_malformed("unknown name `Frozen`");
    assert_eq!(key_of::<Welcome>(&unknown()), Ok(None));
    given_saga::<Welcome>([]).when(unknown()).then_skipped().when(unknown()).then_skipped();
    let mut names = ReadModel::<Names>::new();
    let skipped = names.try_project("account", "7", "Frozen", "{}").unwrap_err();
    assert!(matches!(skipped, Failure::UnknownEvent(_)), "{skipped}");
    let early = names.try_project("account", "7", "Early", "{}").unwrap_err();
    assert!(matches!(&early, Failure::Malformed(reason) if reason.contains("decode it first")), "{early}");
    assert_eq!(names.query(&Query::All), json!([]));
}

#[test]
#[should_panic(expected = "expect `then_skipped`")]
fn a_misspelt_event_of_a_test_does_not_pass_as_handled() {
    deliver::<Strictless>(event_json("account", "7", "Opend", "{}")).then_nothing();
}

struct Strictless;

impl Subscriber for Strictless {
    const SUBSCRIPTIONS: &'static [&'static str] = &["account.*"];

    fn handle(delivery: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
        let Known::Opened { .. } = delivery.decode()?;
        Ok(())
    }
}

#[test]
fn the_names_of_a_contract_are_those_that_are_recorded() {
    assert_eq!([Account::OPENED, Account::CLOSED], ["account.Opened", "account.closed.now"]);
    assert_eq!((Account::TYPE, Account::ALL_EVENTS), ("account", "account.*"));
}
