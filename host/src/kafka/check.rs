//! The check of a manifest's librdkafka properties, which reports all problems at once, without a connection.
//!
//! librdkafka itself does the check. It knows the names and values of properties, and what was left out of the build. A
//! client is created for each source and sink, without a broker to connect to, because librdkafka refuses some
//! properties only in combination, and reads files only then.

use super::{Connection, Error};
use crate::manifest::{Brokers, Manifest, Membership, Properties, SinkMode, Source, Target, Transaction};
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::BaseProducer;
use std::collections::BTreeSet;

/// An address that no client connects to.
const NOWHERE: &str = "127.0.0.1:9";

/// Returns a sentence for each property that can't be used, and for each client that can't be created.
pub fn check(manifest: &Manifest) -> Vec<String> {
    let Some(kafka) = &manifest.kafka else { return Vec::new() };
    let brokers = match &kafka.brokers {
        Brokers::Addresses(brokers) => brokers,
        Brokers::Embedded => NOWHERE,
    };
    let mut found = Found::default();
    let none = Connection::new(brokers, &Properties::default()).expect("no properties are no problem");
    found.all(none.problems("kafka.properties", &kafka.properties));
    // A problem of the base section is reported once, and the other sections are checked all the same.
    let base = none.with_properties("kafka.properties", &kafka.properties);
    let base = base.and_then(|base| base.with_oauth(kafka.oauth.as_ref()));
    found.all(base.as_ref().err().into_iter().cloned());
    let base = base.unwrap_or(none);
    for (name, source) in &manifest.sources {
        let section = format!("sources.{name}.properties");
        found.client(&base, &section, &source.properties, |connection| source_clients(name, source, connection));
    }
    let sinks = manifest.sinks.iter().map(|(name, sink)| (name.as_str(), format!("sinks.{name}"), &sink.settings));
    let outbox = std::iter::once(("outbox", "sink".to_owned(), &manifest.sink));
    for (name, section, sink) in outbox.chain(sinks) {
        let section = format!("{section}.properties");
        found.client(&base, &section, &sink.properties, |connection| {
            producer(match sink.mode {
                SinkMode::Idempotent => connection.producer(name),
                SinkMode::Transactional => connection.transactional_producer(name, "check"),
            })
        });
    }
    found.sentences
}

/// The problems that were found, without repetitions.
#[derive(Default)]
struct Found {
    sentences: Vec<String>,
    known: BTreeSet<String>,
}

impl Found {
    fn all(&mut self, errors: impl IntoIterator<Item = Error>) {
        for sentence in errors.into_iter().map(|error| error.to_string()) {
            if self.known.insert(sentence.clone()) {
                self.sentences.push(sentence);
            }
        }
    }

    /// Checks the properties of a section. If each is valid, it creates clients with them.
    fn client(
        &mut self,
        base: &Connection,
        section: &str,
        properties: &Properties,
        make: impl FnOnce(&Connection) -> Result<(), Error>,
    ) {
        let problems = base.problems(section, properties);
        let made = match base.with_properties(section, properties) {
            Ok(connection) if problems.is_empty() => make(&connection).err(),
            Ok(_) | Err(_) => None,
        };
        let refused = made.map(|error| match error {
            Error::Client { cause, .. } => {
                Error::Refused { what: format!("[{section}] or [kafka.properties]"), cause: cause.trim().to_owned() }
            }
            error => error,
        });
        self.all(problems.into_iter().chain(refused));
    }
}

fn source_clients(name: &str, source: &Source, connection: &Connection) -> Result<(), Error> {
    let group = source.group_of(name);
    match &source.target {
        Target::Deliveries(deliveries) if deliveries.transaction == Transaction::Kafka => {
            consumer(connection.member(name, &group, Some("check"), &[])?)?;
            producer(super::transform::producer_config(name, connection, "check"))
        }
        _ if source.membership == Membership::Group => consumer(connection.member(name, &group, Some("check"), &[])?),
        _ => consumer(connection.consumer(name, &group)),
    }
}

fn consumer(mut config: ClientConfig) -> Result<(), Error> {
    config.remove("bootstrap.servers").remove("debug");
    config.create::<BaseConsumer>().map(drop).map_err(|error| super::client_error("check", error))
}

fn producer(mut config: ClientConfig) -> Result<(), Error> {
    config.remove("bootstrap.servers").remove("debug");
    config.create::<BaseProducer>().map(drop).map_err(|error| super::client_error("check", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn found(manifest: &str) -> Vec<String> {
        check(&Manifest::parse(manifest, Path::new("wasmill.toml")).unwrap())
    }

    #[test]
    fn a_login_by_token_needs_no_mechanism() {
        let found = found(
            "[kafka]\nbrokers = 'k:9'\n[kafka.properties]\n'security.protocol' = 'sasl_plaintext'\n\
             [kafka.oauth]\ntoken = { unsecured = 'admin' }\n\
             [plugins.orders]\nfile = 'orders.wasm'\n\
             [sources.b]\ntopic = 'b'\naggregate = 'order'\ncommand = 'C'\n",
        );
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_its_place() {
        let found = found(
            "[kafka]\nbrokers = 'k:9'\n[kafka.properties]\n'linger.mss' = 5\n'group.id' = 'x'\n\
             [plugins.orders]\nfile = 'orders.wasm'\n\
             [sources.b]\ntopic = 'b'\naggregate = 'order'\ncommand = 'C'\n\
             properties = { 'fetch.wait.max.ms' = 'soon', 'auto.offset.reset' = 'latest' }\n\
             [sink.properties]\n'compression.type' = 'brotli'\n\
             [sinks.s]\nevents = ['order.*']\ntopic = 't'\n\
             properties = { 'message.timeout.ms' = 90000, 'transaction.timeout.ms' = 60000 }\n",
        );
        let expected = [
            "[kafka.properties] `group.id` is set from [sources.NAME] group",
            "[kafka.properties] `linger.mss` was refused by librdkafka: No such configuration property",
            "[sources.b.properties] `auto.offset.reset` is set by wasmill",
            "[sources.b.properties] `fetch.wait.max.ms` was refused by librdkafka",
            "[sink.properties] `compression.type` was refused by librdkafka",
            "[sinks.s.properties] or [kafka.properties]: ",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn what_is_right_is_not_complained_about() {
        let right = "[kafka]\nbrokers = 'embedded'\n[kafka.properties]\nlinger.ms = 5\nsecurity.protocol = 'ssl'\n\
                     [sink]\nmode = 'idempotent'\nproperties = { compression.type = 'zstd' }\n\
                     [sources.b]\ntopic = 'b'\naggregate = 'order'\ncommand = 'C'\nmembership = 'group'\n\
                     properties = { session.timeout.ms = 6000 }\n";
        assert_eq!(found(right), Vec::<String>::new());
    }
}
