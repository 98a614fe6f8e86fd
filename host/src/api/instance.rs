//! The identity of the process that answers. Every answer names it, and requests that are meant for another process are
//! refused.
//!
//! A client that finds the host through a data folder names the process that it means. A host that was killed leaves
//! its address behind, and another host, with another store, may listen there by now.

use super::answer::HttpError;
use super::problem::ProblemType;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

/// The header that names a process, in requests and in answers.
pub(crate) const INSTANCE: &str = "wasmill-instance";

/// Returns the refusal of a request that names another process.
pub(super) fn misdirected(instance: &HeaderValue, headers: &HeaderMap) -> Option<HttpError> {
    headers.get(INSTANCE).filter(|meant| *meant != instance).map(another)
}

/// Names this process in an answer.
pub(super) fn name(instance: &HeaderValue, answer: &mut Response) {
    answer.headers_mut().insert(HeaderName::from_static(INSTANCE), instance.clone());
}

fn another(meant: &HeaderValue) -> HttpError {
    let meant = meant.to_str().unwrap_or("another one");
    let remedy = "read host.json in the data folder again, or start a host there";
    HttpError::new(
        ProblemType::Misdirected,
        format!("the request is meant for host process {meant}, which is gone; another host answers here: {remedy}"),
    )
}
