//! What followed from a first cause, and what waits for its time: answers of the API.

use super::DeadLetterItem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The timers that are due first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timers {
    /// The number of all timers.
    pub total: u64,
    /// The timers, in the order of their times.
    pub timers: Vec<TimerItem>,
}

/// One timer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// HTTP requests of plugins that have not ended: the answer of `GET /v1/requests`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Requests {
    /// The number of all requests.
    pub total: u64,
    /// The requests, in the order of their numbers.
    pub requests: Vec<RequestItem>,
}

/// One HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestItem {
    /// The number, by which a person can give it up.
    pub number: u64,
    /// The subscription that asked for it.
    pub subscription: String,
    /// The endpoint.
    pub endpoint: String,
    /// The method.
    pub method: String,
    /// The path and query below the endpoint's URL.
    pub path: String,
    /// Its id, which is its idempotency key.
    pub id: String,
    /// The key of the delivery that asked for it, if it is text.
    pub key: Option<String>,
    /// The correlation id.
    pub correlation_id: String,
    /// The number of attempts that were begun.
    pub attempts: u32,
    /// The number of attempts in the middle of which a host ended.
    pub interrupted: u32,
    /// What it waits for.
    pub waits: RequestWaits,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What an HTTP request waits for. Times are in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "for")]
pub enum RequestWaits {
    /// The answer to the attempt under way.
    Answer {
        /// When the attempt began.
        since_ms: u64,
    },
    /// The time of its next attempt.
    Due {
        /// When it is due.
        due_ms: u64,
    },
    /// The end of an earlier request of the same key to the same endpoint.
    Earlier,
}

/// The answer of `GET /v1/trace/ID`: what followed from one first cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trace {
    /// The correlation id, which everything from the first cause has.
    pub correlation_id: String,
    /// The events, as in `GET /v1/events`, the oldest first. At most 1,000, the newest ones.
    pub events: Vec<serde_json::Value>,
    /// The timers that wait.
    pub timers: Vec<TimerItem>,
    /// The HTTP requests that have not ended.
    #[serde(default)]
    pub requests: Vec<RequestItem>,
    /// The dead letters, the newest first.
    pub dead_letters: Vec<DeadLetterItem>,
    /// The position back to which events were searched.
    pub searched_to: u64,
    /// Whether earlier events were not searched.
    pub more: bool,
}

/// What followed from a command, as the answer of `POST /v1/commands/…?wait=flow` has it in `flow`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// The HTTP requests that have not ended.
    #[serde(default)]
    pub requests: Vec<RequestItem>,
    /// The keys that wait behind a dead letter, such as `account/ada of subscription statements`.
    pub held_keys: Vec<String>,
    /// The dead letters, the newest first.
    pub dead_letters: Vec<DeadLetterItem>,
    /// The subscriptions that a person has paused, a sentence each. Nobody waits for them.
    pub paused: Vec<String>,
}

/// A command of a subscriber or a saga that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

impl From<crate::store::ListedRequest> for RequestItem {
    fn from(crate::store::ListedRequest { kept, waits, error }: crate::store::ListedRequest) -> Self {
        use crate::store::RequestWait;
        let request = kept.request;
        Self {
            number: kept.number,
            subscription: kept.subscription.to_string(),
            endpoint: request.endpoint.to_string(),
            method: request.method,
            path: request.path,
            id: request.id.to_string(),
            key: crate::model::key_text(request.key.as_deref()),
            correlation_id: request.correlation_id.to_string(),
            attempts: kept.attempts,
            interrupted: kept.interrupted,
            waits: match waits {
                RequestWait::Answer(since_ms) => RequestWaits::Answer { since_ms },
                RequestWait::Due(due_ms) => RequestWaits::Due { due_ms },
                RequestWait::Earlier => RequestWaits::Earlier,
            },
            error: error.as_deref().map(str::to_owned),
        }
    }
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
            key: crate::model::key_text(kept.callback.key.as_deref()),
            due_ms: kept.time_ms,
            does,
        }
    }
}
