//! What others may know of the thread that sends requests.

use super::endpoint::Endpoint;
use super::worker::Queue;
use crate::model::{HttpAnswer, KeptRequest};
use crate::status::{EndpointStatus, State};
use crate::store::{AttemptEnd, Error, Reader, RequestQueue};
use crate::supervise::{Held as _, Monitor};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(super) struct Board {
    endpoints: Vec<View>,
    /// Why the store does not take what happens.
    store_trouble: Mutex<Option<String>>,
}

/// One endpoint. The counts are of the time since the host started.
struct View {
    endpoint: Arc<Endpoint>,
    subscriptions: Vec<Arc<str>>,
    in_flight: AtomicU64,
    attempts: AtomicU64,
    responses: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    interrupted: AtomicU64,
    /// Why the last attempt failed, until one does not.
    trouble: Mutex<Option<String>>,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Board {
    pub(super) fn new(queues: &[Queue]) -> Self {
        let view = |queue: &Queue| View {
            endpoint: queue.endpoint.clone(),
            subscriptions: queue.subscriptions.clone(),
            in_flight: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            interrupted: AtomicU64::new(0),
            trouble: Mutex::default(),
        };
        Self { endpoints: queues.iter().map(view).collect(), store_trouble: Mutex::default() }
    }

    /// Notes that an attempt begins.
    pub(super) fn begun(&self, endpoint: usize) {
        add(&self.endpoints[endpoint].attempts);
        add(&self.endpoints[endpoint].in_flight);
    }

    /// Notes how an attempt ended, or a request without one.
    pub(super) fn ended(&self, endpoint: usize, end: &AttemptEnd, was_attempted: bool) {
        let view = &self.endpoints[endpoint];
        view.in_flight.fetch_sub(u64::from(was_attempted), Ordering::Relaxed);
        let trouble = match end {
            AttemptEnd::Again { error, .. } => Some(error.clone()),
            AttemptEnd::Ended(HttpAnswer::Response { .. }) => {
                add(&view.responses);
                None
            }
            AttemptEnd::Ended(HttpAnswer::Failed(reason)) => {
                add(&view.failed);
                Some(reason.clone())
            }
            AttemptEnd::Ended(HttpAnswer::Refused(reason)) => {
                add(&view.refused);
                Some(reason.clone())
            }
        };
        *view.trouble.held() = trouble;
    }

    /// Notes that requests wait because something of the endpoint is missing.
    pub(super) fn waits(&self, endpoint: usize, reason: String) {
        let view = &self.endpoints[endpoint];
        let mut trouble = view.trouble.held();
        if trouble.as_ref() != Some(&reason) {
            tracing::warn!("endpoint {}/{}: its requests wait: {reason}", view.endpoint.plugin, view.endpoint.name);
            *trouble = Some(reason);
        }
    }

    /// Notes that an attempt was interrupted.
    pub(super) fn interrupted(&self, kept: &KeptRequest) {
        let is_it = |view: &&View| {
            view.endpoint.name == kept.request.endpoint && view.subscriptions.contains(&kept.subscription)
        };
        if let Some(view) = self.endpoints.iter().find(is_it) {
            add(&view.interrupted);
        }
    }

    /// Notes that the thread begins again without any attempt.
    pub(super) fn forget_attempts(&self) {
        self.endpoints.iter().for_each(|view| view.in_flight.store(0, Ordering::Relaxed));
    }

    pub(super) fn store_works(&self) {
        *self.store_trouble.held() = None;
    }

    pub(super) fn store_fails(&self, error: &Error) {
        tracing::error!("HTTP requests are held up: {error}");
        *self.store_trouble.held() = Some(error.to_string());
    }

    pub(super) fn is_busy(&self, reader: &mut dyn Reader) -> bool {
        self.endpoints.iter().any(|view| view.has_any(reader))
    }

    pub(super) fn status(&self, reader: &mut dyn Reader, monitor: &Monitor) -> Vec<EndpointStatus> {
        self.endpoints.iter().map(|view| self.status_of(view, reader, monitor)).collect()
    }

    fn status_of(&self, view: &View, reader: &mut dyn Reader, monitor: &Monitor) -> EndpointStatus {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let pending = view.waiting(reader);
        let of_store = self.store_trouble.held().clone();
        // What has ended is in the way of nobody.
        let of_server = view.trouble.held().clone().filter(|_| pending > 0);
        let error = of_store.or(of_server);
        let own = (if error.is_some() { State::Retrying } else { State::Running }, error);
        let (state, error) = monitor.state(own);
        EndpointStatus {
            name: format!("{}/{}", view.endpoint.plugin, view.endpoint.name),
            url: view.endpoint.is_granted.then(|| view.endpoint.settings.url.to_string()),
            state,
            error,
            pending,
            in_flight: read(&view.in_flight),
            attempts: read(&view.attempts),
            responses: read(&view.responses),
            failed: read(&view.failed),
            refused: read(&view.refused),
            interrupted: read(&view.interrupted),
        }
    }
}

impl View {
    /// Returns whether a request has not ended.
    fn has_any(&self, reader: &mut dyn Reader) -> bool {
        let has_any = |subscription: &Arc<str>| {
            reader.has_requests(RequestQueue { subscription, endpoint: &self.endpoint.name }).unwrap_or(true)
        };
        self.subscriptions.iter().any(has_any)
    }

    /// Returns the number of requests that have not ended.
    fn waiting(&self, reader: &mut dyn Reader) -> u64 {
        let count = |subscription: &Arc<str>| {
            reader.count_requests(RequestQueue { subscription, endpoint: &self.endpoint.name }).unwrap_or_default()
        };
        self.subscriptions.iter().map(count).sum()
    }
}
