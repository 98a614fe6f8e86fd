//! The harness of the tests of the whole host.
//!
//! - [`built`]: the paths of the programs and plugins that `cargo xtask build` makes
//! - [`setting`]: a folder with a manifest, removed after the test
//! - [`host`]: a running host of [`wasmill_driver`], as tests use it
//! - [`kafka`]: a real broker
//! - [`postgres`]: a real PostgreSQL server
//! - [`secured`]: a real broker with TLS, logins and an authorizer
//! - [`raw`]: HTTP requests and answers by hand, in parts
//! - [`server`]: an HTTP server that answers as a test says
//! - [`topic`]: writing records to a Kafka topic and reading them
//! - [`module`]: WebAssembly modules made to be refused
//! - [`hostile`]: guests that do what the SDK cannot express
//! - [`baskets`]: the expected results of a file of baskets, computed without the host
//! - [`mod@store_conformance`]: what every event store must do
//! - [`store_workload`]: work for a store that is going to be killed
//! - [`torture`]: a whole host, killed under load
//! - [`command_path`]: a store and shards without a host around them, for benchmarks
//! - [`native`]: aggregates of the SDK as native handlers of the host
//! - [`scripted`]: a native aggregate that does what a test tells it
//! - [`author`]: `wasmill` as the author of a plugin uses it, in a folder of its own
//! - [`certificates`]: certificates of the API, of its clients and of Kafka
//! - [`proxy`]: a reverse proxy in front of a host
//! - [`cut`]: a proxy of TCP connections that can be cut
//! - [`report`]: what benchmarks report
//! - [`waiting`]: waiting for a condition
//!
//! Hosts are processes, brokers are real, and tests wait on conditions. The harness panics on errors, because a test
//! could do nothing better with them.

pub mod author;
pub mod baskets;
pub mod built;
pub mod certificates;
pub mod command_path;
mod compiled;
pub mod cut;
pub mod host;
pub mod hostile;
pub mod kafka;
pub mod module;
pub mod native;
pub mod postgres;
pub mod proxy;
pub mod raised;
pub mod raw;
pub mod report;
pub mod scripted;
pub mod secured;
pub mod server;
pub mod setting;
pub mod store_conformance;
pub mod store_workload;
pub mod topic;
pub mod torture;
pub mod waiting;
