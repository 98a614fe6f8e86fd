//! An endpoint to which a plugin may send HTTP requests.

use super::Value;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::path::PathBuf;
use url::Url;

/// An endpoint that the manifest grants a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL at or below which requests may go.
    pub url: Url,
    /// The networks that its host may have addresses of, beside public addresses.
    pub networks: Vec<IpNet>,
    /// A file of root certificates by which the server is recognised, beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// The places of the secrets that headers of requests may name.
    pub secrets: BTreeMap<String, Value>,
    /// The most time of an attempt, until the whole response is there.
    pub timeout_ms: u64,
    /// The most kibibytes of a response's body.
    pub response_kib: usize,
    /// The most attempts under way at the same time.
    pub in_flight_max: usize,
    /// The most attempts that begin in a second. `None` is any number.
    pub per_second: Option<u32>,
    /// The number of attempts at a request that fails in a temporary way.
    pub attempts_max: u32,
    /// The pause before the second attempt, which doubles with each further one.
    pub backoff_ms: u64,
    /// The longest pause between two attempts.
    pub backoff_max_ms: u64,
}

impl Endpoint {
    /// Makes an endpoint at a URL, with the defaults for everything else.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            networks: Vec::new(),
            ca_file: None,
            secrets: BTreeMap::new(),
            timeout_ms: 10_000,
            response_kib: 256,
            in_flight_max: 8,
            per_second: None,
            attempts_max: 10,
            backoff_ms: 500,
            backoff_max_ms: 300_000,
        }
    }
}
