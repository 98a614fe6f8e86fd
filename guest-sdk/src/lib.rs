//! Write wasmill plugins: aggregates, subscribers, sagas and projections.
//!
//! A plugin is a crate of type `cdylib` that implements one or more of these traits and exports them: any number of aggregates,
//! one subscriber or one saga, and one projection.
//!
//! - [`Aggregate`] turns commands into events: [`export_aggregate!`]
//! - [`Subscriber`] reacts to events with commands, messages, timers and HTTP requests: [`export_subscriber!`]
//! - [`Saga`] runs a process over several aggregates: [`export_saga!`]
//! - [`Projection`] turns events into a read model and answers queries: [`export_projection!`]
//!
//! Each trait's page starts with a complete plugin. Commands, events and queries are serde enums: the variant's name is
//! the name, and the variant's content is the payload, as JSON ([`codec`]). Logging works as with `tracing` ([`log`]).
//!
//! Plugins are tested natively, without a host and without a wasm target: see [`testing`].
//!
//! What differs between installations is a setting of the manifest: [`configuration`].
//!
//! The feature `allocator`, on by default, gives a plugin an allocator that is optimised for WebAssembly. Turn it off
//! to use your own.
//!
//! A plugin crate cannot depend on another plugin crate, because it would export that plugin too: the linker finds a duplicate
//! symbol `wasmill:plugin/…`, or the host says which crates the plugin contains. Share types through a crate that exports
//! nothing (a [`contract`]), or define a struct with just the fields that you need.
//!
//! Only native tests depend on several plugins ([`testing::Plugins`]). For them a plugin is a library too, and its roles are
//! public. A plugin without such tests has `cdylib` as its only crate type:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//! ```
//!
//! With both crate types the compiler does no link-time optimisation, which makes a plugin faster. So build such a plugin with
//! `cargo rustc --lib --crate-type cdylib --release --target wasm32-unknown-unknown`, which makes the plugin alone.

// The derive macro names this crate from outside, also in the tests of the crate itself.
extern crate self as wasmill_guest;

pub mod aggregate;
pub mod saga;
pub mod subscriber;

pub mod projection;
pub mod sql;

pub mod codec;
pub mod configuration;
pub mod contract;
pub mod failure;
pub mod log;
pub mod metadata;
pub mod reading;
pub mod schema;
pub mod upcast;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub mod prelude;

mod readback;

#[cfg(any(test, all(feature = "allocator", target_family = "wasm")))]
mod allocator;
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub, reason = "generated from wit/, which documents it")]
pub mod bindings;
#[doc(hidden)]
pub mod declared;
#[doc(hidden)]
pub mod glue;

pub use aggregate::Aggregate;
pub use contract::Contract;
pub use failure::Failure;
pub use metadata::Metadata;
pub use projection::Projection;
pub use saga::Saga;
#[doc(hidden)]
pub use schemars;
pub use subscriber::Subscriber;

/// The allocator of every plugin. It needs no locks, because a guest has one thread.
#[cfg(all(feature = "allocator", target_family = "wasm", not(target_feature = "atomics")))]
#[global_allocator]
static ALLOCATOR: allocator::SizeClasses<talc::wasm::WasmDynamicTalc> =
    allocator::SizeClasses::new(talc::wasm::new_wasm_dynamic_allocator());
