//! The connections of the API: their number, and their end.
//!
//! A connection costs a descriptor and memory, so their number is limited. A connection is closed if its client sends
//! no request, or does not read its answer, for too long. Beyond the limit there is room for probes only, so a host
//! that is full can still say so.

use super::answer::HttpError;
use super::problem::ProblemType;
use super::stall::Patient;
use crate::host::{Counted, Host};
use crate::manifest;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Connections beyond `api.connections_max`, for probes.
pub(super) const PROBES_MAX: usize = 16;

/// The longest time that a connection beyond the limit may take for its only request and the answer.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// The pause after the system could not accept a connection. It has no free descriptors, so an immediate retry would
/// fail.
const NO_CONNECTION_PAUSE: Duration = Duration::from_millis(100);

/// The paths that are served beyond the limit.
const PROBES: [&str; 3] = ["/v1/live", "/v1/ready", "/metrics"];

/// The part that accepts connections and serves them.
pub(super) struct Connections {
    settings: manifest::Api,
    host: Arc<Host>,
    /// One permit for each connection.
    room: Arc<Semaphore>,
    /// One permit for each connection beyond these.
    reserve: Arc<Semaphore>,
    /// The router of all paths.
    all: Router,
    /// The router of the probes.
    probes: Router,
    open: GracefulShutdown,
}

/// The place of a connection.
struct Place {
    /// Whether it is beyond the limit.
    is_reserve: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(settings: manifest::Api, host: Arc<Host>, all: Router) -> Self {
        let max = settings.connections_max;
        let counted = host.clone();
        let probes = all.clone().layer(from_fn(move |request: Request, next: Next| {
            let host = counted.clone();
            async move { only_probes(max, &host, request, next).await }
        }));
        Self {
            room: Arc::new(Semaphore::new(max)),
            reserve: Arc::new(Semaphore::new(PROBES_MAX)),
            settings,
            host,
            all,
            probes,
            open: GracefulShutdown::new(),
        }
    }

    /// Serves until closing is requested, then lets running requests finish.
    pub(super) async fn serve(self, listener: TcpListener, mut closing: watch::Receiver<bool>) {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.accept(&listener) => {}
        }
        // From here on new connections are refused.
        drop(listener);
        self.open.shutdown().await;
    }

    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let place = self.place().await;
                    self.connected(stream, peer, place);
                }
                // The client went away before it was accepted.
                Err(cause)
                    if matches!(cause.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(cause) => {
                    let open = self.host.traffic().connections.load(Ordering::Relaxed);
                    tracing::error!(
                        "the API can't accept a connection, {open} are open: {cause}; raise the limit of open files \
                         (ulimit -n) or lower api.connections_max"
                    );
                    tokio::time::sleep(NO_CONNECTION_PAUSE).await;
                }
            }
        }
    }

    async fn place(&self) -> Place {
        if let Ok(permit) = self.room.clone().try_acquire_owned() {
            return Place { is_reserve: false, _permit: permit };
        }
        let max = self.settings.connections_max;
        tracing::warn!(
            "{max} connections are open, as many as api.connections_max allows: only probes are served beyond them"
        );
        let closed = "no semaphore of the API is closed";
        tokio::select! {
            biased;
            permit = self.room.clone().acquire_owned(), if self.reserve.available_permits() == 0 => {
                Place { is_reserve: false, _permit: permit.expect(closed) }
            }
            permit = self.reserve.clone().acquire_owned() => {
                Place { is_reserve: true, _permit: permit.expect(closed) }
            }
        }
    }

    fn connected(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "Nagle's algorithm stays on for a connection of the API");
        }
        let (router, idle) = match place.is_reserve {
            false => (&self.all, Duration::from_secs(self.settings.idle_seconds)),
            true => (&self.probes, PROBE_TIME_MAX),
        };
        let stall = Duration::from_secs(self.settings.stall_seconds);
        let (stream, stalled) = Patient::new(stream, stall);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .keep_alive(!place.is_reserve)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = self.open.watch(connection);
        let host = self.host.clone();
        tokio::spawn(async move {
            let traffic = host.traffic();
            let _counted = Counted::new(&traffic.connections);
            let served = match place.is_reserve {
                false => connection.await,
                // After this time it is closed in any case, to make room for the next probe.
                true => tokio::time::timeout(PROBE_TIME_MAX, connection).await.unwrap_or(Ok(())),
            };
            drop(place);
            match served {
                _ if stalled.load(Ordering::Relaxed) => {
                    traffic.stalled.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        "a client at {peer} read nothing for {stall:?}: its connection is closed (api.stall_seconds)"
                    );
                }
                Err(cause) if cause.is_timeout() => {
                    traffic.idle.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("a client at {peer} sent no request for {idle:?}: its connection is closed");
                }
                Err(cause) => tracing::debug!("the connection of a client at {peer} failed: {cause}"),
                Ok(()) => {}
            }
        });
    }
}

/// Serves probes, and answers every other request that the host has no room.
async fn only_probes(max: usize, host: &Host, request: Request, next: Next) -> Response {
    let mut answer = if PROBES.contains(&request.uri().path()) {
        next.run(request).await
    } else {
        host.traffic().turned_away.fetch_add(1, Ordering::Relaxed);
        let text =
            format!("{max} connections are open, as many as the manifest's `api.connections_max` allows: try again");
        HttpError::new(ProblemType::NoRoom, text).into_response()
    };
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
