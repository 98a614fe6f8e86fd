//! Guests that do what the SDK can't express: WebAssembly text with one function replaced by something hostile.
//!
//! Each role has a skeleton that keeps to the contract. [`aggregate`] knows the command `Go` and decides on the event
//! `Done`, [`subscriber`] does nothing, [`projection`] has an empty table and answers `null`, and [`saga`] has one saga with
//! the key `Go`, which decides on the event `Done`. Their functions have names, so that a case can replace the body of one.

use crate::built;
use wasmill::plugin::API_VERSION;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The name of a function in the skeleton, and the body that replaces its own.
pub type Replaced<'t> = (&'t str, &'t str);

/// The common part of the skeletons: memory with the words at fixed addresses, and an allocator that never frees.
///
/// The memory has at 1024 `Go`, at 1032 `Done`, at 1040 `null`, at 1104 a decision for one event, at 1200 zeros, which are the
/// result "fine", "none" or "an empty list", at 1300 an SQL schema, and at 1400 the answer to a query. The result of `describe`
/// is at [`DESCRIBED`].
const SHARED: &str = r#"
  (memory (export "memory") 64)
  (table $table 1 funcref)
  (global $free (mut i32) (i32.const 65536))
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 1024) "Go")
  (data (i32.const 1032) "Done")
  (data (i32.const 1040) "null")
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
    ("describe", r#"(export "wasmill:plugin/aggregate@VERSION#describe") (result i32)"#, "(i32.const 3072)"),
    (
        "upcast",
        r#"(export "wasmill:plugin/aggregate@VERSION#upcast") (param i32 i32 i32 i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "constructor",
        r#"(export "wasmill:plugin/aggregate@VERSION#[constructor]instance") (param i32 i32 i32 i32) (result i32)"#,
        "(call $new (i32.const 7))",
    ),
    (
        "apply",
        r#"(export "wasmill:plugin/aggregate@VERSION#[method]instance.apply") (param $self i32) (param $at i32) (param $count i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "handle",
        r#"(export "wasmill:plugin/aggregate@VERSION#[method]instance.handle")
           (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)"#,
        "(i32.const 1104)",
    ),
    (
        "snapshot",
        r#"(export "wasmill:plugin/aggregate@VERSION#[method]instance.snapshot") (param i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "restore",
        r#"(export "wasmill:plugin/aggregate@VERSION#[method]instance.restore") (param i32 i32 i32 i64) (result i32)"#,
        "(i32.const 1200)",
    ),
    ("drop", r#"(export "wasmill:plugin/aggregate@VERSION#[dtor]instance") (param i32)"#, ""),
];

const AGGREGATE_IMPORTS: &str = r#"
  (import "[export]wasmill:plugin/aggregate@VERSION" "[resource-new]instance" (func $new (param i32) (result i32)))
  (import "wasmill:plugin/log@VERSION" "write" (func $log (param i32 i32 i32 i32 i32 i32 i32)))"#;

const SUBSCRIBER: [Function; 2] = [
    ("describe", r#"(export "wasmill:plugin/subscriber@VERSION#describe") (result i32)"#, "(i32.const 3072)"),
    (
        "handle",
        r#"(export "wasmill:plugin/subscriber@VERSION#handle") (param $at i32) (param $count i32) (result i32)"#,
        "(i32.const 1200)",
    ),
];

const SUBSCRIBER_IMPORTS: &str = r#"
  (import "wasmill:plugin/bus@VERSION" "begin" (func $begin (param i32)))
  (import "wasmill:plugin/bus@VERSION" "send-command"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32)))
  (import "wasmill:plugin/bus@VERSION" "wake" (func $wake (param i32 i32 i32 i32 i64 i32 i32)))
  (import "wasmill:plugin/bus@VERSION" "publish" (func $publish (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#;

const PROJECTION: [Function; 4] = [
    ("describe", r#"(export "wasmill:plugin/projection@VERSION#describe") (result i32)"#, "(i32.const 3072)"),
    ("schema", r#"(export "wasmill:plugin/projection@VERSION#schema") (result i32)"#, "(i32.const 1300)"),
    (
        "project",
        r#"(export "wasmill:plugin/projection@VERSION#project") (param i32 i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "query",
        r#"(export "wasmill:plugin/projection@VERSION#query") (param i32 i32 i32 i32) (result i32)"#,
        "(i32.const 1400)",
    ),
];

/// The result of `keys` is at 1504. The keys are from 8192 on, 12 bytes each.
const SAGA: [Function; 7] = [
    ("describe", r#"(export "wasmill:plugin/saga@VERSION#describe") (result i32)"#, "(i32.const 3072)"),
    ("upcast", r#"(export "wasmill:plugin/saga@VERSION#upcast") (param i32 i32) (result i32)"#, "(i32.const 1200)"),
    (
        "keys",
        r#"(export "wasmill:plugin/saga@VERSION#keys") (param $at i32) (param $count i32) (result i32)"#,
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
        r#"(export "wasmill:plugin/saga@VERSION#[constructor]instance") (param i32 i32) (result i32)"#,
        "(call $new (i32.const 7))",
    ),
    (
        "apply",
        r#"(export "wasmill:plugin/saga@VERSION#[method]instance.apply") (param $self i32) (param $at i32) (param $count i32) (result i32)"#,
        "(i32.const 1200)",
    ),
    (
        "handle",
        r#"(export "wasmill:plugin/saga@VERSION#[method]instance.handle") (param $at i32) (result i32)"#,
        "(i32.const 1104)",
    ),
    ("drop", r#"(export "wasmill:plugin/saga@VERSION#[dtor]instance") (param i32)"#, ""),
];

/// The place in memory of the result of `describe`.
///
/// Its first byte is 0. The identity of the plugin is at 4, and what else the role describes follows at 20: for an aggregate the
/// list of one type, which is at 28. There are its name, its commands, its events and the schema of its state, of 8 bytes each.
pub const DESCRIBED: u32 = 3072;

/// The bytes of a description, which begin at [`DESCRIBED`], as the component model lays them out.
struct Layout(Vec<u8>);

impl Layout {
    /// Begins a result of this many bytes: no error, and the identity of the plugin.
    fn new(length: usize) -> Self {
        let mut layout = Self(vec![0; length]);
        layout.text(4, "hostile");
        layout.text(12, "0.1.0");
        layout
    }

    /// Appends bytes and returns their address.
    fn add(&mut self, bytes: &[u8]) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = DESCRIBED + self.0.len() as u32;
        self.0.extend_from_slice(bytes);
        at
    }

    /// Writes address and length, of a text or a list, at a place.
    fn refer(&mut self, place: usize, at: u32, length: usize) {
        self.0[place..place + 8].copy_from_slice(&reference(at, length));
    }

    fn text(&mut self, place: usize, text: &str) {
        let at = self.add(text.as_bytes());
        self.refer(place, at, text.len());
    }

    /// Writes a list of one text at a place.
    fn list_of(&mut self, place: usize, text: &str) {
        let at = self.add(text.as_bytes());
        let list = self.add(&reference(at, text.len()));
        self.refer(place, list, 1);
    }

    /// Writes a list of one message without a schema at a place. The name is that in memory.
    fn list_of_message(&mut self, place: usize, name: [u8; 8]) {
        let list = self.add(&[name.as_slice(), &[0; 12]].concat());
        self.refer(place, list, 1);
    }

    /// Returns the data segment.
    fn data(&self) -> String {
        let bytes: String = self.0.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!("(data (i32.const {DESCRIBED}) \"{bytes}\")")
    }
}

fn reference(at: u32, length: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&at.to_le_bytes());
    bytes[4..].copy_from_slice(&(length as u32).to_le_bytes());
    bytes
}

/// Makes a plugin with sagas of this type, which these events start.
pub fn saga(name: &str, events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let new = r#"(import "[export]wasmill:plugin/saga@VERSION" "[resource-new]instance" (func $new (param i32) (result i32)))"#;
    let mut described = Layout::new(76);
    described.text(20, name);
    described.list_of(28, events);
    described.list_of_message(56, reference(1032, 4));
    let text = text(&format!("{new}{SUBSCRIBER_IMPORTS}{}", described.data()), &SAGA, replaced);
    component("saga-plugin", &text)
}

/// Makes a plugin with an aggregate of this type.
pub fn aggregate(name: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let mut described = Layout::new(64);
    described.refer(20, DESCRIBED + 28, 1);
    described.text(28, name);
    described.list_of_message(36, reference(1024, 2));
    described.list_of_message(44, reference(1032, 4));
    let text = text(&format!("{AGGREGATE_IMPORTS}{}", described.data()), &AGGREGATE, replaced);
    component("aggregate-plugin", &text)
}

/// Makes a plugin with a subscriber to these events.
pub fn subscriber(events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    subscriber_in(0, events, replaced)
}

/// Makes a plugin with a subscriber to these events, which asks for them in the newest shape.
pub fn subscriber_of_newest(events: &str) -> Vec<u8> {
    subscriber_in(1, events, &[])
}

fn subscriber_in(shape: u8, events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let mut described = Layout::new(40);
    described.list_of(20, events);
    described.0[28] = shape;
    let text = text(&format!("{SUBSCRIBER_IMPORTS}{}", described.data()), &SUBSCRIBER, replaced);
    component("subscriber-plugin", &text)
}

/// Makes a plugin with a projection of these events.
pub fn projection(name: &str, events: &str, replaced: &[Replaced<'_>]) -> Vec<u8> {
    let mut described = Layout::new(48);
    described.text(20, name);
    described.list_of(28, events);
    component("projection-plugin", &text(&described.data(), &PROJECTION, replaced))
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
    text += &(body("module", "") + ")");
    text.replace("@VERSION", &format!("@{API_VERSION}"))
}

/// Makes a component of a world from a module in text form.
pub fn component(world: &str, text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut contract = Resolve::default();
    let (package, _) = contract.push_dir(built::workspace().join("wit")).expect("the contract is read");
    let world = contract.select_world(&[package], Some(world)).expect("a world of the contract");
    embed_component_metadata(&mut module, &contract, world, StringEncoding::UTF8).expect("it is described");
    module
}
