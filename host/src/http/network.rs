//! Real servers: requests over TCP and TLS, with limits on time and size, to addresses that are granted.

use super::endpoint::{Endpoint, Ready, Unready, shown};
use super::{Answering, Attempted, Server, Transport};
use crate::address::is_granted;
use crate::certificates;
use crate::clock::Clock;
use crate::model::KeptRequest;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

/// The most redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// The most bytes of the names and values of a response's headers.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// The longest time for which a connection waits for its next request.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// The longest pause that a server can ask for with `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// The statuses after which a request is repeated: the server could not handle it at the moment (RFC 9110, RFC 8470 for 425,
/// RFC 6585 for 429).
const TEMPORARY: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

/// The root certificates of this machine.
static MACHINE_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates::of_machine());
    roots
});

/// The network.
pub struct Network;

impl Transport for Network {
    fn connect(&self, endpoint: &Arc<Endpoint>) -> Result<Box<dyn Server>, String> {
        endpoint.check_secrets()?;
        Ok(Box::new(RealServer { client: client(endpoint)?, endpoint: endpoint.clone() }))
    }
}

struct RealServer {
    endpoint: Arc<Endpoint>,
    client: Client,
}

impl Server for RealServer {
    fn attempt(&self, kept: &KeptRequest) -> Result<Answering, Unready> {
        let Ready { method, url, headers, body } = self.endpoint.ready(kept)?;
        let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
        Ok(Box::pin(async move {
            // The time of the attempt begins here, in the runtime.
            match client.request(method, url).headers(headers).body(body).send().await {
                Ok(response) => answer(response, endpoint.settings.response_kib << 10).await,
                Err(error) => failure(&error, endpoint.settings.timeout_ms),
            }
        }))
    }
}

/// Makes the client of an endpoint. Each endpoint has its own, since what is granted differs.
fn client(endpoint: &Arc<Endpoint>) -> Result<Client, String> {
    let (of_redirect, of_address) = (endpoint.clone(), endpoint.clone());
    let timeout = Duration::from_millis(endpoint.settings.timeout_ms);
    let path = format!("plugins.{}.http.{}", endpoint.plugin, endpoint.name);
    let tls = tls(endpoint.settings.ca_file.as_deref(), endpoint.settings.url.scheme() == "https");
    Client::builder()
        .tls_backend_preconfigured(tls.map_err(|cause| format!("`{path}`: {cause}"))?)
        .dns_resolver(Arc::new(GrantedAddresses(of_address)))
        .redirect(Policy::custom(move |attempt| redirect(&of_redirect, attempt)))
        // A proxy would choose the address in the place of the resolver.
        .no_proxy()
        .referer(false)
        .timeout(timeout)
        .connect_timeout(timeout)
        .pool_max_idle_per_host(endpoint.settings.in_flight_max)
        // Most servers close an idle connection after 5 s or more. A request on one that is being closed would fail.
        .pool_idle_timeout(IDLE_MAX)
        .user_agent(concat!("wasmill/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("`{path}`: can't make a client: {}", chain(&error)))
}

fn tls(ca_file: Option<&Path>, is_used: bool) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if is_used {
        roots.clone_from(&MACHINE_ROOTS);
        if let Some(file) = ca_file {
            let unreadable = |cause: String| {
                format!(
                    "the certificates in `ca_file`, {}, can't be read: {cause}; it must be a PEM file",
                    file.display()
                )
            };
            for certificate in certificates::of_file(file).map_err(unreadable)? {
                roots.add(certificate).map_err(|cause| unreadable(cause.to_string()))?;
            }
        }
        if roots.is_empty() {
            return Err(
                "this machine has no root certificates, by which servers are recognised: install them (the package \
                        ca-certificates), or name a file of them in `ca_file`"
                    .to_owned(),
            );
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| format!("TLS can't be set up: {error}"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Resolves the name of an endpoint to the addresses that are granted. A connection is made to one of these addresses, so no
/// later answer of the DNS can lead elsewhere.
struct GrantedAddresses(Arc<Endpoint>);

impl Resolve for GrantedAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let endpoint = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let (granted, others): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|found| is_granted(found.ip(), &endpoint.settings.networks));
            if granted.is_empty() && !others.is_empty() {
                let others: Vec<String> = others.iter().map(|found| found.ip().to_canonical().to_string()).collect();
                let path = format!("plugins.{}.http.{}.networks", endpoint.plugin, endpoint.name);
                return Err(NotGranted(format!(
                    "{host} has the address {}, which is not public: if that is right, add its network to `{path}`",
                    others.join(" and ")
                ))
                .into());
            }
            Ok(Box::new(granted.into_iter()) as Addrs)
        })
    }
}

/// A connection or a redirect that the manifest does not grant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotGranted(String);

fn redirect(endpoint: &Endpoint, attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS_MAX {
        let url = shown(attempt.url());
        return attempt
            .error(NotGranted(format!("the server redirects more than {REDIRECTS_MAX} times, last to {url}")));
    }
    match endpoint.allows(attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(cause) => attempt.error(NotGranted(format!("the server's redirect is not followed: {cause}"))),
    }
}

/// Reads a response, but no more than is allowed.
async fn answer(mut response: Response, body_bytes_max: usize) -> Attempted {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(retry_after);
    let header_bytes: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let too_much = |what: &str| {
        let reason = format!("the server answered with status {status}, and {what}");
        if TEMPORARY.contains(&status) { Attempted::Failed(reason) } else { Attempted::Unusable(reason) }
    };
    if header_bytes > HEADER_BYTES_MAX {
        return too_much(&format!("with headers of more than {HEADER_BYTES_MAX} bytes"));
    }
    let headers = headers(response.headers());
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > body_bytes_max => {
                return too_much(&format!(
                    "its body has more than {} KiB: raise `response_kib` of the endpoint, or ask for less",
                    body_bytes_max >> 10
                ));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => {
                let cause = if error.is_timeout() { "it did not come in time".to_owned() } else { chain(&error) };
                return Attempted::Failed(format!(
                    "the server answered with status {status}, and its body broke off: {cause}"
                ));
            }
        }
    }
    Attempted::Answered { status, headers, body, is_temporary: TEMPORARY.contains(&status), retry_after }
}

fn headers(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// Returns the pause that a server asks for, in seconds or as a time (RFC 9110, section 10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            at.saturating_sub(Duration::from_millis(Clock::system().now_ms()))
        }
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

/// Says why there is no response.
fn failure(error: &reqwest::Error, timeout_ms: u64) -> Attempted {
    if let Some(cause) = not_granted(error) {
        // A server that redirects has seen the request.
        return if error.is_redirect() { Attempted::Unusable(cause) } else { Attempted::Refused(cause) };
    }
    if error.is_timeout() {
        return Attempted::Failed(format!("the server did not answer within {timeout_ms} ms"));
    }
    Attempted::Failed(with_remedy(chain(error)))
}

/// Adds the remedy for the commonest failures of TLS.
fn with_remedy(text: String) -> String {
    let remedy = if text.contains("UnknownIssuer") {
        "name the root certificate of the server in `ca_file` of the endpoint"
    } else if text.contains("CaUsedAsEndEntity") {
        "the server needs a certificate of its own with CA:FALSE, and `ca_file` the one that issued it"
    } else {
        return text;
    };
    format!("{text}: {remedy}")
}

fn not_granted(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(NotGranted(text)) = found.downcast_ref() {
            return Some(text.clone());
        }
        cause = found.source();
    }
    None
}

/// Returns an error with its causes, without the URL, which may have a secret of somebody.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(found) = cause {
        let found_text = found.to_string();
        // Many errors repeat their cause.
        if !text.contains(&found_text) {
            text += if text.is_empty() { "" } else { ": " };
            text += &found_text;
        }
        cause = found.source();
    }
    if text.is_empty() { "it could not be sent".to_owned() } else { crate::escape::escape(&text).into_owned() }
}
