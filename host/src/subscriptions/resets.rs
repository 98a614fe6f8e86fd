//! The reset of a subscription: a person moves its checkpoint while it runs.
//!
//! The subscription's thread does it between two pages. Steps that were under way before are durable by then. A step of the
//! key worker that comes after it is refused, because its key is not held any more.

use crate::ack::Ack;
use crate::manifest::Start;
use crate::model::Position;
use crate::store::Error;
use crate::supervise::Held as _;
use std::sync::Mutex;
use std::time::Duration;

/// The longest wait for the subscription's thread. It may be in a call, or wait for the store.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// The result of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The checkpoint before it.
    pub from: Position,
    /// The checkpoint after it.
    pub to: Position,
}

/// A request for a reset.
pub(super) struct ResetRequest {
    /// The place where the subscription shall resume.
    pub(super) to: Start,
    /// What identifies the request.
    ticket: u64,
    pub(super) ack: Ack<Result<Reset, Error>>,
}

/// The request that waits for the subscription's thread.
#[derive(Default)]
pub(super) struct Resets(Mutex<Option<ResetRequest>>);

impl Resets {
    /// Asks for a reset, and waits for it. This blocks. It is refused while another one waits.
    pub(super) fn ask(&self, to: Start, wake: impl FnOnce()) -> Result<Reset, Error> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let ack = Ack::new(move |result| drop(sender.send(result)));
        let ticket = {
            let mut waiting = self.0.held();
            if waiting.is_some() {
                return Err(Error::Failed("another reset of this subscription waits: try again after it".to_owned()));
            }
            let ticket = fastrand::u64(..);
            *waiting = Some(ResetRequest { to, ticket, ack });
            ticket
        };
        wake();
        answer.recv_timeout(ANSWER_TIME_MAX).unwrap_or_else(|_| {
            // The lock is released before the request is dropped, which gives its acknowledgement.
            let own = self.0.held().take_if(|waiting| waiting.ticket == ticket);
            let then = match own {
                Some(_) => "nothing was reset",
                None => "the reset may still be done, and `wasmill subscriptions list` shows it",
            };
            Err(Error::Failed(format!(
                "the subscription's thread did not answer within {ANSWER_TIME_MAX:?}, `wasmill status` says why; {then}"
            )))
        })
    }

    pub(super) fn is_requested(&self) -> bool {
        self.0.held().is_some()
    }

    pub(super) fn take(&self) -> Option<ResetRequest> {
        self.0.held().take()
    }
}
