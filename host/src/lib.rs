//! A WebAssembly plugin host for event handlers.
//!
//! One process owns Kafka consumption, the event store and the bus. All business logic is in WebAssembly components. A
//! command passes, in this order, through:
//!
//! - [`kafka`] or [`api`], which accepts it, or [`schedules`], which sends it when it is due,
//! - [`aggregates`], where the live aggregate decides on it, in a guest of [`plugin`],
//! - [`store`], which records its events and is the source of truth,
//! - [`subscriptions`], which react with more commands, and with messages for [`kafka`],
//! - [`projection`], which folds the events into read models and answers queries.
//!
//! [`host`] builds the parts from a [`manifest`]; [`cli`] is the program. `ARCHITECTURE.md` has the whole picture.

// Tests may start threads and sleep. The bans of clippy.toml apply to all other code.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod cli;
pub mod crates;
pub mod host;
pub mod manifest;

pub mod access;
pub mod api;
pub mod kafka;

pub mod ack;
pub mod aggregates;
pub mod follow;
pub mod http;
pub mod projection;
pub mod schedules;
pub mod store;
pub mod subscriptions;
pub mod supervise;

pub mod plugin;

mod address;
pub mod backoff;
mod bell;
pub mod bounds;
mod certificates;
pub mod clock;
pub mod due_times;
pub mod escape;
pub mod exhaustion;
pub mod export;
pub mod file_watch;
pub mod filter;
pub mod flows;
pub mod framing;
mod load;
pub mod log;
pub mod meter;
pub mod metrics;
pub mod model;
pub mod names;
pub mod paths;
mod secret;
pub mod status;
pub mod trace;
pub mod upcasts;

/// The allocator. jemalloc suits commands and events, which one thread allocates and another frees. Benchmarks that
/// link the host use it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod properties;
