//! The HTTP API: commands, queries, events and the state of the host, for programs on the same machine.
//!
//! It translates between HTTP and [`Host`] and decides nothing else. It has no authentication, so its listener must be
//! on a loopback address, and it refuses what a browser sends on behalf of a foreign page. Every error is JSON,
//! `{"error": "…"}`.

mod answer;
mod batches;
mod body;
mod clock;
mod commands;
mod connections;
mod dead_letters;
mod events;
mod flows;
mod guard;
mod histories;
mod instance;
mod metrics;
mod operations;
mod queries;
mod requests;
mod searches;
mod sse;
mod stall;
mod starting;
mod store;
mod subscriptions;
mod timers;

pub(crate) use commands::expected_version;
pub(crate) use instance::INSTANCE;
pub use starting::serve_starting;

use crate::host::Host;
use crate::manifest;
use answer::HttpError;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use connections::Connections;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// The longest time that running requests may take to end when the host stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// The longest time that a request may ask to wait.
const WAIT_MS_MAX: u64 = 3_600_000;

/// The state that every handler needs. Each layer and each handler clones it for each request, so it is one pointer.
#[derive(Clone)]
struct Server(Arc<Shared>);

struct Shared {
    host: Arc<Host>,
    settings: manifest::Api,
    /// One permit for each open event stream.
    streams: Arc<Semaphore>,
    /// One permit for each running read of a few events.
    pages: Arc<Semaphore>,
    /// One permit for each batch of commands.
    batches: Arc<Semaphore>,
    /// Room for searches, traces and states, which read many events.
    long_reads: Arc<Semaphore>,
    /// Room for requests that wait for a flow.
    flows: Arc<Semaphore>,
    /// A flag that turns true when the API stops, so that requests that would wait forever end.
    closing: watch::Receiver<bool>,
}

impl Deref for Server {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Server {
    /// Waits for a request that changes nothing, but no longer than until the API stops.
    async fn unless_closing<T>(&self, waiting: impl Future<Output = T>) -> Result<T, HttpError> {
        let mut closing = self.closing.clone();
        tokio::select! {
            answer = waiting => Ok(answer),
            _ = closing.wait_for(|closing| *closing) => {
                Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "the host is stopping"))
            }
        }
    }
}

/// Serves until `shutdown` is ready, then ends event streams and lets other requests finish.
///
/// It fails at once if the listener is not on a loopback address.
pub async fn serve(
    listener: TcpListener,
    settings: manifest::Api,
    host: Arc<Host>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    refuse_foreign(&listener)?;
    let (close, closing) = watch::channel(false);
    let [streams, pages] = std::array::from_fn(|_| Arc::new(Semaphore::new(settings.streams_max)));
    let batches = Arc::new(Semaphore::new(batches::BATCHES_MAX));
    let long_reads = Arc::new(Semaphore::new(histories::LONG_READS_MAX));
    let flows = Arc::new(Semaphore::new(flows::FLOWS_MAX));
    let server = Server(Arc::new(Shared {
        host: host.clone(),
        settings: settings.clone(),
        streams,
        pages,
        batches,
        long_reads,
        flows,
        closing: closing.clone(),
    }));
    let connections = Connections::new(settings, host, router(server));
    let asked = async move {
        shutdown.await;
        close.send_replace(true);
        // The server itself sets no limit; the time for running requests is limited below.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = connections.serve(listener, closing.clone()) => {}
        () = asked => {}
        () = out_of_patience(closing) => {
            tracing::warn!("requests were still running {STOP_TIME_MAX:?} after the API was stopped, and were cut off");
        }
    }
    Ok(())
}

fn refuse_foreign(listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("the API must listen on a loopback address, not on {address}: it has no authentication"),
    ))
}

async fn out_of_patience(mut closing: watch::Receiver<bool>) {
    // A dropped sender also means that the API is closing.
    let _ = closing.wait_for(|closing| *closing).await;
    tokio::time::sleep(STOP_TIME_MAX).await;
}

fn router(server: Server) -> Router {
    let body_max = server.settings.body_mib << 20;
    let instance = server.host.instance().parse::<HeaderValue>().expect("a UUID is a header's value");
    Router::new()
        .route("/v1/commands/{type}/{id}/{command}", post(commands::send))
        .route(batches::PATH, post(batches::send))
        .route("/v1/queries/{projection}/{query}", get(queries::get).post(queries::query))
        .route("/v1/events", get(events::stream))
        .route("/v1/status", get(operations::status))
        .route("/v1/ready", get(operations::ready))
        .route("/v1/live", get(operations::live))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/drained", get(operations::drained))
        .route("/v1/sources/{name}/wait", get(operations::wait_source))
        .route("/v1/manifest/reload", post(operations::reload_manifest))
        .route("/v1/plugins/{name}", get(operations::describe))
        .route("/v1/plugins/{name}/reload", post(operations::reload))
        .route("/v1/plugins/{name}/history", get(operations::history))
        .route("/v1/plugins/{name}/revert", post(operations::revert))
        .route("/v1/plugins/reload", post(operations::reload_together))
        .route("/v1/subscriptions", get(subscriptions::list))
        .route("/v1/subscriptions/{name}/pause", post(subscriptions::pause))
        .route("/v1/subscriptions/{name}/resume", post(subscriptions::resume))
        .route("/v1/subscriptions/{name}/reset", post(subscriptions::reset))
        .route("/v1/clock", get(clock::show).post(clock::set))
        .route("/v1/timers", get(timers::list))
        .route("/v1/timers/{number}/cancel", post(timers::cancel))
        .route("/v1/requests", get(requests::list))
        .route("/v1/requests/{number}/give-up", post(requests::give_up))
        .route("/v1/projections/{name}/skip", post(operations::skip_event))
        .route("/v1/projections/{name}/rebuild", post(operations::rebuild))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/discard", post(dead_letters::discard_all))
        .route("/v1/dead-letters/{number}", get(dead_letters::show))
        .route("/v1/dead-letters/{number}/replay", post(dead_letters::replay))
        .route("/v1/dead-letters/{number}/discard", post(dead_letters::discard))
        .route("/v1/streams/{type}/{id}", get(store::show))
        .route("/v1/streams/{type}/{id}/events", get(events::of_stream))
        .route("/v1/streams/{type}/{id}/state", get(histories::state))
        .route("/v1/trace/{id}", get(histories::trace))
        .route("/v1/streams/{type}/{id}/archive", post(store::archive))
        .route("/v1/streams/{type}/{id}/restore", post(store::restore))
        .route("/v1/store/stats", get(store::statistics))
        .route("/v1/store/backup", post(store::backup))
        .method_not_allowed_fallback(async || HttpError::method_not_allowed())
        .fallback(async |uri: axum::http::Uri| HttpError::no_such_path(uri.path()))
        // The first is the outermost. As one layer they cost less than one after the other.
        .layer((
            from_fn_with_state(instance, instance::name),
            from_fn(guard::guard),
            from_fn_with_state(server.clone(), body::refuse_long),
            DefaultBodyLimit::max(body_max),
        ))
        .with_state(server)
}
