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

/// The request for a reset that waits. It says where the subscription shall resume.
pub(super) type Resets = Requests<Start, Result<Reset, Error>>;

/// A request for a reset.
pub(super) type ResetRequest = Request<Start, Result<Reset, Error>>;
