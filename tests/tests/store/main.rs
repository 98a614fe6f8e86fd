//! The event stores, and the shards in front of it, without a host around them.

mod aggregate_races;
mod failing_items;
mod files;
mod hostile_files;
mod kills;
mod live_instances;
mod move_refusals;
mod moves;
mod plugin_files;
mod postgres;
mod postgres_failures;
mod postgres_hosts;
mod postgres_refusals;
mod postgres_verify;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod power;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod power_loss;
mod restores;
mod sqlite;
