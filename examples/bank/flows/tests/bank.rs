//! The bank's plugins together: the flows of `examples/bank/flows.toml`, and what they say when a rule changes.

use accounts::Account;
use bank_contract::{AccountCommand, AccountEvent, TransferCommand, TransferEvent};
use serde_json::json;
use statements::{Statements, StatementsQuery};
use std::panic::catch_unwind;
use std::time::Duration;
use transfer_process::TransferProcess;
use transfers::Transfer;
use wasmill_guest::testing::{Plugins, flows};

const FLOWS: &str = "../flows.toml";

/// The bank with the settings of its saga.
fn bank_with(rules: serde_json::Value) -> Plugins {
    Plugins::new()
        .aggregate::<Account>()
        .aggregate::<Transfer>()
        .saga::<TransferProcess>()
        .with_settings(rules)
        .projection::<Statements>()
}

fn bank() -> Plugins {
    bank_with(json!({}))
}

#[test]
fn the_bank_does_what_its_flows_say() {
    flows(FLOWS, bank);
}

#[test]
fn a_changed_rule_shows_which_flow_differs_at_which_step_and_how() {
    let failed = catch_unwind(|| flows(FLOWS, || bank_with(json!({ "approval_minutes": 30 })))).unwrap_err();
    let text = failed.downcast_ref::<String>().unwrap();
    for part in [
        "2 of 4 flows failed",
        "flows.toml: a large transfer that nobody approves in time is refunded\nstep 5, the clock moves by 59m 59s: the events \
         are not the expected ones; missing lines have -, unexpected lines have +:",
        "+ account/ada Refunded {",
        "+   \"transfer_id\": \"t1\"",
        "flows.toml: a large transfer that is approved in time is completed\nstep 6, Approve to transfer/t1: expected it to be \
         accepted, and it was rejected: the transfer has ended",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn a_transfer_to_nobody_is_refunded_and_both_sides_say_so() {
    let mut bank = bank();
    let open = AccountCommand::Open { first_name: "Ada".into(), last_name: "Lovelace".into() };
    bank.send("account", "ada", &open).then_accepted();
    bank.send("account", "ada", &open).then_rejected("the account exists").then_nothing();
    bank.send("account", "ada", &AccountCommand::Deposit { cents: 500 }).then_accepted();
    let request = TransferCommand::Request { from: "ada".into(), to: "nobody".into(), cents: 300 };
    let (transfer_id, cents) = ("t1".to_owned(), 300);
    let reason = "rejected: there is no such account".to_owned();
    bank.send("transfer", "t1", &request)
        .then_refused("account", "nobody", "Credit", "no such account")
        .then_events(
            "account",
            "ada",
            [
                AccountEvent::Debited { transfer_id: transfer_id.clone(), cents },
                AccountEvent::Refunded { transfer_id, cents },
            ],
        )
        .then_events(
            "transfer",
            "t1",
            [
                TransferEvent::Requested { from: "ada".into(), to: "nobody".into(), cents },
                TransferEvent::Failed { reason },
            ],
        );
    bank.advance(Duration::from_secs(86_400)).then_nothing();
    let totals = bank.query::<Statements>(&StatementsQuery::Totals);
    assert_eq!(totals, json!({ "accounts": 1, "cents": 500 }));
}
