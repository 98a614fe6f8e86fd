//! Tests of the read model's answers.

use super::*;
use serde_json::json;
use wasmill_guest::testing::{ReadModel, projection_cases};

fn statements() -> ReadModel<Statements> {
    let mut statements = ReadModel::new();
    statements.at(1000).project_json("account", "ada", "Opened", r#"{"name":"Ada Lovelace"}"#);
    let named = r#"{"@schema":2,"first_name":"Bob","last_name":""}"#;
    statements.project_json("account", "bob", "Opened", named);
    statements.project_json("account", "ada", "Deposited", r#"{"cents":500}"#);
    statements.at(2000).project_json("account", "ada", "Debited", r#"{"transfer_id":"t1","cents":200}"#);
    statements.project_json("account", "bob", "Credited", r#"{"transfer_id":"t1","cents":200}"#);
    statements.project_json("account", "ada", "Debited", r#"{"transfer_id":"t2","cents":300}"#);
    statements.project_json("account", "ada", "Refunded", r#"{"transfer_id":"t2","cents":300}"#);
    statements
}

#[test]
fn an_account_has_a_balance_in_both_shapes_of_its_first_event() {
    let account = |id: &str| statements().query(&StatementsQuery::Account { account: id.into() });
    let ada =
        json!({ "account": "ada", "holder": "Ada Lovelace", "balance_cents": 300, "entries": 4, "is_closed": false });
    assert_eq!(account("ada"), ada);
    assert_eq!(account("bob")["holder"], "Bob");
    assert_eq!(account("eve"), json!(null));
}

#[test]
fn a_statement_is_read_in_pages() {
    let page = |after, limit| {
        let page = statements().query(&StatementsQuery::Statement { account: "ada".into(), after, limit });
        let numbers: Vec<_> = page["entries"].as_array().unwrap().iter().map(|entry| entry["number"].clone()).collect();
        (json!(numbers), page["next"].clone())
    };
    assert_eq!(page(0, 3), (json!([1, 2, 3]), json!(3)));
    assert_eq!(page(3, 3), (json!([4]), json!(null)));
    assert_eq!(page(0, 4), (json!([1, 2, 3, 4]), json!(null)));
    assert_eq!(page(9, 3), (json!([]), json!(null)));
    let first =
        &statements().query(&StatementsQuery::Statement { account: "bob".into(), after: 0, limit: 1 })["entries"][0];
    let expected =
        json!({ "number": 1, "kind": "credit", "cents": 200, "balance_cents": 200, "transfer": "t1", "time_ms": 2000 });
    assert_eq!(*first, expected);
}

#[test]
fn a_closed_account_shows_and_all_money_is_counted() {
    let mut statements = statements();
    statements.project_json("account", "eve", "Opened", r#"{"name":"Eve"}"#);
    statements.project_json("account", "eve", "Closed", "null");
    assert_eq!(statements.query(&StatementsQuery::Totals), json!({ "accounts": 3, "cents": 500 }));
    assert_eq!(statements.query(&StatementsQuery::Account { account: "eve".into() })["is_closed"], true);
    assert_eq!(ReadModel::<Statements>::new().query(&StatementsQuery::Totals), json!({ "accounts": 0, "cents": 0 }));
}

#[test]
fn the_cases_hold_natively() {
    projection_cases::<Statements>("cases/statements.toml");
}
