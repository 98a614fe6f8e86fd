//! The API of a host that is starting. It answers that the process is alive but not ready, and what the host is doing.

use super::answer::HttpError;
use super::problem::ProblemType;
use super::{Listeners, Routers, guard, operations, refuse_exposed, serve_both};
use crate::access::Access;
use crate::host::{Startup, Traffic};
use crate::manifest;
use crate::status::Readiness;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The longest time that running requests may take to end when the host has started.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// Seconds after which a client may ask again.
const RETRY_AFTER_S: &str = "1";

/// Serves from the moment that the port is bound until `started` is ready. Then [`super::serve`] takes over, on other
/// handles of the same listeners. A connection that arrives in between waits for it.
pub async fn serve_starting(
    listeners: Listeners,
    settings: manifest::Api,
    access: Arc<Access>,
    startup: Startup,
    started: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    refuse_exposed(&listeners.all, &settings)?;
    let (end, ending) = watch::channel(false);
    let traffic = Arc::<Traffic>::default();
    let guarded = routes().layer(from_fn_with_state(access.clone(), guard::guard)).with_state(startup.clone());
    let routers = Routers { all: guarded, probes: routes().with_state(startup) };
    let serving = serve_both(listeners, settings, access, &traffic, routers, &ending);
    let asked = async move {
        started.await;
        end.send_replace(true);
        tokio::time::sleep(HAND_OVER_MAX).await;
    };
    tokio::select! {
        () = serving => {}
        () = asked => {}
    }
    Ok(())
}

fn routes() -> Router<Startup> {
    Router::new()
        .route("/v1/live", get(operations::live))
        .route("/v1/ready", get(ready))
        .method_not_allowed_fallback(not_yet)
        .fallback(not_yet)
}

async fn ready(State(startup): State<Startup>) -> Response {
    let reasons = vec![format!("the host is starting: {}", startup.doing())];
    (StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { reasons, ..Readiness::default() })).into_response()
}

async fn not_yet(State(startup): State<Startup>) -> Response {
    let text = format!("the host is starting: {}; send the request again when /v1/ready answers 200", startup.doing());
    let refusal = HttpError::new(ProblemType::HostStarting, text);
    ([(header::RETRY_AFTER, RETRY_AFTER_S)], refusal).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use tokio::net::TcpListener;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    #[test]
    fn a_starting_host_lives_and_says_what_it_does() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (startup, (started, is_started)) = (Startup::default(), tokio::sync::oneshot::channel::<()>());
        let settings = manifest::Api::default();
        let access = Arc::new(Access::open(&settings).expect("it has no files"));
        let listeners = Listeners { all: listener, probes: None };
        let serving = runtime.spawn(serve_starting(listeners, settings, access, startup.clone(), async {
            let _ = is_started.await;
        }));
        startup.does("opening the store".to_owned());
        assert!(get(address, "/v1/live").starts_with("HTTP/1.1 200"));
        for path in ["/v1/ready", "/v1/status", "/v1/commands/order/1/CreateOrder"] {
            let answer = get(address, path);
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("the host is starting: opening the store"), "{answer}");
        }
        drop(started);
        runtime.block_on(serving).expect("no panic").expect("it ends well");
        assert!(TcpStream::connect(address).is_err(), "its handle of the listener is closed");
    }
}
