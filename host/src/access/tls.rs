//! The certificate of the API, and the certificates of clients that it trusts.

use crate::manifest::Tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long before its end a certificate is reported.
const ENDS_SOON_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// What a connection is secured by.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) config: Arc<ServerConfig>,
    pub(super) trust: Trust,
    pub(super) certificate: Certificate,
}

/// What identifies those whose certificates of clients are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust([u8; 32]);

/// The time for which a certificate is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The key of the manifest and the file, for messages.
    place: String,
    /// When it begins, in milliseconds since 1970.
    pub begins_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub ends_ms: u64,
}

impl Identity {
    /// Reads the certificate and the key. The error names the key of the manifest, the cause and the remedy.
    pub(super) fn read(tls: &Tls) -> Result<Self, String> {
        let chain = certificates("certificate_file", &tls.certificate_file)?;
        let certificate = Certificate::of(&tls.certificate_file, &chain[0])?;
        let wrong = |cause: &dyn Display| {
            unreadable("key_file", &tls.key_file, cause, "it must be a PEM file with a key that has no password")
        };
        crate::paths::require_file(&tls.key_file).map_err(|cause| wrong(&cause))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(|cause| wrong(&cause))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|cause| format!("`api.tls` can't be used: {cause}"))?;
        let mut trust = Sha256::new();
        let builder = match &tls.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("client_ca_file", file)? {
                    let wrong =
                        |cause| unreadable("client_ca_file", file, &cause, "it must have certificates of issuers");
                    trust.update(&certificate);
                    roots.add(certificate).map_err(wrong)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider).allow_unauthenticated();
                let verifier = verifier.build();
                builder
                    .with_client_cert_verifier(verifier.map_err(|cause| format!("`api.tls.client_ca_file`: {cause}"))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|cause| match cause {
            Error::InconsistentKeys(_) => format!(
                "`api.tls.key_file`, {}, is not the key of the certificate in {}: name the two files that belong together",
                tls.key_file.display(),
                tls.certificate_file.display()
            ),
            cause => unreadable("key_file", &tls.key_file, &cause, "use an RSA, ECDSA or Ed25519 key"),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), trust: Trust(trust.finalize().into()), certificate })
    }
}

impl Certificate {
    fn of(file: &Path, certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|cause| unreadable("certificate_file", file, &cause, "it must have an X.509 certificate"))?;
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let validity = parsed.validity();
        Ok(Self {
            place: format!("the certificate of the API (`api.tls.certificate_file`, {})", file.display()),
            begins_ms: ms(validity.not_before.timestamp()),
            ends_ms: ms(validity.not_after.timestamp()),
        })
    }

    /// Returns what is wrong with its time.
    pub(super) fn trouble(&self, now_ms: u64) -> Option<String> {
        let at = |ms: u64| {
            let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms));
            time.map_or_else(|| ms.to_string(), |time| humantime::format_rfc3339_seconds(time).to_string())
        };
        let (place, remedy) = (&self.place, "put a newer one into the file, and the host uses it at once");
        if now_ms < self.begins_ms {
            return Some(format!(
                "{place} is not valid before {}: check the machine's clock, or {remedy}",
                at(self.begins_ms)
            ));
        }
        if now_ms >= self.ends_ms {
            return Some(format!("{place} expired at {}, so clients refuse it: {remedy}", at(self.ends_ms)));
        }
        (now_ms + ENDS_SOON_MS >= self.ends_ms).then(|| format!("{place} expires at {}: {remedy}", at(self.ends_ms)))
    }
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |cause| unreadable(key, file, &cause, "it must be a PEM file with certificates");
    crate::certificates::of_file(file).map_err(wrong)
}

fn unreadable(key: &str, file: &Path, cause: &dyn Display, remedy: &str) -> String {
    format!("`api.tls.{key}`, {}, can't be used: {cause}; {remedy}", file.display())
}
