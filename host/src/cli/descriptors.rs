//! The limit of open files. It is raised as far as the system allows, with a warning if that is too low.

use crate::aggregates::shards_by_default;
use crate::exhaustion;
use crate::manifest::Manifest;
use crate::projection;

/// Files of a connection to a SQLite file: the file, its write-ahead log, and their shared memory.
const OF_SQLITE: u64 = 3;

/// Files of a Kafka client: sockets to a few brokers, and pipes between its threads. A large cluster needs more, so all
/// of this is a generous estimate.
const OF_KAFKA_CLIENT: u64 = 64;

/// The most Kafka clients of a source or a sink.
const CLIENTS: u64 = 3;

/// The files that every host has open: the log, the runtime, the store, the plugins' folders, connections for probes.
const OF_EVERY_HOST: u64 = 128;

/// Raises the soft limit to the hard limit. It warns if the host of this manifest may need more.
pub(super) fn allow(manifest: &Manifest) {
    if let Some(warning) = exhaustion::raise_files_max().and_then(|max| too_few(max, manifest)) {
        tracing::warn!("{warning}");
    }
}

/// Returns the most files that a host of this manifest may have open, without the connections of its API. The roles of
/// the plugins are not known yet, so each plugin counts as having all roles. It counts twice, because its code may be
/// swapped.
fn of_parts(manifest: &Manifest) -> u64 {
    let queries = projection::Options::default().queries_max;
    let connections = |shards: Option<usize>| 2 * (shards.unwrap_or_else(shards_by_default) + queries + 4) as u64;
    let plugins: u64 = manifest.plugins.values().map(|plugin| OF_SQLITE * connections(plugin.shards)).sum();
    let streams = OF_SQLITE * manifest.api.streams_max.min(manifest.api.connections_max) as u64;
    // Each source may have a sink for its dead letters, and the outbox has one.
    let clients = CLIENTS * (2 * manifest.sources.len() + manifest.sinks.len() + 1) as u64;
    let kafka = if manifest.kafka.is_some() { clients * OF_KAFKA_CLIENT } else { 0 };
    OF_EVERY_HOST + plugins + streams + kafka
}

fn too_few(files_max: u64, manifest: &Manifest) -> Option<String> {
    let (parts, connections) = (of_parts(manifest), manifest.api.connections_max as u64);
    let needed = parts + connections;
    (files_max < needed).then(|| {
        let lower = match files_max.saturating_sub(parts) {
            0 => String::new(),
            left => format!(", or lower `api.connections_max` to {left} or less"),
        };
        format!(
            "the system allows {files_max} open files, and this host may need {needed}: {connections} for \
             `api.connections_max`, {parts} for the store, plugins, event streams and Kafka; raise the limit to {} (`ulimit \
             -Hn`, or `LimitNOFILE=` of a systemd unit){lower}",
            needed.next_power_of_two()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(text, "wasmill.toml".as_ref()).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_told_with_a_limit_that_is_enough() {
        let small = "[plugins.orders]\nfile = 'o.wasm'\nshards = 2\n";
        let kafka = "[kafka]\nbrokers = 'k:9'\n[sources.b]\ntopic = 'b'\naggregate = 'order'\ncommand = 'C'\n";
        let sinks: String = (0..40).map(|n| format!("[sinks.s{n}]\nevents = ['**']\ntopic = 't'\n")).collect();
        let mut needed = 0;
        for text in [small.to_owned(), format!("{small}{kafka}"), format!("{small}{kafka}{sinks}")] {
            let manifest = manifest(&text);
            let more = of_parts(&manifest) + manifest.api.connections_max as u64;
            assert!(more > needed, "each part takes files: {text}");
            needed = more;
            assert_eq!(too_few(needed, &manifest), None);
            let warning = too_few(needed - 1, &manifest).unwrap();
            let advised = format!("raise the limit to {} ", needed.next_power_of_two());
            assert!(
                warning.contains(&advised) && warning.contains("`api.connections_max` to 511 or less"),
                "{warning}"
            );
            assert_eq!(too_few(needed.next_power_of_two(), &manifest), None, "what is advised is enough");
        }
    }

    #[test]
    fn no_connection_is_advised_where_the_parts_alone_do_not_fit() {
        let warning = too_few(64, &manifest("[plugins.orders]\nfile = 'o.wasm'\n")).unwrap();
        assert!(!warning.contains("lower"), "{warning}");
    }
}
