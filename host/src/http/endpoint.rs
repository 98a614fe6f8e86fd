//! An endpoint of the manifest, and the requests that may go to it.

use crate::manifest;
use crate::model::{Header, HttpRequest, KeptRequest};
use crate::names::request::{self, ATTEMPT, IDEMPOTENCY_KEY, Problem};
use crate::names::{self, Rule};
use crate::secret;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use std::sync::Arc;

/// An endpoint of a plugin.
pub struct Endpoint {
    pub(super) plugin: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) settings: manifest::Endpoint,
    /// Whether the manifest has it.
    pub(super) is_granted: bool,
}

/// A request that is ready to be sent.
pub(super) struct Ready {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why a request can't be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Unready {
    /// It breaks a rule, or is not granted. It would be the same the next time.
    Refused(String),
    /// Something of the endpoint is missing, such as a secret. Its requests wait for it.
    Missing(String),
}

impl Endpoint {
    /// Makes an endpoint that the manifest grants.
    pub(super) fn granted(plugin: Arc<str>, name: Arc<str>, settings: manifest::Endpoint) -> Self {
        Self { plugin, name, settings, is_granted: true }
    }

    /// Makes an endpoint of requests that the manifest does not grant.
    pub(super) fn without_grant(plugin: Arc<str>, name: Arc<str>) -> Self {
        // A name that never exists (RFC 2606).
        let url = Url::parse("https://endpoint.invalid/").expect("it is a URL");
        Self { plugin, name, settings: manifest::Endpoint::new(url), is_granted: false }
    }

    /// Makes a request ready for an attempt. Secrets are read and inserted now.
    pub(super) fn ready(&self, kept: &KeptRequest) -> Result<Ready, Unready> {
        let HttpRequest { method, path, headers, body, .. } = &kept.request;
        let refused = |cause: String| Unready::Refused(format!("the request {}: {cause}", kept.request));
        check_rules(method, path, headers).map_err(|cause| refused(cause.to_string()))?;
        let url = self.target(path).map_err(refused)?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|cause| refused(cause.to_string()))?;
        let mut headers = self.headers(kept)?;
        // A method that usually has a body says that there is none (RFC 9110, section 8.6).
        if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&method) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        }
        Ok(Ready { method, url, headers, body: body.clone() })
    }

    /// Checks that a request may be sent, as before an attempt.
    pub fn check(&self, kept: &KeptRequest) -> Result<(), Unready> {
        self.ready(kept).map(drop)
    }

    /// Checks that every secret can be read. The error names those that can't.
    pub(super) fn check_secrets(&self) -> Result<(), String> {
        let unread = self.settings.secrets.keys().filter_map(|name| self.secret(name)?.err());
        let unread: Vec<String> = unread.collect();
        if unread.is_empty() { Ok(()) } else { Err(unread.join("\n")) }
    }

    /// Reads a secret, if there is one of this name.
    fn secret(&self, name: &str) -> Option<Result<String, String>> {
        let place = self.settings.secrets.get(name)?;
        Some(secret::value(place).map_err(|cause| format!("the secret `{}.{name}` {cause}", self.secrets_path())))
    }

    fn secrets_path(&self) -> String {
        format!("plugins.{}.http.{}.secrets", self.plugin, self.name)
    }

    /// Returns the URL of a path below that of the endpoint.
    fn target(&self, path: &str) -> Result<Url, String> {
        let base = self.settings.url.as_str().trim_end_matches('/');
        let separator = if path.is_empty() || path.starts_with('?') { "" } else { "/" };
        let text = [base, separator, path.strip_prefix('/').unwrap_or(path)].concat();
        let url = Url::parse(&text).map_err(|cause| format!("its path makes no URL: {cause}"))?;
        self.allows(&url).map(|()| url)
    }

    /// Checks that a URL is at or below the one of the endpoint.
    pub(super) fn allows(&self, url: &Url) -> Result<(), String> {
        let granted = &self.settings.url;
        let outside = || {
            format!(
                "it leads to {}, which is not below `plugins.{}.http.{}.url`, {granted}",
                shown(url),
                self.plugin,
                self.name
            )
        };
        let same = url.scheme() == granted.scheme()
            && url.host() == granted.host()
            && url.port_or_known_default() == granted.port_or_known_default()
            && url.username().is_empty()
            && url.password().is_none();
        let base = granted.path().trim_end_matches('/');
        let below = url.path().strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let climbs = request::check_path(url.path()) == Err(Problem::Upwards);
        if same && below && !climbs { Ok(()) } else { Err(outside()) }
    }

    fn headers(&self, kept: &KeptRequest) -> Result<HeaderMap, Unready> {
        let request = &kept.request;
        let refused = |cause: String| Unready::Refused(format!("the request {request}: {cause}"));
        let mut headers = HeaderMap::new();
        for Header { name, value } in &request.headers {
            let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(refused(Problem::HeaderName(name).to_string()));
            };
            let (value, is_secret) = self.with_secrets(value.as_deref().unwrap_or_default(), request)?;
            let Ok(mut value) = HeaderValue::from_bytes(&value) else {
                let cause = Problem::HeaderValue(name);
                return Err(Unready::Missing(format!("with a secret of `{}`, {cause}", self.secrets_path())));
            };
            value.set_sensitive(is_secret);
            headers.append(known, value);
        }
        for Header { name, value } in &request.trace {
            let (name, value) =
                (HeaderName::from_bytes(name.as_bytes()), value.as_deref().map(HeaderValue::from_bytes));
            if let (Ok(name), Some(Ok(value))) = (name, value)
                && !headers.contains_key(&name)
            {
                headers.insert(name, value);
            }
        }
        let id =
            HeaderValue::from_str(&request.id).map_err(|_| refused("its id is no value of a header".to_owned()))?;
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), id);
        headers.insert(HeaderName::from_static(ATTEMPT), HeaderValue::from(kept.attempts + 1));
        Ok(headers)
    }

    /// Replaces each `{{NAME}}` by the secret of this name. Returns whether there was one.
    fn with_secrets(&self, value: &[u8], request: &HttpRequest) -> Result<(Vec<u8>, bool), Unready> {
        let Ok(mut rest) = std::str::from_utf8(value) else { return Ok((value.to_owned(), false)) };
        let (mut filled, mut is_secret) = (String::new(), false);
        while let Some((before, name, after)) = placeholder(rest) {
            let Some(secret) = self.secret(name) else {
                return Err(Unready::Refused(format!(
                    "the request {request}: a header has the placeholder {{{{{name}}}}}, and there is no `{}.{name}`",
                    self.secrets_path()
                )));
            };
            filled += before;
            filled += &secret.map_err(Unready::Missing)?;
            (rest, is_secret) = (after, true);
        }
        filled += rest;
        Ok((filled.into_bytes(), is_secret))
    }
}

/// Checks what the plugin says of a request, as the SDK's test kit does.
fn check_rules<'r>(method: &'r str, path: &str, headers: &'r [Header]) -> Result<(), Problem<'r>> {
    request::check_method(method)?;
    request::check_path(path)?;
    request::check_headers(headers.iter().map(|Header { name, value }| (&**name, value.as_deref().unwrap_or_default())))
}

/// Splits a text at its first `{{NAME}}`.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let begin = from + text[from..].find("{{")?;
        let end = begin + text[begin..].find("}}")?;
        let name = &text[begin + 2..end];
        if names::checked(name, Rule::Message).is_ok() {
            return Some((&text[..begin], name, &text[end + 2..]));
        }
        from = begin + 1;
    }
}

/// Returns a URL as text for people. A query may have a secret of somebody else, so it is not shown.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // These fail only for URLs that have neither.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    crate::escape::escape(url.as_str()).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::manifest::Value;

    pub(in super::super) fn endpoint(url: &str) -> Endpoint {
        Endpoint::granted("shop".into(), "payments".into(), manifest::Endpoint::new(Url::parse(url).unwrap()))
    }

    pub(in super::super) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> KeptRequest {
        let header =
            |(name, value): &(&str, &str)| Header { name: (*name).to_owned(), value: Some(value.as_bytes().to_vec()) };
        let request = HttpRequest {
            id: "id-1".into(),
            endpoint: "payments".into(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers.iter().map(header).collect(),
            body: b"{}".to_vec(),
            response: None,
            key: None,
            correlation_id: "c".into(),
            causation_id: "c".into(),
            hops: 1,
            time_ms: 5,
            first_ms: 5,
            trace: Vec::new(),
        };
        KeptRequest { attempts: 2, ..KeptRequest::new("shop".into(), request) }
    }

    fn reason(result: Result<Ready, Unready>) -> String {
        match result {
            Err(Unready::Refused(reason)) => reason,
            Err(Unready::Missing(reason)) => format!("for now: {reason}"),
            Ok(ready) => panic!("it is sent to {}", ready.url),
        }
    }

    #[test]
    fn a_request_stays_below_the_url_of_its_endpoint() {
        for base in ["https://api.example.com/v1", "https://api.example.com/v1/"] {
            let endpoint = endpoint(base);
            for (path, expected) in [
                ("charges", "https://api.example.com/v1/charges"),
                ("/charges/7?a=b&c=%20", "https://api.example.com/v1/charges/7?a=b&c=%20"),
                ("?a=b", "https://api.example.com/v1?a=b"),
                ("", "https://api.example.com/v1"),
                ("@evil.com/", "https://api.example.com/v1/@evil.com/"),
                ("//evil.com/", "https://api.example.com/v1//evil.com/"),
            ] {
                assert_eq!(endpoint.target(path).unwrap().as_str(), expected, "{path}");
            }
            for path in
                ["../admin", "..", "%2e%2e/admin", "..%2fadmin", "a/..%5c..%5cadmin", "..\\admin", "a/../../admin"]
            {
                let reason = reason(endpoint.ready(&request("GET", path, &[])));
                assert!(reason.contains("its path has `..`, which could leave what is granted"), "{path}: {reason}");
            }
        }
    }

    #[test]
    fn a_redirect_is_allowed_to_where_a_request_is() {
        let endpoint = endpoint("https://api.example.com/v1");
        let allows = |url: &str| endpoint.allows(&Url::parse(url).unwrap());
        assert_eq!(allows("https://api.example.com:443/v1/new"), Ok(()));
        for elsewhere in [
            "http://api.example.com/v1/new",
            "https://api.example.com:8443/v1/new",
            "https://api.example.com.evil.com/v1",
            "https://127.0.0.1/v1/",
            "https://api.example.com/v10",
            "https://user@api.example.com/v1/new",
            "https://api.example.com/",
            "https://api.example.com/v1/..%2fadmin",
        ] {
            assert!(allows(elsewhere).is_err(), "{elsewhere}");
        }
        let told = allows("http://u:p@169.254.169.254/latest?token=t").unwrap_err();
        assert!(told.contains("it leads to http://169.254.169.254/latest, which"), "{told}");
    }

    #[test]
    fn each_attempt_has_the_id_and_its_number_and_the_host_keeps_its_own_headers() {
        let endpoint = endpoint("http://api.example.com");
        let mut kept = request("POST", "charges", &[("X-Kind", "a"), ("x-kind", "b"), ("traceparent", "mine")]);
        kept.request.trace = vec![Header { name: "traceparent".into(), value: Some(b"the host's".to_vec()) }];
        let Ready { method, headers, .. } = endpoint.ready(&kept).unwrap();
        assert_eq!(method, Method::POST);
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("x-kind"), all("traceparent")), (vec!["a", "b"], vec!["mine"]));
        assert_eq!((all("idempotency-key"), all("wasmill-attempt")), (vec!["id-1"], vec!["3"]));
        for (method, headers, said) in [
            ("GET", [("Host", "x")], "the header Host is the host's own: leave it out"),
            ("GET", [("a", "x\r\nb: c")], "the value of the header a has bytes that no header may have"),
            ("post", [("a", "x")], "the request post payments/charges: \"post\" is no method"),
        ] {
            let reason = reason(endpoint.ready(&request(method, "charges", &headers)));
            assert!(reason.contains(said), "{reason}");
        }
    }

    #[test]
    fn a_placeholder_is_replaced_by_the_secret_of_the_endpoint_alone() {
        let mut endpoint = endpoint("http://api.example.com");
        endpoint.settings.secrets.insert("api_key".into(), Value::Text("hush".into()));
        endpoint.settings.secrets.insert("broken".into(), Value::Text("hu\nsh".into()));
        endpoint.settings.secrets.insert("absent".into(), Value::Env("WASMILL_NO_SUCH_VARIABLE".into()));
        let header = |value: &str| {
            let ready = endpoint.ready(&request("GET", "", &[("authorization", value)]));
            ready.map(|ready| ready.headers["authorization"].clone())
        };
        for (value, sent, is_secret) in [
            ("Bearer {{api_key}}", "Bearer hush", true),
            ("{{api_key}}:{{api_key}}", "hush:hush", true),
            ("{{not a name}} {{api_key}}", "{{not a name}} hush", true),
            ("{{{api_key}}}", "{hush}", true),
            ("{{", "{{", false),
            ("{{}}", "{{}}", false),
        ] {
            let header = header(value).unwrap();
            assert_eq!((header.to_str().unwrap(), header.is_sensitive()), (sent, is_secret), "{value}");
        }
        let refused = |value: &str| match header(value).unwrap_err() {
            Unready::Refused(reason) | Unready::Missing(reason) => reason,
        };
        assert!(refused("{{other}}").ends_with("and there is no `plugins.shop.http.payments.secrets.other`"));
        let broken = refused("{{broken}}");
        let said = "with a secret of `plugins.shop.http.payments.secrets`, the value of the header authorization";
        assert!(broken.contains(said) && !broken.contains("hu\n"), "{broken}");
        assert!(matches!(header("{{broken}}"), Err(Unready::Missing(_))), "somebody may be writing it");
        assert!(
            matches!(header("{{absent}}").unwrap_err(), Unready::Missing(reason) if reason.contains("which is not set"))
        );
    }
}
