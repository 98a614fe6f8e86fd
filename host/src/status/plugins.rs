//! What a plugin says about itself, and which code of it served.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// One plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginDescription {
    /// Its name in the manifest.
    pub name: String,
    /// The name that its author gave it.
    pub plugin: String,
    /// The version that its author gave it.
    pub version: String,
    /// The version of the contract that it was built for.
    pub contract: String,
    /// The digest of the code and the settings that serve now: `sha256:…`.
    pub digest: String,
    /// Its roles.
    pub roles: Vec<RoleDescription>,
}

/// The history of a plugin's code: the answer of `GET /v1/plugins/NAME/history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginHistory {
    /// What served, the newest first.
    pub codes: Vec<CodeStatus>,
    /// Why the code of its file is held back and older code serves.
    pub held_back: Option<String>,
}

/// Code of a plugin that served, or serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CodeStatus {
    /// Its digest: `sha256:…`.
    pub digest: String,
    /// The version that its author gave it.
    pub version: String,
    /// When it began to serve, in milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: u64,
    /// When it ended to serve; `None` if it serves.
    pub until_ms: Option<u64>,
    /// Why it ended to serve.
    pub ended: Option<String>,
    /// Whether it is kept, so that it can serve again.
    pub kept: bool,
}

/// One role of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum RoleDescription {
    /// An aggregate type.
    Aggregate {
        /// Its name.
        #[serde(rename = "type")]
        aggregate_type: String,
        /// Its commands.
        commands: Vec<MessageDescription>,
        /// Its events, and those that it only reads.
        events: Vec<MessageDescription>,
        /// The JSON Schema of its state, if there is one.
        state: Option<Json>,
    },
    /// A subscriber.
    Subscriber {
        /// Patterns of the events that it gets.
        subscriptions: Vec<String>,
        /// The shape in which it gets them: `recorded` or `newest`.
        shape: String,
        /// The endpoints to which it sends HTTP requests.
        endpoints: Vec<String>,
    },
    /// Sagas of one type.
    Saga {
        /// The type of their streams.
        #[serde(rename = "type")]
        saga_type: String,
        /// Patterns of the events that start one.
        starts: Vec<String>,
        /// Patterns of all events that are inputs.
        subscriptions: Vec<String>,
        /// The shape in which it gets them: `recorded` or `newest`.
        shape: String,
        /// The endpoints to which it sends HTTP requests.
        endpoints: Vec<String>,
        /// Its own events, and those that it only reads.
        events: Vec<MessageDescription>,
        /// The JSON Schema of its state, if there is one.
        state: Option<Json>,
    },
    /// A projection.
    Projection {
        /// Its name.
        name: String,
        /// Patterns of the events that it gets.
        subscriptions: Vec<String>,
        /// The shape in which it gets them: `recorded` or `newest`.
        shape: String,
        /// Its queries.
        queries: Vec<MessageDescription>,
    },
}

/// A kind of command, event or query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageDescription {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its payload, if there is one.
    pub schema: Option<Json>,
}
