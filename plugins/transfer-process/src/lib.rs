//! The saga `transfer-process`: moves money from one account to another, or back.
//!
//! It debits one account and credits the other. A large transfer waits for an approval before it is credited. If the
//! credit is refused, or the approval does not come in time, the debit is refunded.

use bank_contract::{Account, AccountCommand, Transfer, TransferCommand, TransferEvent};
use std::time::Duration;
use wasmill_guest::prelude::*;

/// The settings.
#[derive(Deserialize)]
#[serde(default)]
struct Rules {
    /// From this amount on, a transfer needs an approval.
    large_from_cents: i64,
    /// The time in which a large transfer must be approved.
    approval_minutes: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { large_from_cents: 100_000, approval_minutes: 60 }
    }
}
export_settings!(Rules);

/// The name of the timer for the approval.
const APPROVAL: &str = "approval";

/// A transfer in progress.
#[derive(Debug, Default)]
pub struct TransferProcess {
    transfer_id: String,
    from: String,
    to: String,
    cents: i64,
    is_large: bool,
    state: State,
}

/// What a transfer in progress waits for. An input that nobody waits for has no effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// The request.
    #[default]
    Absent,
    /// The outcome of the debit. The approval may arrive before it.
    Debiting { is_approved: bool },
    /// The approval, or its timer.
    AwaitingApproval,
    /// The outcome of the credit.
    Crediting,
    /// The outcome of the refund, which was started for this reason.
    Refunding { reason: String },
}

/// The events of a transfer in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ProcessEvent {
    /// Whether it is large is recorded, because the rule may change while the transfer is in progress.
    Started {
        /// The id of the transfer.
        transfer_id: String,
        /// The account that is debited.
        from: String,
        /// The account that is credited.
        to: String,
        /// The amount.
        cents: i64,
        /// Whether it needs an approval.
        is_large: bool,
    },
    /// The one account is debited.
    Debited,
    /// A large transfer is approved.
    Approved,
    /// The debit is to be undone.
    RefundStarted {
        /// Why the transfer fails.
        reason: String,
    },
}

/// The commands whose outcomes it waits for. It comes back with the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Asked {
    Debit,
    Credit,
    Refund,
}

type ProcessStep = Step<ProcessEvent>;

impl Saga for TransferProcess {
    const TYPE: &'static str = "transfer-process";
    const STARTS: &'static [&'static str] = &[Transfer::REQUESTED];
    const SUBSCRIPTIONS: &'static [&'static str] = &[Transfer::APPROVED];
    const READS: &'static [Reads] = &[Reads::of::<Transfer>()];
    type Event = ProcessEvent;

    fn handle(&self, event: &Delivery, step: &mut ProcessStep) -> Result<(), Failure> {
        match (event.decode()?, &self.state) {
            (TransferEvent::Requested { from, to, cents }, State::Absent) => {
                let transfer_id = event.aggregate_id()?.to_owned();
                let debit = AccountCommand::Debit { transfer_id: transfer_id.clone(), cents };
                ask(step, &from, Asked::Debit, &debit)?;
                let is_large = cents >= settings::<Rules>().large_from_cents;
                step.record(ProcessEvent::Started { transfer_id, from, to, cents, is_large });
            }
            // A small transfer needs no approval.
            (TransferEvent::Approved, State::Debiting { is_approved: false } | State::AwaitingApproval)
                if self.is_large =>
            {
                step.record(ProcessEvent::Approved);
                step.cancel(APPROVAL);
                if self.state == State::AwaitingApproval {
                    self.credit(step)?;
                }
            }
            (_, _) => {}
        }
        Ok(())
    }

    fn outcome(&self, outcome: &Outcome<'_>, step: &mut ProcessStep) -> Result<(), Failure> {
        let ending = outcome.ending();
        match (outcome.attachment()?, &self.state) {
            (Asked::Debit, State::Debiting { .. }) if ending.is_accepted() => {
                step.record(ProcessEvent::Debited);
                if self.needs_approval() {
                    let time = Duration::from_secs(60 * settings::<Rules>().approval_minutes);
                    step.wake(APPROVAL, time, &())?;
                    return Ok(());
                }
                self.credit(step)
            }
            // Nothing was done, so nothing is to be undone.
            (Asked::Debit, State::Debiting { .. }) => self.fail(&ending.to_string(), step),
            (Asked::Credit, State::Crediting) if ending.is_accepted() => {
                step.send_to::<Transfer>(&self.transfer_id, &TransferCommand::Complete)?;
                step.complete();
                Ok(())
            }
            (Asked::Credit, State::Crediting) => self.compensate(&ending.to_string(), step),
            (Asked::Refund, State::Refunding { reason }) if ending.is_accepted() => self.fail(reason, step),
            // A person must look at it. The dead letter can be replayed.
            (Asked::Refund, State::Refunding { .. }) => {
                Err(Failure::rejected(format_args!("the refund to {} was {ending}", self.from)))
            }
            (Asked::Debit | Asked::Credit | Asked::Refund, _) => Ok(()),
        }
    }

    fn timer(&self, _: &Timer<'_>, step: &mut ProcessStep) -> Result<(), Failure> {
        // If the timer was dead-lettered, it may be replayed after the approval. A refund would then pay the money twice.
        if self.state != State::AwaitingApproval {
            return Ok(());
        }
        self.compensate("it was not approved in time", step)
    }

    fn compensate(&self, reason: &str, step: &mut ProcessStep) -> Result<(), Failure> {
        let Self { transfer_id, from, cents, .. } = self;
        ask(step, from, Asked::Refund, &AccountCommand::Refund { transfer_id: transfer_id.clone(), cents: *cents })?;
        step.record(ProcessEvent::RefundStarted { reason: reason.to_owned() });
        Ok(())
    }

    fn apply(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Started { transfer_id, from, to, cents, is_large } => {
                *self = Self { transfer_id, from, to, cents, is_large, state: State::Debiting { is_approved: false } };
            }
            ProcessEvent::Debited if self.needs_approval() => self.state = State::AwaitingApproval,
            ProcessEvent::Debited => self.state = State::Crediting,
            ProcessEvent::Approved => match self.state {
                State::Debiting { .. } => self.state = State::Debiting { is_approved: true },
                State::AwaitingApproval => self.state = State::Crediting,
                State::Absent | State::Crediting | State::Refunding { .. } => {}
            },
            ProcessEvent::RefundStarted { reason } => self.state = State::Refunding { reason },
        }
    }
}
export_saga!(TransferProcess);

impl TransferProcess {
    /// Whether the credit must wait for an approval that has not arrived.
    fn needs_approval(&self) -> bool {
        self.is_large && self.state != (State::Debiting { is_approved: true })
    }

    fn credit(&self, step: &mut ProcessStep) -> Result<(), Failure> {
        let Self { transfer_id, to, cents, .. } = self;
        ask(step, to, Asked::Credit, &AccountCommand::Credit { transfer_id: transfer_id.clone(), cents: *cents })
    }

    fn fail(&self, reason: &str, step: &mut ProcessStep) -> Result<(), Failure> {
        step.send_to::<Transfer>(&self.transfer_id, &TransferCommand::Fail { reason: reason.to_owned() })?;
        step.compensated();
        Ok(())
    }
}

/// Sends a command to an account and asks for its outcome.
fn ask(step: &mut ProcessStep, account: &str, asked: Asked, command: &AccountCommand) -> Result<(), Failure> {
    step.send_command(OutgoingCommand::to::<Account>(account, command)?.asking_outcome(&asked)?);
    Ok(())
}

#[cfg(test)]
mod tests;
