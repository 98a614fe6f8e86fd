//! What happens to every request before its route: is it meant for this process, is it clear and from nobody foreign, who sends it,
//! and is its body within its limits?
//!
//! All of it is one layer, because each layer costs every request an allocation and a call that can't be inlined.

use super::{Server, access, body, guard, instance};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

pub(super) async fn front(State(server): State<Server>, mut request: Request, next: Next) -> Response {
    let refusal = instance::misdirected(&server.instance, request.headers());
    let mut answer = match refusal.or_else(|| guard::refusal(&server.access, &request)) {
        Some(refusal) => refusal.into_response(),
        None => {
            access::authenticate(&server.access, &mut request);
            body::limited(&server, request, next).await
        }
    };
    instance::name(&server.instance, &mut answer);
    answer
}
