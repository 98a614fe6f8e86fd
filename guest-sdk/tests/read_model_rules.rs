//! The rules of a read model: the test kit refuses the same statements as the host, with the same text.
#![cfg(feature = "testing-sql")]

use wasmill_guest::prelude::*;
use wasmill_guest::testing::ReadModel;

struct Hostile;

#[derive(Serialize, Deserialize)]
enum Query {
    Run(String),
    Long(usize),
}

impl Projection for Hostile {
    const NAME: &'static str = "hostile";
    const SUBSCRIPTIONS: &'static [&'static str] = &["**"];
    const SCHEMA: &'static str = "CREATE TABLE t (n INTEGER)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        match event.name() {
            "Number" => sql.execute("INSERT INTO t VALUES (?1)", params![event.json::<u64>()?])?,
            _ => sql.execute(&event.json::<String>()?, params![])?,
        };
        Ok(())
    }

    fn query(query: Query, sql: &Sql) -> Result<Answer, QueryError> {
        match query {
            Query::Run(statement) => Answer::json(&sql.rows::<Option<i64>>(&statement, params![])?),
            Query::Long(bytes) => Answer::json(&"x".repeat(bytes)),
        }
    }
}

fn refused(statement: &str) -> String {
    let json = serde_json::to_string(statement).unwrap();
    ReadModel::<Hostile>::new().try_project("any", "1", "Run", json).expect_err(statement).to_string()
}

#[test]
fn the_kit_has_the_rules_of_the_host() {
    for statement in [
        "PRAGMA journal_mode = OFF",
        "ATTACH ':memory:' AS other",
        "BEGIN",
        "COMMIT",
        "CREATE TEMP TABLE a (n)",
        "CREATE TABLE _wasmill_mine (n)",
        "ALTER TABLE t RENAME TO u",
    ] {
        let error = refused(statement);
        assert!(error.contains("not allowed in a read model"), "{statement}: {error}");
    }
    assert!(refused("INSERT INTO t VALUES (zeroblob(1000000000))").contains("limits.sql_value_mib"));
}

#[test]
fn a_query_only_reads_and_its_answer_is_bounded() {
    let model = ReadModel::<Hostile>::new();
    let run = |statement: &str| model.try_query("Run", serde_json::to_string(statement).unwrap());
    assert!(run("DELETE FROM t").unwrap_err().to_string().contains("read-only"));
    assert!(run("PRAGMA query_only = OFF").unwrap_err().to_string().contains("not allowed"));
    assert_eq!(run("SELECT count(*) FROM t"), Ok(serde_json::json!([0])));
    assert!(model.try_query("Long", "1000").is_ok());
    let error = model.try_query("Long", (17 << 20).to_string()).unwrap_err().to_string();
    assert!(error.contains("limits.output_mib"), "{error}");
}

#[test]
fn a_number_that_sqlite_does_not_have_is_an_error_of_the_statement() {
    let mut model = ReadModel::<Hostile>::new();
    model.try_project("any", "1", "Number", i64::MAX.to_string()).unwrap();
    let error = model.try_project("any", "1", "Number", u64::MAX.to_string()).unwrap_err().to_string();
    assert!(error.contains("18446744073709551615") && error.contains("as text"), "{error}");
    let count = model.try_query("Run", r#""SELECT count(*) FROM t""#);
    assert_eq!(count, Ok(serde_json::json!([1])), "what was refused is not there");
}
