//! Requests of people to the thread of a subscription, which answers between two pages. One of each kind can wait at a time.

use crate::ack::{Ack, Unanswered};
use crate::supervise::Held as _;
use std::sync::Mutex;
use std::time::Duration;

/// The longest wait for the subscription's thread. It may be in a call, or wait for the store.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// A request, and the acknowledgement by which it is answered.
pub(super) struct Request<Q, A: Unanswered> {
    pub(super) wanted: Q,
    /// What identifies the request.
    ticket: u64,
    pub(super) ack: Ack<A>,
}

/// The request of one kind that waits for the subscription's thread.
pub(super) struct Requests<Q, A: Unanswered>(Mutex<Option<Request<Q, A>>>);

impl<Q, A: Unanswered> Default for Requests<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q, A: Unanswered + Send + 'static> Requests<Q, A> {
    /// Makes a request, and waits for the answer. This blocks. It is refused with a text while another one of its kind
    /// waits. `kind` names it in texts.
    pub(super) fn ask(&self, wanted: Q, kind: &str, wake: impl FnOnce()) -> Result<A, String> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let ack = Ack::new(move |result| drop(sender.send(result)));
        let ticket = {
            let mut waiting = self.0.held();
            if waiting.is_some() {
                return Err(format!("another {kind} of this subscription waits: try again after it"));
            }
            let ticket = fastrand::u64(..);
            *waiting = Some(Request { wanted, ticket, ack });
            ticket
        };
        wake();
        answer.recv_timeout(ANSWER_TIME_MAX).map_err(|_| {
            // The lock is released before the request is dropped, which gives its acknowledgement.
            let own = self.0.held().take_if(|waiting| waiting.ticket == ticket);
            let then = match own {
                Some(_) => format!("the {kind} was not made"),
                None => format!("the {kind} may still be made, and `wasmill subscriptions list` shows it"),
            };
            format!(
                "the subscription's thread did not answer within {ANSWER_TIME_MAX:?}, `wasmill status` says why; {then}"
            )
        })
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.0.held().is_some()
    }

    pub(super) fn take(&self) -> Option<Request<Q, A>> {
        self.0.held().take()
    }
}
