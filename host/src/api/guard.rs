//! The guard of the API. It refuses requests from foreign web pages, and requests that are ambiguous.
//!
//! A page that a browser on this machine shows can send requests to a loopback address. Browsers name the page in
//! `Origin`. If the page's own name resolves to this machine (DNS rebinding), `Host` has that name. So both must be names that the
//! host is known by: loopback addresses, and those of `api.hosts`.

use super::answer::HttpError;
use super::problem::ProblemType;
use crate::access::Access;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Headers that a request may have only once. With two of them, a proxy in front of this host may have used the other.
const ONCE: [&str; 6] =
    ["host", "origin", "authorization", "idempotency-key", "x-expected-version", "x-correlation-id"];

/// The guard as a layer of its own.
pub(super) async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match refusal(&access, &request) {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
    }
}

/// Returns the refusal of a request that is ambiguous or foreign.
pub(super) fn refusal(access: &Access, request: &Request) -> Option<HttpError> {
    if let Some(reason) = ambiguous(request.uri().path(), request.headers()) {
        return Some(HttpError::malformed(reason));
    }
    // An authority in the target of the request counts instead of the header (RFC 9112, section 3.2.2).
    let reason = match request.uri().authority() {
        Some(authority) if !access.allows_host(authority.as_str()) => {
            format!("the target of the request names another host, `{authority}` (the manifest's `api.hosts`)")
        }
        _ => foreign(request.headers(), |host| access.allows_host(host))?,
    };
    Some(HttpError::new(ProblemType::ForeignRequest, reason))
}

/// Returns why a request is ambiguous, if it is.
fn ambiguous(path: &str, headers: &HeaderMap) -> Option<String> {
    if let Some(name) = ONCE.into_iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        return Some(format!("the request has more than one header {name}: send it once"));
    }
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    let (at, _) = path.match_indices('%').find(|(at, _)| !is_escape(&path[at + 1..]))?;
    Some(format!(
        "the path has a percent sign at byte {at} without two hexadecimal digits after it: write the sign itself as %25"
    ))
}

/// Returns why a request is foreign, if it is. `allows` says whether a `host` or `host:port` is a name of this host.
fn foreign(headers: &HeaderMap, allows: impl Fn(&str) -> bool) -> Option<String> {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or_default());
    match text(header::HOST) {
        Some(host) if allows(host) => {}
        host => {
            let host = host.unwrap_or_default();
            return Some(format!(
                "the Host header must name a loopback address such as 127.0.0.1, or a name in the manifest's `api.hosts`, found \
                 `{host}`"
            ));
        }
    }
    let origin = text(header::ORIGIN)?;
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    match authority {
        Some(authority) if allows(authority) => None,
        _ => Some(format!(
            "requests from web pages are refused unless the page is of this machine or of a name in the manifest's `api.hosts`; \
             this one is from `{origin}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        host.map(|host| headers.insert(header::HOST, host.parse().unwrap()));
        origin.map(|origin| headers.insert(header::ORIGIN, origin.parse().unwrap()));
        foreign(&headers, crate::access::is_loopback).is_some()
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let mut headers = HeaderMap::new();
        for name in ONCE {
            headers.append(name, "a".parse().unwrap());
        }
        for (path, words) in [
            ("/v1/commands/a/1/C", None),
            ("/v1/commands/a/%25zz%c3%a9/C", None),
            ("/v1/commands/a/%zz/C", Some("at byte 15")),
            ("/v1/commands/a/1/C%", Some("at byte 18")),
            ("/v1/commands/a/%4", Some("at byte 15")),
            ("/v1/commands/a/%aé", Some("at byte 15")),
        ] {
            let said = ambiguous(path, &headers);
            assert_eq!(said.is_some(), words.is_some(), "{path}: {said:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{path}");
        }
        for name in ONCE {
            let mut twice = headers.clone();
            twice.append(name, "a".parse().unwrap());
            assert!(ambiguous("/", &twice).unwrap().contains(name));
        }
    }

    #[test]
    fn only_this_machine_is_let_in() {
        for host in ["127.0.0.1:7310", "127.0.0.1", "127.8.9.1:80", "localhost:7310", "LOCALHOST", "[::1]:7310"] {
            assert!(!refused(Some(host), None), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:7310", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1"]
        {
            assert!(refused(Some(host), None), "{host}");
        }
        assert!(refused(None, None));
    }

    #[test]
    fn a_page_of_another_machine_is_kept_out() {
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:80"] {
            assert!(!refused(Some("localhost"), Some(origin)), "{origin}");
        }
        for origin in ["null", "https://evil.example", "http://localhost.evil.example", "file://", "localhost", ""] {
            assert!(refused(Some("localhost"), Some(origin)), "{origin}");
        }
    }
}
