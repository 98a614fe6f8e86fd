//! Plugins that were built for an older version of the contract, which a host must serve for ever.

use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use wasmill::plugin::API_VERSION;
use wasmill_tests::built;
use wasmill_tests::hostile::{projection, subscriber};
use wasmill_tests::setting::Setting;
use wit_parser::{Function, InterfaceId, Resolve, Type, TypeDefKind, TypeId};

/// Plugins of version 1.0.0 in every role, beside plugins of today's version that read their events and send them commands.
#[test]
fn plugins_of_version_1_0_0_serve_beside_those_of_today() {
    assert_ne!(API_VERSION, "1.0.0", "today's plugins must be of a later version");
    let fixtures = built::workspace().join("tests/fixtures");
    let old = |name: &str, more: &str| {
        format!(
            "[plugins.{name}]\nfile = '{}/contract-1.0.0{more}.wasm'\nshards = 1\nsnapshot_every = 3\n",
            fixtures.display()
        )
    };
    let today = |name: &str| format!("[plugins.{name}]\nfile = '{name}.wasm'\nshards = 1\n");
    let manifest = [
        old("first", ""),
        "[plugins.first.settings]\nlarge = 4\n".to_owned(),
        old("watch", "-saga").replace("snapshot_every = 3\n", "").replace("shards = 1\n", ""),
        today("reader"),
        today("follower").replace("shards = 1\n", ""),
    ];
    let setting = Setting::new(&manifest.concat());
    setting.write("reader.wasm", projection("reader", "tally.*", &[]));
    setting.write("follower.wasm", subscriber("tally.Added", &[]));
    let host = setting.start();
    let contract = |name: &str| host.get(&format!("/v1/plugins/{name}")).body["contract"].clone();
    assert_eq!([contract("first"), contract("watch")], ["1.0.0", "1.0.0"]);
    assert_eq!([contract("reader"), contract("follower")], [API_VERSION, API_VERSION]);

    let add = |id: &str, amount: i64| host.send("tally", id, "Add", &json!({ "amount": amount })).status;
    for (id, amount, status) in
        [("a", 3, 200), ("a", 5, 200), ("b", 1, 200), ("a", 993, 422), ("a", 1, 200), ("a", 1, 200)]
    {
        assert_eq!(add(id, amount), status, "{id} {amount}");
    }
    assert_eq!(host.send("tally", "a", "Add", &json!({ "amount": "x" })).status, 400);
    assert_eq!(host.send("tally", "a", "Wait", &json!({ "amount": 1 })).status, 500, "it asks to be tried again");
    host.drained();
    // The amount of 5 is large; and each saga sends a note when it begins.
    let notes = host.events("tally.Noted");
    let amounts: Vec<i64> = notes.iter().filter_map(|note| note["payload"]["amount"].as_i64()).collect();
    assert_eq!((amounts.len(), amounts.iter().sum::<i64>()), (3, 5), "{notes:?}");
    let status = host.status();
    let sagas = status["subscriptions"].as_array().expect("a list").iter().find(|one| one["name"] == "watch");
    let sagas = &sagas.expect("the sagas")["saga"];
    assert_eq!((&sagas["started"], &sagas["completed"], &sagas["live"]), (&json!(2), &json!(1), &json!(1)), "{status}");
    let timers = host.get("/v1/timers").body;
    assert!(timers["total"].as_u64().is_some_and(|timers| (1..=2).contains(&timers)), "{timers}");

    let total = |id: &str| host.query("tallies", "total", &json!(id)).body;
    assert_eq!([total("a"), total("b"), total("c")], [json!(10), json!(1), json!(null)]);
    assert_eq!(host.query("reader", "anything", &json!(null)).status, 200, "today's projection reads the old events");
    // A snapshot is restored, and the rest replayed.
    host.crash();
    assert_eq!(add("a", 990), 200);
    assert_eq!(add("a", 1), 422, "a tally ends at 1000, and the state counts all events");
    host.drained();
    host.stop();
}

/// Whatever version 1.0.0 of the contract has, today's has in the same form. More may have been added where a host calls it only in
/// plugins that have it, or where plugins call it.
#[test]
fn todays_contract_has_all_of_version_1_0_0_in_the_same_form() {
    let old = contract_in(&built::workspace().join("tests/fixtures/contract-1.0.0/wit"));
    let today = contract_in(&built::workspace().join("wit"));
    assert!(old.len() > 60, "{} items", old.len());
    for (item, form) in &old {
        assert_eq!(today.get(item), Some(form), "{item} of version 1.0.0 must stay as it is");
    }
    for (item, _) in today.iter().filter(|(item, _)| !old.contains_key(*item)) {
        let is_called_by_plugins =
            ["log", "bus", "sql"].iter().any(|interface| item.starts_with(&format!("{interface}.")));
        assert!(is_called_by_plugins, "a plugin of version 1.0.0 has no {item}, which a host would need");
        let text = std::fs::read_to_string(built::workspace().join("wit/log.wit")).expect("read the contract");
        assert!(text.contains("@since(version = 1.1.0)"), "{item} must say since when it is there");
    }
}

/// Returns the functions and types of a contract, each in a form that shows whatever a change could break.
fn contract_in(folder: &Path) -> BTreeMap<String, String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder).expect("the contract is read");
    let mut items = BTreeMap::new();
    for (name, id) in &resolve.packages[package].interfaces {
        add_interface(&resolve, name, *id, &mut items);
    }
    items
}

fn add_interface(resolve: &Resolve, interface: &str, id: InterfaceId, items: &mut BTreeMap<String, String>) {
    for (name, function) in &resolve.interfaces[id].functions {
        items.insert(format!("{interface}.{name}"), form_of(resolve, function));
    }
    for (name, id) in &resolve.interfaces[id].types {
        items.insert(format!("{interface}.{name}"), kind(resolve, *id));
    }
}

fn form_of(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<String> =
        function.params.iter().map(|param| format!("{}: {}", param.name, form(resolve, &param.ty))).collect();
    let result = function.result.as_ref().map_or("nothing".to_owned(), |result| form(resolve, result));
    format!("({}) -> {result}", params.join(", "))
}

/// Names a type where it is used.
fn form(resolve: &Resolve, ty: &Type) -> String {
    let Type::Id(id) = ty else { return format!("{ty:?}") };
    resolve.types[*id].name.clone().unwrap_or_else(|| kind(resolve, *id))
}

/// Returns the form of a type where it is defined.
fn kind(resolve: &Resolve, id: TypeId) -> String {
    let form = |ty: &Type| form(resolve, ty);
    let option = |ty: &Option<Type>| ty.as_ref().map_or("nothing".to_owned(), form);
    match &resolve.types[id].kind {
        TypeDefKind::Record(record) => {
            let fields: Vec<String> =
                record.fields.iter().map(|field| format!("{}: {}", field.name, form(&field.ty))).collect();
            format!("record {{ {} }}", fields.join(", "))
        }
        TypeDefKind::Variant(variant) => {
            let cases: Vec<String> =
                variant.cases.iter().map(|case| format!("{}({})", case.name, option(&case.ty))).collect();
            format!("variant {{ {} }}", cases.join(", "))
        }
        TypeDefKind::Enum(cases) => {
            let cases: Vec<&str> = cases.cases.iter().map(|case| case.name.as_str()).collect();
            format!("enum {{ {} }}", cases.join(", "))
        }
        TypeDefKind::List(item) => format!("list<{}>", form(item)),
        TypeDefKind::Option(some) => format!("option<{}>", form(some)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", option(&result.ok), option(&result.err)),
        TypeDefKind::Type(other) => form(other),
        TypeDefKind::Resource => "resource".to_owned(),
        other => format!("{other:?}").chars().filter(|character| !character.is_ascii_digit()).collect(),
    }
}
