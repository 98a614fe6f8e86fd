//! Tests of transfers: refused, late, compensated, and with inputs in any order.

use super::*;
use wasmill_guest::testing::{GivenSaga, event_json, given_saga, outcome, saga_cases, timer};

/// From this amount on, a transfer needs an approval by default.
const LARGE_CENTS: i64 = 100_000;

/// The time for the approval by default.
const APPROVAL_TIME: Duration = Duration::from_secs(3_600);

const ACCEPTED: Ending<'static> = Ending::Accepted { version: 1, position: 1 };

fn requested(cents: i64) -> Delivery {
    event_json("transfer", "t1", "Requested", &format!(r#"{{"from":"ada","to":"bob","cents":{cents}}}"#))
}

fn approved() -> Delivery {
    event_json("transfer", "t1", "Approved", "null")
}

fn started(cents: i64) -> ProcessEvent {
    let is_large = cents >= LARGE_CENTS;
    ProcessEvent::Started { transfer_id: "t1".into(), from: "ada".into(), to: "bob".into(), cents, is_large }
}

fn asking(account: &str, asked: Asked, cents: i64) -> OutgoingCommand {
    let transfer_id = "t1".to_owned();
    let command = match asked {
        Asked::Debit => AccountCommand::Debit { transfer_id, cents },
        Asked::Credit => AccountCommand::Credit { transfer_id, cents },
        Asked::Refund => AccountCommand::Refund { transfer_id, cents },
    };
    OutgoingCommand::to::<Account>(account, &command).unwrap().asking_outcome(&asked).unwrap()
}

fn answered(account: &str, asked: Asked, ending: Ending<'_>) -> Delivery {
    outcome("account", account, "any", ending, &asked)
}

fn process(history: impl IntoIterator<Item = ProcessEvent>) -> GivenSaga<TransferProcess> {
    given_saga(history)
}

#[test]
fn a_small_transfer_moves_at_once() {
    process([])
        .when(requested(500))
        .then_events([started(500)])
        .then_sent(asking("ada", Asked::Debit, 500))
        .then_goes_on()
        .when(answered("ada", Asked::Debit, ACCEPTED))
        .then_events([ProcessEvent::Debited])
        .then_sent(asking("bob", Asked::Credit, 500))
        .then_goes_on()
        .when(answered("bob", Asked::Credit, ACCEPTED))
        .then_command("transfer", "t1", &TransferCommand::Complete)
        .then_completed();
}

#[test]
fn a_refused_debit_ends_it() {
    process([started(500)])
        .when(answered("ada", Asked::Debit, Ending::Rejected("too little")))
        .then_command("transfer", "t1", &TransferCommand::Fail { reason: "rejected: too little".into() })
        .then_compensated();
}

#[test]
fn a_refused_credit_is_refunded() {
    let refunding = ProcessEvent::RefundStarted { reason: "rejected: the account is closed".into() };
    process([started(500), ProcessEvent::Debited])
        .when(answered("bob", Asked::Credit, Ending::Rejected("the account is closed")))
        .then_events([refunding])
        .then_sent(asking("ada", Asked::Refund, 500))
        .then_goes_on()
        .when(answered("ada", Asked::Refund, ACCEPTED))
        .then_command("transfer", "t1", &TransferCommand::Fail { reason: "rejected: the account is closed".into() })
        .then_compensated();
}

#[test]
fn a_large_transfer_waits_for_an_approval() {
    process([started(LARGE_CENTS)])
        .when(answered("ada", Asked::Debit, ACCEPTED))
        .then_events([ProcessEvent::Debited])
        .then_wake(APPROVAL, APPROVAL_TIME, &())
        .then_goes_on()
        .when(approved())
        .then_events([ProcessEvent::Approved])
        .then_cancel(APPROVAL)
        .then_sent(asking("bob", Asked::Credit, LARGE_CENTS))
        .then_goes_on();
}

#[test]
fn an_approval_may_arrive_before_the_debit() {
    process([started(LARGE_CENTS)])
        .when(approved())
        .then_events([ProcessEvent::Approved])
        .then_cancel(APPROVAL)
        .then_goes_on()
        .when(answered("ada", Asked::Debit, ACCEPTED))
        .then_events([ProcessEvent::Debited])
        .then_sent(asking("bob", Asked::Credit, LARGE_CENTS))
        .then_goes_on();
}

#[test]
fn a_small_transfer_needs_no_approval() {
    for history in [vec![started(500)], vec![started(500), ProcessEvent::Debited]] {
        process(history).when(approved()).then_goes_on();
    }
}

#[test]
fn what_is_not_approved_in_time_is_refunded() {
    let reason = "it was not approved in time";
    process([started(LARGE_CENTS), ProcessEvent::Debited])
        .when(timer(APPROVAL, &()))
        .then_events([ProcessEvent::RefundStarted { reason: reason.into() }])
        .then_sent(asking("ada", Asked::Refund, LARGE_CENTS))
        .then_goes_on()
        .when(approved())
        .then_goes_on()
        .when(answered("ada", Asked::Refund, ACCEPTED))
        .then_command("transfer", "t1", &TransferCommand::Fail { reason: reason.into() })
        .then_compensated();
}

#[test]
fn a_refused_refund_waits_for_a_person() {
    let refunding = ProcessEvent::RefundStarted { reason: "late".into() };
    process([started(LARGE_CENTS), ProcessEvent::Debited, refunding])
        .when(answered("ada", Asked::Refund, Ending::Rejected("too much")))
        .then_rejected("the refund to ada was rejected: too much");
}

#[test]
fn an_input_that_nobody_waits_for_has_no_effect() {
    let (small, large) = (started(500), started(LARGE_CENTS));
    let (debited, approval) = (ProcessEvent::Debited, ProcessEvent::Approved);
    let refunding = ProcessEvent::RefundStarted { reason: "late".into() };
    let answer = |asked| answered("any", asked, ACCEPTED);
    let late = || timer(APPROVAL, &());
    for (history, inputs) in [
        (vec![small.clone()], vec![requested(500), late(), answer(Asked::Credit), answer(Asked::Refund)]),
        (vec![large.clone(), approval.clone()], vec![approved(), late()]),
        (vec![small, debited.clone()], vec![requested(500), late(), answer(Asked::Debit), answer(Asked::Refund)]),
        (vec![large.clone(), debited.clone()], vec![answer(Asked::Debit), answer(Asked::Credit)]),
        // The credit is under way: a second one, or a refund, would pay the money twice.
        (vec![large.clone(), debited.clone(), approval.clone()], vec![approved(), late(), answer(Asked::Debit)]),
        (vec![large.clone(), approval, debited.clone()], vec![approved(), late(), answer(Asked::Debit)]),
        (vec![large, debited, refunding], vec![approved(), late(), answer(Asked::Debit), answer(Asked::Credit)]),
    ] {
        inputs.into_iter().fold(process(history), |saga, input| saga.when(input).then_goes_on());
    }
}

#[test]
fn the_rules_are_settings_and_a_transfer_in_progress_keeps_its_own() {
    let rules = wasmill_guest::testing::settings(Rules { large_from_cents: 300, approval_minutes: 5 });
    let is_large = ProcessEvent::Started {
        transfer_id: "t1".into(),
        from: "ada".into(),
        to: "bob".into(),
        cents: 300,
        is_large: true,
    };
    let begun = process([])
        .when(requested(300))
        .then_events([is_large])
        .then_sent(asking("ada", Asked::Debit, 300))
        .then_goes_on();
    drop(rules);
    let _rules = wasmill_guest::testing::settings(Rules { large_from_cents: 400, approval_minutes: 7 });
    begun
        .when(answered("ada", Asked::Debit, ACCEPTED))
        .then_events([ProcessEvent::Debited])
        .then_wake(APPROVAL, Duration::from_secs(7 * 60), &())
        .then_goes_on();
}

#[test]
fn the_cases_hold_natively() {
    saga_cases::<TransferProcess>("cases/transfer-process.toml");
}
