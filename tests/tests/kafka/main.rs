//! The host on a real Kafka, which the tests of this program share.

mod cli;
mod deliveries;
mod groups;
mod identity;
mod open_transactions;
mod restores;
mod security;
mod several_hosts;
mod sinks;
mod transform;
