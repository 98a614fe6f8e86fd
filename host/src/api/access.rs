//! Who sends a request, and whether the sender may do what it asks for.
//!
//! [`authenticate`] runs before every route, and notes the sender. [`require`] runs for each route, which says what scope it needs.
//! A client that is limited to aggregate types or projections is held to them here too, by the names in the path. Handlers that
//! read or take several types at once, which the path does not name, ask the [`Caller`] themselves.

use super::Server;
use super::answer::HttpError;
use super::audit;
use super::connections::Connection;
use super::problem::ProblemType;
use super::revocable::Revocable;
use super::routes::Needs;
use crate::access::{Access, Caller, Unrecognised};
use crate::manifest::Scope;
use axum::RequestPartsExt as _;
use axum::body::{Body, HttpBody as _};
use axum::extract::{RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::atomic::Ordering;

/// The sender of a request, as far as it is recognised.
#[derive(Clone)]
pub(super) struct Sender(pub(super) Result<Caller, Unrecognised>);

/// Notes who sends a request.
pub(super) fn authenticate(access: &Access, request: &mut Request) {
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let connection = request.extensions().get::<Connection>();
    let certificate = connection.and_then(|connection| Some((connection.certificate.as_ref()?, connection.trust)));
    let sender = access.recognise(authorization, certificate);
    request.extensions_mut().insert(Sender(sender));
}

/// Lets a request through if its sender has what the route needs, and may use what the path names. What changes the host is written
/// into the audit log.
pub(super) async fn require(State((server, needs)): State<(Server, Needs)>, request: Request, next: Next) -> Response {
    match checked(&server, needs, request).await {
        Ok((caller, request)) => {
            let scope = needs.scope;
            let is_audited = scope >= Scope::Operate && request.method() == Method::POST;
            let answer = match is_audited {
                true => audit::audited(&server, caller.name(), request, next).await,
                false => next.run(request).await,
            };
            // An answer of unknown length may last as long as the client reads.
            match (&caller, answer.body().size_hint().exact()) {
                (Caller::Client(_), None) => {
                    let access = server.access.clone();
                    answer.map(|body| Body::new(Revocable::new(body, access, caller, scope)))
                }
                _ => answer,
            }
        }
        Err(refusal) => refusal,
    }
}

async fn checked(server: &Server, needs: Needs, request: Request) -> Result<(Caller, Request), Response> {
    let (mut parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Connection>().map(|connection| connection.peer);
    let refused = |response: Response, reason: &str| {
        server.host.traffic().unauthorized.fetch_add(1, Ordering::Relaxed);
        let peer = peer.map_or_else(String::new, |peer| format!(" of {peer}"));
        tracing::info!("a request{peer} is refused: {reason}");
        response
    };
    let caller = match parts.extensions.remove::<Sender>() {
        Some(Sender(Ok(caller))) => caller,
        Some(Sender(Err(reason))) => return Err(refused(unrecognised(reason), &reason.to_string())),
        None => return Err(refused(unrecognised(Unrecognised::NoCredentials), "it was not looked at")),
    };
    let scope = needs.scope;
    if !caller.has(scope) {
        let name = caller.name().map_or("", |name| name);
        let reason = format!("client {name} lacks the scope `{scope}` (`api.clients.{name}.scopes`)");
        let challenge = format!("Bearer realm=\"wasmill\", error=\"insufficient_scope\", scope=\"{scope}\"");
        return Err(refused(forbidden(&reason, &challenge), &reason));
    }
    if let Some(reason) = beyond_limits(&caller, needs, &mut parts).await {
        let challenge = "Bearer realm=\"wasmill\", error=\"insufficient_scope\"";
        return Err(refused(forbidden(&reason, challenge), &reason));
    }
    parts.extensions.insert(caller.clone());
    Ok((caller, Request::from_parts(parts, body)))
}

/// Returns why a request goes beyond the aggregate types and projections that its sender is limited to, if it does.
async fn beyond_limits(caller: &Caller, needs: Needs, parts: &mut Parts) -> Option<String> {
    if !caller.is_limited() {
        return None;
    }
    // A name that is not UTF-8 is refused by the handler.
    let params = parts.extract::<RawPathParams>().await.ok()?;
    let find = |wanted: &str| params.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value);
    let name = caller.name().map_or("", |name| name);
    match (find("type"), find("projection")) {
        (Some(aggregate), _) if !caller.may_use_aggregate(aggregate) => Some(format!(
            "client {name} may not use the aggregate type `{aggregate}` (`api.clients.{name}.aggregates`)"
        )),
        (_, Some(projection)) if !caller.may_ask(projection) => {
            Some(format!("client {name} may not ask the projection `{projection}` (`api.clients.{name}.projections`)"))
        }
        // What shows or changes several types at once is not for a client that is limited to some.
        (None, None) if caller.aggregates().is_some() && !needs.limits_itself => Some(format!(
            "client {name} is limited to some aggregate types (`api.clients.{name}.aggregates`), and this concerns all of them"
        )),
        _ => None,
    }
}

/// Refuses a request whose sender is not recognised (RFC 6750, section 3).
fn unrecognised(reason: Unrecognised) -> Response {
    let challenge = match reason {
        Unrecognised::WrongToken => "Bearer realm=\"wasmill\", error=\"invalid_token\"",
        _ => "Bearer realm=\"wasmill\"",
    };
    let refusal = HttpError::new(ProblemType::Unauthorized, reason.to_string());
    let mut answer = ([(header::WWW_AUTHENTICATE, challenge)], refusal).into_response();
    if reason == Unrecognised::OldConnection {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn forbidden(reason: &str, challenge: &str) -> Response {
    let refusal = HttpError::new(ProblemType::Forbidden, reason);
    let challenge = HeaderValue::from_str(challenge).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    ([(header::WWW_AUTHENTICATE, challenge)], refusal).into_response()
}
