//! What followed from a first cause, and what waits for its time: answers of the API.

use super::DeadLetterItem;
use serde::{Deserialize, Serialize};

/// The timers that are due first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// The number of all timers.
    pub total: u64,
    /// The timers, in the order of their times.
    pub timers: Vec<TimerItem>,
}

/// One timer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerItem {
    /// The number, by which a person can cancel it.
    pub number: u64,
    /// The subscription that set it.
    pub subscription: String,
    /// The name, if it has one.
    pub name: Option<String>,
    /// The key of the delivery that set it, if it is text.
    pub key: Option<String>,
    /// The time when it is due, in milliseconds since 1970-01-01T00:00:00Z.
    pub due_ms: u64,
    /// A phrase that says what it does.
    pub does: String,
}

/// The answer of `GET /v1/trace/ID`: what followed from one first cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The correlation id, which everything from the first cause has.
    pub correlation_id: String,
    /// The events, as in `GET /v1/events`, the oldest first. At most 1,000, the newest ones.
    pub events: Vec<serde_json::Value>,
    /// The timers that wait.
    pub timers: Vec<TimerItem>,
    /// The dead letters, the newest first.
    pub dead_letters: Vec<DeadLetterItem>,
    /// The position back to which events were searched.
    pub searched_to: u64,
    /// Whether earlier events were not searched.
    pub more: bool,
}

/// What followed from a command, as the answer of `POST /v1/commands/…?wait=flow` has it in `flow`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The correlation id, which everything that followed has.
    pub correlation_id: String,
    /// Whether everything is at rest: nothing moves without a person, the clock or other input.
    pub at_rest: bool,
    /// The part that the flow still waits for, if it is not at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The position of its newest event, or of the store's newest event if there is none.
    pub position: u64,
    /// The events, as in `GET /v1/events`, the oldest first. At most 1,000, the oldest ones.
    pub events: Vec<serde_json::Value>,
    /// The commands of subscribers and sagas that ended meanwhile, in the order of their ends. At most 1,000.
    pub commands: Vec<FlowCommand>,
    /// Whether there are more events or commands than those.
    pub more: bool,
    /// The timers that wait.
    pub timers: Vec<TimerItem>,
    /// The keys that wait behind a dead letter, such as `account/ada of subscription statements`.
    pub held_keys: Vec<String>,
    /// The dead letters, the newest first.
    pub dead_letters: Vec<DeadLetterItem>,
    /// The subscriptions that a person has paused, a sentence each. Nobody waits for them.
    pub paused: Vec<String>,
}

/// A command of a subscriber or a saga that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCommand {
    /// Its id.
    pub id: String,
    /// The aggregate, `type/id`.
    pub to: String,
    /// Its name.
    pub name: String,
    /// How it ended: `accepted`, `rejected`, `malformed`, `conflict` and so on.
    pub outcome: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<crate::store::KeptTimer> for TimerItem {
    fn from(crate::store::KeptTimer { subscription, callback: kept }: crate::store::KeptTimer) -> Self {
        let does = match &kept.callback.content {
            crate::model::CallbackContent::Send(command) => format!("sends {} to {}", command.name, command.stream),
            _ => "wakes the subscriber".to_owned(),
        };
        Self {
            number: kept.number,
            subscription,
            name: kept.timer.as_deref().map(str::to_owned),
            key: kept.callback.key.and_then(|key| String::from_utf8(key).ok()),
            due_ms: kept.time_ms,
            does,
        }
    }
}
