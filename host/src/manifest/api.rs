//! The HTTP API: where it listens, who its clients are, and its limits.

use super::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The settings of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The address to listen on. With port 0 the system chooses a free port.
    pub listen: SocketAddr,
    /// The address of a listener of its own for probes and metrics, without TLS and without tokens.
    pub probes_listen: Option<SocketAddr>,
    /// The names that a request may have in its `Host` header, beside loopback addresses. `*` is any name.
    pub hosts: Vec<String>,
    /// Whether an address that other machines reach may be served without TLS, because a proxy in front ends TLS.
    pub allow_plain: bool,
    /// The certificate and key. `None` serves plain HTTP.
    pub tls: Option<Tls>,
    /// The clients that may use the API, by name. Without any, every program that reaches the address may do everything.
    pub clients: BTreeMap<String, ApiClient>,
    /// Whether commands carry the name of their client in a header.
    pub name_clients: bool,
    /// The largest request body.
    pub body_mib: usize,
    /// The most mebibytes of the bodies of all requests that are being handled.
    pub in_flight_mib: usize,
    /// The most connections that are open at the same time.
    pub connections_max: usize,
    /// The most event streams that are open at the same time.
    pub streams_max: usize,
    /// The longest time from the first byte of a request to the end of its header. It also limits a TLS handshake.
    pub header_seconds: u64,
    /// The longest time that a connection may be without a request, and a request without its complete body.
    pub idle_seconds: u64,
    /// The longest time that a client may leave an answer unread.
    pub stall_seconds: u64,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7310),
            probes_listen: None,
            hosts: Vec::new(),
            allow_plain: false,
            tls: None,
            clients: BTreeMap::new(),
            name_clients: false,
            body_mib: 8,
            in_flight_mib: 256,
            connections_max: 512,
            streams_max: 64,
            header_seconds: 10,
            idle_seconds: 60,
            stall_seconds: 30,
        }
    }
}

impl Api {
    /// Refuses an address that other machines reach unless clients are recognised and connections are encrypted. The error
    /// completes a sentence about the key or option of the address.
    pub fn refuse_exposed(&self) -> Result<(), String> {
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        let lacks_clients = self.clients.is_empty().then_some("a client in `api.clients`");
        let lacks_tls = (self.tls.is_none() && !self.allow_plain).then_some(
            "a certificate in `api.tls` (or `api.allow_plain = true`, if a proxy in front of the host ends TLS)",
        );
        let lacking: Vec<&str> = lacks_clients.into_iter().chain(lacks_tls).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(format!(
            "is {}, which other machines reach, so the manifest needs {}; or use the loopback address \"127.0.0.1:{}\"",
            self.listen,
            lacking.join(" and "),
            self.listen.port()
        ))
    }

    /// Returns the same settings with everything of another manifest that is applied while the host runs: who the clients are, by
    /// what they are recognised, and which names they may use for the host.
    pub fn with_access_of(&self, newer: &Self) -> Self {
        let Self { hosts, tls, clients, name_clients, .. } = newer.clone();
        let tls = if self.tls.is_some() == tls.is_some() { tls } else { self.tls.clone() };
        // An API that nobody needs a token for begins and ends with a start.
        let clients = if self.clients.is_empty() == clients.is_empty() { clients } else { self.clients.clone() };
        Self { hosts, tls, clients, name_clients, ..self.clone() }
    }
}

/// The certificate of the API, and whose certificates of clients it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file with the certificate, followed by those of its issuers.
    pub certificate_file: PathBuf,
    /// A PEM file with the key of the certificate.
    pub key_file: PathBuf,
    /// A PEM file with the certificates of those who issue certificates to clients. `None` asks for none.
    pub client_ca_file: Option<PathBuf>,
}

/// A client of the API: how it is recognised, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClient {
    /// The places of its tokens, each of which is valid.
    pub tokens: Vec<Value>,
    /// The DNS names by which it is recognised if its certificate has one of them.
    pub certificate_names: Vec<String>,
    /// What it may do.
    pub scopes: Scopes,
    /// The aggregate types that it may send commands to, and whose events it may read. `None` is all.
    pub aggregates: Option<Vec<String>>,
    /// The projections that it may ask. `None` is all.
    pub projections: Option<Vec<String>>,
}

/// Something that a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To read events, states, metrics and the state of the host.
    Read,
    /// To send commands.
    Commands,
    /// To ask projections.
    Queries,
    /// To have the host retry, skip, pause and resume. It includes `read`.
    Operate,
    /// To change what the host runs, and to copy and change what it has stored. It includes `operate`.
    Admin,
}

impl Scope {
    /// All scopes, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("read", Self::Read),
        ("commands", Self::Commands),
        ("queries", Self::Queries),
        ("operate", Self::Operate),
        ("admin", Self::Admin),
    ];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Self::ALL.into_iter().find(|(_, scope)| scope == self).expect("every scope has a name");
        f.write_str(name)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Returns the set with a scope, and with those that it includes.
    #[must_use]
    pub fn with(self, scope: Scope) -> Self {
        let bit = |scope: Scope| 1 << scope as u8;
        let included = match scope {
            Scope::Read | Scope::Commands | Scope::Queries => 0,
            Scope::Operate => bit(Scope::Read),
            Scope::Admin => bit(Scope::Read) | bit(Scope::Operate),
        };
        Self(self.0 | bit(scope) | included)
    }

    /// Whether the set has a scope.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// Whether the set has no scope.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_includes_the_weaker_ones_and_no_others() {
        let of = |scope| {
            let scopes = Scopes::default().with(scope);
            Scope::ALL.into_iter().filter(move |(_, one)| scopes.has(*one)).map(|(name, _)| name)
        };
        assert_eq!(of(Scope::Read).collect::<Vec<_>>(), ["read"]);
        assert_eq!(of(Scope::Commands).collect::<Vec<_>>(), ["commands"]);
        assert_eq!(of(Scope::Queries).collect::<Vec<_>>(), ["queries"]);
        assert_eq!(of(Scope::Operate).collect::<Vec<_>>(), ["read", "operate"]);
        assert_eq!(of(Scope::Admin).collect::<Vec<_>>(), ["read", "operate", "admin"]);
    }
}
