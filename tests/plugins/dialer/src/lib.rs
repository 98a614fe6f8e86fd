//! Sends HTTP requests as its events say. The answers are noted in the aggregate that asked.

use std::collections::BTreeMap;
use wasmill_guest::prelude::*;

/// Records the requests that are to be sent, and the answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Call;

/// A request to send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dial {
    /// The method.
    #[serde(default = "post")]
    pub method: String,
    /// The endpoint.
    #[serde(default = "server")]
    pub endpoint: String,
    /// The path.
    pub path: String,
    /// The headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// What comes back with the answer. Without it nobody hears of the answer.
    #[serde(default)]
    pub ask: Option<String>,
}

fn post() -> String {
    "POST".to_owned()
}

fn server() -> String {
    "server".to_owned()
}

/// What it can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Sends these requests, in order.
    Dial {
        /// The requests.
        requests: Vec<Dial>,
    },
    /// Lets a saga send a request.
    Arrange {
        /// The path.
        path: String,
    },
    /// Notes an answer.
    Hear {
        /// The answer, as text.
        text: String,
    },
}

/// What it records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Requests are to be sent.
    Dialed {
        /// The requests.
        requests: Vec<Dial>,
    },
    /// A saga is to send a request.
    Arranged {
        /// The path.
        path: String,
    },
    /// An answer came.
    Heard {
        /// The answer, as text.
        text: String,
    },
}

impl Aggregate for Call {
    const TYPE: &'static str = "call";
    type Command = Command;
    type Event = Event;
    type Error = &'static str;

    fn handle(&self, command: Command) -> Result<Vec<Event>, &'static str> {
        Ok(vec![match command {
            Command::Dial { requests } => Event::Dialed { requests },
            Command::Arrange { path } => Event::Arranged { path },
            Command::Hear { text } => Event::Heard { text },
        }])
    }

    fn apply(&mut self, _: Event) {}
}
export_aggregate!(Call);

/// Sends the requests.
pub struct Dialer;

impl Subscriber for Dialer {
    const SUBSCRIPTIONS: &'static [&'static str] = &["call.Dialed"];
    const ENDPOINTS: &'static [&'static str] = &["server"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let Event::Dialed { requests } = delivery.decode()? else { return Ok(()) };
        for Dial { method, endpoint, path, headers, body, ask } in requests {
            let mut request = Request::new(endpoint, method, path).body(body);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            outbox.http(match ask {
                Some(text) => request.asking_response(&text)?,
                None => request,
            });
        }
        Ok(())
    }

    fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let (asked, attempts): (String, u32) = (response.attachment()?, response.attempts());
        let answer = match response.answer() {
            HttpAnswer::Response(got) => {
                let kind = got.header("x-kind").map(|value| String::from_utf8_lossy(value).into_owned());
                let kind = kind.unwrap_or_default();
                format!("{} {kind} {}", got.status(), String::from_utf8_lossy(got.body()))
            }
            other => other.to_string(),
        };
        let call = String::from_utf8_lossy(response.key().unwrap_or_default()).into_owned();
        let text = format!("{asked} after {attempts}: {answer}");
        Ok(outbox.send("call", call, &Command::Hear { text })?)
    }
}
export_subscriber!(Dialer);
