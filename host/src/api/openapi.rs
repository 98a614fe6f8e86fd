//! `GET /v1/openapi.json`: the API in the OpenAPI format, version 3.1.
//!
//! The document is made from the routes and from what the loaded plugins say about themselves: each command and each query
//! is a path of its own, with the JSON Schema of its payload. So a generator of clients knows them. Nothing here knows what
//! a route does.

mod components;
pub(super) mod operation;
mod plugin_paths;

use super::Server;
use super::answer::{LINES, json};
use super::problem::{PROBLEM_JSON, Problem, ProblemType};
use super::routes::{self, Route};
use crate::access::Caller;
use crate::host::Host;
use crate::manifest::Scope;
use crate::status::{PluginDescription, RoleDescription};
use arc_swap::ArcSwapOption;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::Response;
use components::Components;
use operation::{Answer, Body, Content, MakeSchema, Operation};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json as value};
use std::sync::Arc;

/// The scheme of tokens, and that of client certificates.
const SCHEMES: [&str; 2] = ["token", "certificate"];

/// The document of the code that serves, so that it is not made for each request.
#[derive(Default)]
pub(super) struct Document(ArcSwapOption<Made>);

/// A document, and the digests of the code for which it was made.
struct Made {
    digests: Vec<String>,
    text: Bytes,
}

impl Document {
    fn text(&self, host: &Host) -> Bytes {
        let digests = host.digests();
        if let Some(made) = &*self.0.load()
            && made.digests == digests
        {
            return made.text.clone();
        }
        let text = Bytes::from(document(&routes::all(), &host.descriptions()).to_string());
        self.0.store(Some(Arc::new(Made { digests, text: text.clone() })));
        text
    }
}

pub(super) async fn show(State(server): State<Server>, Extension(caller): Extension<Caller>) -> Response {
    json(tokio::task::block_in_place(|| match caller.is_limited() {
        false => server.document.text(&server.host),
        true => document(&routes::all(), &of_client(server.host.descriptions(), &caller)).to_string().into(),
    }))
}

/// Returns what plugins say about the aggregate types and projections that a client may use.
fn of_client(mut plugins: Vec<PluginDescription>, caller: &Caller) -> Vec<PluginDescription> {
    for plugin in &mut plugins {
        plugin.roles.retain(|role| match role {
            RoleDescription::Aggregate { aggregate_type, .. } => caller.may_use_aggregate(aggregate_type),
            RoleDescription::Projection { name, .. } => caller.may_ask(name),
            RoleDescription::Subscriber { .. } | RoleDescription::Saga { .. } => false,
        });
    }
    plugins
}

/// Makes the document of routes and plugins.
fn document(routes: &[Route], plugins: &[PluginDescription]) -> Value {
    let (mut components, mut paths) = (Components::default(), Map::new());
    let mut answers = answers_generator();
    for Route { method, path, scope, operation, .. } in routes {
        let described = described(path, *scope, operation, &mut answers);
        let methods = paths.entry(*path).or_insert_with(|| value!({}));
        methods[method.as_str().to_ascii_lowercase()] = described;
    }
    plugin_paths::add(&mut paths, &mut components, plugins);
    let problem = answers.subschema_for::<Problem<'_>>();
    let mut schemas = components.into_schemas();
    schemas.extend(answers.take_definitions(true));
    if let Some(urn) = schemas.get_mut("Problem").and_then(|problem| problem.pointer_mut("/properties/type")) {
        urn["examples"] = ProblemType::ALL.iter().map(|problem| problem.urn()).collect();
    }
    value!({
        "openapi": "3.1.0",
        "info": {
            "title": "wasmill",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The HTTP API of a host, with the commands and queries of the plugins that it has loaded.",
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "The request is refused.",
                    "content": { PROBLEM_JSON: { "schema": problem } },
                },
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of a client in the manifest, with the scope that an operation names. A host \
                                    without clients asks for none.",
                },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "The certificate of a client in the manifest.",
                },
            },
        },
    })
}

/// Describes one route.
fn described(path: &str, scope: Option<Scope>, operation: &Operation, answers: &mut SchemaGenerator) -> Value {
    let Operation { id, summary, query, headers, body, answers: given } = operation;
    let header = |header: &operation::HeaderParameter| {
        let operation::HeaderParameter { name, description, pattern } = header;
        let schema = match pattern {
            Some(pattern) => value!({ "type": "string", "pattern": pattern }),
            None => value!({ "type": "string" }),
        };
        value!({ "name": name, "in": "header", "description": description, "schema": schema })
    };
    let parameters = path_parameters(path).chain(query.iter().flat_map(query_parameters));
    let parameters: Vec<Value> = parameters.chain(headers.iter().map(header)).collect();
    let mut responses = Map::new();
    for answer in given {
        let Answer { status, description, media_type, content } = answer;
        let response =
            responses.entry(status.to_string()).or_insert(value!({ "description": description, "content": {} }));
        // An answer may come in several media types.
        response["content"][media_type] = described_content(content, answers);
    }
    responses.insert("default".to_owned(), value!({ "$ref": "#/components/responses/Problem" }));
    let named = |scope: Scope| SCHEMES.iter().map(move |scheme| value!({ *scheme: [scope.to_string()] }));
    let security: Vec<Value> = scope.into_iter().flat_map(named).collect();
    let mut described = value!({
        "operationId": id,
        "summary": summary,
        "tags": [tag(path)],
        "security": security,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(Body { description, media_type, schema }) = body {
        let content = match schema.map(body_schema) {
            None => value!({ "schema": {} }),
            // A line that is wrong refuses itself alone, so there is no wrong body.
            Some(schema) if *media_type == LINES => value!({ "schema": {}, "x-line-schema": schema }),
            Some(schema) => value!({ "schema": schema }),
        };
        described["requestBody"] = value!({
            "description": description,
            // A body without lines is one, too.
            "required": schema.is_some() && *media_type != LINES,
            "content": { *media_type: content },
        });
    }
    described
}

/// Returns what a path is about: its first segment after the version.
fn tag(path: &str) -> &str {
    path.split('/').find(|segment| !segment.is_empty() && *segment != "v1").unwrap_or_default()
}

/// Describes the parameters in a path.
fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    let mut before = "";
    path.split('/').filter_map(move |segment| {
        let of = std::mem::replace(&mut before, segment);
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        let description = match (name, of) {
            ("type", _) => "The type of the aggregate.",
            ("id", "trace") => "The id, the causation id or the correlation id of something in the trace.",
            ("id", _) => "The id of the aggregate.",
            ("command", _) => "The name of the command.",
            ("projection", _) => "The name of the projection.",
            ("query", _) => "The name of the query.",
            ("number", _) => "The number, which is never reused.",
            _ => "The name in the manifest.",
        };
        let schema = match name {
            "number" => value!({ "type": "integer", "format": "uint64", "minimum": 0, "maximum": u64::MAX }),
            _ => value!({ "type": "string", "minLength": 1 }),
        };
        Some(value!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema }))
    })
}

/// Describes the parameters of a query string.
fn query_parameters(query: &MakeSchema) -> Vec<Value> {
    let schema = query(&mut requests_generator()).to_value();
    let required =
        |name: &String| schema["required"].as_array().is_some_and(|names| names.contains(&name.as_str().into()));
    let members = schema["properties"].as_object().into_iter().flatten();
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = without_null(schema.clone());
        let description = schema.as_object_mut().and_then(|members| members.remove("description"));
        value!({
            "name": name,
            "in": "query",
            "required": required(name),
            "description": description.unwrap_or_default(),
            "schema": bounded(schema),
        })
    };
    members.map(parameter).collect()
}

/// Takes null out of what a schema allows, because a query string can't say it.
fn without_null(mut schema: Value) -> Value {
    let Some(members) = schema.as_object_mut() else { return schema };
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = &types[..] {
            let one = one.clone();
            members.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = members.get_mut("enum") {
        values.retain(|one| !one.is_null());
    }
    if members.get("default").is_some_and(Value::is_null) {
        members.remove("default");
    }
    if let Some(Value::Array(choices)) = members.get_mut("anyOf") {
        choices.retain(|one| one["type"] != "null");
        if let [Value::Object(one)] = &choices[..] {
            let one = one.clone();
            members.remove("anyOf");
            one.into_iter().for_each(|(name, member)| _ = members.entry(name).or_insert(member));
        }
    }
    schema
}

/// Adds the largest number, which the format alone does not say to everybody.
fn bounded(mut schema: Value) -> Value {
    if schema["format"] == "uint64" || schema["format"] == "uint" {
        schema["maximum"] = u64::MAX.into();
    }
    schema
}

/// Describes what an answer consists of.
fn described_content(content: &Content, generator: &mut SchemaGenerator) -> Value {
    match content {
        Content::Value(schema) => value!({ "schema": schema(generator) }),
        Content::Problem(schema) => {
            let (own, any) = (schema(generator), generator.subschema_for::<Problem<'_>>());
            value!({ "schema": { "anyOf": [own, any] } })
        }
        // OpenAPI 3.1 has no word for the schema of one line.
        Content::Lines(schema) => value!({ "schema": { "type": "string" }, "x-line-schema": schema(generator) }),
        Content::Text => value!({ "schema": { "type": "string" } }),
    }
}

fn body_schema(schema: MakeSchema) -> Value {
    schema(&mut requests_generator()).to_value()
}

/// Makes the schemas of what the host writes. Types that have a name are components.
fn answers_generator() -> SchemaGenerator {
    let components = |settings: &mut SchemaSettings| settings.definitions_path = "/components/schemas".into();
    SchemaSettings::draft2020_12().for_serialize().with(components).into_generator()
}

/// Makes the schemas of what the host reads, each with everything in it.
fn requests_generator() -> SchemaGenerator {
    let inline = |settings: &mut SchemaSettings| settings.inline_subschemas = true;
    SchemaSettings::draft2020_12().for_deserialize().with(inline).into_generator()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document(&routes::all(), &[]);
        let listed = document["paths"].as_object().unwrap().iter();
        let listed: BTreeSet<(String, String)> = listed
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
            })
            .collect();
        let routes = routes::all().into_iter();
        let routes = routes.map(|route| (route.path.to_owned(), route.method.as_str().to_ascii_lowercase()));
        assert_eq!(listed, routes.collect());
    }

    #[test]
    fn each_reference_of_the_document_leads_somewhere() {
        fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|member| references(member, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document(&routes::all(), &[]);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
        }
    }

    #[test]
    fn an_operation_says_what_it_takes_and_who_may_ask() {
        let document = document(&routes::all(), &[]);
        let skip = &document["paths"]["/v1/projections/{name}/skip"]["post"];
        assert_eq!(skip["security"], value!([{ "token": ["operate"] }, { "certificate": ["operate"] }]));
        let parameters = skip["parameters"].as_array().unwrap();
        let shown = |parameter: &Value| value!([parameter["name"], parameter["in"], parameter["required"]]);
        let shown: Vec<Value> = parameters.iter().map(shown).collect();
        assert_eq!(shown, [value!(["name", "path", true]), value!(["position", "query", true])]);
        let events = &document["paths"]["/v1/events"]["get"]["parameters"];
        let of = |name: &str| events.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
        assert_eq!(of("from")["schema"]["type"], "integer");
        assert_eq!((&of("shape")["required"], &of("follow")["schema"]["type"]), (&value!(false), &value!("boolean")));
        let live = &document["paths"]["/v1/live"]["get"];
        assert_eq!(live["security"], value!([]));
    }
}
