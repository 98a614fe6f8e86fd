//! The client of a running host: it finds the host, sends requests to it, and turns its refusals into failures.

use super::failure::CommandFailure;
use super::host_file::HostFile;
use crate::api::INSTANCE;
use crate::certificates;
use crate::secret;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::Timeout;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// The characters that are percent-encoded in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The host that a command talks to.
#[derive(clap::Args)]
pub(super) struct Target {
    /// The URL of the host's API.
    #[arg(long, env = "WASMILL_URL", default_value = "http://127.0.0.1:7310")]
    url: String,
    /// The host's data folder, instead of --url.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A file with the token of a client, if the host has clients.
    #[arg(long, env = "WASMILL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A PEM file with the certificates by which the host is recognised, beside those of the machine.
    #[arg(long, env = "WASMILL_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Target {
    /// Returns the data folder, if one was given.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.data.as_deref()
    }
}

/// A client of one host.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    /// The value of the `Authorization` header.
    authorization: Option<String>,
    /// The process that must answer. It is known only if a data folder was given.
    instance: Option<String>,
}

/// The host's answer.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn new(target: &Target) -> Result<Self, CommandFailure> {
        let file = target.data.as_deref().map(recorded).transpose()?;
        let url = file.as_ref().map_or_else(|| target.url.trim_end_matches('/').to_owned(), |file| file.url.clone());
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(CommandFailure::usage(format!("--url must start with http:// or https://, found {url:?}")));
        }
        let authorization = target.token_file.as_deref().map(authorization).transpose()?;
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A proxy from the environment is for the web, and could only interfere.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIME_MAX));
        if url.starts_with("https://") {
            config = config.tls_config(tls(target.ca.as_deref())?);
        }
        let agent = config.build().into();
        let client = Self { agent, url, authorization, instance: file.map(|file| file.instance) };
        if let Some(data) = &target.data {
            client.must_serve(data)?;
        }
        Ok(client)
    }

    /// Checks which process answers before the actual request. A host that was killed leaves its file behind, and
    /// another host may use its port by now.
    fn must_serve(&self, data: &Path) -> Result<(), CommandFailure> {
        let response = self.agent.get(self.address("/v1/live")).call().map_err(|cause| self.unreachable(cause))?;
        let answers = response.headers().get(INSTANCE).and_then(|value| value.to_str().ok());
        if answers == self.instance.as_deref() {
            return Ok(());
        }
        Err(CommandFailure::failed(format!(
            "the host of {} is not running: {} was written by a process that is gone, and another one answers at {}; start a \
             host there with `wasmill run MANIFEST`, or name the one you mean with --url",
            data.display(),
            HostFile::path(data).display(),
            self.url
        )))
    }

    /// Adds to a request who sends it, and which process must answer. Any other process refuses it.
    fn identified<B>(&self, mut request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        match &self.instance {
            Some(instance) => request.header(INSTANCE, instance),
            None => request,
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Reply, CommandFailure> {
        let (status, mut body) = self.open(path)?;
        read(status, &mut body).map_err(|cause| self.unreadable(cause))
    }

    /// Sends a GET request. The caller reads the body of the answer as it arrives.
    pub(super) fn open(&self, path: &str) -> Result<(u16, impl Read + use<>), CommandFailure> {
        let response =
            self.identified(self.agent.get(self.address(path))).call().map_err(|cause| self.unreachable(cause))?;
        Ok((response.status().as_u16(), response.into_body().into_reader()))
    }

    /// Sends a POST request without a body. The caller reads the body of the answer as it arrives.
    pub(super) fn open_post(&self, path: &str) -> Result<(u16, impl Read + use<>), CommandFailure> {
        let request = self.identified(self.agent.post(self.address(path)));
        let response = request.send_empty().map_err(|cause| self.unreachable(cause))?;
        Ok((response.status().as_u16(), response.into_body().into_reader()))
    }

    pub(super) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, CommandFailure> {
        let request = self.agent.post(self.address(path)).header("content-type", "application/json");
        let mut request = self.identified(request);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send(body).map_err(|cause| self.unreachable(cause))?;
        let status = response.status().as_u16();
        read(status, &mut response.into_body().into_reader()).map_err(|cause| self.unreadable(cause))
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn unreachable(&self, cause: ureq::Error) -> CommandFailure {
        let url = &self.url;
        let refused = match &cause {
            ureq::Error::Io(cause) => cause.kind() == std::io::ErrorKind::ConnectionRefused,
            ureq::Error::ConnectionFailed => true,
            _ => false,
        };
        if refused {
            let remedy = "start one with `wasmill run MANIFEST` or name it with --url";
            return CommandFailure::failed(format!("no host answers at {url}: {remedy}")).unsent();
        }
        match cause {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                CommandFailure::usage(format!("{url} is not a URL: {cause}")).unsent()
            }
            ureq::Error::HostNotFound | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                CommandFailure::failed(format!("cannot talk to the host at {url}: {cause}")).unsent()
            }
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => CommandFailure::failed(insecure(url, &cause.to_string())),
            ureq::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                CommandFailure::failed(insecure(url, &io.to_string()))
            }
            _ => CommandFailure::failed(format!("cannot talk to the host at {url}: {cause}")),
        }
    }

    pub(super) fn unreadable(&self, cause: std::io::Error) -> CommandFailure {
        CommandFailure::failed(format!("the answer of the host at {} is incomplete: {cause}", self.url))
    }
}

/// Returns the error for a connection that can't be secured.
fn insecure(url: &str, cause: &str) -> String {
    format!(
        "the connection to the host at {url} can't be secured: {cause}; name the host as its certificate does with --url, and the \
         certificates by which it is recognised with --ca"
    )
}

/// Returns the value of the `Authorization` header with the token in a file.
fn authorization(file: &Path) -> Result<String, CommandFailure> {
    let token =
        secret::from_file(file).map_err(|cause| CommandFailure::usage(format!("the token of --token-file {cause}")))?;
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(format!("Bearer {token}")),
        false => Err(CommandFailure::usage(format!("{} of --token-file has more than a token", file.display()))),
    }
}

/// Returns the settings of TLS: the certificates of this machine, and those of a file.
fn tls(ca: Option<&Path>) -> Result<TlsConfig, CommandFailure> {
    let mut roots = certificates::of_machine();
    if let Some(file) = ca {
        let unreadable = |cause| {
            let file = file.display();
            CommandFailure::usage(format!(
                "{file} of --ca can't be read: {cause}; it must be a PEM file with certificates"
            ))
        };
        roots.extend(certificates::of_file(file).map_err(unreadable)?);
    }
    let roots: Vec<_> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(RootCerts::Specific(Arc::new(roots)));
    Ok(config.unversioned_rustls_crypto_provider(provider).build())
}

/// Encodes a name or an id as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn recorded(data: &Path) -> Result<HostFile, CommandFailure> {
    let path = HostFile::path(data);
    let remedy = "start a host there with `wasmill run MANIFEST` or name one with --url";
    let file = HostFile::read(data)
        .map_err(|cause| CommandFailure::failed(format!("cannot read {}: {cause}; {remedy}", path.display())))?;
    if HostFile::place_of(data).ok() != Some(file.folder) {
        let copied = format!("{} was written in another folder and copied here", path.display());
        return Err(CommandFailure::failed(format!("{copied}: no host serves this folder; {remedy}")));
    }
    Ok(file)
}

fn read(status: u16, body: &mut impl Read) -> std::io::Result<Reply> {
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)?;
    Ok(Reply { status, body: bytes })
}

impl Reply {
    /// Returns the reply, or a failure if it is a refusal.
    pub(super) fn successful(self) -> Result<Self, CommandFailure> {
        if self.status == 200 { Ok(self) } else { Err(self.refusal()) }
    }

    /// Returns a failure with the host's reason for the refusal.
    pub(super) fn refusal(&self) -> CommandFailure {
        #[derive(serde::Deserialize)]
        struct Problem {
            detail: String,
        }
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => CommandFailure::failed(problem.detail),
            Err(_) => CommandFailure::failed(format!("status {}: {}", self.status, self.text().trim())),
        }
    }

    pub(super) fn decoded<T: DeserializeOwned>(&self) -> Result<T, CommandFailure> {
        serde_json::from_slice(&self.body).map_err(|cause| {
            CommandFailure::failed(format!("this version of wasmill does not understand the host's answer: {cause}"))
        })
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
