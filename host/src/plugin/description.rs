//! What a plugin says about itself: what its roles return from `describe`.

use super::bindings::wasmill::plugin::types as wit;
use super::exports::ApiVersion;
use crate::filter::Filter;
use crate::names::{self, Name, Rule};
use crate::upcasts::Shape;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fmt;

/// The most entries of one list of a description: aggregate types, commands, events, queries, subscriptions or endpoints.
pub(super) const DESCRIBED_MAX: usize = 1_000;

/// The most bytes of one JSON Schema of a description.
const SCHEMA_BYTES_MAX: usize = 256 << 10;

/// The most bytes of all JSON Schemas of a plugin's description. The host keeps them, and shows them all at once.
const SCHEMAS_BYTES_MAX: usize = 4 << 20;

/// A plugin's own description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The name that its author gave it.
    pub plugin: String,
    /// The version that its author gave it.
    pub version: String,
    /// The version of the contract that it was built for.
    pub api_version: ApiVersion,
    /// The roles it exports, at least one.
    pub roles: Vec<Role>,
}

/// A role that a plugin exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The aggregate role: it turns commands into events.
    Aggregate {
        /// The aggregate type that it serves.
        aggregate_type: Name,
        /// Its commands.
        commands: Vec<MessageType>,
        /// Its events, and those that it only reads.
        events: Vec<MessageType>,
        /// The JSON Schema of its state.
        state: Option<Json>,
    },
    /// The subscriber role: it reacts to events and records.
    Subscriber {
        /// Patterns over `aggregate-type.EventName`.
        subscriptions: Vec<String>,
        /// The shape in which it gets these events.
        shape: Shape,
        /// The endpoints to which it sends HTTP requests.
        endpoints: Vec<Name>,
    },
    /// The saga role: it runs a process over several aggregates.
    Saga {
        /// The aggregate type of the streams of its own events.
        aggregate_type: Name,
        /// Patterns of the events that start a saga.
        starts: Vec<String>,
        /// Patterns of all events that are inputs, with those that start a saga.
        subscriptions: Vec<String>,
        /// The shape in which it gets these events.
        shape: Shape,
        /// The endpoints to which it sends HTTP requests.
        endpoints: Vec<Name>,
        /// Its own events, and those of them that it only reads.
        events: Vec<MessageType>,
        /// The JSON Schema of its state.
        state: Option<Json>,
    },
    /// The projection role: it folds events into a read model.
    Projection {
        /// The name that queries use.
        name: Name,
        /// Patterns over `aggregate-type.EventName`.
        subscriptions: Vec<String>,
        /// The shape in which it gets these events.
        shape: Shape,
        /// Its queries.
        queries: Vec<MessageType>,
    },
}

/// A kind of command, event or query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageType {
    /// Its name.
    pub name: String,
    /// The JSON Schema of its payload.
    pub schema: Option<Json>,
}

impl Role {
    /// Returns the patterns of the events that it wants; none for an aggregate.
    pub fn subscriptions(&self) -> &[String] {
        match self {
            Self::Aggregate { .. } => &[],
            Self::Subscriber { subscriptions, .. }
            | Self::Projection { subscriptions, .. }
            | Self::Saga { subscriptions, .. } => subscriptions,
        }
    }

    /// Returns the shape in which it gets events. The history of an aggregate is as it was recorded.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Aggregate { .. } => Shape::Recorded,
            Self::Subscriber { shape, .. } | Self::Projection { shape, .. } | Self::Saga { shape, .. } => *shape,
        }
    }

    /// Returns the type of the streams that it records events in, with those events; none for one that records none.
    pub fn recorded(&self) -> Option<(&Name, &[MessageType])> {
        match self {
            Self::Aggregate { aggregate_type, events, .. } | Self::Saga { aggregate_type, events, .. } => {
                Some((aggregate_type, events))
            }
            Self::Subscriber { .. } | Self::Projection { .. } => None,
        }
    }
}

impl Role {
    /// Returns the JSON Schemas in it.
    fn schemas(&self) -> impl Iterator<Item = &Json> {
        let (messages, state): (Vec<&[MessageType]>, _) = match self {
            Self::Aggregate { commands, events, state, .. } => {
                (vec![commands.as_slice(), events.as_slice()], state.as_ref())
            }
            Self::Saga { events, state, .. } => (vec![events.as_slice()], state.as_ref()),
            Self::Projection { queries, .. } => (vec![queries.as_slice()], None),
            Self::Subscriber { .. } => (Vec::new(), None),
        };
        messages.into_iter().flatten().filter_map(|message| message.schema.as_ref()).chain(state)
    }
}

impl Description {
    /// Returns the endpoints to which the plugin sends HTTP requests.
    pub fn endpoints(&self) -> impl Iterator<Item = &Name> {
        self.roles.iter().flat_map(|role| match role {
            Role::Subscriber { endpoints, .. } | Role::Saga { endpoints, .. } => endpoints.as_slice(),
            Role::Aggregate { .. } | Role::Projection { .. } => &[],
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aggregate { aggregate_type, .. } => write!(f, "aggregate {aggregate_type}"),
            Self::Subscriber { .. } => write!(f, "subscriber"),
            Self::Projection { name, .. } => write!(f, "projection {name}"),
            Self::Saga { aggregate_type, .. } => write!(f, "saga {aggregate_type}"),
        }
    }
}

/// The name and version that a role gives its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) plugin: String,
    pub(super) version: String,
}

// Each of the following takes a part of a description from a guest. The error completes a sentence about `describe`.

pub(super) fn identity(wit::Identity { name, version }: wit::Identity) -> Result<Identity, String> {
    names::checked(&name, Rule::Crate).map_err(|cause| format!("the name of the plugin {cause}"))?;
    names::checked(&version, Rule::Version).map_err(|cause| format!("the version of the plugin {cause}"))?;
    Ok(Identity { plugin: name, version })
}

pub(super) fn name(what: &str, text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|cause| format!("{what} {cause}"))
}

pub(super) fn shape(shape: wit::EventShape) -> Shape {
    match shape {
        wit::EventShape::Recorded => Shape::Recorded,
        wit::EventShape::Newest => Shape::Newest,
    }
}

pub(super) fn subscriptions(patterns: Vec<String>) -> Result<Vec<String>, String> {
    bounded("subscriptions", &patterns)?;
    Filter::parse(patterns.iter().map(String::as_str)).map_err(|cause| format!("a subscription {cause}"))?;
    Ok(patterns)
}

pub(super) fn endpoints(endpoints: &[String]) -> Result<Vec<Name>, String> {
    bounded("endpoints", endpoints)?;
    endpoints.iter().map(|endpoint| name("an endpoint", endpoint)).collect()
}

/// `what` and `one` name a list of messages and an entry of it.
pub(super) fn messages(what: &str, one: &str, described: Vec<wit::MessageType>) -> Result<Vec<MessageType>, String> {
    bounded(what, &described)?;
    let mut seen = BTreeSet::new();
    let mut messages = Vec::with_capacity(described.len());
    for wit::MessageType { name, schema: of_payload } in described {
        names::checked(&name, Rule::Message).map_err(|cause| format!("the name of {one} {cause}; rename it"))?;
        if !seen.insert(name.clone()) {
            return Err(format!("there are two {what} named {name}: rename or remove one of them"));
        }
        let schema = schema(&format!("{one} {name}"), of_payload)?;
        messages.push(MessageType { name, schema });
    }
    Ok(messages)
}

/// `of` says what the schema describes.
pub(super) fn schema(of: &str, text: Option<String>) -> Result<Option<Json>, String> {
    let Some(text) = text else { return Ok(None) };
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!(
            "the schema of {of} has {} bytes, and the limit is {SCHEMA_BYTES_MAX}: shorten it, or leave it out",
            text.len()
        ));
    }
    let parsed = serde_json::from_str(&text).map_err(|cause| format!("the schema of {of} is not JSON: {cause}"))?;
    jsonschema::draft202012::meta::validate(&parsed).map_err(|cause| {
        let place = cause.instance_path().to_string();
        let place = if place.is_empty() { String::new() } else { format!(" at {}", names::shown(&place)) };
        format!("the schema of {of} is no JSON Schema of draft 2020-12{place}: {}", names::shown(&cause.to_string()))
    })?;
    Ok(Some(parsed))
}

/// Refuses the schemas of all roles if they are too many bytes together.
pub(super) fn check_schemas(roles: &[Role]) -> Result<(), String> {
    let bytes: usize = roles.iter().flat_map(Role::schemas).map(|schema| schema.to_string().len()).sum();
    if bytes <= SCHEMAS_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "its schemas have {bytes} bytes in all, and the limit is {SCHEMAS_BYTES_MAX}: shorten them, or leave some out"
    ))
}

pub(super) fn bounded<T>(what: &str, list: &[T]) -> Result<(), String> {
    if list.len() <= DESCRIBED_MAX {
        return Ok(());
    }
    Err(format!("there are {} {what}, and the limit is {DESCRIBED_MAX}: spread them over several plugins", list.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, schema: Option<&str>) -> wit::MessageType {
        wit::MessageType { name: name.into(), schema: schema.map(Into::into) }
    }

    fn refused<T: fmt::Debug>(described: Result<T, String>, said: &str) {
        let cause = described.unwrap_err();
        assert!(cause.contains(said) && !cause.chars().any(char::is_control), "{said}: {cause:?}");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(65);
        for text in ["", ".", "..", "/x", "a/../../b", "a\0b", "a\nb", "X Y", &long] {
            refused(name("the aggregate type", text), "the aggregate type must be 1 to 64 characters");
            let identity =
                |name: &str, version: &str| identity(wit::Identity { name: name.into(), version: version.into() });
            refused(identity(text, "0.1.0"), "the name of the plugin must be");
            refused(identity("sales", &format!("\u{1b}{text}")), "the version of the plugin must be");
            refused(
                messages("events", "an event", vec![message(&format!(" {text}"), None)]),
                "the name of an event must be",
            );
            refused(endpoints(&["mail".into(), text.to_owned()]), "an endpoint must be");
        }
        for pattern in ["order.\0", "order.O*", ""] {
            refused(subscriptions(vec!["order.*".into(), pattern.into()]), "a subscription ");
        }
    }

    #[test]
    fn a_list_is_bounded_and_names_are_unique() {
        let list = |length: usize| (0..length).map(|number| message(&format!("C{number}"), None)).collect::<Vec<_>>();
        assert_eq!(messages("commands", "a command", list(DESCRIBED_MAX)).unwrap().len(), DESCRIBED_MAX);
        refused(messages("commands", "a command", list(10_000)), "there are 10000 commands, and the limit is 1000");
        refused(subscriptions(vec!["order.*".into(); 10_000]), "there are 10000 subscriptions");
        let doubled = vec![message("Open", None), message("Open", None)];
        refused(messages("commands", "a command", doubled), "there are two commands named Open");
    }

    #[test]
    fn the_schemas_of_a_plugin_are_bounded_together() {
        let schema = serde_json::json!({ "title": "x".repeat(SCHEMA_BYTES_MAX - 100) });
        let role = |count: usize| Role::Projection {
            name: Name::parse("sales").unwrap(),
            subscriptions: Vec::new(),
            shape: Shape::Recorded,
            queries: vec![MessageType { name: "Q".into(), schema: Some(schema.clone()) }; count],
        };
        assert_eq!(check_schemas(&[role(8), role(8)]), Ok(()));
        refused(check_schemas(&[role(8), role(9)]), "its schemas have 4454952 bytes in all, and the limit is 4194304");
    }

    #[test]
    fn a_schema_is_one_or_it_is_refused() {
        for good in ["true", "{}", r##"{"properties":{"a":{"$ref":"#/$defs/A"}},"$defs":{"A":{"type":"null"}}}"##] {
            let described = messages("commands", "a command", vec![message("Open", Some(good))]).unwrap();
            assert_eq!(described[0].schema, Some(serde_json::from_str(good).unwrap()));
        }
        let deep = "[".repeat(10_000);
        let long = format!("{{\"title\":\"{}\"}}", "x".repeat(SCHEMA_BYTES_MAX));
        for (bad, said) in [
            ("", "the schema of a command Open is not JSON"),
            ("{\"type\":\"object\"", "is not JSON"),
            (&deep, "is not JSON"),
            (&long, "the schema of a command Open has 262156 bytes, and the limit is 262144: shorten it"),
            ("7", "is no JSON Schema of draft 2020-12"),
            (r#"{"type":"objekt"}"#, "at \"/type\""),
            (r#"{"properties":{"a":{"minimum":"\u001b"}}}"#, "at \"/properties/a/minimum\""),
        ] {
            refused(messages("commands", "a command", vec![message("Open", Some(bad))]), said);
        }
    }
}
