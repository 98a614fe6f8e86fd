//! The routes of the API: method, path, handler and scope of each, with what it takes and answers.
//!
//! This is the only place where a route is defined. The router is made from it, and so is the OpenAPI document.

use super::access;
use super::batches;
use super::clock;
use super::commands;
use super::dead_letters;
use super::event_lines;
use super::events;
use super::export;
use super::histories;
use super::metrics;
use super::openapi;
use super::openapi::operation::{Operation, says};
use super::operations;
use super::queries;
use super::requests;
use super::sse;
use super::store;
use super::subscriptions;
use super::timers;
use super::{Server, answer};
use crate::manifest::Scope;
use crate::status;
use crate::store::{Backup, Statistics};
use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{self, MethodRouter};

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    /// The path, with the names of its parameters in braces.
    pub(super) path: &'static str,
    /// What a client must be allowed; `None` if everybody may ask.
    pub(super) scope: Option<Scope>,
    pub(super) operation: Operation,
    /// Whether the handler keeps a client to its aggregate types itself. The path names none of them.
    limits_itself: bool,
    handler: MethodRouter<Server>,
}

impl Route {
    fn limits_itself(self) -> Self {
        Self { limits_itself: true, ..self }
    }
}

/// What a route needs of a client.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    pub(super) scope: Scope,
    /// Whether a client that is limited to some aggregate types may use it although the path names none.
    pub(super) limits_itself: bool,
}

/// Makes the router of all routes. A request gets to its handler only if its client has the scope of the route.
pub(super) fn router(server: &Server) -> Router<Server> {
    all().into_iter().fold(Router::new(), |router, Route { path, scope, limits_itself, handler, .. }| match scope {
        None => router.route(path, handler),
        Some(scope) => {
            let needs = (server.clone(), Needs { scope, limits_itself });
            router.route(path, handler.route_layer(from_fn_with_state(needs, access::require)))
        }
    })
}

/// Returns all routes.
pub(super) fn all() -> Vec<Route> {
    let groups = [
        (None, open()),
        (Some(Scope::Read), read()),
        (Some(Scope::Read), read_work()),
        (Some(Scope::Commands), commands()),
        (Some(Scope::Queries), queries()),
        (Some(Scope::Operate), operate()),
        (Some(Scope::Admin), admin()),
    ];
    groups
        .into_iter()
        .flat_map(|(scope, routes)| routes.into_iter().map(move |route| Route { scope, ..route }))
        .collect()
}

fn open() -> Vec<Route> {
    vec![
        get(
            "/v1/live",
            operations::live,
            says("live", "Answers that the process is alive.").answers::<operations::Live>(),
        ),
        get(
            "/v1/ready",
            operations::ready,
            says("ready", "Answers whether the host does its work.")
                .query::<operations::Stalled>()
                .answers::<status::Readiness>()
                .or_answers::<status::Readiness>(503, "Something is in the way."),
        ),
    ]
}

fn read() -> Vec<Route> {
    vec![
        get(
            "/v1/openapi.json",
            openapi::show,
            says("openapi", "Returns this document.").answers::<serde_json::Map<String, serde_json::Value>>(),
        )
        .limits_itself(),
        get(
            "/v1/status",
            operations::status,
            says("status", "Returns everything about the host.").answers::<status::Status>(),
        ),
        get(
            "/metrics",
            metrics::metrics,
            says("metrics", "Returns the metrics for Prometheus.").text(metrics::CONTENT_TYPE),
        ),
        get(
            "/v1/events",
            events::stream,
            says("events", "Returns recorded events: all from a position on, or those that a search finds.")
                .query::<events::Wanted>()
                .lines::<event_lines::Line<'_>>()
                .text(sse::MEDIA_TYPE),
        )
        .limits_itself(),
        get(
            "/v1/streams/{type}/{id}",
            store::show,
            says("stream", "Returns the version of a stream, and whether it is archived.")
                .answers::<status::StreamStatus>(),
        ),
        get(
            "/v1/streams/{type}/{id}/events",
            events::of_stream,
            says("stream_events", "Returns the events of a stream.")
                .query::<events::WantedOfStream>()
                .lines::<event_lines::Line<'_>>(),
        ),
        get(
            "/v1/streams/{type}/{id}/state",
            histories::state,
            says("stream_state", "Returns the state of an aggregate at a version of its stream.")
                .query::<histories::WantedState>()
                .answers::<histories::AggregateState<'_>>(),
        ),
        get(
            "/v1/trace/{id}",
            histories::trace,
            says("trace", "Returns everything that followed from one first cause.")
                .query::<histories::Wanted>()
                .answers::<status::Trace>(),
        ),
        get(
            "/v1/store/export",
            export::export,
            says("export", "Returns all events in a form that a store can be made from: a line for each, between a first and a last one.")
                .lines::<serde_json::Value>(),
        ),
        get(
            "/v1/store/stats",
            store::statistics,
            says("store_statistics", "Returns the statistics of the store.")
                .query::<store::Depth>()
                .answers::<Statistics>(),
        ),
    ]
}

fn read_work() -> Vec<Route> {
    vec![
        get(
            "/v1/drained",
            operations::drained,
            says("drained", "Waits until nothing is in flight.")
                .query::<operations::Wait>()
                .answers::<status::Drained>(),
        ),
        get(
            "/v1/sources/{name}/wait",
            operations::wait_source,
            says("wait_source", "Waits until a source has processed a number of records.")
                .query::<operations::WaitHandled>()
                .answers::<status::SourceProgress>(),
        ),
        get(
            "/v1/plugins/{name}",
            operations::describe,
            says("plugin", "Returns what the code of a plugin says about itself.")
                .answers::<status::PluginDescription>(),
        ),
        get(
            "/v1/plugins/{name}/history",
            operations::history,
            says("plugin_history", "Returns which code of a plugin served.").answers::<status::PluginHistory>(),
        ),
        get(
            "/v1/subscriptions",
            subscriptions::list,
            says("subscriptions", "Lists subscriptions.").answers::<Vec<status::SubscriptionStatus>>(),
        ),
        get(
            "/v1/clock",
            clock::show,
            says("clock", "Returns the time of the host's clock.").answers::<status::ClockStatus>(),
        ),
        get(
            "/v1/timers",
            timers::list,
            says("timers", "Lists timers, those that are due first.")
                .query::<timers::Wanted>()
                .answers::<status::Timers>(),
        ),
        get(
            "/v1/requests",
            requests::list,
            says("requests", "Lists HTTP requests of plugins that have not ended.")
                .query::<requests::Wanted>()
                .answers::<status::Requests>(),
        ),
        get(
            "/v1/dead-letters",
            dead_letters::list,
            says("dead_letters", "Lists dead letters, the newest first.")
                .query::<dead_letters::Wanted>()
                .answers::<status::DeadLetters>(),
        ),
        get(
            "/v1/dead-letters/{number}",
            dead_letters::show,
            says("dead_letter", "Returns a dead letter with its content.").answers_with(dead_letters::whole_schema),
        ),
    ]
}

fn commands() -> Vec<Route> {
    vec![
        post(
            "/v1/commands/{type}/{id}/{command}",
            commands::send,
            says("send_command", "Sends a command to an aggregate, and answers when its events are durable.")
                .query::<commands::Wanted>()
                .headers(&commands::HEADERS)
                .any_body("The payload of the command. An empty body is `null`.")
                .answers::<CommandAccepted>()
                .or_problem::<CommandRefused>(400, "The command or the request is malformed.")
                .or_problem::<CommandRefused>(409, "The stream or the id of the command does not allow it.")
                .or_problem::<CommandRefused>(422, "A business rule rejected the command.")
                .or_problem::<CommandRefused>(500, "The plugin or the host failed. Nothing was recorded.")
                .or_problem::<CommandRefused>(503, "There is no room for the command now."),
        ),
        post(
            batches::PATH,
            batches::send,
            says("send_commands", "Sends the command on each line, and answers each line in order.")
                .line_body::<batches::LineCommand<'_>>("A command on each line.")
                .lines::<batches::AnsweredLine>(),
        )
        .limits_itself(),
    ]
}

type CommandAccepted = super::command_answers::AcceptedCommand<'static>;
type CommandRefused = super::command_answers::RefusedCommand<'static>;

fn queries() -> Vec<Route> {
    vec![
        post(
            "/v1/queries/{projection}/{query}",
            queries::query,
            says("query", "Asks a projection.")
                .query::<queries::Wait>()
                .any_body("The parameters of the query. An empty body is `null`.")
                .answers::<serde_json::Value>(),
        ),
        get(
            "/v1/queries/{projection}/{query}",
            queries::get,
            says("get_query", "Asks a projection, with an ETag for caches.")
                .query::<queries::Asked>()
                .answers::<serde_json::Value>(),
        ),
    ]
}

fn operate() -> Vec<Route> {
    vec![
        post(
            "/v1/subscriptions/{name}/pause",
            subscriptions::pause,
            says("pause_subscription", "Pauses a subscription until it is resumed.").answers::<status::Paused>(),
        ),
        post(
            "/v1/subscriptions/{name}/resume",
            subscriptions::resume,
            says("resume_subscription", "Resumes a subscription.").answers::<status::Paused>(),
        ),
        post(
            "/v1/subscriptions/{name}/reset",
            subscriptions::reset,
            says("reset_subscription", "Moves the checkpoint of a subscription.")
                .body::<subscriptions::ResetTo>()
                .answers::<status::Reset>(),
        ),
        post(
            "/v1/timers/{number}/cancel",
            timers::cancel,
            says("cancel_timer", "Cancels a timer, so that it never fires.").answers::<answer::Numbered>(),
        ),
        post(
            "/v1/requests/{number}/give-up",
            requests::give_up,
            says("give_up_request", "Gives an HTTP request of a plugin up.").answers::<answer::Numbered>(),
        ),
        post(
            "/v1/projections/{name}/skip",
            operations::skip_event,
            says("skip_event", "Makes a projection skip the event at which it has stopped.")
                .query::<operations::SkipAt>()
                .answers::<status::SkippedEvent>(),
        ),
        post(
            "/v1/projections/{name}/rebuild",
            operations::rebuild,
            says("rebuild_projection", "Builds the read model of a projection again.").answers::<operations::Rebuilt>(),
        ),
        post(
            "/v1/dead-letters/discard",
            dead_letters::discard_all,
            says("discard_dead_letters", "Discards dead letters, and answers with a line for each step.")
                .query::<dead_letters::Discarded>()
                .lines::<dead_letters::DiscardStep>(),
        ),
        post(
            "/v1/dead-letters/{number}/replay",
            dead_letters::replay,
            says("replay_dead_letter", "Retries a dead letter.").answers::<status::Replayed>(),
        ),
        post(
            "/v1/dead-letters/{number}/discard",
            dead_letters::discard,
            says("discard_dead_letter", "Discards a dead letter.").answers::<answer::Numbered>(),
        ),
    ]
}

fn admin() -> Vec<Route> {
    vec![
        post(
            "/v1/manifest/reload",
            operations::reload_manifest,
            says("reload_manifest", "Applies the manifest as it is on disk.")
                .query::<operations::Apply>()
                .answers::<status::ManifestChange>(),
        ),
        post(
            "/v1/plugins/{name}/reload",
            operations::reload,
            says("reload_plugin", "Loads the file of a plugin and switches to its code.")
                .query::<operations::Reload>()
                .answers::<status::Reloaded>()
                .or_answers::<status::Reloaded>(202, "The read model of the new code is still being built."),
        ),
        post(
            "/v1/plugins/{name}/revert",
            operations::revert,
            says("revert_plugin", "Puts kept code of a plugin into service again.")
                .query::<operations::Revert>()
                .answers::<status::PluginHistory>(),
        ),
        post(
            "/v1/plugins/reload",
            operations::reload_together,
            says("reload_plugins", "Loads the files of several plugins and switches to their code together.")
                .query::<operations::Reload>()
                .body::<operations::Together>()
                .answers::<status::AllReloaded>()
                .or_answers::<status::AllReloaded>(202, "A read model of the new code is still being built."),
        ),
        post(
            "/v1/streams/{type}/{id}/archive",
            store::archive,
            says("archive_stream", "Archives a stream, which then takes no more events.")
                .answers::<status::StreamStatus>(),
        ),
        post(
            "/v1/streams/{type}/{id}/restore",
            store::restore,
            says("restore_stream", "Restores an archived stream.").answers::<status::StreamStatus>(),
        ),
        post(
            "/v1/clock",
            clock::set,
            says("move_clock", "Moves a manual clock.").body::<clock::Move>().answers::<status::ClockStatus>(),
        ),
        post(
            "/v1/store/backup",
            store::backup,
            says("backup_store", "Copies the store into a new file while it is in use.")
                .body::<store::Wanted>()
                .answers::<Backup>(),
        ),
    ]
}

fn get<H: Handler<T, Server>, T: 'static>(path: &'static str, handler: H, operation: Operation) -> Route {
    Route { method: Method::GET, path, scope: None, operation, limits_itself: false, handler: routing::get(handler) }
}

fn post<H: Handler<T, Server>, T: 'static>(path: &'static str, handler: H, operation: Operation) -> Route {
    Route { method: Method::POST, path, scope: None, operation, limits_itself: false, handler: routing::post(handler) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_routes_make_a_router_and_differ() {
        // It panics if two routes have the same method and path, or paths that can't be told apart.
        let _ =
            all().into_iter().fold(Router::new(), |router, Route { path, handler, .. }| router.route(path, handler));
        let ids: BTreeSet<&str> = all().iter().map(|route| route.operation.id).collect();
        assert_eq!(ids.len(), all().len(), "each route has an id of its own");
    }

    #[test]
    fn whoever_only_reads_changes_nothing() {
        for Route { method, path, scope, .. } in all() {
            match scope {
                None | Some(Scope::Read) => assert_eq!(method, Method::GET, "{path}"),
                Some(Scope::Commands | Scope::Operate | Scope::Admin) => assert_eq!(method, Method::POST, "{path}"),
                Some(Scope::Queries) => {}
            }
        }
    }
}
