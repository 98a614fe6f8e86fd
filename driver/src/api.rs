//! Calls of the HTTP API of a host. They return the status and the text, which the caller interprets.

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Response;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsConfigBuilder, TlsProvider};
use ureq::{Agent, Body, RequestBuilder};

/// The reason why a call has no answer.
pub use ureq::Error;

/// A client, which keeps connections open between calls.
pub struct Client {
    agent: Agent,
    /// The header that says who the client is.
    authorization: Option<String>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub text: String,
}

impl Client {
    /// Makes a client whose calls time out after `wait`.
    pub fn new(wait: Duration) -> Self {
        Self::over(wait, TlsConfig::default())
    }

    /// Makes a client that recognises the host by a certificate in PEM.
    pub fn secured(wait: Duration, certificate: &str) -> Result<Self, Error> {
        Ok(Self::over(wait, tls(certificate)?.build()))
    }

    /// Makes a client that presents a certificate, and recognises the host by another one. All are in PEM.
    pub fn certified(wait: Duration, host_certificate: &str, certificate: &str, key: &str) -> Result<Self, Error> {
        let (chain, key) = (Certificate::from_pem(certificate.as_bytes())?, PrivateKey::from_pem(key.as_bytes())?);
        let own = ClientCert::new_with_certs(&[chain], key);
        Ok(Self::over(wait, tls(host_certificate)?.client_cert(Some(own)).build()))
    }

    fn over(wait: Duration, tls: TlsConfig) -> Self {
        let config = Agent::config_builder().timeout_global(Some(wait)).http_status_as_error(false).tls_config(tls);
        // No proxy can reach a loopback address.
        Self { agent: config.proxy(None).build().into(), authorization: None }
    }

    /// Sends a token with each request, or none.
    #[must_use]
    pub fn with_token(self, token: Option<&str>) -> Self {
        Self { authorization: token.map(|token| format!("Bearer {token}")), ..self }
    }

    /// Sends a GET request to a URL.
    pub fn get(&self, url: &str) -> Result<Answer, Error> {
        read(self.identified(self.agent.get(url)).call()?)
    }

    /// Sends a GET request to a URL, with another name in its `Host` header.
    pub fn get_as(&self, url: &str, host: &str) -> Result<Answer, Error> {
        read(self.agent.get(url).header("host", host).call()?)
    }

    /// Sends a POST request with JSON to a URL.
    pub fn post(&self, url: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        let request = self.identified(self.agent.post(url));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request.send_json(body)?)
    }

    /// Adds who the client is to a request.
    fn identified<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }
}

impl Answer {
    /// Returns whether the status is a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Returns the settings of TLS for a host with this certificate.
fn tls(certificate: &str) -> Result<TlsConfigBuilder, Error> {
    let roots = RootCerts::new_with_certs(&[Certificate::from_pem(certificate.as_bytes())?]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(roots);
    Ok(tls.unversioned_rustls_crypto_provider(provider))
}

fn read(mut response: Response<Body>) -> Result<Answer, Error> {
    let text = response.body_mut().read_to_string()?;
    Ok(Answer { status: response.status().as_u16(), text })
}
