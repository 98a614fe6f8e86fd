//! Drives a wasmill process from outside, for the example and for the project's tests.
//!
//! - [`host`]: starts the process, waits until it serves, kills it, restarts it and stops it
//! - [`api`]: calls its HTTP API
//! - [`topic`]: the partitions and offsets of a Kafka topic
//! - [`messages`]: counts the different messages of a topic
//! - [`process`]: signals for processes, and the end of a development broker
//!
//! It knows the program, its API and its topics. It knows nothing about the inside of the host or about any plugin.

pub mod api;
pub mod host;
pub mod messages;
pub mod process;
pub mod topic;
