//! The address of a store in PostgreSQL: the URL of its database, how the connection is encrypted, and the schema.
//!
//! An address may have a password. It is never shown: not by `Display`, not by `Debug`, and not in an error.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// The schema that has the tables if the URL names no other.
const SCHEMA: &str = "wasmill";

/// The most bytes of the name of a schema.
const SCHEMA_BYTES_MAX: usize = 48;

/// The longest time for a connection to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// The time after which the operating system gives up a connection whose server does not acknowledge what was sent.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// The address of a store in PostgreSQL.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) config: Config,
    pub(super) encryption: Encryption,
    pub(super) schema: String,
    /// The URL without the password.
    url: String,
}

/// How the connection is encrypted, and what is checked of the server's certificate. The modes are those of libpq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encryption {
    pub(super) checked: Checked,
    /// The file of root certificates. `None` takes those of the machine.
    pub(super) roots: Option<PathBuf>,
}

/// What is checked of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Nothing. The connection may be with another server, which somebody has put in between.
    Nothing,
    /// That one of the roots has signed it.
    Root,
    /// That one of the roots has signed it, and that it is for this host name.
    RootAndName,
}

impl Address {
    /// Returns whether a text is meant as an address of PostgreSQL.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// Returns the URL without the password, as a command takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns whether the URL has a password.
    pub fn has_password(&self) -> bool {
        self.config.get_password().is_some()
    }

    /// Adds a password, if the URL has none.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        if !self.has_password() {
            self.config.password(password);
        }
        self
    }

    /// Returns the name of the schema that has the store's tables.
    pub fn schema(&self) -> &str {
        &self.schema
    }
}

/// Reads a URL. The error completes a sentence about the URL, and has nothing of it that may be secret.
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !Self::is_meant(text) {
            return Err("must begin with postgres://, as in postgres://user@host:5432/database".to_owned());
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut roots, mut schema, mut rest) = (None, Roots::Default, SCHEMA.to_owned(), Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = || {
                let bytes = percent_encoding::percent_decode_str(value).decode_utf8();
                bytes.map(|text| text.into_owned()).map_err(|_| format!("has a value of {key} that is not UTF-8"))
            };
            match key {
                "sslmode" => mode = Some(decoded()?),
                "sslrootcert" => {
                    roots = match decoded()? {
                        system if system == "system" => Roots::System,
                        file => Roots::File(file.into()),
                    }
                }
                "schema" => schema = checked_schema(decoded()?)?,
                _ => rest.push(pair),
            }
        }
        let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut config = Config::from_str(&plain).map_err(|error| format!("can't be read: {}", chain(&error)))?;
        if config.get_dbname().is_none() {
            return Err("names no database: add it, as in postgres://user@host:5432/database".to_owned());
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host: add it, as in postgres://user@host:5432/database".to_owned());
        }
        config.application_name("wasmill").connect_timeout(CONNECT_TIME_MAX).tcp_user_timeout(UNACKNOWLEDGED_MAX);
        config.keepalives_idle(UNACKNOWLEDGED_MAX);
        let encryption = encrypted(&mut config, mode.as_deref(), roots)?;
        let url = without_password(base, query);
        Ok(Self { config, encryption, schema, url })
    }
}

/// Returns a URL without its password, which may be before the host or among the settings.
fn without_password(base: &str, query: &str) -> String {
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    // The client takes everything before the first `@` for the user and the password.
    let rest = match rest.split_once('@') {
        Some((user, place)) => format!("{}@{place}", user.split_once(':').map_or(user, |(user, _)| user)),
        None => rest.to_owned(),
    };
    let key = |pair: &str| {
        percent_encoding::percent_decode_str(pair.split('=').next().unwrap_or_default()).collect::<Vec<u8>>()
    };
    let is_shown = |pair: &&str| !pair.is_empty() && key(pair) != b"password";
    let settings = query.split('&').filter(is_shown).collect::<Vec<_>>().join("&");
    let mark = if settings.is_empty() { "" } else { "?" };
    format!("{scheme}://{rest}{mark}{settings}")
}

/// Applies `sslmode`. Without one, connections over a network are encrypted and the server is checked, and connections within
/// the machine are plain.
fn encrypted(config: &mut Config, mode: Option<&str>, roots: Roots) -> Result<Encryption, String> {
    let is_local = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => matches!(&**name, "localhost" | "127.0.0.1" | "::1" | "[::1]"),
        Host::Unix(_) => true,
    }) && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback);
    let (ssl, checked) = match (mode, &roots) {
        (None, Roots::Default) if is_local => (SslMode::Disable, Checked::Nothing),
        (None | Some("verify-full"), _) => (SslMode::Require, Checked::RootAndName),
        (Some("verify-ca"), Roots::File(_)) => (SslMode::Require, Checked::Root),
        // Everybody can get a certificate from an authority of the system, so the name must be checked too.
        (Some("verify-ca"), _) => {
            return Err("has sslmode=verify-ca without a file in sslrootcert: add it, or use verify-full".to_owned());
        }
        (Some("require"), Roots::System) => (SslMode::Require, Checked::RootAndName),
        // As libpq does it: a root certificate is there to be checked.
        (Some("require"), Roots::File(_)) => (SslMode::Require, Checked::Root),
        (Some("require"), Roots::Default) => (SslMode::Require, Checked::Nothing),
        (Some("prefer" | "allow" | "disable"), Roots::System) => {
            return Err("has sslrootcert=system with an sslmode that checks nothing: use verify-full".to_owned());
        }
        (Some("prefer" | "allow"), _) => (SslMode::Prefer, Checked::Nothing),
        (Some("disable"), _) => (SslMode::Disable, Checked::Nothing),
        (Some(_), _) => {
            return Err(
                "has an unknown sslmode: it must be disable, prefer, require, verify-ca or verify-full".to_owned()
            );
        }
    };
    config.ssl_mode(ssl);
    let roots = match roots {
        Roots::File(file) => Some(file),
        Roots::Default | Roots::System => None,
    };
    Ok(Encryption { checked, roots })
}

/// The root certificates that a URL names.
enum Roots {
    /// None are named.
    Default,
    /// Those of the machine.
    System,
    /// Those of a file.
    File(PathBuf),
}

fn checked_schema(name: String) -> Result<String, String> {
    let is_name = (1..=SCHEMA_BYTES_MAX).contains(&name.len())
        && !name.starts_with("pg_")
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    match is_name {
        true => Ok(name),
        false => Err(format!(
            "has a schema that is no plain name: it must have 1 to {SCHEMA_BYTES_MAX} small letters, digits and `_`, and not \
             begin with a digit or `pg_`"
        )),
    }
}

/// Returns the text of an error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The address without the password: `postgres://user@host:port/database`, and the schema if it is not the usual one.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        let ports = self.config.get_ports();
        for (number, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(folder) => write!(f, "{comma}{}", folder.display())?,
            }
            if let Some(port) = ports.get(number).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())?;
        if self.schema == SCHEMA { Ok(()) } else { write!(f, " (schema {})", self.schema) }
    }
}

/// The same as `Display`, because a password must not be in a log.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text} {error}"))
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://shop:hush@db.example:5433/orders",
            "postgresql://shop:hu%2Fsh@db.example:5433/orders?sslmode=disable",
            "postgres://shop@db.example:5433/orders?password=hush&sslmode=verify-full",
        ] {
            let shown = [address(url).to_string(), format!("{:?}", address(url))];
            for text in shown {
                assert_eq!(text, "postgres://shop@db.example:5433/orders", "{url}");
            }
        }
        for url in [
            "postgres://shop:hush@db.example:port/orders",
            "postgres://shop:hush@db.example/orders?sslmode=hush",
            "postgres://shop:hush@db.example/orders?unknown=hush",
            "postgres://shop:hush@db.example",
            "postgres://shop:hush@/orders",
            "postgres://shop:hush@db.example/orders?schema=Hush",
            "mysql://shop:hush@db.example/orders",
        ] {
            let error = url.parse::<Address>().expect_err(url);
            assert!(!error.contains("hush") && !error.contains("Hush"), "{url}: {error}");
        }
    }

    #[test]
    fn a_url_without_its_password_is_the_same_place() {
        for (url, shown) in [
            ("postgres://shop:hush@db.example:5433/orders", "postgres://shop@db.example:5433/orders"),
            (
                "postgresql://shop:h/u:sh@db/orders?schema=s&sslmode=disable",
                "postgresql://shop@db/orders?schema=s&sslmode=disable",
            ),
            ("postgres://shop@db/orders?password=hush&schema=s", "postgres://shop@db/orders?schema=s"),
            ("postgres://shop@db/orders?schema=s&%70assword=hush", "postgres://shop@db/orders?schema=s"),
            ("postgres://db/orders?password=hush", "postgres://db/orders"),
            ("postgres:///d?host=/run/postgresql&user=u", "postgres:///d?host=/run/postgresql&user=u"),
        ] {
            let (base, query) = url.split_once('?').unwrap_or((url, ""));
            assert_eq!(without_password(base, query), shown);
            let with = address(shown).with_password("hush");
            assert!(with.has_password() && !format!("{with:?}{}", with.url()).contains("hush"));
        }
    }

    #[test]
    fn a_server_on_the_network_is_checked_unless_the_url_says_otherwise() {
        let encryption = |url: &str| (address(url).config.get_ssl_mode(), address(url).encryption.checked);
        for (url, expected) in [
            ("postgres://u@db.example/d", (SslMode::Require, Checked::RootAndName)),
            ("postgres://u@127.0.0.1/d", (SslMode::Disable, Checked::Nothing)),
            ("postgres://u@127.0.0.1/d?sslrootcert=/ca.pem", (SslMode::Require, Checked::RootAndName)),
            ("postgres:///d?host=/run/postgresql&user=u", (SslMode::Disable, Checked::Nothing)),
            ("postgres://u@db.example/d?sslmode=require", (SslMode::Require, Checked::Nothing)),
            ("postgres://u@db.example/d?sslmode=require&sslrootcert=%2Fca.pem", (SslMode::Require, Checked::Root)),
            ("postgres://u@db.example/d?sslmode=require&sslrootcert=system", (SslMode::Require, Checked::RootAndName)),
            ("postgres://u@db.example/d?sslmode=verify-ca&sslrootcert=%2Fca.pem", (SslMode::Require, Checked::Root)),
            ("postgres://u@localhost/d?hostaddr=10.0.0.5", (SslMode::Require, Checked::RootAndName)),
            ("postgres://u@localhost/d?hostaddr=127.0.0.1", (SslMode::Disable, Checked::Nothing)),
            ("postgres://u@db.example/d?sslmode=verify-full", (SslMode::Require, Checked::RootAndName)),
            ("postgres://u@db.example/d?sslmode=prefer", (SslMode::Prefer, Checked::Nothing)),
            ("postgres://u@a,b/d?sslmode=disable", (SslMode::Disable, Checked::Nothing)),
        ] {
            assert_eq!(encryption(url), expected, "{url}");
        }
        let roots = address("postgres://u@db.example/d?sslrootcert=%2Fetc%2Fca.pem").encryption.roots;
        assert_eq!(roots, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(
            address("postgres://u@db.example/d?schema=shop_1").to_string(),
            "postgres://u@db.example:5432/d (schema shop_1)"
        );
        for weak in ["sslmode=verify-ca", "sslmode=verify-ca&sslrootcert=system", "sslmode=prefer&sslrootcert=system"] {
            let refused = format!("postgres://u@db.example/d?{weak}").parse::<Address>().expect_err(weak);
            assert!(refused.contains("use verify-full"), "{weak}: {refused}");
        }
    }
}
