//! The settings of the HTTP API: its addresses, its certificate and its clients.

use super::*;
use crate::manifest::{Api, ApiClient, Scope, Scopes, Tls};
use std::net::SocketAddr;

const LISTEN: &str = "an address with a port, such as \"127.0.0.1:7310\"";
const HOSTS: &str = "a list of names such as [\"shop.example\", \"10.1.2.3:7310\"], or [\"*\"] for any name";
const PEM: &str = "the path of a PEM file";
const TOKENS: &str =
    "a list such as [{ file = \"PATH\" }, { env = \"VARIABLE\" }]: a token does not belong in the manifest";
const NAMES: &str = "a list of DNS names such as [\"till.shop.example\"]";
const SCOPES: &str = "a list of \"read\", \"commands\", \"queries\", \"operate\" and \"admin\"";
const TYPES: &str = "a list of aggregate types such as [\"order\"]";
const PROJECTIONS: &str = "a list of projections such as [\"sales\"]";

pub(super) fn api(mut section: Section<'_>, folder: &Path) -> Api {
    let default = Api::default();
    let address = section.get("listen").and_then(|entry| entry.parse(LISTEN, listen));
    let probes_listen = section.get("probes_listen").and_then(|entry| entry.parse(LISTEN, listen));
    let tls = section.section("tls").and_then(|section| tls(section, folder));
    let clients = complete(named(section.get("clients"), name, client));
    let api = Api {
        listen: address.unwrap_or(default.listen),
        probes_listen,
        hosts: section.get("hosts").and_then(|entry| list(&entry, HOSTS, host)).unwrap_or_default(),
        allow_plain: flag(&mut section, "allow_plain"),
        tls,
        clients,
        name_clients: flag(&mut section, "name_clients"),
        body_mib: section.number("body_mib", 1..=1024, default.body_mib),
        in_flight_mib: section.number("in_flight_mib", 1..=65_536, default.in_flight_mib),
        connections_max: section.number("connections_max", 1..=100_000, default.connections_max),
        streams_max: section.number("streams_max", 1..=10_000, default.streams_max),
        header_seconds: section.number("header_seconds", 1..=3_600, default.header_seconds),
        idle_seconds: section.number("idle_seconds", 1..=3_600, default.idle_seconds),
        stall_seconds: section.number("stall_seconds", 1..=3_600, default.stall_seconds),
    };
    refuse_contradictions(&section, &api);
    section.finish();
    api
}

/// Parses an address with a port. The error completes a sentence about the key or option.
pub(in crate::manifest) fn listen(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map_or(text.to_owned(), |port| format!("127.0.0.1:{port}"));
    numeric.parse().map_err(|_| format!("must be {LISTEN}, found {text:?}"))
}

/// Refuses keys that do not fit together.
fn refuse_contradictions(section: &Section<'_>, api: &Api) {
    let note = |key: &str, cause: &str| match section.again(key) {
        Some(entry) => entry.note(cause),
        None => section.problem(cause),
    };
    // A section with a problem of its own is not there, which would be a second problem.
    let is_written = |key: &str| section.again(key).is_some();
    let has_problem = (api.tls.is_none() && is_written("tls")) || (api.clients.is_empty() && is_written("clients"));
    if let Err(cause) = api.refuse_exposed()
        && !has_problem
    {
        note("listen", &cause);
    }
    if api.allow_plain && api.tls.is_some() {
        note("allow_plain", "has no meaning beside `api.tls`: remove one of them");
    }
    if api.in_flight_mib < api.body_mib {
        note(
            "in_flight_mib",
            &format!("is less than `body_mib`, which is {}: raise it, or lower that one", api.body_mib),
        );
    }
    if api.clients.is_empty() && !api.hosts.is_empty() && !is_written("clients") {
        note(
            "hosts",
            "lets other machines in through a proxy, which needs a client in `api.clients`: otherwise everybody may do everything",
        );
    }
    if api.clients.is_empty() && api.name_clients && !is_written("clients") {
        note("name_clients", "needs a client in `api.clients`");
    }
    if let Some(probes) = api.probes_listen
        && probes == api.listen
        && probes.port() != 0
    {
        note("probes_listen", "is the address of `listen`: give it another port");
    }
    let trusts_clients = api.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    for (name, client) in &api.clients {
        if !client.certificate_names.is_empty() && !trusts_clients && (api.tls.is_some() || !is_written("tls")) {
            section.problem(&format!(
                "recognises the client `{name}` by its certificate: name those who issue such certificates in \
                 `api.tls.client_ca_file`"
            ));
        }
    }
}

fn flag(section: &mut Section<'_>, key: &'static str) -> bool {
    let Some(entry) = section.get(key) else { return false };
    match entry.value.get_ref() {
        DeValue::Boolean(value) => *value,
        _ => {
            entry.expected("true or false");
            false
        }
    }
}

fn tls(mut section: Section<'_>, folder: &Path) -> Option<Tls> {
    let mut file = |key: &'static str, what: &str| {
        let path = section.need(key, what)?.text(PEM)?;
        Some(folder.join(path))
    };
    let certificate_file =
        file("certificate_file", "the path of a PEM file with the certificate and those of its issuers");
    let key_file = file("key_file", "the path of a PEM file with the key of the certificate");
    let client_ca_file = section.get("client_ca_file").and_then(|entry| entry.text(PEM)).map(|path| folder.join(path));
    section.finish();
    Some(Tls { certificate_file: certificate_file?, key_file: key_file?, client_ca_file })
}

fn client(mut section: Section<'_>) -> Option<ApiClient> {
    let tokens = section.get("tokens").and_then(|entry| items(&entry, TOKENS, token)).unwrap_or_default();
    let certificate_names = section.get("certificate_names").and_then(|entry| list(&entry, NAMES, dns_name));
    let scopes = section.need("scopes", SCOPES).and_then(|entry| list(&entry, SCOPES, scope));
    let aggregates = section.get("aggregates").map(|entry| limited_to(&entry, TYPES));
    let projections = section.get("projections").map(|entry| limited_to(&entry, PROJECTIONS));
    let is_recognised = section.again("tokens").is_some() || section.again("certificate_names").is_some();
    if !is_recognised {
        section.missing("tokens", "by what the client is recognised: `tokens` or `certificate_names`");
    }
    section.finish();
    let scopes = scopes?.into_iter().fold(Scopes::default(), Scopes::with);
    Some(ApiClient {
        tokens,
        certificate_names: certificate_names.unwrap_or_default(),
        scopes,
        aggregates: aggregates.flatten(),
        projections: projections.flatten(),
    })
}

/// Reads the names that a client is limited to, of which there must be one.
fn limited_to(entry: &Entry<'_>, expected: &str) -> Option<Vec<String>> {
    let part = |entry: &Entry<'_>| named_by(entry, "a name", Rule::Part).map(str::to_owned);
    items(entry, expected, part)
}

/// Reads a list that is not empty.
fn items<T>(entry: &Entry<'_>, expected: &str, read: impl Fn(&Entry<'_>) -> Option<T>) -> Option<Vec<T>> {
    let items = entry.each(expected, read)?;
    if items.is_empty() {
        entry.note(&format!("is empty: write {expected}, or remove the key"));
        return None;
    }
    Some(items)
}

fn list<T>(entry: &Entry<'_>, expected: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
    items(entry, expected, |entry| entry.parse(expected, &parse))
}

fn token(entry: &Entry<'_>) -> Option<Value> {
    let found = match entry.value.get_ref() {
        DeValue::Table(_) => property::from_elsewhere(entry).flatten(),
        _ => None,
    };
    if found.is_none() {
        // What was found may be the token itself, so it is not shown.
        entry.note("must be { file = \"PATH\" } or { env = \"VARIABLE\" }: a token does not belong in the manifest");
    }
    found
}

fn scope(text: &str) -> Result<Scope, String> {
    let found = Scope::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, scope)| scope);
    found
        .ok_or_else(|| format!("must be \"read\", \"commands\", \"queries\", \"operate\" or \"admin\", found {text:?}"))
}

/// Parses a DNS name: labels of letters, digits and hyphens, separated by dots (RFC 1123, section 2.1).
fn dns_name(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && fits && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    if is_name { Ok(text.to_ascii_lowercase()) } else { Err(format!("must be a DNS name, found {text:?}")) }
}

/// Parses a name that a `Host` header may have: a name or an address, with or without a port.
fn host(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let has_name = text.bytes().any(|byte| byte.is_ascii_alphanumeric());
    match text == "*" || (has_name && text.bytes().all(fits)) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "must be a name such as \"shop.example\" or \"10.1.2.3:7310\", without a scheme, found {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "shop/wasmill.toml";

    /// Manifests, each with the problems that are told of it.
    const REFUSED: &[(&str, &[&str])] = &[
        (
            "api = { listen = '0.0.0.0:7310' }",
            &[
                "1:18: `api.listen` is 0.0.0.0:7310, which other machines reach, so the manifest needs a client in `api.clients` and a \
           certificate in `api.tls` (or `api.allow_plain = true`, if a proxy in front of the host ends TLS); or use the loopback \
           address \"127.0.0.1:7310\"",
            ],
        ),
        (
            "[api]\nlisten = '10.0.0.1:7310'\nallow_plain = true",
            &[
                "2:10: `api.listen` is 10.0.0.1:7310, which other machines reach, so the manifest needs a client in `api.clients`; or use \
           the loopback address \"127.0.0.1:7310\"",
            ],
        ),
        (
            "[api]\nlisten = '[::]:1'\n[api.clients.a]\ntokens = [{ env = 'A' }]\nscopes = ['read']",
            &[
                "2:10: `api.listen` is [::]:1, which other machines reach, so the manifest needs a certificate in `api.tls` (or \
           `api.allow_plain = true`, if a proxy in front of the host ends TLS); or use the loopback address \"127.0.0.1:1\"",
            ],
        ),
        (
            "api = { listen = '7310' }",
            &["1:18: `api.listen` must be an address with a port, such as \"127.0.0.1:7310\", found \"7310\""],
        ),
        (
            "[api]\nbody_mib = 4\nin_flight_mib = 3\nhosts = ['*', 'http://a']\nname_clients = 1\nprobes_listen = '127.0.0.1:7310'",
            &[
                "3:17: `api.in_flight_mib` is less than `body_mib`, which is 4: raise it, or lower that one",
                "4:15: `api.hosts[1]` must be a name such as \"shop.example\" or \"10.1.2.3:7310\", without a scheme, found \
             \"http://a\"",
                "5:16: `api.name_clients` must be true or false, found 1",
                "6:17: `api.probes_listen` is the address of `listen`: give it another port",
            ],
        ),
        (
            "[api]\nhosts = ['*']\nname_clients = true",
            &[
                "2:9: `api.hosts` lets other machines in through a proxy, which needs a client in `api.clients`: otherwise everybody may do \
             everything",
                "3:16: `api.name_clients` needs a client in `api.clients`",
            ],
        ),
        (
            "[api]\nallow_plain = true\n[api.tls]\ncertificate_file = 'c'\nkey_file = 'k'\n[api.clients.a]\n\
         certificate_names = ['a.b']\nscopes = ['read']",
            &[
                "1:2: `api` recognises the client `a` by its certificate: name those who issue such certificates in \
             `api.tls.client_ca_file`",
                "2:15: `api.allow_plain` has no meaning beside `api.tls`: remove one of them",
            ],
        ),
        (
            "[api.clients.a]\ntokens = ['hush']\nscopes = ['all']\naggregates = []\nprojections = ['../x']\n[api.clients.b]\n\
         scopes = []\n[api.clients.c]\ntokens = [{ file = 'f' }]\n[api.tls]\nkey_file = 'k'",
            &[
                "2:11: `api.clients.a.tokens[0]` must be { file = \"PATH\" } or { env = \"VARIABLE\" }: a token does not belong in the \
             manifest",
                "3:11: `api.clients.a.scopes[0]` must be \"read\", \"commands\", \"queries\", \"operate\" or \"admin\", found \"all\"",
                "4:14: `api.clients.a.aggregates` is empty: write a list of aggregate types such as [\"order\"], or remove the key",
                "5:16: `api.clients.a.projections[0]` must be 1 to 64 characters of a-z, 0-9 and `-`, found \"../x\"",
                "6:14: `api.clients.b.tokens` is missing: by what the client is recognised: `tokens` or `certificate_names`",
                "7:10: `api.clients.b.scopes` is empty: write a list of \"read\", \"commands\", \"queries\", \"operate\" and \"admin\", or remove the key",
                "8:14: `api.clients.c.scopes` is missing: a list of \"read\", \"commands\", \"queries\", \"operate\" and \"admin\"",
                "10:6: `api.tls.certificate_file` is missing: the path of a PEM file with the certificate and those of its issuers",
            ],
        ),
    ];

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_remedy() {
        for (text, problems) in REFUSED {
            let told = Manifest::parse(text, Path::new(PATH)).unwrap_err().to_string();
            let expected: Vec<String> = problems.iter().map(|problem| format!("{PATH}:{problem}")).collect();
            assert_eq!(told, expected.join("\n"), "{text}");
        }
    }
}
