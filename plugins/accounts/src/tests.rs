//! Tests of what an account accepts and refuses.

use super::*;
use wasmill_guest::testing::{given, given_json};

fn open() -> AccountCommand {
    AccountCommand::Open { first_name: "Ada".into(), last_name: "Lovelace".into() }
}

fn opened() -> AccountEvent {
    AccountEvent::Opened { first_name: "Ada".into(), last_name: "Lovelace".into() }
}

fn deposited(cents: i64) -> AccountEvent {
    AccountEvent::Deposited { cents }
}

fn debit(cents: i64) -> AccountCommand {
    AccountCommand::Debit { transfer_id: "t1".into(), cents }
}

fn credit(cents: i64) -> AccountCommand {
    AccountCommand::Credit { transfer_id: "t1".into(), cents }
}

fn refund(cents: i64) -> AccountCommand {
    AccountCommand::Refund { transfer_id: "t1".into(), cents }
}

#[test]
fn money_goes_in_and_out() {
    given::<Account>([])
        .when(open())
        .then_events([opened()])
        .when(AccountCommand::Deposit { cents: 500 })
        .then_events([deposited(500)])
        .when(debit(300))
        .then_events([AccountEvent::Debited { transfer_id: "t1".into(), cents: 300 }])
        .when(debit(300))
        .then_rejected("the balance is 200 cents, and 300 are needed")
        .when(refund(300))
        .then_events([AccountEvent::Refunded { transfer_id: "t1".into(), cents: 300 }])
        .when(credit(1))
        .then_events([AccountEvent::Credited { transfer_id: "t1".into(), cents: 1 }])
        .when(debit(501))
        .then_events([AccountEvent::Debited { transfer_id: "t1".into(), cents: 501 }]);
}

#[test]
fn an_account_is_opened_once_and_before_anything_else() {
    given::<Account>([opened()]).when(open()).then_rejected("the account exists");
    for command in [AccountCommand::Deposit { cents: 1 }, debit(1), credit(1), refund(1), AccountCommand::Close] {
        given::<Account>([]).when(command).then_rejected("there is no such account");
    }
}

#[test]
fn amounts_are_positive_and_a_balance_is_bounded() {
    let rich = || given::<Account>([opened(), deposited(i64::MAX)]);
    for cents in [0, -1, i64::MIN] {
        for command in [AccountCommand::Deposit { cents }, debit(cents), credit(cents), refund(cents)] {
            given::<Account>([opened()]).when(command).then_rejected("at least 1 cent");
        }
    }
    for command in [AccountCommand::Deposit { cents: 1 }, credit(1), refund(1)] {
        rich().when(command).then_rejected("more than an account can hold");
    }
}

#[test]
fn a_closed_account_takes_nothing_but_what_comes_back() {
    given::<Account>([opened(), deposited(1)]).when(AccountCommand::Close).then_rejected("still holds 1 cents");
    let closed = || given::<Account>([opened()]).when(AccountCommand::Close).then_events([AccountEvent::Closed]);
    for command in [AccountCommand::Deposit { cents: 1 }, debit(1), credit(1), AccountCommand::Close] {
        closed().when(command).then_rejected("the account is closed");
    }
    closed().when(refund(1)).then_events([AccountEvent::Refunded { transfer_id: "t1".into(), cents: 1 }]);
}

#[test]
fn an_account_of_the_first_version_is_read() {
    let old = [("Opened", r#"{"name":"Ada Lovelace"}"#), ("Deposited", r#"{"cents":5}"#)];
    given_json::<Account>(old).when(debit(6)).then_rejected("the balance is 5 cents");
}
