//! The connections of the API: their number, their encryption, and their end.
//!
//! A connection costs a descriptor and memory, so their number is limited. A connection is closed if its client sends
//! no request, or does not read its answer, for too long. At the limit, a new connection takes the place of the one that
//! has been idle for the longest time. If none is idle, there is room for probes only, so a host that is full can still say so.

use super::answer::HttpError;
use super::heads::{Answering, Heads};
use super::problem::{PROBLEM_JSON, Problem, ProblemType};
use super::stall::Patient;
use crate::access::{Access, Secured, Trust};
use crate::host::{Counted, Traffic};
use crate::manifest;
use crate::supervise::Held as _;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Connections beyond `api.connections_max`, for probes.
pub(super) const PROBES_MAX: usize = 16;

/// The longest time that a connection beyond the limit may take for its only request and the answer.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// The pause after the system could not accept a connection. It has no free descriptors, so an immediate retry would
/// fail.
const NO_CONNECTION_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection must have been idle before it makes room for another one.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// How often a connection that finds no room looks for one that has become idle.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// The paths that are served beyond the limit.
const PROBES: [&str; 3] = ["/v1/live", "/v1/ready", "/metrics"];

/// How many bytes of a plain request to an address that serves TLS are read, so that the client gets the answer.
const REST_BYTES: u64 = 64 << 10;

/// The first byte of a TLS connection (RFC 8446, section 5.1: a handshake record).
const HANDSHAKE: u8 = 22;

/// What a request knows of its connection.
#[derive(Clone)]
pub(super) struct Connection {
    /// The address of the client, or of the proxy in front of it.
    pub(super) peer: SocketAddr,
    /// The certificate of the client, which was verified.
    pub(super) certificate: Option<Arc<CertificateDer<'static>>>,
    /// By whom the certificate was verified.
    pub(super) trust: Trust,
}

/// The part that accepts connections and serves them.
pub(super) struct Connections {
    settings: manifest::Api,
    /// What encrypts the connections; `None` serves plain HTTP.
    access: Option<Arc<Access>>,
    traffic: Arc<Traffic>,
    /// One permit for each connection.
    room: Arc<Semaphore>,
    /// One permit for each connection beyond these.
    reserve: Arc<Semaphore>,
    /// The router of all paths.
    all: Router,
    /// The router of the probes.
    probes: Router,
    open: GracefulShutdown,
    /// The connections that are open, by the order in which they were accepted.
    idle: Arc<Mutex<BTreeMap<u64, Arc<Heads>>>>,
    accepted: AtomicU64,
}

/// The place of a connection.
struct Place {
    /// Whether it is beyond the limit.
    is_reserve: bool,
    _permit: OwnedSemaphorePermit,
}

/// A connection among those that are open.
struct Listed {
    number: u64,
    among: Arc<Mutex<BTreeMap<u64, Arc<Heads>>>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.among.held().remove(&self.number);
    }
}

impl Connections {
    pub(super) fn new(
        settings: manifest::Api,
        access: Option<Arc<Access>>,
        traffic: Arc<Traffic>,
        all: Router,
    ) -> Self {
        let max = settings.connections_max;
        let counted = traffic.clone();
        let probes = all.clone().layer(from_fn(move |request: Request, next: Next| {
            let traffic = counted.clone();
            async move { only_probes(max, &traffic, request, next).await }
        }));
        Self {
            room: Arc::new(Semaphore::new(max)),
            reserve: Arc::new(Semaphore::new(PROBES_MAX)),
            settings,
            access,
            traffic,
            all,
            probes,
            open: GracefulShutdown::new(),
            idle: Arc::default(),
            accepted: AtomicU64::new(0),
        }
    }

    /// Serves until closing is requested, then lets running requests finish.
    pub(super) async fn serve(self, listener: TcpListener, mut closing: watch::Receiver<bool>) {
        let taken = closing.clone();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.accept(&listener, &taken) => {}
        }
        // From here on new connections are refused.
        drop(listener);
        self.open.shutdown().await;
    }

    async fn accept(&self, listener: &TcpListener, closing: &watch::Receiver<bool>) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let place = self.place().await;
                    self.connected(stream, peer, place, closing.clone());
                }
                // The client went away before it was accepted.
                Err(cause)
                    if matches!(cause.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(cause) => {
                    let open = self.traffic.connections.load(Ordering::Relaxed);
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
        let closed = "no semaphore of the API is closed";
        let mut is_told = false;
        loop {
            if let Ok(permit) = self.room.clone().try_acquire_owned() {
                return Place { is_reserve: false, _permit: permit };
            }
            let is_leaving = self.has_one_leave();
            if !is_leaving && !std::mem::replace(&mut is_told, true) {
                tracing::warn!(
                    "{} connections are open, as many as api.connections_max allows, and none is idle: only probes are served \
                     beyond them",
                    self.settings.connections_max
                );
            }
            tokio::select! {
                biased;
                permit = self.room.clone().acquire_owned(), if is_leaving || self.reserve.available_permits() == 0 => {
                    return Place { is_reserve: false, _permit: permit.expect(closed) };
                }
                permit = self.reserve.clone().acquire_owned(), if !is_leaving => {
                    return Place { is_reserve: true, _permit: permit.expect(closed) };
                }
                () = tokio::time::sleep(ROOM_LOOK) => {}
            }
        }
    }

    /// Has the connection leave that has been idle for the longest time, if it has been for long enough. Returns whether there is one.
    fn has_one_leave(&self) -> bool {
        let open = self.idle.held();
        let idle = open.values().filter_map(|heads| Some((heads.idle().filter(|idle| *idle >= IDLE_MIN)?, heads)));
        let longest = idle.max_by_key(|(idle, _)| *idle);
        longest.iter().for_each(|(_, heads)| heads.ask_to_leave());
        longest.is_some()
    }

    fn connected(&self, stream: TcpStream, peer: SocketAddr, place: Place, closing: watch::Receiver<bool>) {
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "Nagle's algorithm stays on for a connection of the API");
        }
        let (router, idle) = match place.is_reserve {
            false => (&self.all, Duration::from_secs(self.settings.idle_seconds)),
            true => (&self.probes, PROBE_TIME_MAX),
        };
        let stall = Duration::from_secs(self.settings.stall_seconds);
        let head = Duration::from_secs(self.settings.header_seconds).min(idle);
        let heads = Arc::<Heads>::default();
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let listed = Listed { number, among: self.idle.clone() };
        if !place.is_reserve {
            self.idle.held().insert(number, heads.clone());
        }
        let stream = Patient::new(stream, stall, heads.clone(), head);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(idle).keep_alive(!place.is_reserve);
        let served = Served {
            http,
            router: TowerToHyperService::new(router.clone()),
            heads,
            watcher: self.open.watcher(),
            tls: self.access.as_ref().and_then(|access| access.tls()),
            peer,
            closing,
            head,
        };
        let traffic = self.traffic.clone();
        tokio::spawn(async move {
            let _counted = Counted::new(&traffic.connections);
            let heads = served.heads.clone();
            let served = served.serve(stream);
            let served = match place.is_reserve {
                false => unless_asked_to_leave(served, &heads).await,
                // After this time it is closed in any case, to make room for the next probe.
                true => tokio::time::timeout(PROBE_TIME_MAX, served).await.unwrap_or(Ok(())),
            };
            drop((listed, place));
            ended(&traffic, peer, served, &heads, [stall, head, idle]);
        });
    }
}

/// Serves a connection until it ends, or is to make room for another one and is idle.
async fn unless_asked_to_leave(serving: impl Future<Output = Result<(), Failed>>, heads: &Heads) -> Result<(), Failed> {
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            biased;
            served = &mut serving => return served,
            // A request may have begun meanwhile.
            () = heads.asked_to_leave() => if heads.idle().is_some() { return Err(Failed::MadeRoom) },
        }
    }
}

/// Counts and logs why a connection has ended.
fn ended(
    traffic: &Traffic,
    peer: SocketAddr,
    served: Result<(), Failed>,
    heads: &Heads,
    [stall, head, idle]: [Duration; 3],
) {
    match served {
        _ if heads.is_stalled() => {
            traffic.stalled.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                "a client at {peer} read nothing for {stall:?}: its connection is closed (api.stall_seconds)"
            );
        }
        _ if heads.is_late() => {
            traffic.idle.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                "a client at {peer} did not complete the head of a request within {head:?}: its connection is closed \
                 (api.header_seconds)"
            );
        }
        Err(Failed::Http(cause)) if cause.is_timeout() => {
            traffic.idle.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("a client at {peer} sent no request for {idle:?}: its connection is closed");
        }
        Err(Failed::Http(cause)) => tracing::debug!("the connection of a client at {peer} failed: {cause}"),
        Err(Failed::MadeRoom) => {
            traffic.idle.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                "a client at {peer} sent no request, and another connection took its place (api.connections_max)"
            );
        }
        Err(Failed::Handshake(cause)) => {
            traffic.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            tracing::info!("the connection of a client at {peer} was not secured: {cause}");
        }
        Ok(()) => {}
    }
}

/// Why a connection has failed.
enum Failed {
    /// It was idle, and another connection took its place.
    MadeRoom,
    Handshake(String),
    Http(hyper::Error),
}

/// What serves one connection.
struct Served {
    http: http1::Builder,
    router: TowerToHyperService<Router>,
    heads: Arc<Heads>,
    watcher: hyper_util::server::graceful::Watcher,
    tls: Option<Secured>,
    peer: SocketAddr,
    /// A flag that turns true when no more requests are taken.
    closing: watch::Receiver<bool>,
    /// The longest time of a handshake.
    head: Duration,
}

impl Served {
    async fn serve(self, stream: Patient<TcpStream>) -> Result<(), Failed> {
        match self.tls.clone() {
            None => self.requests(stream, None, Trust::default()).await,
            Some(Secured { config, trust }) => {
                let mut closing = self.closing.clone();
                let shaken = tokio::select! {
                    shaken = tokio::time::timeout(self.head, secured(stream, config)) => shaken,
                    _ = closing.wait_for(|closing| *closing) => return Ok(()),
                };
                let Some(stream) = shaken.unwrap_or_else(|_| {
                    Err(Failed::Handshake(format!(
                        "the handshake took longer than {:?} (api.header_seconds)",
                        self.head
                    )))
                })?
                else {
                    return Ok(());
                };
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|chain| chain.first()).map(|first| first.clone().into_owned());
                self.requests(stream, certificate.map(Arc::new), trust).await
            }
        }
    }

    async fn requests(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        certificate: Option<Arc<CertificateDer<'static>>>,
        trust: Trust,
    ) -> Result<(), Failed> {
        let Self { http, router, heads, watcher, peer, .. } = self;
        heads.begin();
        let requests = Requests { router, heads, connection: Connection { peer, certificate, trust } };
        watcher.watch(http.serve_connection(TokioIo::new(stream), requests)).await.map_err(Failed::Http)
    }
}

/// Performs the handshake of a connection. Returns nothing if the client has spoken plain HTTP, and was told.
async fn secured(
    mut stream: Patient<TcpStream>,
    config: Arc<ServerConfig>,
) -> Result<Option<tokio_rustls::server::TlsStream<Patient<TcpStream>>>, Failed> {
    let mut first = [0];
    let failed = |cause: io::Error| Failed::Handshake(cause.to_string());
    match stream.stream().peek(&mut first).await.map_err(failed)? {
        // The client only looked whether somebody listens.
        0 => return Ok(None),
        _ if first[0] == HANDSHAKE => {}
        _ if first[0].is_ascii_uppercase() => {
            stream.write_all(&tls_required()).await.map_err(failed)?;
            stream.shutdown().await.map_err(failed)?;
            // What is not read would reset the connection, and the client would not see the answer.
            let (mut from, mut to) = ((&mut stream).take(REST_BYTES), tokio::io::sink());
            let rest = tokio::io::copy(&mut from, &mut to);
            let _ = tokio::time::timeout(IDLE_MIN, rest).await;
            return Err(Failed::Handshake("it sent a plain HTTP request to an address that serves TLS".to_owned()));
        }
        _ => return Err(Failed::Handshake("it does not speak TLS".to_owned())),
    }
    TlsAcceptor::from(config).accept(stream).await.map(Some).map_err(failed)
}

/// Makes the answer to a plain request on an address that serves TLS.
fn tls_required() -> Vec<u8> {
    let text = "this address serves TLS: use a URL that begins with https://";
    let body = serde_json::to_string(&Problem::new(ProblemType::TlsRequired, text)).expect("a problem is JSON");
    let length = body.len();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {length}\r\nconnection: close"
    );
    format!("{head}\r\n\r\n{body}").into_bytes()
}

/// The requests of a connection.
struct Requests {
    router: TowerToHyperService<Router>,
    heads: Arc<Heads>,
    connection: Connection,
}

type Answered = Pin<Box<dyn Future<Output = Result<axum::http::Response<Answering>, Infallible>> + Send>>;

impl Service<axum::http::Request<Incoming>> for Requests {
    type Response = axum::http::Response<Answering>;
    type Error = Infallible;
    type Future = Answered;

    fn call(&self, mut request: axum::http::Request<Incoming>) -> Self::Future {
        let taken = self.heads.take();
        request.extensions_mut().insert(self.connection.clone());
        let answer = self.router.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Answering::new(body, taken))) })
    }
}

/// Serves probes, and answers every other request that the host has no room.
async fn only_probes(max: usize, traffic: &Traffic, request: Request, next: Next) -> Response {
    let mut answer = if PROBES.contains(&request.uri().path()) {
        next.run(request).await
    } else {
        traffic.turned_away.fetch_add(1, Ordering::Relaxed);
        let text =
            format!("{max} connections are open, as many as the manifest's `api.connections_max` allows: try again");
        HttpError::new(ProblemType::NoRoom, text).into_response()
    };
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
