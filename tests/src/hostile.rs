//! Guests that do what the SDK can't express: WebAssembly text with one function replaced by something hostile.
//!
//! Each role has a skeleton that keeps to the contract. [`aggregate`] knows the command `Go` and decides on the event
//! `Done`, [`subscriber`] does nothing, [`projection`] has an empty table and answers `null`, and [`saga`] has one saga with
//! the key `Go`, which decides on the event `Done`. Their functions have names, so that a case can replace the body of one.

use crate::built;
use crate::module::with_section;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The name of a function in the skeleton, and the body that replaces its own.
pub type Replaced<'t> = (&'t str, &'t str);

/// The common part of the skeletons: memory with the words at fixed addresses, and an allocator that never frees.
///
/// The memory has at 1024 `Go`, at 1032 `Done`, at 1040 `null`, at 1052 the result of an aggregate's `describe` (the
/// description is at 1160: the type, the commands and the events, as addresses and lengths) and at 1092 that of a saga, at 1104
/// a decision for one event, at 1200 zeros, which are the result "fine", "none" or "an empty list", at 1300 an SQL schema, and at
/// 1400 the answer to a query.
const SHARED: &str = r#"
  (memory (export "memory") 64)
  (table $table 1 funcref)
  (global $free (mut i32) (i32.const 65536))
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 1024) "Go")
  (data (i32.const 1032) "Done")
  (data (i32.const 1040) "null")
  (data (i32.const 1056) "\88\04\00\00\01\00\00\00")
  (data (i32.const 1072) "\00\04\00\00\02\00\00\00\08\04\00\00\04\00\00\00")
  (data (i32.const 1096) "\38\04\00\00\01\00\00\00")
  (data (i32.const 1104) "\00\00\00\00\00\00\00\00\68\04\00\00\01\00\00\00\00\00\00\00\00\00\00\00\08\04\00\00\04\00\00\00\10\04\00\00\04\00\00\00")
  (data (i32.const 1300) "\1c\05\00\00\1d\00\00\00CREATE TABLE t (a INTEGER)   ")
  (data (i32.const 1400) "\00\00\00\00\10\04\00\00\04\00\00\00")
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    {realloc})
"#;

const REALLOC: &str = "(local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at)";

/// A function: the name by which it can be replaced, its type in the contract, and its body.
type Function = (&'static str, &'static str, &'static str);

const AGGREGATE: [Function; 8] = [
    ("describe", r#"(export "wasmill:plugin/aggregate@0.8.0#describe") (result i32)"#, "(i32.const 1052)"),
    (
        "upcast",
        r#"(export "wasmill:plugin/aggregate@0.8.0#upcast") (param i32 i32 i32 i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "constructor",
        r#"(export "wasmill:plugin/aggregate@0.8.0#[constructor]instance") (param i32 i32 i32 i32) (result i32)"#,
        "(call $new (i32.const 7))",
    ),
    (
        "apply",
        r#"(export "wasmill:plugin/aggregate@0.8.0#[method]instance.apply") (param $self i32) (param $at i32) (param $count i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "handle",
        r#"(export "wasmill:plugin/aggregate@0.8.0#[method]instance.handle")
           (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)"#,
        "(i32.const 1104)",
    ),
    (
        "snapshot",
        r#"(export "wasmill:plugin/aggregate@0.8.0#[method]instance.snapshot") (param i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "restore",
        r#"(export "wasmill:plugin/aggregate@0.8.0#[method]instance.restore") (param i32 i32 i32 i64) (result i32)"#,
        "(i32.const 1200)",
    ),
    ("drop", r#"(export "wasmill:plugin/aggregate@0.8.0#[dtor]instance") (param i32)"#, ""),
];

const AGGREGATE_IMPORTS: &str = r#"
  (import "[export]wasmill:plugin/aggregate@0.8.0" "[resource-new]instance" (func $new (param i32) (result i32)))
  (import "wasmill:plugin/log@0.8.0" "write" (func $log (param i32 i32 i32 i32 i32 i32 i32)))"#;

const SUBSCRIBER: [Function; 1] = [(
    "handle",
    r#"(export "wasmill:plugin/subscriber@0.8.0#handle") (param $at i32) (param $count i32) (result i32)"#,
    "(i32.const 1200)",
)];

const SUBSCRIBER_IMPORTS: &str = r#"
  (import "wasmill:plugin/bus@0.8.0" "begin" (func $begin (param i32)))
  (import "wasmill:plugin/bus@0.8.0" "send-command"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32)))
  (import "wasmill:plugin/bus@0.8.0" "wake" (func $wake (param i32 i32 i32 i32 i64 i32 i32)))
  (import "wasmill:plugin/bus@0.8.0" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;

const PROJECTION: [Function; 3] = [
    ("schema", r#"(export "wasmill:plugin/projection@0.8.0#schema") (result i32)"#, "(i32.const 1300)"),
    (
        "project",
        r#"(export "wasmill:plugin/projection@0.8.0#project") (param i32 i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "query",
        r#"(export "wasmill:plugin/projection@0.8.0#query") (param i32 i32 i32 i32) (result i32)"#,
        "(i32.const 1400)",
    ),
];

/// The result of `keys` is at 1504. The keys are from 8192 on, 12 bytes each.
const SAGA: [Function; 7] = [
    ("describe", r#"(export "wasmill:plugin/saga@0.8.0#describe") (result i32)"#, "(i32.const 1092)"),
    ("upcast", r#"(export "wasmill:plugin/saga@0.8.0#upcast") (param i32 i32) (result i32)"#, "(i32.const 1200)"),
    (
        "keys",
        r#"(export "wasmill:plugin/saga@0.8.0#keys") (param $at i32) (param $count i32) (result i32)"#,
        "(local $i i32)
         (loop
           (i32.store8 (i32.add (i32.const 8192) (i32.mul (local.get $i) (i32.const 12))) (i32.const 1))
           (i32.store (i32.add (i32.const 8196) (i32.mul (local.get $i) (i32.const 12))) (i32.const 1024))
           (i32.store (i32.add (i32.const 8200) (i32.mul (local.get $i) (i32.const 12))) (i32.const 2))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if 0 (i32.lt_u (local.get $i) (local.get $count))))
         (i32.store (i32.const 1512) (i32.const 8192))
         (i32.store (i32.const 1516) (local.get $count))
         (i32.const 1504)",
    ),
    (
        "constructor",
        r#"(export "wasmill:plugin/saga@0.8.0#[constructor]instance") (param i32 i32) (result i32)"#,
        "(call $new (i32.const 7))",
    ),
    (
        "apply",
        r#"(export "wasmill:plugin/saga@0.8.0#[method]instance.apply") (param $self i32) (param $at i32) (param $count i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "handle",
        r#"(export "wasmill:plugin/saga@0.8.0#[method]instance.handle") (param $at i32) (result i32)"#,
        "(i32.const 1104)",
    ),
    ("drop", r#"(export "wasmill:plugin/saga@0.8.0#[dtor]instance") (param i32)"#, ""),
];

/// Makes a plugin with sagas of this type, which these events start.
pub fn saga(name: &str, events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let new =
        r#"(import "[export]wasmill:plugin/saga@0.8.0" "[resource-new]instance" (func $new (param i32) (result i32)))"#;
    let text = text(&format!("{new}{SUBSCRIBER_IMPORTS}"), &SAGA, replaced);
    component("saga-plugin", &text, &line(&format!(r#""role":"saga","type":"{name}","starts":["{events}"]"#)))
}

/// Makes a plugin with an aggregate of this type.
pub fn aggregate(name: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let described = format!(
        r#"(data (i32.const 1160) "\40\06\00\00\{:02x}\00\00\00\30\04\00\00\01\00\00\00\38\04\00\00\01\00\00\00")
           (data (i32.const 1600) "{name}")"#,
        name.len()
    );
    let text = text(&format!("{AGGREGATE_IMPORTS}{described}"), &AGGREGATE, replaced);
    component("aggregate-plugin", &text, &line(&format!(r#""role":"aggregate","type":"{name}""#)))
}

/// Makes a plugin with a subscriber to these events.
pub fn subscriber(events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let text = text(SUBSCRIBER_IMPORTS, &SUBSCRIBER, replaced);
    component("subscriber-plugin", &text, &line(&format!(r#""role":"subscriber","subscriptions":["{events}"]"#)))
}

/// Makes a plugin with a subscriber to these events, which asks for them in the newest shape.
pub fn subscriber_of_newest(events: &str) -> Vec<u8> {
    let role = format!(r#""role":"subscriber","subscriptions":["{events}"],"shape":"newest""#);
    component("subscriber-plugin", &text(SUBSCRIBER_IMPORTS, &SUBSCRIBER, &[]), &line(&role))
}

/// Makes a plugin with a projection of these events.
pub fn projection(name: &str, events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let role = format!(r#""role":"projection","name":"{name}","subscriptions":["{events}"]"#);
    component("projection-plugin", &text("", &PROJECTION, replaced), &line(&role))
}

/// Makes a line of the custom section.
pub fn line(role: &str) -> String {
    format!(r#"{{"api":"0.8.0","plugin":"hostile","version":"0.1.0",{role}}}"#)
}

/// Makes the module of a skeleton. A case can add other parts of a module by replacing the name `module`.
fn text(imports: &str, functions: &[Function], replaced: &[Replaced<'_>]) -> String {
    let body = |name: &str, own: &str| {
        let found = replaced.iter().find(|(replaced, _)| *replaced == name);
        found.map_or_else(|| own.to_owned(), |(_, body)| (*body).to_owned())
    };
    let known = ["realloc", "module"].into_iter().chain(functions.iter().map(|(name, ..)| *name));
    let known: Vec<&str> = known.collect();
    assert!(replaced.iter().all(|(name, _)| known.contains(name)), "{replaced:?} names none of {known:?}");
    let mut text = format!("(module {imports} {}", SHARED.replace("{realloc}", &body("realloc", REALLOC)));
    for (name, signature, own) in functions {
        text += &format!("\n  (func ${name} {signature} {})", body(name, own));
    }
    text + &body("module", "") + ")"
}

/// Makes a component of a world from a module in text form and a description.
pub fn component(world: &str, text: &str, description: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut contract = Resolve::default();
    let (package, _) = contract.push_dir(built::workspace().join("wit")).expect("the contract is read");
    let world = contract.select_world(&[package], Some(world)).expect("a world of the contract");
    embed_component_metadata(&mut module, &contract, world, StringEncoding::UTF8).expect("it is described");
    with_section(module, b"wasmill:plugin", description.as_bytes())
}
