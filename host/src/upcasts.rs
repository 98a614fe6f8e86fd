//! The interface to the code that migrates recorded events to their newest shape, for those who show or publish events.

use crate::model::RecordedEvent;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;

/// The shape in which the payloads of events are shown or published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// As they were recorded.
    #[default]
    Recorded,
    /// As the loaded code upcasts them.
    Newest,
}

/// Migrates events. It is used by one thread.
pub trait Migrates: Send {
    /// Migrates the payloads of events in place, and returns for each why it stayed as it was recorded, if it did. Events of
    /// types that no loaded code records stay as they are, without a reason.
    fn migrate(&mut self, events: &mut [RecordedEvent], tries: Tries) -> Vec<Result<(), Unmigrated>>;
}

/// What is tried after the code has failed at a list of events, because it trapped or took too long. Each try may take as long as an
/// event may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tries {
    /// Each event alone, so that only the one at fault stays as it was recorded.
    Each,
    /// Each event alone until one fails. It and those after it stay as they were recorded, for somebody who waits.
    UntilOneFails,
}

/// Why an event stays as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmigrated {
    /// The code can't migrate it, for this reason.
    Event(String),
    /// The host could not call the code. It can be tried again.
    Host(String),
}

/// Says that an event can't be upcast, to those who don't take it as it was recorded.
pub(crate) fn not_upcast(reason: &str) -> String {
    format!("it can't be upcast: {reason}")
}

impl fmt::Display for Unmigrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(reason) | Self::Host(reason) => f.write_str(reason),
        }
    }
}

/// Makes a [`Migrates`] for each thread that needs one.
#[derive(Clone)]
pub struct Upcasts(Arc<dyn Fn() -> Box<dyn Migrates> + Send + Sync>);

impl Upcasts {
    /// Uses this function to make one.
    pub fn new(make: impl Fn() -> Box<dyn Migrates> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// Makes one.
    pub fn open(&self) -> Box<dyn Migrates> {
        (self.0)()
    }
}

impl fmt::Debug for Upcasts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upcasts")
    }
}
