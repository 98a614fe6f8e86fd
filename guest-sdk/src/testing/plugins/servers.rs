//! The servers that HTTP requests go to. No request leaves the process: the test says how they answer.

use super::code::Broken;
use crate::bindings::{bus, types};
use crate::subscriber::Request;
use std::collections::BTreeMap;
use wasmill_cases::flows::http::{Answers, SentRequest, ServerAnswer};
use wasmill_names::request::{check_headers, check_method, check_path};

/// How a test answers the requests to an endpoint.
type Server = Box<dyn FnMut(&SentRequest) -> ServerAnswer>;

/// The answers of a flow, and the servers of a test by their endpoints.
#[derive(Default)]
pub(super) struct Servers {
    answers: Answers,
    by_endpoint: BTreeMap<String, Server>,
}

impl Servers {
    /// Sets the answers of a flow, which come before those of the servers.
    pub(super) fn set_answers(&mut self, answers: Answers) {
        self.answers = answers;
    }

    /// Sets the server of an endpoint.
    pub(super) fn set(&mut self, endpoint: &str, server: Server) {
        self.by_endpoint.insert(endpoint.to_owned(), server);
    }

    /// Returns the endpoints that have a server.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.by_endpoint.keys().map(String::as_str)
    }

    /// Answers a request of a plugin. Fails if nothing does.
    pub(super) fn answer(&mut self, plugin: &str, request: &SentRequest) -> Result<ServerAnswer, Broken> {
        if let Some(answer) = self.answers.answer(request) {
            return Ok(answer);
        }
        match self.by_endpoint.get_mut(&request.endpoint) {
            Some(server) => Ok(server(request)),
            None => Err(format!(
                "plugin {plugin}: {}; in a test without a flow, add `.answering({:?}, |request| …)` to the plugins",
                request.unanswered(),
                request.endpoint
            )),
        }
    }
}

/// Returns a request as a server gets it, with placeholders in the place of secrets.
pub(in crate::testing) fn sent(Request(request): &Request) -> SentRequest {
    let bus::Request { endpoint, method, path, headers, body, response: _ } = request.clone();
    let headers = headers.into_iter().map(|header| (header.name, header.value)).collect();
    SentRequest { endpoint, method, path, headers, body }
}

/// Returns why a host would not send a request, by the rules that need no manifest.
pub(super) fn refusal(request: &SentRequest) -> Option<String> {
    let SentRequest { method, path, headers, .. } = request;
    let of_headers = || check_headers(headers.iter().map(|(name, value)| (&**name, &**value)));
    let checked = check_method(method).and_then(|()| check_path(path)).and_then(|()| of_headers());
    checked.err().map(|problem| format!("the request {request}: {problem}"))
}

/// Returns why a request did not succeed, if so.
pub(super) fn failure(answer: &types::Answer) -> Option<String> {
    match answer {
        types::Answer::Response(response) if (200..=299).contains(&response.status) => None,
        types::Answer::Response(response) => Some(format!("the server answered with status {}", response.status)),
        types::Answer::Failed(reason) | types::Answer::Refused(reason) => Some(reason.clone()),
    }
}
