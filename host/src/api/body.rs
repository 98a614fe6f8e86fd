//! The body of a request: complete, in time, and within the limit of its length.
//!
//! A sender that is cut off while it still writes sees a broken connection instead of the answer. So a body that is too
//! long is first read up to a limit and discarded.

use super::Server;
use super::answer::HttpError;
use super::batches;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Duration;
use tokio_stream::StreamExt;

/// The most bytes that are read only to be discarded. If a sender sends more, it is cut off.
const DISCARDED_MAX: usize = 256 << 20;

/// The complete bytes of a body.
pub(super) struct Whole(pub(super) Bytes);

impl FromRequest<Server> for Whole {
    type Rejection = HttpError;

    async fn from_request(request: Request, server: &Server) -> Result<Self, HttpError> {
        let seconds = server.settings.idle_seconds;
        match tokio::time::timeout(Duration::from_secs(seconds), Bytes::from_request(request, server)).await {
            Ok(bytes) => Ok(Self(bytes?)),
            Err(_) => {
                let text = format!("the body did not arrive within {seconds} s (the manifest's `api.idle_seconds`)");
                Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, text))
            }
        }
    }
}

/// Refuses a request whose header says that its body is too long. The body is discarded first, so that the sender reads
/// the answer. A batch of commands is read line by line, so its length does not matter.
pub(super) async fn refuse_long(State(server): State<Server>, request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let is_batch = request.uri().path() == batches::PATH;
    if is_batch || length.is_none_or(|length| length <= server.settings.body_mib << 20) {
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
    // If the sender is too slow, it is cut off.
    let _ = tokio::time::timeout(Duration::from_secs(server.settings.idle_seconds), discard).await;
    HttpError::body_too_long().into_response()
}
