//! Answers that last as long as their client reads, and no longer than the client may get them.
//!
//! A token that is replaced is valid no more, also for the streams of events and the batches of commands that it has opened.

use crate::access::{Access, Caller};
use crate::manifest::Scope;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;

/// The body of an answer to a client. It breaks off when the client is recognised no more, or may do less than before.
pub(super) struct Revocable {
    body: Body,
    access: Arc<Access>,
    caller: Caller,
    scope: Scope,
    changed: Changed,
}

type Changed = Pin<Box<dyn Future<Output = watch::Receiver<()>> + Send>>;

impl Revocable {
    pub(super) fn new(body: Body, access: Arc<Access>, caller: Caller, scope: Scope) -> Self {
        let changed = changed(access.changes());
        Self { body, access, caller, scope, changed }
    }

    /// Whether the client may still get the answer. It has to ask again if it is limited to other types or projections than before.
    fn is_allowed(&self) -> bool {
        let again = self.access.again(&self.caller);
        again.is_some_and(|now| now.has(self.scope) && now.has_same_limits(&self.caller))
    }
}

fn changed(mut changes: watch::Receiver<()>) -> Changed {
    Box::pin(async move {
        if changes.changed().await.is_err() {
            // The API has ended, and so will the answer.
            std::future::pending::<()>().await;
        }
        changes
    })
}

impl HttpBody for Revocable {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        while let Poll::Ready(changes) = self.changed.as_mut().poll(cx) {
            self.changed = changed(changes);
            if !self.is_allowed() {
                let name = self.caller.name().map(ToString::to_string).unwrap_or_default();
                tracing::info!("an answer to client {name} breaks off: its token or its rights have changed");
                let cause = io::Error::new(io::ErrorKind::PermissionDenied, "the client may not get the rest");
                return Poll::Ready(Some(Err(axum::Error::new(cause))));
            }
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
