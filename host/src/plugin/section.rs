//! What a plugin says of itself, read before anything is compiled.
//!
//! The SDK writes a custom section `wasmill:plugin`: a line of JSON for each role.

use super::Error;
use serde::Deserialize;
use wasmparser::{Parser, Payload};

/// The version of the contract that this host speaks.
pub const API_VERSION: &str = "0.3.0";

const SECTION: &str = "wasmill:plugin";

/// A plugin's own description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The plugin's crate.
    pub plugin: String,
    /// The version of its crate.
    pub version: String,
    /// The roles it exports, at least one.
    pub roles: Vec<Role>,
}

/// A role that a plugin exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Commands to events.
    Aggregate {
        /// The type it serves.
        aggregate_type: String,
    },
    /// Reacts to events and records.
    Subscriber {
        /// Patterns over `aggregate-type.EventName`.
        subscriptions: Vec<String>,
    },
    /// Events to a read model.
    Projection {
        /// What queries call it.
        name: String,
        /// Patterns over `aggregate-type.EventName`.
        subscriptions: Vec<String>,
    },
}

impl Role {
    /// The patterns of the events it wants; an aggregate wants none.
    pub fn subscriptions(&self) -> &[String] {
        match self {
            Self::Aggregate { .. } => &[],
            Self::Subscriber { subscriptions } | Self::Projection { subscriptions, .. } => subscriptions,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Aggregate { aggregate_type } => write!(f, "aggregate {aggregate_type}"),
            Self::Subscriber { .. } => write!(f, "subscriber"),
            Self::Projection { name, .. } => write!(f, "projection {name}"),
        }
    }
}

#[derive(Deserialize)]
struct Line {
    api: String,
    #[serde(default)]
    plugin: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    role: String,
    #[serde(rename = "type")]
    aggregate_type: Option<String>,
    name: Option<String>,
    #[serde(default)]
    subscriptions: Vec<String>,
}

/// Reads the description of a core module or a component. `label` names the plugin in errors.
pub(super) fn read(label: &str, bytes: &[u8]) -> Result<Description, Error> {
    let text = find(label, bytes)?;
    let mut description: Option<Description> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (plugin, version, role) = parse(label, line)?;
        let description = description.get_or_insert_with(|| Description { plugin, version, roles: Vec::new() });
        if description.roles.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(&role)) {
            return Err(Error::Plugin(format!(
                "plugin {label} exports the role `{role}` beside another of its kind: move one of them to a plugin of its own"
            )));
        }
        description.roles.push(role);
    }
    description.ok_or_else(|| {
        Error::Plugin(format!(
            "plugin {label} exports no role: call export_aggregate!, export_subscriber! or export_projection! in it"
        ))
    })
}

fn find(label: &str, bytes: &[u8]) -> Result<String, Error> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Error::Plugin(format!(
            "plugin {label} is not WebAssembly: it starts with {:02x?}; build it for wasm32-unknown-unknown",
            &bytes[..bytes.len().min(4)]
        )));
    }
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| {
            Error::Plugin(format!(
                "plugin {label} is damaged ({error}): build it again, and replace the file in one step"
            ))
        })?;
        if let Payload::CustomSection(section) = payload
            && section.name() == SECTION
        {
            found.extend_from_slice(section.data());
            found.push(b'\n');
        }
    }
    if found.is_empty() {
        return Err(Error::Plugin(format!(
            "plugin {label} has no section `{SECTION}`: it was not made with the wasmill SDK, or its custom sections were stripped"
        )));
    }
    String::from_utf8(found).map_err(|_| Error::Plugin(format!("plugin {label}: its section `{SECTION}` is not text")))
}

fn parse(label: &str, line: &str) -> Result<(String, String, Role), Error> {
    let error = |cause: String| Error::Plugin(format!("plugin {label}: its section `{SECTION}` {cause}"));
    let line: Line = serde_json::from_str(line).map_err(|cause| error(format!("does not decode: {cause}")))?;
    if line.api != API_VERSION {
        return Err(Error::Plugin(format!(
            "plugin {label} speaks API version {} and this host speaks {API_VERSION}: build it with the SDK of this host's version",
            line.api
        )));
    }
    let missing = |key: &str| error(format!("lacks `{key}` for its role `{}`", line.role));
    let role = match line.role.as_str() {
        "aggregate" => Role::Aggregate { aggregate_type: line.aggregate_type.clone().ok_or_else(|| missing("type"))? },
        "subscriber" => Role::Subscriber { subscriptions: line.subscriptions },
        "projection" => Role::Projection {
            name: line.name.clone().ok_or_else(|| missing("name"))?,
            subscriptions: line.subscriptions,
        },
        "" => {
            return Err(Error::Plugin(format!(
                "plugin {label} exports no role: call one of the SDK's export macros in it"
            )));
        }
        other => return Err(error(format!("names a role `{other}` that this host does not know"))),
    };
    Ok((line.plugin, line.version, role))
}
