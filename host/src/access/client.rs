//! A client of the API, and what it may do.

use super::tokens::Digest;
use crate::manifest::{ApiClient, Scope, Scopes};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

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
    certificate_names: Vec<String>,
}

/// By what a client was recognised.
#[derive(Clone, Debug)]
pub(super) enum Credential {
    /// The digest of its token.
    Token(Digest),
    /// Its certificate.
    Certificate(Arc<CertificateDer<'static>>),
}

/// The sender of a request.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever reaches the address, because the manifest names no clients.
    Anyone,
    /// A client that was recognised.
    Client(Recognised),
}

/// A client that was recognised, and by what.
#[derive(Clone, Debug)]
pub struct Recognised {
    pub(super) client: Arc<Client>,
    pub(super) by: Credential,
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
    /// Its connection was made when other issuers of certificates were trusted.
    #[error("the issuers of certificates that the host trusts have changed: connect again")]
    OldConnection,
    /// No client has a name of its certificate.
    #[error("no client has a name of this certificate in `certificate_names`, and the request has no token")]
    UnknownCertificate,
}

impl Client {
    pub(super) fn new(name: &str, settings: &ApiClient, is_named: bool) -> Self {
        Self {
            name: name.into(),
            is_named,
            scopes: settings.scopes,
            aggregates: settings.aggregates.clone(),
            projections: settings.projections.clone(),
            certificate_names: settings.certificate_names.clone(),
        }
    }

    /// Whether a certificate, which was verified, has one of the names of this client.
    pub(super) fn has_certificate(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
        // A wildcard is no name of a client: it would be many clients.
        names.value.general_names.iter().any(|found| match found {
            GeneralName::DNSName(found) => self.certificate_names.iter().any(|name| name.eq_ignore_ascii_case(found)),
            _ => false,
        })
    }
}

impl Caller {
    /// Returns its name, if it is a client.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anyone => None,
            Self::Client(found) => Some(&found.client.name),
        }
    }

    /// Returns its name if its commands carry it.
    pub fn shown_name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Client(found) if found.client.is_named => Some(&found.client.name),
            _ => None,
        }
    }

    /// Whether it has a scope.
    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Anyone => true,
            Self::Client(found) => found.client.scopes.has(scope),
        }
    }

    /// Returns the aggregate types that it is limited to; `None` is all.
    pub fn aggregates(&self) -> Option<&[String]> {
        match self {
            Self::Anyone => None,
            Self::Client(found) => found.client.aggregates.as_deref(),
        }
    }

    /// Whether it may use an aggregate type.
    pub fn may_use_aggregate(&self, aggregate_type: &str) -> bool {
        self.aggregates().is_none_or(|allowed| allowed.iter().any(|one| one == aggregate_type))
    }

    /// Whether it is limited to the same aggregate types and projections as another caller.
    pub fn has_same_limits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Client(one), Self::Client(two)) => {
                one.client.aggregates == two.client.aggregates && one.client.projections == two.client.projections
            }
            _ => true,
        }
    }

    /// Whether it is limited to some aggregate types or projections.
    pub fn is_limited(&self) -> bool {
        match self {
            Self::Anyone => false,
            Self::Client(found) => found.client.aggregates.is_some() || found.client.projections.is_some(),
        }
    }

    /// Whether it may ask a projection.
    pub fn may_ask(&self, projection: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Client(found) => {
                found.client.projections.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == projection))
            }
        }
    }
}
