//! Who may use the API: its clients, the tokens and certificates by which they are recognised, and the host's own certificate.
//!
//! All of it is read from files and environment variables that the manifest names, and is read again when a file changes or
//! another manifest is applied. A token whose file is gone is valid no more. A certificate that can't be read does not replace
//! the one before, because without one nobody could connect.
//!
//! Nothing here knows HTTP. No error, and no `Debug`, shows a token or a key.

mod client;
mod tls;
mod tokens;

pub use client::{Caller, Client, Recognised, Unrecognised};
pub use tls::Trust;

use crate::file_watch::FileIdentity;
use crate::manifest::{Api, Manifest, Value};
use crate::supervise::Held as _;
use arc_swap::ArcSwap;
use client::Credential;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tls::Identity;
use tokens::Tokens;
use tokio::sync::watch;

/// The credentials of the API, as they are now.
pub struct Access {
    current: ArcSwap<Current>,
    /// What they are made from. It is held while they are read again.
    source: Mutex<Source>,
    /// Notified when they may have changed.
    changes: watch::Sender<()>,
}

struct Source {
    settings: Api,
    /// The files as they were when they were read.
    read: Vec<(PathBuf, Option<FileIdentity>)>,
    /// The files as they were at the last look, if they differ. They are read once two looks have found the same.
    changing: Option<Vec<(PathBuf, Option<FileIdentity>)>>,
    /// What was logged last.
    told: Option<String>,
}

/// What requests and connections are checked by.
#[derive(Default)]
struct Current {
    /// Whether there are clients. Without any, everybody may do everything.
    has_clients: bool,
    hosts: Vec<String>,
    tokens: Tokens,
    clients: Vec<Arc<Client>>,
    tls: Option<Identity>,
    /// What can't be read, in sentences.
    errors: Vec<String>,
}

/// The condition of the credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// What is wrong with them.
    pub error: Option<String>,
    /// When the certificate ends, in milliseconds since 1970.
    pub certificate_ends_ms: Option<u64>,
}

/// What a connection is secured by.
#[derive(Clone)]
pub struct Secured {
    /// The settings of TLS.
    pub config: Arc<ServerConfig>,
    /// What identifies those whose certificates of clients it trusts.
    pub trust: Trust,
}

/// Returns what is wrong with the credentials of a manifest.
pub fn check(manifest: &Manifest) -> Vec<String> {
    match Access::open(&manifest.api) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| format!("{}: {error}", manifest.path.display())).collect(),
    }
}

impl Access {
    /// Reads the credentials. The errors say what can't be read or does not fit.
    pub fn open(settings: &Api) -> Result<Self, Vec<String>> {
        let read = identities(settings);
        let current = Current::read(settings, None);
        if !current.errors.is_empty() {
            return Err(current.errors);
        }
        let source = Source { settings: settings.clone(), read, changing: None, told: None };
        let access = Self {
            current: ArcSwap::from_pointee(current),
            source: Mutex::new(source),
            changes: watch::Sender::new(()),
        };
        access.tell(&mut access.source.held());
        Ok(access)
    }

    /// Uses the credentials of other settings, which were checked. This blocks while files are read.
    pub fn apply(&self, settings: &Api) {
        let mut source = self.source.held();
        let settings = source.settings.with_access_of(settings);
        if source.settings == settings {
            return;
        }
        source.settings = settings;
        self.read_again(&mut source);
    }

    /// Reads the credentials again if a file has changed since, or could not be read. This blocks while files are looked at and read.
    /// Returns their condition.
    pub fn refresh(&self) -> Condition {
        let mut source = self.source.held();
        let found = identities(&source.settings);
        if found == source.read {
            source.changing = None;
            if !self.current.load().errors.is_empty() {
                self.read_again(&mut source);
            }
        } else if source.changing.as_ref() == Some(&found) {
            self.read_again(&mut source);
        } else {
            source.changing = Some(found);
        }
        self.tell(&mut source)
    }

    fn read_again(&self, source: &mut Source) {
        let found = identities(&source.settings);
        let before = self.current.load();
        let current = Current::read(&source.settings, Some(&before));
        // What still can't be read is tried again and again, which nobody needs to know.
        if current.errors.is_empty() {
            tracing::info!("the tokens and certificates of the API were read again");
        }
        source.read = found;
        source.changing = None;
        self.current.store(Arc::new(current));
        self.changes.send_replace(());
    }

    /// Logs what is wrong, if that is news, and returns the condition.
    fn tell(&self, source: &mut Source) -> Condition {
        let condition = self.condition();
        if source.told != condition.error {
            if let Some(error) = &condition.error {
                tracing::error!("{error}");
            }
            source.told.clone_from(&condition.error);
        }
        condition
    }

    /// Returns what is wrong, and when the certificate ends.
    pub fn condition(&self) -> Condition {
        let current = self.current.load();
        let certificate = current.tls.as_ref().map(|identity| &identity.certificate);
        let of_certificate = certificate.and_then(|certificate| certificate.trouble(crate::clock::machine_ms()));
        let errors: Vec<String> = current.errors.iter().cloned().chain(of_certificate).collect();
        Condition {
            error: (!errors.is_empty()).then(|| errors.join("; ")),
            certificate_ends_ms: certificate.map(|certificate| certificate.ends_ms),
        }
    }

    /// Returns what secures a new connection; `None` serves plain HTTP.
    pub fn tls(&self) -> Option<Secured> {
        let current = self.current.load();
        let Identity { config, trust, .. } = current.tls.as_ref()?;
        Some(Secured { config: config.clone(), trust: *trust })
    }

    /// Returns a receiver that is notified when credentials may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether a request may have this `host` or `host:port` in its `Host` header.
    pub fn allows_host(&self, authority: &str) -> bool {
        is_loopback(authority) || {
            let current = self.current.load();
            let is = |host: &String| {
                host == "*"
                    || host.eq_ignore_ascii_case(authority)
                    || host.eq_ignore_ascii_case(without_port(authority))
            };
            current.hosts.iter().any(is)
        }
    }

    /// Recognises the sender of a request by the value of its `Authorization` header, or by the certificate of its connection, which
    /// was verified by those whom the connection trusts.
    pub fn recognise(
        &self,
        authorization: Option<&[u8]>,
        certificate: Option<(&Arc<CertificateDer<'static>>, Trust)>,
    ) -> Result<Caller, Unrecognised> {
        let current = self.current.load();
        if !current.has_clients {
            return Ok(Caller::Anyone);
        }
        let by = match (authorization, certificate) {
            (Some(authorization), _) => {
                Credential::Token(tokens::digest(tokens::bearer(authorization).ok_or(Unrecognised::NotBearer)?))
            }
            (None, Some((certificate, trust))) => {
                // Whoever issued it may not be trusted any more.
                if current.tls.as_ref().is_none_or(|identity| identity.trust != trust) {
                    return Err(Unrecognised::OldConnection);
                }
                Credential::Certificate(certificate.clone())
            }
            (None, None) => return Err(Unrecognised::NoCredentials),
        };
        current.caller(by)
    }

    /// Recognises a caller again, with the credentials as they are now. Nothing says that it is recognised no more.
    pub fn again(&self, caller: &Caller) -> Option<Caller> {
        let current = self.current.load();
        match caller {
            Caller::Client(found) => current.caller(found.by.clone()).ok(),
            Caller::Anyone => (!current.has_clients).then_some(Caller::Anyone),
        }
    }
}

impl Current {
    /// Reads everything that can be read, and notes an error for everything else. What can't be read of the certificate stays as it
    /// was before.
    fn read(settings: &Api, before: Option<&Self>) -> Self {
        let mut errors = Vec::new();
        let tls = settings.tls.as_ref().and_then(|tls| {
            Identity::read(tls).map_err(|error| errors.push(error)).ok().or_else(|| before?.tls.clone())
        });
        let mut tokens = Tokens::default();
        let mut clients = Vec::new();
        for (name, of_client) in &settings.clients {
            let client = Arc::new(Client::new(name, of_client, settings.name_clients));
            for (index, place) in of_client.tokens.iter().enumerate() {
                if let Err(cause) = tokens.add(place, &client, before.map(|before| &before.tokens)) {
                    errors.push(format!("`api.clients.{name}.tokens[{index}]` {cause}"));
                }
            }
            clients.push(client);
        }
        Self { has_clients: !clients.is_empty(), hosts: settings.hosts.clone(), tokens, clients, tls, errors }
    }

    fn caller(&self, by: Credential) -> Result<Caller, Unrecognised> {
        let client = match &by {
            Credential::Token(digest) => self.tokens.client(digest).ok_or(Unrecognised::WrongToken)?,
            Credential::Certificate(certificate) => {
                let is = |client: &&Arc<Client>| client.has_certificate(certificate);
                self.clients.iter().find(is).ok_or(Unrecognised::UnknownCertificate)?
            }
        };
        Ok(Caller::Client(Recognised { client: client.clone(), by }))
    }
}

/// Returns the files that the credentials are in, as they are now.
fn identities(settings: &Api) -> Vec<(PathBuf, Option<FileIdentity>)> {
    let of_tls = settings.tls.iter().flat_map(|tls| {
        [Some(&tls.certificate_file), Some(&tls.key_file), tls.client_ca_file.as_ref()].into_iter().flatten()
    });
    let of_tokens = settings.clients.values().flat_map(|client| &client.tokens).filter_map(|place| match place {
        Value::File(path) => Some(path),
        Value::Env(_) | Value::Text(_) => None,
    });
    of_tls.chain(of_tokens).map(|file| (file.clone(), FileIdentity::of(file).ok())).collect()
}

/// Returns whether `host` or `host:port` is this machine, whatever a name server says.
pub fn is_loopback(authority: &str) -> bool {
    let host = without_port(authority);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests;
