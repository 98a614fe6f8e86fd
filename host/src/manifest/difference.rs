//! The keys by which two manifests differ.

use super::Manifest;
use std::fmt;
use std::net::SocketAddr;
use toml::{Table, Value};

/// How a key has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the newer manifest has it.
    Added,
    /// Its value is another.
    Changed,
    /// Only the older manifest has it.
    Removed,
}

/// A key, or a whole section, that differs. Values are not shown, because they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The dotted path of the key.
    pub key: String,
    /// How it has changed.
    pub change: Change,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.change)
    }
}

impl Manifest {
    /// Returns the keys by which a newer manifest differs, in alphabetical order. The order of keys and comments make no difference.
    pub fn differences(&self, newer: &Self) -> Vec<KeyChange> {
        let mut found = Vec::new();
        compare(&self.table(), &newer.table(), "", &mut found);
        found
    }

    /// Returns the keys that differ and that only a start of the host applies.
    pub fn restart_keys(&self, newer: &Self) -> Vec<String> {
        let sections = [
            ("data", self.data != newer.data),
            ("clock", self.clock != newer.clock),
            ("store", self.store != newer.store),
            ("api", self.api.with_access_of(&newer.api) != self.with_bound_port(newer)),
        ];
        let differences = self.differences(newer);
        let keys_of = |section: &str| {
            let is_of =
                |key: &str| key == section || key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
            let of = |is_wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
                let found = differences.iter().filter(|found| is_of(&found.key) && is_wanted(&found.key));
                found.map(|found| found.key.clone()).collect()
            };
            let keys = of(&|key| !is_applied_at_once(key));
            // The first and the last client, and the whole certificate.
            let keys = if keys.is_empty() { of(&|_| true) } else { keys };
            // The text of a section may be the same where a default or the command line makes the difference.
            if keys.is_empty() { vec![section.to_owned()] } else { keys }
        };
        sections.into_iter().filter(|(_, differs)| *differs).flat_map(|(section, _)| keys_of(section)).collect()
    }

    /// Returns the API's settings of a newer manifest. If it lets the system choose the port, this is the port of the running host.
    pub fn with_bound_port(&self, newer: &Self) -> super::Api {
        let mut api = newer.api.clone();
        if api.listen.port() == 0 {
            api.listen = SocketAddr::new(api.listen.ip(), self.api.listen.port());
        }
        if let (Some(probes), Some(bound)) = (&mut api.probes_listen, self.api.probes_listen)
            && probes.port() == 0
        {
            probes.set_port(bound.port());
        }
        api
    }

    /// Returns the keys that all hosts of a store must have in common, with their values. Where a host has its files and where it listens
    /// is its own affair.
    pub fn common_keys(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        flatten(&self.table(), "", &mut found);
        found.retain(|(key, _)| !is_of_host(key));
        found
    }

    fn table(&self) -> Table {
        // The text was parsed when the manifest was read.
        self.text.parse().unwrap_or_default()
    }
}

/// Whether a key of the API is applied while the host runs. The whole section of the certificate is not: the URL of the host depends
/// on it.
fn is_applied_at_once(key: &str) -> bool {
    ["api.hosts", "api.clients", "api.name_clients"].iter().any(|applied| key.starts_with(applied))
        || key.starts_with("api.tls.")
}

/// Whether each host of a store has its own value of a key. The code of plugins is compared itself, not where it comes from.
fn is_of_host(key: &str) -> bool {
    let section = key.split('.').next().unwrap_or_default();
    let is_file = [".file", ".source"].iter().any(|ending| key.starts_with("plugins.") && key.ends_with(ending));
    let is_own_size = ["backups", "queue_max", "queue_mib", "batch_max", "transaction_mib", "log_mib"]
        .iter()
        .any(|name| key.strip_prefix("store.") == Some(*name));
    let is_url = key == "store.url" || key.starts_with("store.url.");
    ["data", "host", "api", "clock"].contains(&section) || is_file || is_own_size || is_url
}

/// Adds the keys of a table at a path, each with its value.
fn flatten(table: &Table, path: &str, found: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let path = if path.is_empty() { quoted(key) } else { format!("{path}.{}", quoted(key)) };
        match value {
            Value::Table(table) if !table.is_empty() => flatten(table, &path, found),
            value => found.push((path, value.to_string())),
        }
    }
}

/// Adds the differences of two tables at a path.
fn compare(older: &Table, newer: &Table, path: &str, found: &mut Vec<KeyChange>) {
    let mut keys: Vec<&String> = older.keys().chain(newer.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = if path.is_empty() { quoted(key) } else { format!("{path}.{}", quoted(key)) };
        let change = match (older.get(key), newer.get(key)) {
            (Some(Value::Table(older)), Some(Value::Table(newer))) => {
                compare(older, newer, &path, found);
                continue;
            }
            (Some(older), Some(newer)) if older == newer => continue,
            (Some(_), Some(_)) => Change::Changed,
            (None, _) => Change::Added,
            (Some(_), None) => Change::Removed,
        };
        // A group of sections is no section: its sections are shown.
        match (older.get(key), newer.get(key)) {
            (None, Some(Value::Table(added))) if is_group(&path) => compare(&Table::new(), added, &path, found),
            (Some(Value::Table(removed)), None) if is_group(&path) => compare(removed, &Table::new(), &path, found),
            _ => found.push(KeyChange { key: path, change }),
        }
    }
}

/// Whether the keys at this path are names, each with a section of its own.
fn is_group(path: &str) -> bool {
    ["plugins", "sources", "sinks", "schedules", "subscriptions", "projections", "kafka.topics", "api.clients"]
        .contains(&path)
}

/// Returns a key as TOML writes it.
fn quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { key.to_owned() } else { format!("{key:?}") }
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::*;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(text, "m.toml".as_ref()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_keys_that_differ_are_named_and_values_are_not() {
        let old = "hops_max = 3\n[kafka]\nbrokers = 'k:9'\nproperties = { 'sasl.password' = 'old' }\n[plugins.a]\nfile = 'a.wasm'\n\
                   [plugins.b]\nfile = 'b.wasm'\n[plugins.b.settings]\nlimit = 3\n";
        let new = "# A comment.\n[plugins.b]\nsettings = { limit = 4 }\nfile = 'b.wasm'\n[plugins.c]\nfile = 'c.wasm'\n[kafka]\n\
                   brokers = 'k:9'\nproperties = { 'sasl.password' = 'new' }\n[sinks.feed]\nevents = ['**']\ntopic = 't'\n";
        let shown = manifest(old).differences(&manifest(new)).iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = [
            "hops_max removed",
            "kafka.properties.\"sasl.password\" changed",
            "plugins.a removed",
            "plugins.b.settings.limit changed",
            "plugins.c added",
            "sinks.feed added",
        ];
        assert_eq!(shown, expected);
        assert_eq!(manifest(old).differences(&manifest(&format!("\n\n{old}# end"))), []);
    }

    #[test]
    fn keys_that_need_a_restart_are_named() {
        let running = manifest(
            "data = 'one'\n[store]\nqueue_max = 7\n[api]\nlisten = '127.0.0.1:7000'\n[host]\nstop_max_ms = 9000\n",
        );
        let same = "data = 'one'\n[store]\nqueue_max = 7\n[api]\nlisten = '127.0.0.1:0'\n[host]\nstop_max_ms = 8000\n";
        assert_eq!(running.restart_keys(&manifest(same)), [""; 0], "the port is chosen once, and the rest is applied");
        let other =
            "data = 'two'\nclock = 'manual'\n[store]\nqueue_max = 8\nlog_mib = 1\n[api]\nlisten = '127.0.0.1:7001'\n";
        let keys = ["data", "clock", "store.log_mib", "store.queue_max", "api.listen"];
        assert_eq!(running.restart_keys(&manifest(other)), keys);
        let overrides = Overrides { data: Some("one".into()), ..Overrides::default() };
        let overridden = manifest(&other.replace("clock = 'manual'\n", "")).with(overrides).unwrap();
        assert_eq!(running.restart_keys(&overridden)[0], "store.log_mib", "the command line decides");
    }
}
