//! The servers of a flow: they answer what the flow says, and nothing leaves the process.

use crate::http::{Answering, Attempted, Endpoint, Server, Transport, Unready};
use crate::model::{Header, HttpRequest, KeptRequest};
use crate::supervise::Held as _;
use std::sync::{Arc, Mutex};
use wasmill_cases::flows::http::{Answers, SentRequest, ServerAnswer, ServerResponse};

/// The answers of a flow, and the requests that came.
#[derive(Default)]
pub(super) struct FlowServers {
    answers: Answers,
    came: Mutex<Came>,
}

/// What came to the servers of a flow.
#[derive(Default)]
pub(super) struct Came {
    /// The requests, in the order of their attempts.
    pub(super) requests: Vec<SentRequest>,
    /// Says of a request that the flow has no answer for it.
    pub(super) unanswered: Option<String>,
}

impl FlowServers {
    pub(super) fn new(answers: Answers) -> Self {
        Self { answers, came: Mutex::default() }
    }

    /// Takes what came since the last call.
    pub(super) fn take(&self) -> Came {
        std::mem::take(&mut self.came.held())
    }

    fn answer(&self, request: SentRequest) -> Attempted {
        let answer = self.answers.answer(&request);
        let mut came = self.came.held();
        let attempted = match answer {
            Some(ServerAnswer::Response(ServerResponse { status, headers, body })) => {
                Attempted::Answered { status, headers, body, is_temporary: false, retry_after: None }
            }
            // The answer of a flow is that to the last attempt.
            Some(ServerAnswer::Failed(reason)) => Attempted::Unusable(reason),
            None => {
                let text = request.unanswered();
                came.unanswered.get_or_insert(text.clone());
                Attempted::Unusable(text)
            }
        };
        came.requests.push(request);
        attempted
    }
}

/// The way to the servers of a flow.
pub(super) struct ToFlowServers(pub(super) Arc<FlowServers>);

impl Transport for ToFlowServers {
    fn connect(&self, endpoint: &Arc<Endpoint>) -> Result<Box<dyn Server>, String> {
        Ok(Box::new(FlowServer { endpoint: endpoint.clone(), servers: self.0.clone() }))
    }
}

struct FlowServer {
    endpoint: Arc<Endpoint>,
    servers: Arc<FlowServers>,
}

impl Server for FlowServer {
    fn attempt(&self, kept: &KeptRequest) -> Result<Answering, Unready> {
        self.endpoint.check(kept)?;
        let HttpRequest { endpoint, method, path, headers, body, .. } = kept.request.clone();
        let header = |Header { name, value }| (name, value.unwrap_or_default());
        let headers = headers.into_iter().map(header).collect();
        let request = SentRequest { endpoint: endpoint.to_string(), method, path, headers, body };
        let servers = self.servers.clone();
        Ok(Box::pin(async move { servers.answer(request) }))
    }
}
