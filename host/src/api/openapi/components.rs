//! The schemas of plugins as components of the document.
//!
//! A schema of a plugin is a document of its own, whose references begin at its own root. Here its definitions become
//! components too, and its references lead to them. No two components have the same name. A schema that can't be moved, for
//! example because it refers to another document, is shown as one that allows everything.

use serde_json::{Map, Value, json};

/// The keywords whose value is a schema.
const SCHEMA: [&str; 11] = [
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// The keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];

/// The keywords whose value is an object of schemas.
const OBJECT: [&str; 5] = ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// The keywords that give a place a name other than its path, or refer to one.
const ANCHORS: [&str; 6] = ["$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef"];

/// Where the document has its components.
const PLACE: &str = "#/components/schemas/";

/// The components that come from plugins.
#[derive(Default)]
pub(super) struct Components(Map<String, Value>);

impl Components {
    /// Adds the schema of a plugin under a name of its own, and returns a schema that refers to it.
    pub(super) fn add(&mut self, name: &str, schema: &Value) -> Value {
        let root = self.free(name);
        // The place is taken before the definitions get their names.
        self.0.insert(root.clone(), Value::Null);
        let mut moved = schema.clone();
        let definitions = match moved.as_object_mut() {
            Some(members) => {
                // The document is in the same dialect.
                members.remove("$schema");
                match members.remove("$defs") {
                    Some(Value::Object(definitions)) => definitions,
                    _ => Map::new(),
                }
            }
            None => Map::new(),
        };
        let mut moves = Moves { whole: schema, root: root.clone(), definitions: Vec::new() };
        for definition in definitions.keys() {
            let free = self.free(&format!("{root}.{}", as_name(definition)));
            self.0.insert(free.clone(), Value::Null);
            moves.definitions.push((definition.clone(), free));
        }
        let parts = std::iter::once((root.clone(), moved));
        let parts = parts.chain(moves.definitions.iter().map(|(key, free)| (free.clone(), definitions[key].clone())));
        let moved: Option<Vec<(String, Value)>> =
            parts.map(|(name, mut part)| moves.schema(&mut part).then_some((name, part))).collect();
        match moved {
            Some(parts) => self.keep_used(&root, parts.into_iter().collect()),
            None => {
                moves.definitions.iter().for_each(|(_, free)| _ = self.0.remove(free));
                let description = "The plugin's own schema can't be a part of this document; the description of the \
                                   plugin, GET /v1/plugins/{name}, has it.";
                self.0.insert(root.clone(), json!({ "description": description }));
            }
        }
        json!({ "$ref": format!("{PLACE}{root}") })
    }

    /// Keeps a schema and those of its parts that it refers to, directly or not. Plugins may define more than one of their
    /// schemas needs.
    fn keep_used(&mut self, root: &str, mut parts: Map<String, Value>) {
        let mut wanted = vec![root.to_owned()];
        while let Some(name) = wanted.pop() {
            if let Some(part) = parts.remove(&name) {
                referred(&part, &mut wanted);
                self.0.insert(name, part);
            }
        }
        parts.keys().for_each(|unused| _ = self.0.remove(unused));
    }

    /// Returns all components by their names.
    pub(super) fn into_schemas(self) -> Map<String, Value> {
        self.0
    }

    /// Returns the name, or one with a number if it is taken.
    fn free(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| !self.0.contains_key(name)).expect("the names do not end")
    }
}

/// Adds the names of the components to which a part refers.
fn referred(part: &Value, names: &mut Vec<String>) {
    match part {
        Value::Object(members) => {
            let reference = members.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(PLACE));
            names.extend(reference.and_then(|text| text.split('/').next()).map(str::to_owned));
            members.values().for_each(|member| referred(member, names));
        }
        Value::Array(items) => items.iter().for_each(|item| referred(item, names)),
        _ => {}
    }
}

/// Where the parts of a schema go.
struct Moves<'s> {
    whole: &'s Value,
    root: String,
    /// The definitions by their keys, with their names as components.
    definitions: Vec<(String, String)>,
}

impl Moves<'_> {
    /// Changes the references of a schema and of those in it. Returns false if that can't be done.
    fn schema(&self, schema: &mut Value) -> bool {
        // Besides objects, only true and false are schemas.
        let Some(members) = schema.as_object_mut() else { return true };
        if ANCHORS.iter().any(|keyword| members.contains_key(*keyword)) {
            return false;
        }
        if let Some(reference) = members.get_mut("$ref") {
            let Some(moved) = reference.as_str().and_then(|reference| self.reference(reference)) else { return false };
            *reference = moved.into();
        }
        members.iter_mut().all(|(keyword, value)| match (keyword.as_str(), value) {
            (keyword, value) if SCHEMA.contains(&keyword) => self.schema(value),
            (keyword, Value::Array(schemas)) if LIST.contains(&keyword) => {
                schemas.iter_mut().all(|schema| self.schema(schema))
            }
            (keyword, Value::Object(schemas)) if OBJECT.contains(&keyword) => {
                schemas.values_mut().all(|schema| self.schema(schema))
            }
            _ => true,
        })
    }

    /// Returns where a reference leads after the move. There is no such place if it leads nowhere or to another document.
    fn reference(&self, reference: &str) -> Option<String> {
        let fragment = reference.strip_prefix('#')?;
        let pointer = percent_encoding::percent_decode_str(fragment).decode_utf8().ok()?;
        self.whole.pointer(&pointer)?;
        let Some(rest) = pointer.strip_prefix("/$defs/") else {
            return Some(format!("{PLACE}{}{fragment}", self.root));
        };
        let (key, rest) = rest.split_once('/').map_or((rest, String::new()), |(key, rest)| (key, format!("/{rest}")));
        let key = key.replace("~1", "/").replace("~0", "~");
        let (_, name) = self.definitions.iter().find(|(definition, _)| *definition == key)?;
        // What is not allowed in a fragment is encoded again.
        let rest = percent_encoding::utf8_percent_encode(&rest, FRAGMENT);
        Some(format!("{PLACE}{name}{rest}"))
    }
}

/// The characters that are percent-encoded in the path of a reference.
const FRAGMENT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'%')
    .add(b'#')
    .add(b'^')
    .add(b'{')
    .add(b'}')
    .add(b'|')
    .add(b'\\');

/// Returns a text with the characters that the name of a component may have.
fn as_name(text: &str) -> String {
    let allowed = |char: char| if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '_' };
    text.chars().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_become_components_and_references_lead_to_them() {
        let mut components = Components::default();
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "properties": {
                "items": { "items": { "$ref": "#/$defs/Item" } },
                "odd": { "$ref": "#/$defs/a~1b%20c/properties/x" },
                "self": { "$ref": "#" },
                "first": { "$ref": "#/properties/items" },
                "$ref": { "const": { "$ref": "a value, and no reference" } },
            },
            "$defs": {
                "Item": { "anyOf": [{ "$ref": "#/$defs/Item" }, { "type": "null" }] },
                "a/b c": { "properties": { "x": true } },
            },
        });
        assert_eq!(components.add("order.Open", &schema), json!({ "$ref": "#/components/schemas/order.Open" }));
        let schemas = components.into_schemas();
        let place = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        assert_eq!(
            schemas["order.Open"]["properties"],
            json!({
                "items": { "items": place("order.Open.Item") },
                "odd": place("order.Open.a_b_c/properties/x"),
                "self": place("order.Open"),
                "first": place("order.Open/properties/items"),
                "$ref": { "const": { "$ref": "a value, and no reference" } },
            })
        );
        assert_eq!(schemas["order.Open.Item"]["anyOf"][0], place("order.Open.Item"));
        assert_eq!(schemas.len(), 3);
        assert!(schemas["order.Open"].get("$schema").is_none() && schemas["order.Open"].get("$defs").is_none());
    }

    #[test]
    fn names_that_are_taken_get_numbers() {
        let mut components = Components::default();
        components.add("order.Open.Item", &json!(true));
        let wanted = ["Item", "I tem", "I_tem"].map(|key| json!({ "$ref": format!("#/$defs/{key}") }));
        let definitions = json!({ "Item": { "type": "null" }, "I tem": {}, "I_tem": {}, "Unused": {} });
        let schema = json!({ "allOf": wanted, "$defs": definitions });
        components.add("order.Open", &schema);
        let schemas = components.into_schemas();
        assert_eq!(schemas["order.Open"]["allOf"][0]["$ref"], "#/components/schemas/order.Open.Item_2");
        assert_eq!(schemas["order.Open.Item_2"], json!({ "type": "null" }));
        assert!(schemas.contains_key("order.Open.I_tem") && schemas.contains_key("order.Open.I_tem_2"));
        assert!(!schemas.keys().any(|name| name.contains("Unused")), "what nothing refers to is left out");
    }

    #[test]
    fn what_can_not_be_moved_is_shown_as_open() {
        for schema in [
            json!({ "$ref": "https://example.com/other" }),
            json!({ "properties": { "a": { "$ref": "other.json#/a" } } }),
            json!({ "$ref": "#/$defs/Nowhere" }),
            json!({ "$ref": "#anchor", "$defs": { "A": { "$anchor": "anchor" } } }),
            json!({ "$id": "https://example.com/own", "$defs": { "A": {} } }),
            json!({ "items": { "$dynamicRef": "#meta" } }),
            json!({ "$defs": { "A": { "not": { "$ref": "elsewhere" } } } }),
        ] {
            let mut components = Components::default();
            components.add("order.Open", &schema);
            let schemas = components.into_schemas();
            assert_eq!(schemas.len(), 1, "{schema}");
            assert_eq!(
                schemas["order.Open"].as_object().unwrap().keys().collect::<Vec<_>>(),
                ["description"],
                "{schema}"
            );
        }
    }
}
