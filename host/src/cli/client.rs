//! The client of a running host: which host is meant, requests to it, and its refusals as failures.

use super::failure::Failure;
use super::host_file::HostFile;
use crate::api::INSTANCE;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// What may stand for itself in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which host a command talks to.
#[derive(clap::Args)]
pub(super) struct Target {
    /// Where the host serves.
    #[arg(long, env = "WASMILL_URL", default_value = "http://127.0.0.1:7310")]
    url: String,
    /// The host's data folder, in place of --url.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Target {
    /// The data folder, where one was named.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.data.as_deref()
    }
}

/// Talks to one host.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    /// The process that must answer, where a data folder says which.
    instance: Option<String>,
}

/// What the host answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn new(target: &Target) -> Result<Self, Failure> {
        let file = target.data.as_deref().map(recorded).transpose()?;
        let url = file.as_ref().map_or_else(|| target.url.trim_end_matches('/').to_owned(), |file| file.url.clone());
        if !url.starts_with("http://") {
            return Err(Failure::usage(format!("--url must start with http://, found {url:?}")));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The host is on this machine: a proxy from the environment could only be in the way.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .build();
        let client = Self { agent: config.into(), url, instance: file.map(|file| file.instance) };
        if let Some(data) = &target.data {
            client.must_serve(data)?;
        }
        Ok(client)
    }

    /// Asks who answers before anything is asked for: a host that was killed leaves its file behind, and another one may
    /// have its port since.
    fn must_serve(&self, data: &Path) -> Result<(), Failure> {
        let response = self.agent.get(self.address("/v1/live")).call().map_err(|cause| self.unreachable(cause))?;
        let answers = response.headers().get(INSTANCE).and_then(|value| value.to_str().ok());
        if answers == self.instance.as_deref() {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "the host of {} is not running: {} was written by a process that is gone, and another one answers at {}; start a \
             host there with `wasmill run MANIFEST`, or name the one you mean with --url",
            data.display(),
            HostFile::path(data).display(),
            self.url
        )))
    }

    /// The request with the process that must answer it: another one refuses it.
    fn identified<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.instance {
            Some(instance) => request.header(INSTANCE, instance),
            None => request,
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Reply, Failure> {
        let (status, mut body) = self.open(path)?;
        read(status, &mut body).map_err(|cause| self.unreadable(cause))
    }

    /// Sends a request and leaves the body of its answer to be read as it comes.
    pub(super) fn open(&self, path: &str) -> Result<(u16, impl Read + use<>), Failure> {
        let response =
            self.identified(self.agent.get(self.address(path))).call().map_err(|cause| self.unreachable(cause))?;
        Ok((response.status().as_u16(), response.into_body().into_reader()))
    }

    /// Posts without a body and leaves the body of the answer to be read as it comes.
    pub(super) fn open_post(&self, path: &str) -> Result<(u16, impl Read + use<>), Failure> {
        let request = self.identified(self.agent.post(self.address(path)));
        let response = request.send_empty().map_err(|cause| self.unreachable(cause))?;
        Ok((response.status().as_u16(), response.into_body().into_reader()))
    }

    pub(super) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, Failure> {
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

    fn unreachable(&self, cause: ureq::Error) -> Failure {
        let url = &self.url;
        let refused = match &cause {
            ureq::Error::Io(cause) => cause.kind() == std::io::ErrorKind::ConnectionRefused,
            ureq::Error::ConnectionFailed => true,
            _ => false,
        };
        if refused {
            let remedy = "start one with `wasmill run MANIFEST` or name it with --url";
            return Failure::failed(format!("no host answers at {url}: {remedy}"));
        }
        match cause {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::usage(format!("{url} is not a URL: {cause}")),
            _ => Failure::failed(format!("cannot talk to the host at {url}: {cause}")),
        }
    }

    pub(super) fn unreadable(&self, cause: std::io::Error) -> Failure {
        Failure::failed(format!("the host at {} broke off its answer: {cause}", self.url))
    }
}

/// A name or an id as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn recorded(data: &Path) -> Result<HostFile, Failure> {
    let path = HostFile::path(data);
    let remedy = "start a host there with `wasmill run MANIFEST` or name one with --url";
    let file = HostFile::read(data)
        .map_err(|cause| Failure::failed(format!("cannot read {}: {cause}; {remedy}", path.display())))?;
    if HostFile::place_of(data).ok() != Some(file.folder) {
        let copied = format!("{} was written in another folder and copied here", path.display());
        return Err(Failure::failed(format!("{copied}: no host serves this folder; {remedy}")));
    }
    Ok(file)
}

fn read(status: u16, body: &mut impl Read) -> std::io::Result<Reply> {
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)?;
    Ok(Reply { status, body: bytes })
}

impl Reply {
    /// The reply, unless it is a refusal.
    pub(super) fn successful(self) -> Result<Self, Failure> {
        if self.status == 200 { Ok(self) } else { Err(self.refusal()) }
    }

    /// The host's words for why it did not do it.
    pub(super) fn refusal(&self) -> Failure {
        #[derive(serde::Deserialize)]
        struct Refusal {
            error: String,
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => Failure::failed(refusal.error),
            Err(_) => Failure::failed(format!("status {}: {}", self.status, self.text().trim())),
        }
    }

    pub(super) fn decoded<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|cause| {
            Failure::failed(format!("the host answered what this version of wasmill does not understand: {cause}"))
        })
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
