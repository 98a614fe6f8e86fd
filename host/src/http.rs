//! HTTP requests of subscribers and sagas.
//!
//! A step of a subscription makes its requests durable. The thread of this part sends them, and records each attempt in the store
//! before and after it. An attempt that fails in a temporary way is repeated with the same idempotency key. The transaction
//! that ends a request has its answer: as a callback of the subscription, or as a dead letter.
//!
//! A request has an endpoint, which the manifest grants to the plugin. Where the endpoint is, which addresses it may have and
//! which secrets it takes is known here alone.

mod board;
mod endpoint;
mod network;
mod pace;
mod worker;

pub use endpoint::{Endpoint, Unready};
pub use network::Network;

use crate::ack;
use crate::clock::Clock;
use crate::manifest;
use crate::model::{HttpAnswer, KeptRequest, SubscriptionName};
use crate::status::EndpointStatus;
use crate::store::{EventStore, InterruptedOf, Reader};
use crate::supervise::{self, Held as _};
use board::Board;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use worker::{Queue, Worker};

/// A way to the servers of endpoints.
pub trait Transport: Send + Sync {
    /// Makes the server of an endpoint ready. The error says what is wrong with the endpoint's settings.
    fn connect(&self, endpoint: &Arc<Endpoint>) -> Result<Box<dyn Server>, String>;
}

/// The server of an endpoint.
pub trait Server: Send + Sync {
    /// Sends a request once. The error says why it can't be sent.
    fn attempt(&self, request: &KeptRequest) -> Result<Answering, Unready>;
}

/// An attempt under way.
pub type Answering = Pin<Box<dyn Future<Output = Attempted> + Send>>;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// The server responded.
    Answered {
        /// The status.
        status: u16,
        /// The names and values of the headers.
        headers: Vec<(String, Vec<u8>)>,
        /// The body.
        body: Vec<u8>,
        /// Whether the server could not handle the request at the moment.
        is_temporary: bool,
        /// The pause that the server asks for.
        retry_after: Option<Duration>,
    },
    /// There was no whole response, for this reason. Another attempt may have one.
    Failed(String),
    /// There was a response that can't be used, for this reason. Another attempt would have the same.
    Unusable(String),
    /// The request did not leave the host, because the manifest does not grant what it would have needed.
    Refused(String),
}

/// The subscriptions of a plugin, and the endpoints that the manifest grants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The name of the plugin.
    pub plugin: Arc<str>,
    /// The names of the subscriptions in the store: its own, and those of the sources whose records it takes.
    pub subscriptions: Vec<Arc<str>>,
    /// The endpoints.
    pub endpoints: Vec<(Arc<str>, manifest::Endpoint)>,
}

/// The running part.
pub struct Http {
    board: Arc<Board>,
    reader: Mutex<Box<dyn Reader>>,
    stop: watch::Sender<Option<Instant>>,
    thread: supervise::Thread,
}

/// Why the part did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Endpoints have wrong settings, a sentence each.
    #[error("{}", .0.join("\n"))]
    Endpoints(Vec<String>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The thread did not start.
    #[error("HTTP requests: {0}")]
    Thread(String),
}

impl Http {
    /// Starts the thread for the requests of a plugin, if any may be sent or waits to be refused.
    pub fn start(
        grant: Grant,
        transport: &dyn Transport,
        store: &Arc<dyn EventStore>,
        clock: &Clock,
        runtime: &Handle,
    ) -> Result<Option<Self>, StartError> {
        let mut reader = store.reader()?;
        let (plugin, subscriptions) = (grant.plugin.clone(), grant.subscriptions.clone());
        let queues = queues_of(grant, transport, &mut *reader)?.map_err(StartError::Endpoints)?;
        let interrupted = interrupt(&**store, InterruptedOf::These(subscriptions))?;
        if queues.is_empty() {
            return Ok(None);
        }
        let board = Arc::new(Board::new(&queues));
        interrupted.iter().for_each(|kept| board.interrupted(kept));
        let (stop, stopping) = watch::channel(None);
        let worker = Worker::new(queues, board.clone(), store.clone(), clock.clone(), runtime.clone(), stopping)?;
        let thread =
            supervise::restarting(format!("http-{plugin}"), || Ok(worker), Worker::begin_again, Worker::run)
                .map_err(|error: supervise::Unstarted<crate::store::Error>| StartError::Thread(error.to_string()))?;
        Ok(Some(Self { board, reader: Mutex::new(reader), stop, thread }))
    }

    /// Returns the status of each endpoint. It reads the store.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.board.status(&mut **self.reader.held(), self.thread.monitor())
    }

    /// Returns whether a request has not ended. It reads the store.
    pub fn is_busy(&self) -> bool {
        self.board.is_busy(&mut **self.reader.held())
    }

    /// Returns numbers that change when a request is made or answered. It reads the store.
    pub fn newest_numbers(&self) -> Option<(u64, u64)> {
        self.reader.held().newest_numbers().ok()
    }

    /// Stops. Attempts under way may end until the deadline. Those that do not are shown as interrupted after the next start.
    pub fn stop_by(&self, deadline: Instant) {
        // An error means that the thread has already ended.
        let _ = self.stop.send(Some(deadline));
        self.thread.join();
    }
}

/// Ends the attempts in the middle of which the host or the thread ended. Returns their requests.
fn interrupt(store: &dyn EventStore, of: InterruptedOf) -> Result<Vec<KeptRequest>, crate::store::Error> {
    let interrupted = ack::wait(|ack| store.interrupt_attempts(of, ack))?;
    interrupted.iter().for_each(|kept| tracing::warn!("{}", kept.interruption()));
    Ok(interrupted)
}

/// Ends the attempts of subscriptions that no plugin has any more, when a host starts. `granted` are the subscriptions of all
/// plugins.
pub fn interrupt_others(store: &dyn EventStore, granted: Vec<Arc<str>>) -> Result<(), crate::store::Error> {
    // Another host may run segments of another division. The change of the division ends what is left of them.
    let granted = with_other_segments(granted, &mut *store.reader()?)?;
    interrupt(store, InterruptedOf::Others(granted)).map(drop)
}

/// Adds the segments that the subscriptions have in the store, if they are divided in another way there. Those come first, because
/// what they have may move to the others at any time.
fn with_other_segments(
    subscriptions: Vec<Arc<str>>,
    reader: &mut dyn Reader,
) -> Result<Vec<Arc<str>>, crate::store::Error> {
    let is_one = |name: &Arc<str>| {
        let whole = SubscriptionName::parse(name).whole();
        subscriptions.iter().any(|other| SubscriptionName::parse(other).whole() == whole)
    };
    let names = reader.checkpoints()?.into_iter().map(|(name, _)| name.into()).filter(is_one);
    Ok(names.collect::<Vec<_>>().into_iter().chain(subscriptions).collect())
}

/// Returns the queues of a plugin, or what is wrong with its endpoints. Requests to an endpoint that the manifest grants no more
/// are refused.
fn queues_of(
    grant: Grant,
    transport: &dyn Transport,
    reader: &mut dyn Reader,
) -> Result<Result<Vec<Queue>, Vec<String>>, crate::store::Error> {
    let Grant { plugin, subscriptions, endpoints } = grant;
    let (mut queues, mut wrong) = (Vec::new(), Vec::new());
    for (name, settings) in &endpoints {
        let endpoint = Arc::new(Endpoint::granted(plugin.clone(), name.clone(), settings.clone()));
        match transport.connect(&endpoint) {
            Ok(server) => queues.push(Queue::new(endpoint, subscriptions.clone(), server)),
            Err(cause) => wrong.push(cause),
        }
    }
    let mut unknown: Vec<String> = Vec::new();
    for subscription in with_other_segments(subscriptions.clone(), reader)? {
        unknown.extend(reader.requested_endpoints(&subscription)?);
    }
    unknown.sort();
    unknown.dedup();
    for name in unknown.into_iter().filter(|name| !endpoints.iter().any(|(known, _)| **known == **name)) {
        let reason = not_granted(&plugin, &name);
        tracing::warn!("{reason}; its requests that wait are refused");
        let endpoint = Endpoint::without_grant(plugin.clone(), name.into());
        queues.push(Queue::new(Arc::new(endpoint), subscriptions.clone(), Box::new(Refusing(reason))));
    }
    Ok(if wrong.is_empty() { Ok(queues) } else { Err(wrong) })
}

/// Returns what is wrong with the endpoints of plugins, a sentence each.
pub(crate) fn check(manifest: &manifest::Manifest) -> Vec<String> {
    let of_plugin = |(plugin, settings): (&String, &manifest::Plugin)| {
        let endpoint = |(name, settings): (&String, &manifest::Endpoint)| {
            let endpoint = Endpoint::granted(plugin.as_str().into(), name.as_str().into(), settings.clone());
            Network.connect(&Arc::new(endpoint)).err()
        };
        settings.http.iter().filter_map(endpoint).collect::<Vec<_>>()
    };
    manifest.plugins.iter().flat_map(of_plugin).collect()
}

/// Says that an endpoint is not granted, and how to grant it.
pub(crate) fn not_granted(plugin: &str, endpoint: &str) -> String {
    format!(
        "the manifest grants plugin {plugin} no endpoint {endpoint}: add a section [plugins.{plugin}.http.{endpoint}] with its `url`"
    )
}

/// In the place of the server of an endpoint that is not granted.
struct Refusing(String);

impl Server for Refusing {
    fn attempt(&self, _: &KeptRequest) -> Result<Answering, Unready> {
        Err(Unready::Refused(self.0.clone()))
    }
}

/// Converts the end of the last attempt to the answer.
fn answer_of(attempted: Attempted) -> HttpAnswer {
    match attempted {
        Attempted::Answered { status, headers, body, .. } => HttpAnswer::Response { status, headers, body },
        Attempted::Failed(reason) | Attempted::Unusable(reason) => HttpAnswer::Failed(reason),
        Attempted::Refused(reason) => HttpAnswer::Refused(reason),
    }
}
