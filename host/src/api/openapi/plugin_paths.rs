//! The paths of plugins' commands and queries, each with the schema that the plugin gives it.

use super::components::Components;
use crate::status::{MessageDescription, PluginDescription, RoleDescription};
use serde_json::{Map, Value, json};

/// A route whose last names are those of plugins.
struct Template {
    path: &'static str,
    /// The parameter that is the name of the aggregate type or the projection, and that of the command or query.
    names: [&'static str; 2],
    /// What its operations and components are named after.
    kind: &'static str,
}

const COMMANDS: Template =
    Template { path: "/v1/commands/{type}/{id}/{command}", names: ["type", "command"], kind: "commands" };
const QUERIES: Template =
    Template { path: "/v1/queries/{projection}/{query}", names: ["projection", "query"], kind: "queries" };

/// Adds the commands and queries of plugins to the paths of a document.
pub(super) fn add(paths: &mut Map<String, Value>, components: &mut Components, plugins: &[PluginDescription]) {
    for role in plugins.iter().flat_map(|plugin| &plugin.roles) {
        let (template, owner, messages) = match role {
            RoleDescription::Aggregate { aggregate_type, commands, .. } => (&COMMANDS, aggregate_type, commands),
            RoleDescription::Projection { name, queries, .. } => (&QUERIES, name, queries),
            RoleDescription::Subscriber { .. } | RoleDescription::Saga { .. } => continue,
        };
        for message in messages {
            template.add(paths, components, owner, message);
        }
    }
}

impl Template {
    fn add(
        &self,
        paths: &mut Map<String, Value>,
        components: &mut Components,
        owner: &str,
        MessageDescription { name, schema }: &MessageDescription,
    ) {
        let Some(methods) = paths.get(self.path) else { return };
        let mut methods = methods.clone();
        let schema = schema.as_ref().map(|schema| components.add(&format!("{}.{owner}.{name}", self.kind), schema));
        for operation in methods.as_object_mut().into_iter().flat_map(|methods| methods.values_mut()) {
            self.narrow(operation, owner, name, schema.as_ref());
        }
        let [of, what] = self.names.map(|name| format!("{{{name}}}"));
        paths.insert(self.path.replace(&of, owner).replace(&what, name), methods);
    }

    /// Makes the operation of one command or query from the operation of all of them.
    fn narrow(&self, operation: &mut Value, owner: &str, name: &str, schema: Option<&Value>) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        operation["operationId"] = format!("{id}.{owner}.{name}").into();
        operation["summary"] = match self.kind {
            "commands" => format!("Sends the command {name} to an aggregate of type {owner}."),
            _ => format!("Asks the projection {owner} the query {name}."),
        }
        .into();
        if let Some(parameters) = operation["parameters"].as_array_mut() {
            parameters.retain(|parameter| {
                parameter["in"] != "path" || !self.names.iter().any(|name| parameter["name"] == *name)
            });
            // A query that is asked by GET has its parameters as JSON in the query string.
            if let (Some(schema), Some(params)) =
                (schema, parameters.iter_mut().find(|parameter| parameter["name"] == "params"))
            {
                if let Some(members) = params.as_object_mut() {
                    members.remove("schema");
                }
                params["content"] = json!({ "application/json": { "schema": schema } });
            }
        }
        if let (Some(schema), Some(_)) = (schema, operation.get("requestBody")) {
            operation["requestBody"]["content"]["application/json"]["schema"] = schema.clone();
            operation["requestBody"]["required"] = true.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, schema: Option<Value>) -> MessageDescription {
        MessageDescription { name: name.to_owned(), schema }
    }

    fn plugin(roles: Vec<RoleDescription>) -> PluginDescription {
        let text = || "a".to_owned();
        PluginDescription { name: text(), plugin: text(), version: text(), contract: text(), digest: text(), roles }
    }

    #[test]
    fn each_command_and_query_has_a_path_of_its_own() {
        let aggregate = RoleDescription::Aggregate {
            aggregate_type: "order".to_owned(),
            commands: vec![message("Open", Some(json!({ "type": "object" }))), message("item.Add", None)],
            events: Vec::new(),
            state: None,
        };
        let projection = RoleDescription::Projection {
            name: "sales".to_owned(),
            subscriptions: Vec::new(),
            shape: "recorded".to_owned(),
            queries: vec![message("best", Some(json!(true)))],
        };
        let document = super::super::document(&crate::api::routes::all(), &[plugin(vec![aggregate, projection])]);
        let open = &document["paths"]["/v1/commands/order/{id}/Open"]["post"];
        assert_eq!(open["operationId"], "send_command.order.Open");
        let schema = json!({ "$ref": "#/components/schemas/commands.order.Open" });
        assert_eq!(open["requestBody"]["content"]["application/json"]["schema"], schema);
        assert_eq!(document["components"]["schemas"]["commands.order.Open"], json!({ "type": "object" }));
        let of_path = open["parameters"].as_array().unwrap().iter().filter(|one| one["in"] == "path");
        assert_eq!(of_path.map(|one| &one["name"]).collect::<Vec<_>>(), ["id"]);
        let add = &document["paths"]["/v1/commands/order/{id}/item.Add"]["post"];
        assert_eq!(add["requestBody"]["content"]["application/json"]["schema"], json!({}));
        let best = &document["paths"]["/v1/queries/sales/best"]["post"];
        assert_eq!(best["security"][0], json!({ "token": ["queries"] }));
        assert_eq!(document["components"]["schemas"]["queries.sales.best"], json!(true));
    }
}
