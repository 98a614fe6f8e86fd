//! Rows: values that are written to SQLite are read back unchanged.
#![cfg(feature = "testing-sql")]

use wasmill_guest::prelude::*;
use wasmill_guest::testing::ReadModel;

struct Values;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    id: u32,
    real: f64,
    text: String,
    flag: bool,
    none: Option<String>,
    kind: Kind,
}

#[derive(Serialize, Deserialize)]
enum Query {
    ByName,
    ByOrder,
    OneColumn,
    Several,
    Write,
}

impl Projection for Values {
    const NAME: &'static str = "values";
    const SUBSCRIPTIONS: &'static [&'static str] = &["**"];
    const SCHEMA: &'static str =
        "CREATE TABLE t (id INTEGER, real REAL, text TEXT, flag INTEGER, none TEXT, kind TEXT)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        let Row { id, real, text, flag, none, .. } = event.json()?;
        sql.execute("INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, 'Plain')", params![id, real, text, flag, none])?;
        Ok(())
    }

    fn query(query: Query, sql: &Sql) -> Result<Answer, QueryError> {
        match query {
            Query::ByName => Answer::json(&sql.rows::<Row>("SELECT * FROM t", params![])?),
            Query::ByOrder => Answer::json(&sql.row::<(String, Kind)>("SELECT text, kind FROM t", params![])?),
            Query::OneColumn => Answer::json(&sql.rows::<Option<String>>("SELECT none FROM t", params![])?),
            Query::Several => Answer::json(&sql.rows::<i64>("SELECT id, real FROM t", params![])?),
            Query::Write => Answer::json(&sql.execute("DELETE FROM t", params![])?),
        }
    }
}

fn filled() -> ReadModel<Values> {
    let mut values = ReadModel::new();
    let row = r#"{"id":4294967295,"real":0.1,"text":"ü","flag":true,"none":null,"kind":"Plain"}"#;
    values.project_json("any", "1", "Inserted", row);
    values
}

#[test]
fn a_row_becomes_a_struct_a_tuple_or_its_only_column() {
    let row = Row { id: u32::MAX, real: 0.1, text: "ü".into(), flag: true, none: None, kind: Kind::Plain };
    assert_eq!(filled().query(&Query::ByName), serde_json::json!([row]));
    assert_eq!(filled().query(&Query::ByOrder), serde_json::json!(["ü", "Plain"]));
    assert_eq!(filled().query(&Query::OneColumn), serde_json::json!([null]));
}

#[test]
fn a_row_that_does_not_fit_is_an_error_with_its_statement() {
    let error = filled().try_query("Several", "").unwrap_err().to_string();
    assert!(error.contains("needs a struct or a tuple (in: SELECT id, real FROM t)"), "{error}");
}

#[test]
fn a_query_cannot_write() {
    let error = filled().try_query("Write", "").unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");
}
