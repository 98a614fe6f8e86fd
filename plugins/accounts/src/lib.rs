//! The aggregate `account`: holds money, and never less than nothing.
//!
//! It knows nothing of transfers but their ids.

use bank_contract::{self as contract, AccountCommand, AccountEvent};
use wasmill_guest::prelude::*;

/// An account with its state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    status: Status,
    balance_cents: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    #[default]
    Absent,
    Open,
    Closed,
}

/// The reason why an account rejects a command.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// An account is opened once.
    #[error("the account exists")]
    Exists,
    /// The account was never opened.
    #[error("there is no such account")]
    Absent,
    /// A closed account takes and gives nothing.
    #[error("the account is closed")]
    Closed,
    /// The amount in cents is less than 1.
    #[error("an amount must be at least 1 cent, found {0}")]
    Amount(i64),
    /// The account holds less than is to be taken from it.
    #[error("the balance is {balance_cents} cents, and {cents} are needed")]
    TooLittle {
        /// The balance.
        balance_cents: i64,
        /// The amount.
        cents: i64,
    },
    /// The balance would exceed the largest number.
    #[error("the balance would be more than an account can hold")]
    TooMuch,
    /// An account is closed when it is empty. It holds this many cents.
    #[error("the account still holds {0} cents")]
    NotEmpty(i64),
}

impl Aggregate for Account {
    const TYPE: &'static str = contract::Account::TYPE;
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    const UPCASTS: &'static [Upcasts] = contract::Account::UPCASTS;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Error = AccountError;

    fn handle(&self, command: AccountCommand) -> Result<Vec<AccountEvent>, AccountError> {
        let event = match command {
            AccountCommand::Open { first_name, last_name } => {
                if self.status != Status::Absent {
                    return Err(AccountError::Exists);
                }
                AccountEvent::Opened { first_name, last_name }
            }
            AccountCommand::Deposit { cents } => {
                self.takes(cents)?;
                AccountEvent::Deposited { cents }
            }
            AccountCommand::Debit { transfer_id, cents } => {
                self.gives(cents)?;
                AccountEvent::Debited { transfer_id, cents }
            }
            AccountCommand::Credit { transfer_id, cents } => {
                self.takes(cents)?;
                AccountEvent::Credited { transfer_id, cents }
            }
            // Money that comes back is taken by a closed account too: it must be somewhere.
            AccountCommand::Refund { transfer_id, cents } => {
                self.exists()?;
                self.holds(cents)?;
                AccountEvent::Refunded { transfer_id, cents }
            }
            AccountCommand::Close => {
                self.is_open()?;
                if self.balance_cents > 0 {
                    return Err(AccountError::NotEmpty(self.balance_cents));
                }
                AccountEvent::Closed
            }
        };
        Ok(vec![event])
    }

    fn apply(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Opened { .. } => self.status = Status::Open,
            AccountEvent::Deposited { cents }
            | AccountEvent::Credited { cents, .. }
            | AccountEvent::Refunded { cents, .. } => self.balance_cents += cents,
            AccountEvent::Debited { cents, .. } => self.balance_cents -= cents,
            AccountEvent::Closed => self.status = Status::Closed,
        }
    }
}
export_aggregate!(Account);

impl Account {
    fn exists(&self) -> Result<(), AccountError> {
        if self.status == Status::Absent { Err(AccountError::Absent) } else { Ok(()) }
    }

    fn is_open(&self) -> Result<(), AccountError> {
        self.exists()?;
        if self.status == Status::Closed { Err(AccountError::Closed) } else { Ok(()) }
    }

    /// Fails if the balance can't grow by this amount.
    fn holds(&self, cents: i64) -> Result<(), AccountError> {
        at_least_one(cents)?;
        self.balance_cents.checked_add(cents).map(drop).ok_or(AccountError::TooMuch)
    }

    fn takes(&self, cents: i64) -> Result<(), AccountError> {
        self.is_open()?;
        self.holds(cents)
    }

    fn gives(&self, cents: i64) -> Result<(), AccountError> {
        self.is_open()?;
        at_least_one(cents)?;
        let balance_cents = self.balance_cents;
        if balance_cents < cents { Err(AccountError::TooLittle { balance_cents, cents }) } else { Ok(()) }
    }
}

fn at_least_one(cents: i64) -> Result<(), AccountError> {
    if cents < 1 { Err(AccountError::Amount(cents)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
