//! The HTTP API: commands, queries, events and the state of the host.
//!
//! It translates between HTTP and [`Host`] and decides nothing else. [`Access`] says who a client is and what it may do. A host
//! without clients serves every program that reaches it, so its listener must be on a loopback address, and it refuses what a
//! browser sends on behalf of a foreign page. Every error is a problem of RFC 9457.

mod access;
mod answer;
mod audit;
mod batches;
mod body;
mod clock;
mod command_answers;
mod commands;
mod connections;
mod dead_letters;
mod event_lines;
mod events;
mod export;
mod flows;
mod front;
mod guard;
mod heads;
mod histories;
mod instance;
mod metrics;
mod openapi;
mod operations;
mod problem;
mod queries;
mod requests;
mod revocable;
mod routes;
mod searches;
mod sse;
mod stall;
mod starting;
mod store;
mod subscriptions;
mod timers;
mod wording;

pub(crate) use commands::expected_version;
pub(crate) use instance::INSTANCE;
pub use starting::serve_starting;

use crate::access::Access;
use crate::host::{Host, Traffic};
use crate::manifest;
use crate::supervise::Held as _;
use answer::HttpError;
use audit::AuditLog;
use axum::Router;
use axum::http::HeaderValue;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use connections::Connections;
use problem::ProblemType;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// The longest time that running requests may take to end when the host stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// The most connections of the listener for probes.
const PROBE_CONNECTIONS_MAX: usize = 16;

/// How often the files of tokens and certificates are looked at. A changed file is read once it has stayed the same from one look to
/// the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
    /// One permit for the copy of the store that is being made.
    backups: Arc<Semaphore>,
    /// Room for searches, traces and states, which read many events.
    long_reads: Arc<Semaphore>,
    /// Room for requests that wait for a flow.
    flows: Arc<Semaphore>,
    /// Room for the bodies of the requests that are being handled.
    bodies: body::Room,
    /// The value of the header that names this process.
    instance: HeaderValue,
    /// Who may do what.
    access: Arc<Access>,
    /// The turn of the batch whose line finds no room there.
    line_turn: batches::LineTurn,
    /// What clients changed.
    audit: AuditLog,
    /// The OpenAPI document.
    document: openapi::Document,
    /// A flag that turns true when the API stops, so that requests that would wait forever end.
    closing: watch::Receiver<bool>,
}

/// Where the API listens.
pub struct Listeners {
    /// All paths are served here.
    pub all: TcpListener,
    /// Probes and metrics are served here too, to everybody, without TLS.
    pub probes: Option<TcpListener>,
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
                Err(HttpError::new(ProblemType::HostStopping, "the host is stopping"))
            }
        }
    }
}

/// Serves until `shutdown` is ready, then ends event streams and lets other requests finish.
///
/// It fails at once if the listener can be reached from other machines and there are no clients.
pub async fn serve(
    listeners: Listeners,
    access: Arc<Access>,
    host: Arc<Host>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let manifest = host.manifest();
    let settings = manifest.api.clone();
    refuse_exposed(&listeners.all, &settings)?;
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
        backups: Arc::new(Semaphore::new(store::BACKUPS_MAX)),
        long_reads,
        flows,
        bodies: Arc::new(Semaphore::new(settings.in_flight_mib << 10)),
        instance: host.instance().parse().expect("a UUID is a header's value"),
        access: access.clone(),
        line_turn: Arc::new(Semaphore::new(1)),
        audit: AuditLog::new(&manifest.data),
        document: openapi::Document::default(),
        closing: closing.clone(),
    }));
    let routers = Routers { all: router(server.clone()), probes: probes_router(server) };
    let serving = serve_both(listeners, settings, access.clone(), host.traffic(), routers, &closing);
    let asked = async move {
        shutdown.await;
        close.send_replace(true);
        // The server itself sets no limit; the time for running requests is limited below.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        () = asked => {}
        () = follow_credentials(&access, &host) => {}
        () = out_of_patience(closing.clone()) => {
            tracing::warn!("requests were still running {STOP_TIME_MAX:?} after the API was stopped, and were cut off");
        }
    }
    Ok(())
}

/// Refuses a listener that other machines reach if its settings do not allow that.
fn refuse_exposed(listener: &TcpListener, settings: &manifest::Api) -> io::Result<()> {
    let settings = manifest::Api { listen: listener.local_addr()?, ..settings.clone() };
    settings
        .refuse_exposed()
        .map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, format!("`api.listen` {cause}")))
}

/// What the listeners serve.
struct Routers {
    all: Router,
    probes: Router,
}

/// Serves on both listeners until `closing` is true.
async fn serve_both(
    listeners: Listeners,
    settings: manifest::Api,
    access: Arc<Access>,
    traffic: &Arc<Traffic>,
    routers: Routers,
    closing: &watch::Receiver<bool>,
) {
    // Few programs need the listener for probes.
    let of_probes = manifest::Api { connections_max: PROBE_CONNECTIONS_MAX, ..settings.clone() };
    let all = Connections::new(settings, Some(access), traffic.clone(), routers.all);
    let all = all.serve(listeners.all, closing.clone());
    match listeners.probes {
        Some(listener) => {
            let probes = Connections::new(of_probes, None, traffic.clone(), routers.probes);
            tokio::join!(all, probes.serve(listener, closing.clone()));
        }
        None => all.await,
    }
}

/// Reads tokens and certificates again when they change, on disk or in the manifest. It never ends.
async fn follow_credentials(access: &Arc<Access>, host: &Arc<Host>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (access, host) = (access.clone(), host.clone());
        let look = move || {
            access.apply(&host.manifest().api);
            *host.traffic().access.held() = access.refresh();
        };
        if tokio::task::spawn_blocking(look).await.is_err() {
            tracing::error!("the tokens and certificates of the API could not be read again");
        }
    }
}

async fn out_of_patience(mut closing: watch::Receiver<bool>) {
    // A dropped sender also means that the API is closing.
    let _ = closing.wait_for(|closing| *closing).await;
    tokio::time::sleep(STOP_TIME_MAX).await;
}

fn router(server: Server) -> Router {
    routes::router(&server)
        .method_not_allowed_fallback(async || HttpError::method_not_allowed())
        .fallback(async |uri: axum::http::Uri| HttpError::no_such_path(uri.path()))
        .layer(from_fn_with_state(server.clone(), front::front))
        .with_state(server)
}

/// Serves probes and metrics to everybody.
fn probes_router(server: Server) -> Router {
    Router::new()
        .route("/v1/ready", get(operations::ready))
        .route("/v1/live", get(operations::live))
        .route("/metrics", get(metrics::metrics))
        .method_not_allowed_fallback(async || HttpError::method_not_allowed())
        .fallback(async || HttpError::new(ProblemType::NoSuchPath, "only /v1/live, /v1/ready and /metrics are here"))
        .with_state(server)
}
