//! The body of a request: complete, in time, and within the limit of its length.
//!
//! A sender that is cut off while it still writes sees a broken connection instead of the answer. So a body that is too
//! long is first read up to a limit and discarded.

use super::Server;
use super::access::Sender;
use super::answer::HttpError;
use super::batches;
use super::problem::ProblemType;
use crate::supervise::Held as _;
use axum::body::{BodyDataStream, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt;

/// The most bytes that are read only to be discarded. If a sender sends more, it is cut off.
const DISCARDED_MAX: usize = 256 << 20;

/// The complete bytes of a body.
pub(super) struct Whole(pub(super) Bytes);

/// Room for the bodies of the requests that are being handled, in kibibytes.
pub(super) type Room = Arc<Semaphore>;

/// The room that the body of a request takes. It is held until the answer.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Taken {
    /// Takes room for all bytes that have come.
    fn grow(&self, server: &Server, bytes: usize) -> Result<(), HttpError> {
        let mut held = self.0.held();
        let before = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(1024).saturating_sub(before);
        if more == 0 {
            return Ok(());
        }
        let more = room(server, more)?;
        match &mut *held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

impl FromRequest<Server> for Whole {
    type Rejection = HttpError;

    async fn from_request(request: Request, server: &Server) -> Result<Self, HttpError> {
        let seconds = server.settings.idle_seconds;
        match tokio::time::timeout(Duration::from_secs(seconds), whole(request, server)).await {
            Ok(bytes) => Ok(Self(bytes?)),
            Err(_) => {
                let text = format!("the body did not arrive within {seconds} s (the manifest's `api.idle_seconds`)");
                Err(HttpError::new(ProblemType::BodyTooSlow, text))
            }
        }
    }
}

async fn whole(mut request: Request, server: &Server) -> Result<Bytes, HttpError> {
    let max = server.settings.body_mib << 20;
    let length = length(&request);
    // Whoever reads the body a second time has it in memory already.
    let taken = request.extensions_mut().remove::<Taken>();
    let mut body = request.into_body().into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| HttpError::malformed("the body broke off before its end"))?;
        let bytes = whole.len() + part.len();
        let room = match &taken {
            _ if bytes > max => Err(HttpError::body_too_long()),
            Some(taken) => taken.grow(server, bytes),
            None => Ok(()),
        };
        if let Err(refusal) = room {
            drop(whole);
            discard(body).await;
            return Err(refusal);
        }
        if length == Some(part.len()) {
            return Ok(part);
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// Reads the rest of a body, so that its sender reads the answer.
async fn discard(mut body: BodyDataStream) {
    let mut left = DISCARDED_MAX;
    while left > 0
        && let Some(Ok(bytes)) = body.next().await
    {
        left = left.saturating_sub(bytes.len());
    }
}

/// Returns the length of a body, if its header says it.
fn length(request: &Request) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Takes room for kibibytes of a body.
fn room(server: &Server, kib: usize) -> Result<OwnedSemaphorePermit, HttpError> {
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    server.bodies.clone().try_acquire_many_owned(kib).map_err(|_| {
        server.host.traffic().turned_away.fetch_add(1, Ordering::Relaxed);
        let max = server.settings.in_flight_mib;
        let text = format!(
            "the bodies of the requests that are being handled fill the {max} MiB that the manifest's `api.in_flight_mib` allows: \
             send the request again a little later"
        );
        HttpError::new(ProblemType::TooManyBytes, text)
    })
}

/// Holds the room that the body of a request takes until it is answered, and refuses a request whose header says that its body is too
/// long. That body is discarded first, so that the sender reads the answer.
pub(super) async fn limited(server: &Server, mut request: Request, next: Next) -> Response {
    let max = server.settings.body_mib << 20;
    // Nobody reads the body of somebody who is refused anyway, and that of a batch is not whole in memory at any time.
    let is_known = matches!(request.extensions().get(), Some(Sender(Ok(_))));
    if !is_known || is_stream(&request) {
        return next.run(request).await;
    }
    match length(&request) {
        Some(length) if length > max => {}
        Some(0) => return next.run(request).await,
        None if !request.headers().contains_key(TRANSFER_ENCODING) => return next.run(request).await,
        _ => {
            let taken = Taken::default();
            request.extensions_mut().insert(taken.clone());
            let answer = next.run(request).await;
            drop(taken);
            return answer;
        }
    }
    // A sender that asks before it sends is not asked for what is discarded.
    if !request.headers().contains_key(EXPECT) {
        // If the sender is too slow, it is cut off.
        let rest = discard(request.into_body().into_data_stream());
        let _ = tokio::time::timeout(Duration::from_secs(server.settings.idle_seconds), rest).await;
    }
    HttpError::body_too_long().into_response()
}

/// Whether the handler of a request takes its body line by line.
fn is_stream(request: &Request) -> bool {
    request.uri().path() == batches::PATH
}
