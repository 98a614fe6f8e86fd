//! The harness of the tests of the whole host.
//!
//! - [`built`]: where the programs and plugins are that `cargo xtask build` makes
//! - [`setting`]: a folder with a manifest, gone after the test
//! - [`host`]: a running host of [`wasmill_driver`], as tests speak to it
//! - [`kafka`]: a real broker
//! - [`secured`]: the same, asking who is there
//! - [`topic`]: records into and out of a Kafka topic
//! - [`module`]: WebAssembly modules made to be refused
//! - [`hostile`]: guests that do what the SDK cannot express
//! - [`baskets`]: what must come of a file of baskets, worked out without the host
//! - [`mod@store_conformance`]: what every event store must do
//! - [`store_workload`]: work for a store that is going to be killed
//! - [`torture`]: a whole host, killed under load
//! - [`command_path`]: a store and shards without a host around them, for benchmarks
//! - [`native`]: aggregates of the SDK as native handlers of the host
//! - [`scripted`]: a native aggregate that does what a test tells it
//! - [`report`]: what benchmarks report
//!
//! Hosts are processes, brokers are brokers, and tests wait on conditions. What the harness can't do, it panics
//! about: a test has nothing better to do with an error.

pub mod baskets;
pub mod built;
pub mod command_path;
pub mod host;
pub mod hostile;
pub mod kafka;
pub mod module;
pub mod native;
pub mod report;
pub mod scripted;
pub mod secured;
pub mod setting;
pub mod store_conformance;
pub mod store_workload;
pub mod topic;
pub mod torture;
