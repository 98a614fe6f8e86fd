//! The host as a process, spoken to over its command line, HTTP and the development broker: one behaviour a module.

mod bad_manifests;
mod bad_plugins;
mod circles;
mod command_line;
mod dead_letters;
mod demo;
mod demo_crashes;
mod full_disk;
mod hot_reload;
mod malformed_records;
mod misbehaving_plugins;
mod observability;
mod odd_input;
mod panics;
mod plugin_cases;
mod projection_rebuild;
mod projection_stops;
mod refused_commands;
mod renamed_parts;
mod repeated_commands;
mod restarts;
mod snapshots;
mod taken_over;
mod torture;
mod upcasting;
mod upkeep;
