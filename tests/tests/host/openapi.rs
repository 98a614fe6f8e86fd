//! The document of the API: what it lists is there, and the plugins' commands and queries are in it.

use serde_json::{Value, json};
use wasmill_tests::setting::Setting;

const MANIFEST: &str = r#"
[plugins.orders]
file = "PLUGINS/orders.wasm"
[plugins.sales]
file = "PLUGINS/sales.wasm"
"#;

#[test]
fn the_document_lists_what_the_host_serves() {
    let setting = Setting::new(MANIFEST);
    let host = setting.start();
    let document = host.get("/v1/openapi.json").body;
    assert_eq!(document["openapi"], "3.1.0");
    let create = &document["paths"]["/v1/commands/order/{id}/CreateOrder"]["post"];
    let reference = create["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str().expect("a schema");
    let schema = document.pointer(reference.strip_prefix('#').expect("it is in the document")).expect("it is there");
    assert_eq!(schema["properties"]["items"]["type"], "array", "{schema:#}");
    let plugin = host.get("/v1/plugins/sales").body;
    let queries = plugin["roles"].as_array().expect("roles").iter().flat_map(|role| role["queries"].as_array());
    let queries: Vec<&Value> = queries.flatten().map(|query| &query["name"]).collect();
    assert!(!queries.is_empty(), "{plugin:#}");
    for query in queries {
        let path = format!("/v1/queries/sales/{}", query.as_str().expect("a name"));
        assert_eq!(document["paths"][&path]["post"]["security"][0], json!({ "token": ["queries"] }), "{path}");
    }
    // Each of the paths exists and has the methods that are listed, and no other.
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let asked = path.replace("{number}", "0").replace(['{', '}'], "");
        for (method, allowed) in [("get", methods["get"].is_object()), ("post", methods["post"].is_object())] {
            let answer = match method {
                // It is refused before it is handled, unless the method is wrong.
                "get" => host.get(&format!("{asked}?no-such-parameter=1")),
                _ => host.post(&format!("{asked}?no-such-parameter=1"), &json!([]), &[]),
            };
            assert_eq!(answer.status != 405, allowed, "{method} {path}: {answer:?}");
            let kind = answer.body["type"].as_str().unwrap_or_default();
            assert!(!kind.ends_with(":no-such-path"), "{method} {path}: {answer:?}");
        }
    }
    host.stop();
}
