//! `GET /v1/store/export`: all events of the store as a file that `wasmill events import` reads. The client writes the file;
//! the host writes nothing.

use super::Server;
use super::answer::{self, HttpError};
use super::events::stream_permit;
use crate::export::Export;
use crate::host::Counted;
use crate::store::{Error, Reader};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use std::convert::Infallible;
use tokio::sync::mpsc;

/// An export counts as an event stream: it lasts as long as its client reads.
pub(super) async fn export(State(server): State<Server>) -> Result<Response, HttpError> {
    let permit = stream_permit(&server, "try again later")?;
    let store = server.host.store().clone();
    let newest = *store.head().borrow();
    let mut under_way = UnderWay { export: Export::new(store.identity(), newest), reader: None };
    let (pages, body) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let host = server.host.clone();
    let mut closing = server.closing.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let _counted = Counted::new(&host.traffic().streams);
        loop {
            let store = store.clone();
            let read = tokio::task::spawn_blocking(move || {
                let page = under_way.page(|| store.reader());
                (page, under_way)
            });
            let page = match read.await {
                Ok((page, rest)) => {
                    under_way = rest;
                    page
                }
                Err(panic) => {
                    tracing::error!("an export of events failed: {panic}");
                    return;
                }
            };
            let (page, is_last) = match page {
                Ok(Some(page)) => (page, false),
                Ok(None) => return,
                Err(cause) => {
                    tracing::error!(%cause, "an export of events failed");
                    // The status line is already sent, so the last line has the error.
                    let line = serde_json::json!({ "error": cause.to_string() }).to_string() + "\n";
                    (line.into_bytes(), true)
                }
            };
            let is_sent = tokio::select! {
                sent = pages.send(Ok(page.into())) => sent.is_ok(),
                // A host that stops does not wait for the client. The last line is missing then.
                _ = closing.wait_for(|closing| *closing) => false,
            };
            if is_last || !is_sent {
                return;
            }
        }
    });
    Ok(answer::lines(body))
}

/// An export, with the reader that it reads with.
struct UnderWay {
    export: Export,
    reader: Option<Box<dyn Reader>>,
}

impl UnderWay {
    fn page(&mut self, open: impl FnOnce() -> Result<Box<dyn Reader>, Error>) -> Result<Option<Vec<u8>>, Error> {
        let mut reader = self.reader.take().map_or_else(open, Ok)?;
        let page = self.export.page(&mut *reader);
        self.reader = Some(reader);
        page
    }
}
