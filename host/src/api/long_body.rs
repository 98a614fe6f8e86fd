//! Refuses a request whose body is longer than the limit, in a way that its sender hears of it.
//!
//! A sender that is cut off while it still writes sees a broken connection, not the answer. So what it says that it will
//! send is read first, up to a bound, and thrown away.

use super::answer::Refusal;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt;

/// Bytes that are read only to be thrown away. Whoever sends more is cut off.
const DISCARDED_MAX: usize = 256 << 20;

pub(super) async fn refuse(State(body_max): State<usize>, request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length <= body_max) {
        return next.run(request).await;
    }
    let mut body = request.into_body().into_data_stream();
    let mut left = DISCARDED_MAX;
    while left > 0
        && let Some(Ok(bytes)) = body.next().await
    {
        left = left.saturating_sub(bytes.len());
    }
    Refusal::body_too_long().into_response()
}
