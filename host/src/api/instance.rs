//! The identity of the process that answers. Every answer names it, and requests that are meant for another process are
//! refused.
//!
//! A client that finds the host through a data folder names the process that it means. A host that was killed leaves
//! its address behind, and another host, with another store, may listen there by now.

use super::answer::HttpError;
use super::problem::ProblemType;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The header that names a process, in requests and in answers.
pub(crate) const INSTANCE: &str = "wasmill-instance";

/// Refuses requests that name another process, and names this one in every answer.
pub(super) async fn name(State(instance): State<HeaderValue>, request: Request, next: Next) -> Response {
    let mut response = match request.headers().get(INSTANCE) {
        Some(meant) if *meant != instance => another(meant).into_response(),
        _ => next.run(request).await,
    };
    response.headers_mut().insert(HeaderName::from_static(INSTANCE), instance);
    response
}

fn another(meant: &HeaderValue) -> HttpError {
    let meant = meant.to_str().unwrap_or("another one");
    let remedy = "read host.json in the data folder again, or start a host there";
    HttpError::new(
        ProblemType::Misdirected,
        format!("the request is meant for host process {meant}, which is gone; another host answers here: {remedy}"),
    )
}
