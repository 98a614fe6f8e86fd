//! The event store on SQLite, and the shards in front of it, without a host around them.

mod aggregate_races;
mod files;
mod kills;
mod live_instances;
mod plugin_files;
mod sqlite;
