//! The saga `transfer-process`: moves money from one account to another, or back.
//!
//! It debits one account and credits the other. A large transfer waits for an approval before it is credited. If the
//! credit is refused, or the approval does not come in time, the debit is refunded.

use std::time::Duration;
use wasmill_guest::prelude::*;

/// From this amount on, a transfer needs an approval.
const LARGE_CENTS: i64 = 100_000;

/// The time in which a large transfer must be approved.
const APPROVAL_TIME: Duration = Duration::from_secs(3_600);

/// The name of the timer for the approval.
const APPROVAL: &str = "approval";

/// A transfer in progress.
#[derive(Debug, Default)]
struct TransferProcess {
    transfer_id: String,
    from: String,
    to: String,
    cents: i64,
    is_debited: bool,
    is_approved: bool,
    /// Why the debit is being refunded, if it is.
    refunded_because: Option<String>,
}

/// The events of a transfer in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum ProcessEvent {
    Started { transfer_id: String, from: String, to: String, cents: i64 },
    Debited,
    Approved,
    RefundStarted { reason: String },
}

/// What it needs of the events of transfers.
#[derive(Deserialize)]
enum TransferEvent {
    Requested { from: String, to: String, cents: i64 },
    Approved,
}

#[derive(Serialize)]
enum AccountCommand<'a> {
    Debit { transfer_id: &'a str, cents: i64 },
    Credit { transfer_id: &'a str, cents: i64 },
    Refund { transfer_id: &'a str, cents: i64 },
}

#[derive(Serialize)]
enum TransferCommand<'a> {
    Complete,
    Fail { reason: &'a str },
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
    const STARTS: &'static [&'static str] = &["transfer.Requested"];
    const SUBSCRIPTIONS: &'static [&'static str] = &["transfer.Approved"];
    type Event = ProcessEvent;

    fn handle(&self, event: &Delivery, step: &mut ProcessStep) -> Result<(), Failure> {
        match event.decode()? {
            TransferEvent::Requested { from, to, cents } => {
                let transfer_id = event.aggregate_id()?;
                ask(step, &from, Asked::Debit, &AccountCommand::Debit { transfer_id, cents })?;
                step.record(ProcessEvent::Started { transfer_id: transfer_id.to_owned(), from, to, cents });
            }
            // The approval may arrive before the outcome of the debit, and after a refund has started. A small transfer
            // needs none.
            TransferEvent::Approved if self.cents >= LARGE_CENTS && self.refunded_because.is_none() => {
                step.record(ProcessEvent::Approved);
                step.cancel(APPROVAL);
                if self.is_debited {
                    self.credit(step)?;
                }
            }
            TransferEvent::Approved => {}
        }
        Ok(())
    }

    fn outcome(&self, outcome: &Outcome<'_>, step: &mut ProcessStep) -> Result<(), Failure> {
        let (asked, ending) = (outcome.attachment()?, outcome.ending());
        match asked {
            Asked::Debit if ending.is_accepted() => {
                step.record(ProcessEvent::Debited);
                if self.cents < LARGE_CENTS || self.is_approved {
                    return self.credit(step);
                }
                step.wake(APPROVAL, APPROVAL_TIME, &())?;
                Ok(())
            }
            // Nothing was done, so nothing is to be undone.
            Asked::Debit => self.fail(&ending.to_string(), step),
            Asked::Credit if ending.is_accepted() => {
                step.send("transfer", &self.transfer_id, &TransferCommand::Complete)?;
                step.complete();
                Ok(())
            }
            Asked::Credit => self.compensate(&ending.to_string(), step),
            Asked::Refund if ending.is_accepted() => {
                self.fail(self.refunded_because.as_deref().unwrap_or_default(), step)
            }
            // A person must look at it. The dead letter can be replayed.
            Asked::Refund => Err(Failure::rejected(format_args!("the refund to {} was {ending}", self.from))),
        }
    }

    fn timer(&self, _: &Timer<'_>, step: &mut ProcessStep) -> Result<(), Failure> {
        self.compensate("it was not approved in time", step)
    }

    fn compensate(&self, reason: &str, step: &mut ProcessStep) -> Result<(), Failure> {
        let Self { transfer_id, from, cents, .. } = self;
        ask(step, from, Asked::Refund, &AccountCommand::Refund { transfer_id, cents: *cents })?;
        step.record(ProcessEvent::RefundStarted { reason: reason.to_owned() });
        Ok(())
    }

    fn apply(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Started { transfer_id, from, to, cents } => {
                *self = Self { transfer_id, from, to, cents, ..Self::default() };
            }
            ProcessEvent::Debited => self.is_debited = true,
            ProcessEvent::Approved => self.is_approved = true,
            ProcessEvent::RefundStarted { reason } => self.refunded_because = Some(reason),
        }
    }
}
export_saga!(TransferProcess);

impl TransferProcess {
    fn credit(&self, step: &mut ProcessStep) -> Result<(), Failure> {
        let Self { transfer_id, to, cents, .. } = self;
        ask(step, to, Asked::Credit, &AccountCommand::Credit { transfer_id, cents: *cents })
    }

    fn fail(&self, reason: &str, step: &mut ProcessStep) -> Result<(), Failure> {
        step.send("transfer", &self.transfer_id, &TransferCommand::Fail { reason })?;
        step.compensated();
        Ok(())
    }
}

/// Sends a command to an account and asks for its outcome.
fn ask(step: &mut ProcessStep, account: &str, asked: Asked, command: &AccountCommand<'_>) -> Result<(), Failure> {
    step.send_command(OutgoingCommand::new("account", account, command)?.asking_outcome(&asked)?);
    Ok(())
}

#[cfg(test)]
mod tests;
