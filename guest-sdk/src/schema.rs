//! JSON Schemas of commands, events, queries and states.
//!
//! A type that derives [`JsonSchema`] can describe itself. The host shows the schemas in `GET /v1/plugins/NAME` and
//! `wasmill plugins describe NAME`, and does not hold payloads to them. A plugin that names no schema has no code for them.
//!
//! ```
//! use wasmill_guest::prelude::*;
//!
//! #[derive(Default)]
//! struct Counter { value: u32 }
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! # #[schemars(crate = "wasmill_guest::schemars")]
//! enum Command {
//!     /// Adds an amount.
//!     Add { amount: u32 },
//! }
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! # #[schemars(crate = "wasmill_guest::schemars")]
//! enum Event { Added { amount: u32 } }
//!
//! impl Aggregate for Counter {
//!     const TYPE: &'static str = "counter";
//!     const COMMAND_SCHEMA: Schema = Schema::of::<Command>();
//!     const EVENT_SCHEMA: Schema = Schema::of::<Event>();
//!     type Command = Command;
//!     type Event = Event;
//!     type Error = String;
//!
//!     fn handle(&self, Command::Add { amount }: Command) -> Result<Vec<Event>, String> {
//!         Ok(vec![Event::Added { amount }])
//!     }
//!
//!     fn apply(&mut self, Event::Added { amount }: Event) {
//!         self.value += amount;
//!     }
//! }
//! ```
//!
//! The derive macro needs the crate `schemars` among the plugin's dependencies, as `Serialize` needs `serde`.

use crate::bindings::types::MessageType;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value as Json, json};

pub use schemars::JsonSchema;

/// The JSON Schema of a type, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Schema(Option<fn() -> Json>);

impl Schema {
    /// There is no schema.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The schema that a type derives. It is made when the host asks for it.
    pub const fn of<T: JsonSchema>() -> Self {
        Self(Some(generate::<T>))
    }

    /// Returns the schema as text.
    #[inline(always)]
    pub(crate) fn text(&self) -> Option<String> {
        self.0.map(|generate| text(&generate()))
    }

    /// Describes messages with these names. The schema is that of an enum, and each message gets that of its variant.
    #[inline(always)]
    pub(crate) fn describe(&self, names: Vec<String>) -> Vec<MessageType> {
        // The schema is constant, so a plugin without one contains no code for JSON values.
        match self.0 {
            Some(generate) => described(names, &generate()),
            None => names.into_iter().map(|name| MessageType { name, schema: None }).collect(),
        }
    }
}

#[inline(never)]
fn described(names: Vec<String>, of_enum: &Json) -> Vec<MessageType> {
    let describe = |name: String| {
        let schema = of_variant(of_enum, &name).map(|schema| text(&schema));
        MessageType { name, schema }
    };
    names.into_iter().map(describe).collect()
}

fn generate<T: JsonSchema>() -> Json {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let schema = T::json_schema(&mut generator);
    complete(schema, generator)
}

/// Adds the definitions to a schema. It is not generic, so that a plugin has it once.
#[inline(never)]
fn complete(schema: schemars::Schema, mut generator: SchemaGenerator) -> Json {
    let mut schema = match schema.to_value() {
        Json::Object(schema) => schema,
        other => return other,
    };
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        schema.insert("$defs".to_owned(), Json::Object(definitions));
    }
    schema.insert("$schema".to_owned(), Json::from("https://json-schema.org/draft/2020-12/schema"));
    Json::Object(schema)
}

#[inline(never)]
fn text(schema: &Json) -> String {
    serde_json::to_string(schema).unwrap_or_default()
}

/// Returns the schema of the content of a variant, with the definitions that it may refer to.
fn of_variant(of_enum: &Json, name: &str) -> Option<Json> {
    let alternatives = ["oneOf", "anyOf"].into_iter().find_map(|key| of_enum[key].as_array());
    let one = std::slice::from_ref(of_enum);
    let (description, content) =
        alternatives.map_or(one, Vec::as_slice).iter().find_map(|alternative| content(alternative, name))?;
    let mut schema = match content {
        Json::Object(schema) => schema,
        // The schema `true` allows everything, and `false` nothing.
        Json::Bool(false) => Map::from_iter([("not".to_owned(), json!({}))]),
        _ => Map::new(),
    };
    if let Some(description) = description {
        schema.entry("description").or_insert(description);
    }
    for key in ["$schema", "$defs"] {
        if let Some(shared) = of_enum.get(key) {
            schema.insert(key.to_owned(), shared.clone());
        }
    }
    Some(Json::Object(schema))
}

/// Returns the description and the schema of the content of a variant, if an alternative of an enum is this variant.
fn content(alternative: &Json, name: &str) -> Option<(Option<Json>, Json)> {
    let description = alternative.get("description").cloned();
    let is_named = alternative["const"] == name
        || alternative["enum"].as_array().is_some_and(|names| names.iter().any(|other| other == name));
    if is_named {
        return Some((description, json!({ "type": "null" })));
    }
    let content = alternative["properties"].get(name)?;
    Some((description, content.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    struct Item {
        product: String,
        parts: Vec<Item>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    enum Command {
        /// Opens the account.
        Open {
            /// The owner's name.
            owner: String,
            limit: Option<i64>,
        },
        Add(Item),
        Close,
        Reopen,
        Anything(Json),
    }

    fn described(name: &str) -> Json {
        let described = Schema::of::<Command>().describe(vec![name.to_owned()]).remove(0);
        described.schema.map_or(Json::Null, |schema| serde_json::from_str(&schema).unwrap())
    }

    #[test]
    fn each_variant_has_the_schema_of_its_content() {
        let open = described("Open");
        assert_eq!((&open["type"], &open["description"]), (&json!("object"), &json!("Opens the account.")));
        assert_eq!(open["required"], json!(["owner"]));
        assert_eq!(open["properties"]["owner"]["description"], "The owner's name.");
        assert_eq!(described("Add")["$ref"], "#/$defs/Item");
        assert_eq!(described("Add")["$defs"]["Item"]["properties"]["parts"]["items"]["$ref"], "#/$defs/Item");
        assert_eq!([described("Close")["type"].clone(), described("Reopen")["type"].clone()], ["null", "null"]);
        assert!(described("Anything").is_object() && described("Anything").get("type").is_none());
        assert_eq!(described("Unknown"), Json::Null, "an event that is only read has no schema");
    }

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    enum Only {
        One { size: u32 },
    }

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    enum Units {
        One,
        Two,
    }

    #[test]
    fn an_enum_of_one_variant_and_one_of_units_are_described() {
        let schema = |schema: Schema| schema.describe(vec!["One".to_owned()]).remove(0).schema.unwrap();
        assert!(schema(Schema::of::<Only>()).contains("\"size\""));
        assert!(schema(Schema::of::<Units>()).contains("\"null\""));
    }

    #[test]
    fn without_a_schema_there_are_only_names() {
        let described = Schema::none().describe(vec!["Open".to_owned()]);
        assert!(described[0].name == "Open" && described[0].schema.is_none() && Schema::none().text().is_none());
        assert!(Schema::of::<Item>().text().is_some_and(|schema| schema.contains("product")));
    }
}
