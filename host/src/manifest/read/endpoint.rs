//! The endpoints to which a plugin may send HTTP requests.

use super::*;
use crate::manifest::Endpoint;
use ipnet::IpNet;
use std::net::IpAddr;
use url::{Host, Url};

const URL: &str = "a URL such as \"https://api.example.com/v1\"";
const NETWORKS: &str = "a list of networks such as [\"10.1.0.0/16\", \"::1/128\"]";
const CA_FILE: &str = "the path of a PEM file with certificates";

pub(super) fn endpoint(mut section: Section<'_>, folder: &Path) -> Option<Endpoint> {
    let at = section.need("url", URL).and_then(|entry| entry.parse(URL, url));
    // The defaults of everything else do not depend on it.
    let default = Endpoint::new(at.clone().unwrap_or_else(|| Url::parse("https://endpoint.invalid/").expect("a URL")));
    let (backoff_ms, backoff_max_ms) = backoff(&mut section, default.backoff_ms, default.backoff_max_ms);
    let ca_file = section.get("ca_file").and_then(|entry| entry.text(CA_FILE)).map(|file| folder.join(file));
    let endpoint = Endpoint {
        networks: section.get("networks").and_then(|entry| networks(&entry)).unwrap_or_default(),
        ca_file,
        secrets: section.section("secrets").as_ref().map(configuration::secrets).unwrap_or_default(),
        timeout_ms: section.number("timeout_ms", 1..=3_600_000, default.timeout_ms),
        response_kib: section.number("response_kib", 1..=16_384, default.response_kib),
        in_flight_max: section.number("in_flight_max", 1..=1_000, default.in_flight_max),
        per_second: section.get("per_second").and_then(|entry| entry.number(1..=100_000)).map(|count| count as u32),
        attempts_max: section.number("attempts_max", 1..=1000, default.attempts_max),
        backoff_ms,
        backoff_max_ms,
        ..default
    };
    if let Some(address) = own_address(&endpoint)
        && at.is_some()
        && let Some(entry) = section.again("url")
    {
        entry.note(&format!(
            "has the address {address}, which is not public: if that is right, add its network to `networks`, such as \
             \"{address}/{}\"",
            if address.is_ipv4() { 32 } else { 128 }
        ));
    }
    section.finish();
    at.map(|_| endpoint)
}

/// Returns the address in the URL, if there is one and it is not granted.
fn own_address(endpoint: &Endpoint) -> Option<IpAddr> {
    let address = match endpoint.url.host()? {
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
        Host::Domain(_) => return None,
    };
    (!crate::address::is_granted(address, &endpoint.networks)).then(|| address.to_canonical())
}

fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|cause| format!("must be {URL}, found {text:?}: {cause}"))?;
    let wrong = [
        (!matches!(url.scheme(), "http" | "https"), "must begin with http:// or https://"),
        (
            !url.username().is_empty() || url.password().is_some(),
            "must have no user and no password: name them in `secrets`, and use them in a header of the request",
        ),
        (
            url.query().is_some() || url.fragment().is_some(),
            "must have no query and no fragment: the plugin adds them to its requests",
        ),
    ];
    match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
        Some((_, cause)) => Err(cause.to_owned()),
        None => Ok(url),
    }
}

fn networks(entry: &Entry<'_>) -> Option<Vec<IpNet>> {
    let expected = "a network such as \"10.1.0.0/16\"";
    let item = |entry: &Entry<'_>| {
        entry.parse(expected, |text| network(text).ok_or_else(|| format!("must be {expected}, found {text:?}")))
    };
    entry.each(NETWORKS, item)
}

/// Reads a network. Addresses of IPv4 are written as such, because that is how they are compared.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok()?;
    (network.addr() == network.addr().to_canonical()).then_some(network)
}
