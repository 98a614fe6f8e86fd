//! The body of a request: whole, in time, and not longer than the limit.
//!
//! A sender that is cut off while it still writes sees a broken connection, not the answer. So what is too long is read
//! first, up to a bound, and thrown away.

use super::Server;
use super::answer::Refusal;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use tokio_stream::StreamExt;

/// Bytes that are read only to be thrown away. A sender of more is cut off.
const DISCARDED_MAX: usize = 256 << 20;

/// All bytes of a body.
pub(super) struct Whole(pub(super) Bytes);

impl FromRequest<Server> for Whole {
    type Rejection = Refusal;

    async fn from_request(request: Request, server: &Server) -> Result<Self, Refusal> {
        let seconds = server.settings.idle_seconds;
        match tokio::time::timeout(Duration::from_secs(seconds), Bytes::from_request(request, server)).await {
            Ok(bytes) => Ok(Self(bytes?)),
            Err(_) => {
                let text = format!("the body did not arrive within {seconds} s (the manifest's `api.idle_seconds`)");
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text))
            }
        }
    }
}

/// Refuses a request that says that its body is too long, in a way that its sender hears of it.
pub(super) async fn refuse_long(State(server): State<Server>, request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length <= server.settings.body_mib << 20) {
        return next.run(request).await;
    }
    let discard = async {
        let mut body = request.into_body().into_data_stream();
        let mut left = DISCARDED_MAX;
        while left > 0
            && let Some(Ok(bytes)) = body.next().await
        {
            left = left.saturating_sub(bytes.len());
        }
    };
    // A sender that is too slow for this is cut off.
    let _ = tokio::time::timeout(Duration::from_secs(server.settings.idle_seconds), discard).await;
    Refusal::body_too_long().into_response()
}
