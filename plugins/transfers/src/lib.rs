//! The aggregate `transfer`: what became of a transfer between two accounts, for the person who asked for it.
//!
//! The saga `transfer-process` moves the money.

use bank_contract::{self as contract, TransferCommand, TransferEvent};
use wasmill_guest::prelude::*;

/// A transfer with its state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Transfer {
    status: Status,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    #[default]
    Absent,
    Pending,
    Approved,
    Ended,
}

/// The reason why a transfer rejects a command.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A transfer is requested once.
    #[error("the transfer exists")]
    Exists,
    /// The transfer was never requested.
    #[error("there is no such transfer")]
    Absent,
    /// The transfer is completed or has failed.
    #[error("the transfer has ended")]
    Ended,
    /// A transfer is approved once.
    #[error("the transfer is approved")]
    Approved,
    /// Both accounts are the same.
    #[error("a transfer needs two accounts")]
    OneAccount,
    /// The amount in cents is less than 1.
    #[error("an amount must be at least 1 cent, found {0}")]
    Amount(i64),
}

impl Aggregate for Transfer {
    const TYPE: &'static str = contract::Transfer::TYPE;
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    type Command = TransferCommand;
    type Event = TransferEvent;
    type Error = TransferError;

    fn handle(&self, command: TransferCommand) -> Result<Vec<TransferEvent>, TransferError> {
        let event = match command {
            TransferCommand::Request { .. } if self.status != Status::Absent => return Err(TransferError::Exists),
            TransferCommand::Request { from, to, .. } if from == to => return Err(TransferError::OneAccount),
            TransferCommand::Request { cents, .. } if cents < 1 => return Err(TransferError::Amount(cents)),
            TransferCommand::Request { from, to, cents } => TransferEvent::Requested { from, to, cents },
            _ if self.status == Status::Absent => return Err(TransferError::Absent),
            _ if self.status == Status::Ended => return Err(TransferError::Ended),
            TransferCommand::Approve if self.status == Status::Approved => return Err(TransferError::Approved),
            TransferCommand::Approve => TransferEvent::Approved,
            TransferCommand::Complete => TransferEvent::Completed,
            TransferCommand::Fail { reason } => TransferEvent::Failed { reason },
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: TransferEvent) {
        self.status = match event {
            TransferEvent::Requested { .. } => Status::Pending,
            TransferEvent::Approved => Status::Approved,
            TransferEvent::Completed | TransferEvent::Failed { .. } => Status::Ended,
        };
    }
}
export_aggregate!(Transfer);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_guest::testing::given;

    fn request(to: &str, cents: i64) -> TransferCommand {
        TransferCommand::Request { from: "ada".into(), to: to.into(), cents }
    }

    fn requested() -> TransferEvent {
        TransferEvent::Requested { from: "ada".into(), to: "bob".into(), cents: 5 }
    }

    #[test]
    fn a_transfer_is_requested_approved_and_completed_once() {
        given::<Transfer>([])
            .when(request("bob", 5))
            .then_events([requested()])
            .when(request("bob", 5))
            .then_rejected("the transfer exists")
            .when(TransferCommand::Approve)
            .then_events([TransferEvent::Approved])
            .when(TransferCommand::Approve)
            .then_rejected("is approved")
            .when(TransferCommand::Complete)
            .then_events([TransferEvent::Completed])
            .when(TransferCommand::Fail { reason: "late".into() })
            .then_rejected("has ended");
    }

    #[test]
    fn a_transfer_ends_once() {
        let failed = || TransferEvent::Failed { reason: "late".into() };
        let (complete, fail) = (|| TransferCommand::Complete, || TransferCommand::Fail { reason: "late".into() });
        for (end, event) in [(complete(), TransferEvent::Completed), (fail(), failed())] {
            let mut transfer = given::<Transfer>([requested()]).when(end).then_events([event]);
            for command in [complete(), fail(), TransferCommand::Approve] {
                transfer = transfer.when(command).then_rejected("the transfer has ended");
            }
        }
        given::<Transfer>([requested(), TransferEvent::Approved]).when(fail()).then_events([failed()]);
    }

    #[test]
    fn a_transfer_that_makes_no_sense_is_refused() {
        given::<Transfer>([]).when(request("ada", 5)).then_rejected("two accounts");
        given::<Transfer>([]).when(request("bob", 0)).then_rejected("at least 1 cent");
        let fail = TransferCommand::Fail { reason: "late".into() };
        for command in [TransferCommand::Approve, TransferCommand::Complete, fail] {
            given::<Transfer>([]).when(command).then_rejected("no such transfer");
        }
    }
}
