//! The contract of members in the third shape. The readers of `directory` and `welcome` have it too.

use wasmill_guest::prelude::*;

/// A name in two parts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FullName {
    pub first: String,
    pub last: String,
}

/// What a member can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Command {
    Register { name: FullName },
    Greet,
    Leave,
}

/// What can have happened to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Contract)]
#[contract(Member, type = "member", command = Command, upcasts = UPCASTS)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Event {
    Registered { name: FullName },
    Greeted { words: String },
    Left,
}

const UPCASTS: &[Upcasts] = &[Upcasts::of("Registered", &[split_name, nest_name])];

/// Version 1 had one name.
fn split_name(event: Json) -> Result<Json, String> {
    let name = event["name"].as_str().ok_or("it has no `name`")?;
    assert!(name != "Panic Now", "told to panic");
    let (first_name, last_name) = name.split_once(' ').unwrap_or((name, ""));
    Ok(json!({ "first_name": first_name, "last_name": last_name }))
}

/// Version 2 had both names at the top.
fn nest_name(event: Json) -> Result<Json, String> {
    Ok(json!({ "name": { "first": event["first_name"], "last": event["last_name"] } }))
}
