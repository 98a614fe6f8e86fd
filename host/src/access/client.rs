//! A client of the API, and what it may do.

use crate::manifest::{ApiClient, Scope, Scopes};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use std::sync::Arc;

/// A client that the manifest names.
#[derive(Debug)]
pub struct Client {
    /// Its name in the manifest.
    pub name: Arc<str>,
    /// Whether its commands carry its name.
    is_named: bool,
    scopes: Scopes,
    aggregates: Option<Vec<String>>,
    projections: Option<Vec<String>>,
    certificate_names: Vec<ServerName<'static>>,
}

/// The sender of a request.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever reaches the address, because the manifest names no clients.
    Anyone,
    /// A client that was recognised.
    Client(Arc<Client>),
}

/// The reason why the sender of a request is not recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecognised {
    /// It has neither a token nor a certificate.
    #[error("the request needs a token: send the header `Authorization: Bearer TOKEN`")]
    NoCredentials,
    /// Its `Authorization` header is of another kind.
    #[error("the header Authorization must be `Bearer TOKEN`")]
    NotBearer,
    /// No client has its token.
    #[error("no client has this token: it may be misspelt, or have been replaced by a newer one")]
    WrongToken,
    /// No client has a name of its certificate.
    #[error("no client has a name of this certificate in `certificate_names`, and the request has no token")]
    UnknownCertificate,
}

impl Client {
    pub(super) fn new(name: &str, settings: &ApiClient, is_named: bool) -> Self {
        let name_of = |name: &String| ServerName::try_from(name.clone()).ok();
        Self {
            name: name.into(),
            is_named,
            scopes: settings.scopes,
            aggregates: settings.aggregates.clone(),
            projections: settings.projections.clone(),
            certificate_names: settings.certificate_names.iter().filter_map(name_of).collect(),
        }
    }

    /// Whether a certificate, which was verified, has one of the names of this client.
    pub(super) fn has_certificate(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return false };
        self.certificate_names.iter().any(|name| verify_server_name(&certificate, name).is_ok())
    }
}

impl Caller {
    /// Returns its name, if it is a client.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anyone => None,
            Self::Client(client) => Some(&client.name),
        }
    }

    /// Returns its name if its commands carry it.
    pub fn shown_name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Client(client) if client.is_named => Some(&client.name),
            _ => None,
        }
    }

    /// Whether it has a scope.
    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Anyone => true,
            Self::Client(client) => client.scopes.has(scope),
        }
    }

    /// Returns the aggregate types that it is limited to; `None` is all.
    pub fn aggregates(&self) -> Option<&[String]> {
        match self {
            Self::Anyone => None,
            Self::Client(client) => client.aggregates.as_deref(),
        }
    }

    /// Whether it may use an aggregate type.
    pub fn may_use_aggregate(&self, aggregate_type: &str) -> bool {
        self.aggregates().is_none_or(|allowed| allowed.iter().any(|one| one == aggregate_type))
    }

    /// Whether it may ask a projection.
    pub fn may_ask(&self, projection: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Client(client) => {
                client.projections.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == projection))
            }
        }
    }
}
