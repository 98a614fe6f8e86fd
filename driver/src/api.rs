//! Calls of the HTTP API of a host. They return the status and the text, which the caller interprets.

use serde_json::Value;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

/// The reason why a call has no answer.
pub use ureq::Error;

/// A client, which keeps connections open between calls.
pub struct Client {
    agent: Agent,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub text: String,
}

impl Client {
    /// Makes a client whose calls time out after `wait`.
    pub fn new(wait: Duration) -> Self {
        let config = Agent::config_builder().timeout_global(Some(wait)).http_status_as_error(false);
        // The host listens on the loopback address only: no proxy can reach it.
        Self { agent: config.proxy(None).build().into() }
    }

    /// Sends a GET request to a URL.
    pub fn get(&self, url: &str) -> Result<Answer, Error> {
        read(self.agent.get(url).call()?)
    }

    /// Sends a POST request with JSON to a URL.
    pub fn post(&self, url: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        let mut request = self.agent.post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.send_json(body)?)
    }
}

impl Answer {
    /// Returns whether the status is a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

fn read(mut response: Response<Body>) -> Result<Answer, Error> {
    let text = response.body_mut().read_to_string()?;
    Ok(Answer { status: response.status().as_u16(), text })
}
