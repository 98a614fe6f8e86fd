//! The HTTP API: commands, queries, events and the state of the host, for programs on the same machine.
//!
//! It translates between HTTP and [`Host`] and decides nothing else. It has no authentication, so its listener must be
//! on a loopback address, and it refuses what a browser sends on behalf of a foreign page. Every error is a problem of
//! RFC 9457.

mod access;
mod answer;
mod body;
mod clock;
mod command_answers;
mod commands;
mod connections;
mod dead_letters;
mod events;
mod flows;
mod guard;
mod histories;
mod instance;
mod metrics;
mod openapi;
mod operations;
mod problem;
mod queries;
mod requests;
mod routes;
mod scope;
mod searches;
mod stall;
mod starting;
mod store;
mod subscriptions;
mod timers;
mod wording;

pub(crate) use commands::expected_version;
pub(crate) use instance::INSTANCE;
pub use starting::serve_starting;

use crate::host::Host;
use crate::manifest;
use answer::HttpError;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::middleware::{from_fn, from_fn_with_state};
use connections::Connections;
use problem::ProblemType;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// The longest time that running requests may take to end when the host stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// The longest time that a request may ask to wait.
const WAIT_MS_MAX: u64 = 3_600_000;

/// The state that every handler needs.
#[derive(Clone)]
struct Server {
    host: Arc<Host>,
    settings: manifest::Api,
    /// One permit for each open event stream.
    streams: Arc<Semaphore>,
    /// One permit for each running read of a few events.
    pages: Arc<Semaphore>,
    /// Room for searches, traces and states, which read many events.
    long_reads: Arc<Semaphore>,
    /// Room for requests that wait for a flow.
    flows: Arc<Semaphore>,
    /// The OpenAPI document.
    document: Arc<openapi::Document>,
    /// A flag that turns true when the API stops, so that requests that would wait forever end.
    closing: watch::Receiver<bool>,
}

impl Server {
    /// Waits for a request that changes nothing, but no longer than until the API stops.
    async fn unless_closing<T>(&self, waiting: impl Future<Output = T>) -> Result<T, HttpError> {
        let mut closing = self.closing.clone();
        tokio::select! {
            answer = waiting => Ok(answer),
            _ = closing.wait_for(|closing| *closing) => {
                Err(HttpError::new(ProblemType::HostStopping, "the host is stopping"))
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
    let long_reads = Arc::new(Semaphore::new(histories::LONG_READS_MAX));
    let flows = Arc::new(Semaphore::new(flows::FLOWS_MAX));
    let server = Server {
        host: host.clone(),
        settings: settings.clone(),
        streams,
        pages,
        long_reads,
        flows,
        document: Arc::default(),
        closing: closing.clone(),
    };
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
    routes::router(&server)
        .method_not_allowed_fallback(async || HttpError::method_not_allowed())
        .fallback(async |uri: axum::http::Uri| HttpError::no_such_path(uri.path()))
        .layer(DefaultBodyLimit::max(body_max))
        .layer(from_fn_with_state(server.clone(), body::refuse_long))
        .layer(from_fn(guard::guard))
        .layer(from_fn_with_state(instance, instance::name))
        .with_state(server)
}
