//! HTTP requests of a subscriber or a saga, and the answers that come back to it.
//!
//! A request is an effect like a command: the host makes it durable in the transaction of the delivery, and then sends it. An
//! attempt that fails in a temporary way is repeated with the same `idempotency-key` header, so a server that heeds this key
//! handles the request once. The plugin names an *endpoint* and never a URL: the manifest has the URL
//! (`[plugins.NAME.http.ENDPOINT]`), and a plugin can use only those that it declares in
//! [`Subscriber::ENDPOINTS`](super::Subscriber::ENDPOINTS) or [`Saga::ENDPOINTS`](crate::Saga::ENDPOINTS).
//!
//! This subscriber charges a customer for an order, and cancels the order if that fails:
//!
//! ```
//! use wasmill_guest::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct OrderPlaced { cents: i64 }
//!
//! #[derive(Serialize)]
//! struct Charge { cents: i64 }
//!
//! #[derive(Deserialize)]
//! struct Charged { id: String }
//!
//! #[derive(Serialize)]
//! enum Order { Confirm { charge: String }, Cancel { reason: String }, Review { reason: String } }
//!
//! struct Checkout;
//!
//! impl Subscriber for Checkout {
//!     const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderPlaced"];
//!     const ENDPOINTS: &'static [&'static str] = &["payments"];
//!
//!     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
//!         let (order, OrderPlaced { cents }) = (delivery.aggregate_id()?, delivery.json()?);
//!         outbox.http(
//!             Request::post("payments", "charges")
//!                 .bearer_secret("api_key")
//!                 .json(&Charge { cents })?
//!                 .asking_response(&order)?,
//!         );
//!         Ok(())
//!     }
//!
//!     fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
//!         let order: String = response.attachment()?;
//!         let command = match response.answer() {
//!             HttpAnswer::Response(http) if http.is_success() => {
//!                 let Charged { id } = http.json()?;
//!                 Order::Confirm { charge: id }
//!             }
//!             // The server has refused, or the request was never sent.
//!             answer @ (HttpAnswer::Response(_) | HttpAnswer::Refused(_)) => Order::Cancel { reason: answer.to_string() },
//!             // The server may have charged: somebody has to ask it.
//!             HttpAnswer::Failed(reason) => Order::Review { reason: reason.to_owned() },
//!         };
//!         Ok(outbox.send("order", order, &command)?)
//!     }
//! }
//! export_subscriber!(Checkout);
//!
//! use wasmill_guest::testing::{ServerAnswer, deliver, event_json, response};
//! let charge = Request::post("payments", "charges").bearer_secret("api_key").json(&Charge { cents: 500 })?;
//! deliver::<Checkout>(event_json("order", "7", "OrderPlaced", r#"{"cents":500}"#))
//!     .then_http(charge.asking_response(&"7")?)
//!     .then_nothing();
//! let charged = ServerAnswer::json(201, &json!({ "id": "c1" }));
//! deliver::<Checkout>(response("payments", "POST", "charges", charged, &"7"))
//!     .then_command("order", "7", &Order::Confirm { charge: "c1".into() })
//!     .then_nothing();
//! deliver::<Checkout>(response("payments", "POST", "charges", ServerAnswer::status(402), &"7"))
//!     .then_command("order", "7", &Order::Cancel { reason: "status 402".into() })
//!     .then_nothing();
//! deliver::<Checkout>(response("payments", "POST", "charges", ServerAnswer::failed("no answer"), &"7"))
//!     .then_command("order", "7", &Order::Review { reason: "no answer".into() })
//!     .then_nothing();
//! # Ok::<(), wasmill_guest::codec::Error>(())
//! ```

use super::{Delivery, attachment};
use crate::bindings::{bus, types};
use crate::{Failure, Metadata, codec};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A request to a server, which [`Outbox::http`](super::Outbox::http) sends. The methods are the steps of a builder.
#[derive(Clone, Debug)]
pub struct Request(pub(crate) bus::Request);

impl Request {
    /// Makes a request without headers and without a body. The endpoint must be one of those that the plugin declares. The
    /// method is case-sensitive, such as `POST`. The path is below the endpoint's URL. It may be empty and may end in a query.
    /// Text from outside must be percent-encoded in it: `charges/c%2F1?expand=fees`.
    pub fn new(endpoint: impl Into<String>, method: impl Into<String>, path: impl Into<String>) -> Self {
        Self(bus::Request {
            endpoint: endpoint.into(),
            method: method.into(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            response: None,
        })
    }

    /// Makes a `GET` request. See [`new`](Self::new).
    pub fn get(endpoint: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(endpoint, "GET", path)
    }

    /// Makes a `POST` request. See [`new`](Self::new).
    pub fn post(endpoint: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(endpoint, "POST", path)
    }

    /// Makes a `PUT` request. See [`new`](Self::new).
    pub fn put(endpoint: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(endpoint, "PUT", path)
    }

    /// Makes a `PATCH` request. See [`new`](Self::new).
    pub fn patch(endpoint: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(endpoint, "PATCH", path)
    }

    /// Makes a `DELETE` request. See [`new`](Self::new).
    pub fn delete(endpoint: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(endpoint, "DELETE", path)
    }

    /// Adds a header. In its value, `{{NAME}}` stands for the secret of this name that the manifest gives the endpoint. The host
    /// puts it in when it sends the request, so the plugin never has it.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push(types::HttpHeader { name: name.into(), value: value.into() });
        self
    }

    /// Adds a header whose value is the secret of this name that the manifest gives the endpoint:
    /// `request.secret_header("x-api-key", "api_key")`.
    pub fn secret_header(self, name: impl Into<String>, secret: &str) -> Self {
        self.header(name, format!("{{{{{secret}}}}}"))
    }

    /// Adds the header `authorization: Bearer …` with the secret of this name that the manifest gives the endpoint.
    pub fn bearer_secret(self, secret: &str) -> Self {
        self.header("authorization", format!("Bearer {{{{{secret}}}}}"))
    }

    /// Sets the body to these bytes. It adds no header.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// Sets the body to this value as JSON. If there is no `content-type` header yet, this adds one with `application/json`.
    pub fn json(self, body: &(impl Serialize + ?Sized)) -> Result<Self, codec::Error> {
        let body = codec::to_json(body)?;
        let has_type = self.0.headers.iter().any(|header| header.name.eq_ignore_ascii_case("content-type"));
        let typed = if has_type { self } else { self.header("content-type", "application/json") };
        Ok(typed.body(body))
    }

    /// Asks for the response to the request. It comes back once to [`Subscriber::response`](super::Subscriber::response) or
    /// [`Saga::response`](crate::Saga::response), together with the attachment, which is encoded as JSON and may have at most
    /// 1,024 bytes. Such a request is never dead-lettered because of how it ended.
    pub fn asking_response(mut self, attached: &(impl Serialize + ?Sized)) -> Result<Self, codec::Error> {
        self.0.response = Some(attachment("request", "response", attached)?);
        Ok(self)
    }
}

/// Shows the method, the endpoint and the path.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.0.method, self.0.endpoint, self.0.path)
    }
}

/// The answer to a request that was sent with [`Request::asking_response`]. As text it is the request's method, endpoint and
/// path.
#[derive(Clone, Copy, Debug)]
pub struct Response<'d> {
    pub(crate) delivery: &'d Delivery,
    pub(crate) origin: &'d types::ResponseOrigin,
}

impl<'d> Response<'d> {
    /// The id of the request, which the server got as its idempotency key.
    pub fn request_id(&self) -> &'d str {
        &self.origin.request_id
    }

    /// The name of the endpoint that the request was sent to.
    pub fn endpoint(&self) -> &'d str {
        self.delivery.name()
    }

    /// The method of the request.
    pub fn method(&self) -> &'d str {
        &self.origin.method
    }

    /// The path and query of the request, below the endpoint's URL.
    pub fn path(&self) -> &'d str {
        &self.origin.path
    }

    /// The number of attempts that were begun. It is 0 if the request was refused before the first one.
    pub fn attempts(&self) -> u32 {
        self.origin.attempts
    }

    /// How the request ended.
    pub fn answer(&self) -> HttpAnswer<'d> {
        match &self.origin.answer {
            types::Answer::Response(response) => HttpAnswer::Response(HttpResponse(response)),
            types::Answer::Failed(reason) => HttpAnswer::Failed(reason),
            types::Answer::Refused(reason) => HttpAnswer::Refused(reason),
        }
    }

    /// Decodes what was sent with the request, as JSON.
    pub fn attachment<T: Deserialize<'d>>(&self) -> Result<T, codec::Error> {
        self.delivery.attachment()
    }

    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn first_ms(&self) -> u64 {
        self.delivery.first_ms()
    }

    /// The key of the delivery that sent the request.
    pub fn key(&self) -> Option<&'d [u8]> {
        self.delivery.key()
    }

    /// The id, the time when the answer was recorded, and the causes: the direct one is the delivery that sent the request.
    pub fn metadata(&self) -> Metadata<'d> {
        self.delivery.metadata()
    }
}

impl fmt::Display for Response<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.method(), self.endpoint(), self.path())
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub enum HttpAnswer<'d> {
    /// The server responded, with whatever status. A status that asks to try again is here if it was the last attempt.
    Response(HttpResponse<'d>),
    /// No attempt got a response that can be used, for this reason. The server may have handled the request.
    Failed(&'d str),
    /// The request was not sent, because the manifest does not grant it or it breaks a rule, for this reason.
    Refused(&'d str),
}

impl HttpAnswer<'_> {
    /// Whether the server responded with a status from 200 to 299.
    pub fn is_success(&self) -> bool {
        matches!(self, HttpAnswer::Response(response) if response.is_success())
    }
}

impl fmt::Display for HttpAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpAnswer::Response(response) => write!(f, "status {}", response.status()),
            HttpAnswer::Failed(reason) => write!(f, "failed: {reason}"),
            HttpAnswer::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

/// The response of a server.
#[derive(Clone, Copy, Debug)]
pub struct HttpResponse<'d>(&'d types::Response);

impl<'d> HttpResponse<'d> {
    /// The status, such as 404.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Whether the status is from 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..=299).contains(&self.status())
    }

    /// The value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&'d [u8]> {
        self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers in their order. Names are in lower case and may repeat.
    pub fn headers(&self) -> impl Iterator<Item = (&'d str, &'d [u8])> + use<'d> {
        self.0.headers.iter().map(|header| (header.name.as_str(), header.value.as_slice()))
    }

    /// The body, which may be empty.
    pub fn body(&self) -> &'d [u8] {
        &self.0.body
    }

    /// Decodes the body as JSON. Fields that `T` does not have are ignored.
    pub fn json<T: Deserialize<'d>>(&self) -> Result<T, codec::Error> {
        codec::json(self.body())
    }
}

/// Fails if a request is for an endpoint that the plugin does not declare.
pub(crate) fn check_endpoints(effects: &[super::Effect], declared: &[&str]) -> Result<(), Failure> {
    let undeclared = effects.iter().find_map(|effect| match effect {
        super::Effect::Http(request) if !declared.contains(&request.0.endpoint.as_str()) => Some(request),
        _ => None,
    });
    undeclared.map_or(Ok(()), |request| {
        let endpoint = &request.0.endpoint;
        Err(Failure::malformed(format_args!(
            "the request {request} is for endpoint {endpoint:?}, which the plugin does not declare: add it to `ENDPOINTS`"
        )))
    })
}
