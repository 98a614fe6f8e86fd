//! The host on a real Kafka, which the tests of this program share.

mod cli;
mod deliveries;
mod groups;
mod open_transactions;
mod security;
mod sinks;
mod transform;
