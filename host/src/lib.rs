//! A WebAssembly plugin host for event handlers.
//!
//! One process owns Kafka consumption, the event store and the bus; all business logic is in WebAssembly components.
//! A command goes, in this order, through:
//!
//! - [`kafka`] or [`api`]: takes it in,
//! - [`aggregates`]: has the live aggregate decide, in a guest of [`plugin`],
//! - [`store`]: records its events, the only truth,
//! - [`subscriptions`]: reacts with more commands, and with messages for [`kafka`],
//! - [`projection`]: folds events into read models and answers queries.
//!
//! [`host`] builds the parts from a [`manifest`]; [`cli`] is the program. `ARCHITECTURE.md` has the whole picture.

// Tests start threads and wait as they like; the bans of clippy.toml hold in what is built without them.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod cli;
pub mod host;
pub mod manifest;

pub mod api;
pub mod kafka;

pub mod ack;
pub mod aggregates;
pub mod follow;
pub mod projection;
pub mod store;
pub mod subscriptions;
pub mod supervise;

pub mod plugin;

pub mod bounds;
pub mod clock;
pub mod escape;
pub mod exhaustion;
pub mod filter;
pub mod framing;
mod load;
pub mod log;
pub mod meter;
pub mod metrics;
pub mod model;
pub mod names;
pub mod paths;
pub mod status;
pub mod trace;

/// Commands and events are made by one thread and freed by another. Benchmarks that link the host measure with it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
mod edges;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod properties;
