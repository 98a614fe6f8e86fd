//! A plugin's description of itself, which is read before anything is compiled.
//!
//! The SDK writes it as the custom section `wasmill:plugin`, with a line of JSON for each role.

use super::Error;
use crate::filter::Filter;
use crate::names::{self, Name, Rule};
use crate::upcasts::Shape;
use serde::Deserialize;
use wasmparser::{Parser, Payload};

/// The version of the plugin API that this host implements.
pub const API_VERSION: &str = "0.8.0";

const SECTION: &str = "wasmill:plugin";

/// A plugin's own description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The name of the plugin's crate.
    pub plugin: String,
    /// The version of the plugin's crate.
    pub version: String,
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
    },
    /// The projection role: it folds events into a read model.
    Projection {
        /// The name that queries use.
        name: Name,
        /// Patterns over `aggregate-type.EventName`.
        subscriptions: Vec<String>,
        /// The shape in which it gets these events.
        shape: Shape,
    },
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
}

impl Role {
    /// Returns the shape in which it gets events. The history of an aggregate is as it was recorded.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Aggregate { .. } => Shape::Recorded,
            Self::Subscriber { shape, .. } | Self::Projection { shape, .. } | Self::Saga { shape, .. } => *shape,
        }
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

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Aggregate { aggregate_type } => write!(f, "aggregate {aggregate_type}"),
            Self::Subscriber { .. } => write!(f, "subscriber"),
            Self::Projection { name, .. } => write!(f, "projection {name}"),
            Self::Saga { aggregate_type, .. } => write!(f, "saga {aggregate_type}"),
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
    starts: Vec<String>,
    #[serde(default)]
    subscriptions: Vec<String>,
    #[serde(default)]
    shape: Shape,
    #[serde(default)]
    endpoints: Vec<String>,
}

/// Reads the description of a core module or a component. `label` names the plugin in errors.
pub(super) fn read(label: &str, bytes: &[u8]) -> Result<Description, Error> {
    let text = find(label, bytes)?;
    let mut description: Option<Description> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (plugin, version, role) = parse(label, line)?;
        let description =
            description.get_or_insert_with(|| Description { plugin: plugin.clone(), version, roles: Vec::new() });
        if description.plugin != plugin {
            return Err(of_two_crates(label, &description.plugin, &plugin));
        }
        if let Some(other) = description.roles.iter().find(|other| excludes(other, &role)) {
            return Err(Error::Plugin(format!(
                "plugin {label} exports the role `{role}` beside the role `{other}`: move one of them to another plugin"
            )));
        }
        description.roles.push(role);
    }
    let has_subscription = |role: &&Role| matches!(role, Role::Subscriber { .. } | Role::Saga { .. });
    if description.iter().flat_map(|description| &description.roles).filter(has_subscription).count() > 1 {
        return Err(Error::Plugin(format!(
            "plugin {label} exports a subscriber and a saga, and a plugin has one subscription: move one of them to another \
             plugin"
        )));
    }
    description.ok_or_else(|| {
        Error::Plugin(format!(
            "plugin {label} exports no role: call export_aggregate!, export_subscriber!, export_saga! or \
             export_projection! in it"
        ))
    })
}

/// Whether a plugin can't have both roles. It may have several aggregates, of different types.
fn excludes(one: &Role, other: &Role) -> bool {
    match (one, other) {
        (Role::Aggregate { aggregate_type: one }, Role::Aggregate { aggregate_type: other }) => one == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

/// Returns the error for a plugin that was linked with another one.
fn of_two_crates(label: &str, one: &str, other: &str) -> Error {
    Error::Plugin(format!(
        "plugin {label} contains the exports of the crates {one} and {other}: a plugin can't depend on another plugin, only \
         its native tests can; take the types that they share from a crate that exports no role, and build both separately"
    ))
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
            "plugin {label} exports no role (it has no section `{SECTION}`): call export_aggregate!, export_subscriber!, \
             export_saga! or export_projection! of the SDK in it, and keep custom sections if a tool strips the file"
        )));
    }
    String::from_utf8(found).map_err(|_| Error::Plugin(format!("plugin {label}: its section `{SECTION}` is not text")))
}

fn parse(label: &str, line: &str) -> Result<(String, String, Role), Error> {
    let error = |cause: String| Error::Plugin(format!("plugin {label}: its section `{SECTION}` {cause}"));
    let line: Line = serde_json::from_str(line).map_err(|cause| error(format!("does not decode: {cause}")))?;
    if line.api != API_VERSION {
        return Err(Error::Plugin(format!(
            "plugin {label} speaks API version {:?} and this host speaks {API_VERSION}: build it with the SDK of this host's version",
            line.api
        )));
    }
    let wrong = |key: &str, cause: &dyn std::fmt::Display| error(format!("has a wrong `{key}`: it {cause}"));
    names::checked(&line.plugin, Rule::Crate).map_err(|cause| wrong("plugin", &cause))?;
    names::checked(&line.version, Rule::Version).map_err(|cause| wrong("version", &cause))?;
    let name = |key: &str, text: &Option<String>| match text {
        Some(text) => Name::parse(text).map_err(|cause| wrong(key, &cause)),
        None => Err(error(format!("lacks `{key}` for its role `{}`", line.role))),
    };
    let endpoints = line.endpoints.iter().map(|text| Name::parse(text).map_err(|cause| wrong("endpoints", &cause)));
    let endpoints = endpoints.collect::<Result<Vec<Name>, Error>>()?;
    let role = match line.role.as_str() {
        "aggregate" => Role::Aggregate { aggregate_type: name("type", &line.aggregate_type)? },
        "subscriber" => Role::Subscriber { subscriptions: line.subscriptions, shape: line.shape, endpoints },
        "projection" => {
            Role::Projection { name: name("name", &line.name)?, subscriptions: line.subscriptions, shape: line.shape }
        }
        "saga" if line.starts.is_empty() => {
            return Err(error(
                "has no `starts` for its role `saga`: without an event that starts it there is none".into(),
            ));
        }
        "saga" => Role::Saga {
            aggregate_type: name("type", &line.aggregate_type)?,
            subscriptions: line.starts.iter().chain(&line.subscriptions).cloned().collect(),
            starts: line.starts,
            shape: line.shape,
            endpoints,
        },
        "" => {
            return Err(Error::Plugin(format!(
                "plugin {label} exports no role: call one of the SDK's export macros in it"
            )));
        }
        other => return Err(error(format!("names a role {other:?} that this host does not know"))),
    };
    Filter::parse(role.subscriptions().iter().map(String::as_str)).map_err(|cause| wrong("subscriptions", &cause))?;
    Ok((line.plugin, line.version, role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Builds a module that has only custom sections.
    fn module(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        for (name, content) in sections {
            assert!(name.len() + content.len() < 0x3f80, "the length takes two bytes");
            let length = 1 + name.len() + content.len();
            module.extend([0, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8, name.len() as u8]);
            module.extend(name.bytes().chain(content.iter().copied()));
        }
        module
    }

    fn read_line(line: &str) -> Result<Description, Error> {
        read("bad", &module(&[(SECTION, line.as_bytes())]))
    }

    const PROJECTION: &str = r#"{"api":"0.8.0","plugin":"sales","version":"0.1.0","role":"projection","name":"sales","subscriptions":["order.*"]}"#;

    #[test]
    fn a_section_becomes_a_description() {
        let Description { plugin, version, roles } = read_line(PROJECTION).unwrap();
        assert_eq!((&*plugin, &*version), ("sales", "0.1.0"));
        let name = Name::parse("sales").unwrap();
        let subscriptions = vec!["order.*".to_owned()];
        assert_eq!(roles, [Role::Projection { name, subscriptions, shape: Shape::Recorded }]);
        let newest = PROJECTION.replacen("]", r#"],"shape":"newest""#, 1);
        assert_eq!(read_line(&newest).unwrap().roles[0].shape(), Shape::Newest);
    }

    #[test]
    fn a_plugin_may_have_several_aggregates_of_different_types() {
        let line = |aggregate_type: &str| {
            format!(
                r#"{{"api":"{API_VERSION}","plugin":"p","version":"0.1.0","role":"aggregate","type":"{aggregate_type}"}}"#
            )
        };
        let both = read_line(&format!("{}\n{}", line("order"), line("customer"))).unwrap();
        let roles: Vec<String> = both.roles.iter().map(ToString::to_string).collect();
        assert_eq!(roles, ["aggregate order", "aggregate customer"]);
        let error = read_line(&format!("{}\n{}", line("order"), line("order"))).unwrap_err().to_string();
        assert!(error.contains("the role `aggregate order` beside the role `aggregate order`"), "{error}");
    }

    #[test]
    fn a_plugin_that_is_linked_with_another_one_is_refused() {
        let aggregate = r#"{"api":"0.8.0","plugin":"sales","version":"0.1.0","role":"aggregate","type":"sale"}"#;
        let both = |other: &str| read_line(&format!("{PROJECTION}\n{other}"));
        assert_eq!(both(aggregate).unwrap().roles.len(), 2, "one crate may export several roles");
        for other in [aggregate, PROJECTION] {
            let error =
                both(&other.replacen("\"plugin\":\"sales\"", "\"plugin\":\"accounts\"", 1)).unwrap_err().to_string();
            let said = "plugin bad contains the exports of the crates sales and accounts: ";
            assert!(error.starts_with(said) && error.contains("exports no role"), "{error}");
        }
    }

    /// Each line differs from a valid one in one place.
    #[test]
    fn what_is_no_name_is_refused_before_anything_is_compiled() {
        let long = format!(r#""name":"{}""#, "x".repeat(65));
        for (good, bad, said) in [
            (r#""name":"sales""#, r#""name":"..""#, "wrong `name`: it must be 1 to 64 characters"),
            (r#""name":"sales""#, r#""name":".""#, "wrong `name`"),
            (r#""name":"sales""#, r#""name":"/x""#, "wrong `name`"),
            (r#""name":"sales""#, r#""name":"a/../../b""#, "wrong `name`"),
            (r#""name":"sales""#, r#""name":"a\u0000b""#, r#"found "a\0b""#),
            (r#""name":"sales""#, r#""name":"a\nb""#, "wrong `name`"),
            (r#""name":"sales""#, r#""name":"X Y""#, "wrong `name`"),
            (r#""name":"sales""#, r#""name":"""#, "wrong `name`"),
            (r#""name":"sales""#, &*long, "wrong `name`"),
            (r#""name":"sales","#, "", "lacks `name`"),
            (r#""name":"sales""#, r#""name":7"#, "does not decode"),
            (r#""version":"0.1.0""#, r#""version":"""#, "wrong `version`"),
            (r#""version":"0.1.0","#, "", "wrong `version`"),
            (r#""version":"0.1.0""#, r#""version":"1\u001b[2J""#, "wrong `version`"),
            (r#""plugin":"sales""#, r#""plugin":"""#, "wrong `plugin`"),
            (r#""plugin":"sales""#, r#""plugin":"a b""#, "wrong `plugin`"),
            (r#"["order.*"]"#, r#"["order.\u0000"]"#, "wrong `subscriptions`"),
            (r#"["order.*"]"#, r#"["order.O*"]"#, "wrong `subscriptions`"),
            (r#"["order.*"]"#, r#"[""]"#, "wrong `subscriptions`"),
            (r#""role":"projection""#, r#""role":"x\u001b""#, "a role"),
            (r#""role":"projection""#, r#""role":"aggregate","type":"../x""#, "wrong `type`"),
        ] {
            assert!(PROJECTION.contains(good), "{good}");
            let error = read_line(&PROJECTION.replacen(good, bad, 1)).unwrap_err().to_string();
            assert!(error.starts_with("plugin bad") && error.contains(said), "{bad}: {error}");
            assert!(!error.chars().any(char::is_control), "{bad}: {error:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_plugin_says_what_it_is() {
        let twice = format!("{PROJECTION}\n{PROJECTION}");
        let twice = module(&[(SECTION, twice.as_bytes())]);
        let good = module(&[(SECTION, PROJECTION.as_bytes())]);
        for (bytes, said) in [
            (b"".as_slice(), "is not WebAssembly"),
            (b"\0as", "is not WebAssembly"),
            (b"#!/bin/sh\n", "is not WebAssembly"),
            (&good[..good.len() - 1], "is damaged"),
            (&module(&[]), "has no section `wasmill:plugin`): call export_aggregate!"),
            (&module(&[(SECTION, b"\xff\xfe")]), "is not text"),
            (&module(&[(SECTION, b"\n \n")]), "exports no role"),
            (&module(&[(SECTION, b"[]")]), "does not decode"),
            (&twice, "beside the role `projection sales`"),
        ] {
            let error = read("bad", bytes).unwrap_err().to_string();
            assert!(error.starts_with("plugin bad") && error.contains(said), "{said}: {error}");
        }
    }

    proptest! {
        /// Any bytes in a plugin's file give a description, or an error of one line.
        #[test]
        fn any_file_is_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            section in prop::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
            (place, bit) in (any::<prop::sample::Index>(), 0..8_u8),
        ) {
            let good = module(&[(SECTION, PROJECTION.as_bytes())]);
            let mut flipped = good.clone();
            let at = place.index(flipped.len());
            flipped[at] ^= 1 << bit;
            for file in [
                bytes.clone(),
                [b"\0asm\x01\0\0\0", bytes.as_slice()].concat(),
                module(&[(SECTION, &section)]),
                good[..cut.index(good.len())].to_vec(),
                flipped,
            ] {
                if let Err(error) = read("bad", &file) {
                    let said = error.to_string();
                    prop_assert!(said.starts_with("plugin bad") && !said.chars().any(char::is_control), "{:?}", said);
                }
            }
        }

        /// A description has exactly the names of its line, unless they break a rule.
        #[test]
        fn names_are_taken_as_they_are_or_refused(name in "[a-z./\\PC]{0,70}", version in "[0-9a-z. ]{0,8}") {
            let line = serde_json::json!({
                "api": API_VERSION, "plugin": "p", "version": version, "role": "aggregate", "type": name,
            });
            match read_line(&line.to_string()) {
                Ok(description) => {
                    prop_assert!(Rule::Part.allows(&name) && Rule::Version.allows(&version));
                    prop_assert_eq!(&*description.version, &*version);
                    let aggregate_type = Name::parse(&name).unwrap();
                    prop_assert_eq!(description.roles, [Role::Aggregate { aggregate_type }]);
                }
                Err(_) => prop_assert!(!Rule::Part.allows(&name) || !Rule::Version.allows(&version)),
            }
        }
    }
}
