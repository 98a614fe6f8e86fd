//! The reset of a subscription: a person moves its checkpoint while it runs.
//!
//! The subscription's thread does it between two pages. Steps that were under way before are durable by then. A step of the
//! key worker that comes after it is refused, because its key is not held any more.

use super::requests::{Request, Requests};
use crate::manifest::Start;
use crate::model::Position;
use crate::store::Error;

/// The result of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The checkpoint before it.
    pub from: Position,
    /// The checkpoint after it.
    pub to: Position,
}

/// The request for a reset that waits for the subscription's thread. It says where the subscription shall resume.
pub(super) type Resets = Requests<Start, Result<Reset, Error>>;

/// Asks for a reset, and waits for it. This blocks.
pub(super) fn reset(resets: &Resets, to: Start, wake: impl FnOnce()) -> Result<Reset, Error> {
    resets.ask(to, "reset", wake).unwrap_or_else(|unanswered| Err(Error::Failed(unanswered)))
}

/// A request for a reset.
pub(super) type ResetRequest = Request<Start, Result<Reset, Error>>;
