//! The harness of the tests of the whole host.
//!
//! - [`built`]: where the programs and plugins are that `cargo xtask build` makes
//! - [`setting`]: a folder with a manifest, gone after the test
//! - [`host`]: a running host, spoken to over HTTP
//! - [`kafka`]: a real broker
//! - [`topic`]: records into and out of a Kafka topic
//! - [`module`]: WebAssembly modules made to be refused
//! - [`baskets`]: what must come of a file of baskets, worked out without the host
//! - [`mod@store_conformance`]: what every event store must do
//! - [`store_workload`]: work for a store that is going to be killed
//!
//! Hosts are processes, brokers are brokers, and tests wait on conditions. What the harness can't do, it panics
//! about: a test has nothing better to do with an error.

pub mod baskets;
pub mod built;
pub mod host;
pub mod kafka;
pub mod module;
pub mod setting;
pub mod store_conformance;
pub mod store_workload;
pub mod topic;
