//! Reading a file of flows.

use super::*;
use crate::{Error, decoded, text_of};
use serde::de::IgnoredAny;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// What the errors of a file of flows are about.
const FLOWS: &str = "flows";

/// The time at which a flow begins by default.
const START: &str = "2026-01-01T00:00:00Z";

impl FlowFile {
    /// Reads a file. It is JSON if its name ends in `.json`, and TOML otherwise.
    pub fn read(file: impl AsRef<Path>) -> Result<Self, Error> {
        Self::parse(file.as_ref(), &text_of(FLOWS, file.as_ref())?)
    }

    /// Reads flows from text. The file's name says if the text is JSON or TOML, and errors show it.
    pub fn parse(file: impl AsRef<Path>, text: &str) -> Result<Self, Error> {
        let file = file.as_ref().to_owned();
        let flows = decoded(FLOWS, &file, text, Document::checked)?;
        Ok(Self { file, flows })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    flow: Vec<FlowOfFile>,
    case: Option<IgnoredAny>,
    aggregate: Option<IgnoredAny>,
    subscriber: Option<IgnoredAny>,
    saga: Option<IgnoredAny>,
    projection: Option<IgnoredAny>,
    settings: Option<IgnoredAny>,
    secrets: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowOfFile {
    name: String,
    start: Option<String>,
    #[serde(default)]
    answers: Vec<http::AnswerOfFile>,
    steps: Vec<StepOfFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepOfFile {
    send: Option<String>,
    to: Option<Stream>,
    #[serde(default)]
    payload: Json,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    advance: Option<String>,
    query: Option<String>,
    #[serde(default)]
    params: Json,
    #[serde(default)]
    then: Then,
}

impl Document {
    fn checked(self) -> Result<Vec<Flow>, String> {
        let Self { flow, case, aggregate, subscriber, saga, projection, settings, secrets } = self;
        if [case, aggregate, subscriber, saga, projection, settings, secrets].iter().any(Option::is_some) {
            return Err(
                "they are cases: give `wasmill test` the .wasm file of their plugin, and not a manifest".to_owned()
            );
        }
        if flow.is_empty() {
            return Err("there is no flow: add a `[[flow]]`".to_owned());
        }
        let flows = flow.into_iter().map(FlowOfFile::checked).collect::<Result<Vec<Flow>, _>>()?;
        let twice = flows.iter().enumerate().find(|(n, flow)| flows[..*n].iter().any(|other| other.name == flow.name));
        match twice {
            Some((_, flow)) => Err(format!("two flows are named `{}`: give each flow its own name", flow.name)),
            None => Ok(flows),
        }
    }
}

impl FlowOfFile {
    fn checked(self) -> Result<Flow, String> {
        let Self { name, start, answers, steps } = self;
        let start = start.as_deref().unwrap_or(START);
        let time = humantime::parse_rfc3339(start).map_err(|cause| {
            format!("flow `{name}`: `start` must be a time such as \"{START}\", found {start:?}: {cause}")
        })?;
        let start_ms = time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        if steps.is_empty() {
            return Err(format!("flow `{name}` has no steps: add `steps`"));
        }
        let answers = http::checked(answers).map_err(|cause| format!("flow `{name}`, {cause}"))?;
        let numbered = steps.into_iter().zip(1..);
        let steps = numbered
            .map(|(step, number)| step.checked().map_err(|cause| format!("flow `{name}`, step {number}: {cause}")));
        Ok(Flow { start_ms, answers, steps: steps.collect::<Result<_, _>>()?, name })
    }
}

impl StepOfFile {
    fn checked(self) -> Result<Step, String> {
        let Self { send, to, payload, headers, advance, query, params, then } = self;
        let has_send = to.is_some() || !payload.is_null() || !headers.is_empty();
        let action = match (send, advance, query) {
            (Some(name), None, None) if params.is_null() => {
                let to = to.ok_or("`to` is missing: the aggregate of the command, as \"type/id\"")?;
                Action::Send(FlowCommand { to, name, payload, headers })
            }
            (None, Some(by), None) if !has_send && params.is_null() => {
                let by = humantime::parse_duration(&by)
                    .map_err(|cause| format!("`advance` must be a time such as \"1h 30m\", found {by:?}: {cause}"))?;
                Action::Advance(by)
            }
            (None, None, Some(query)) if !has_send => match query.split_once('/') {
                Some((projection, query)) => {
                    Action::Query { projection: projection.to_owned(), query: query.to_owned(), params }
                }
                None => return Err(format!("`query` must be \"projection/query\", found {query:?}")),
            },
            _ => {
                return Err("a step has `send` with `to`, `payload` and `headers`, or `advance`, or `query` with `params`, and \
                            `then`"
                    .to_owned());
            }
        };
        then.fits(&action)?;
        Ok(Step { action, then })
    }
}

impl Then {
    /// Checks that what is expected can come of the action.
    fn fits(&self, action: &Action) -> Result<(), String> {
        self.requests.iter().flatten().try_for_each(FlowRequest::check)?;
        let (is_send, is_query) = (matches!(action, Action::Send(_)), matches!(action, Action::Query { .. }));
        let wrong = [
            ("rejected", self.rejected.is_some() && !is_send, "a command"),
            ("malformed", self.malformed.is_some() && !is_send && !is_query, "a command or a query"),
            ("answer", self.answer.is_some() && !is_query, "a query"),
        ];
        match wrong.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
            Some((key, _, of)) => Err(format!("`then.{key}` is only for {of}: remove it")),
            None if self.rejected.is_some() && self.malformed.is_some() => {
                Err("a command ends in one way: remove `then.rejected` or `then.malformed`".to_owned())
            }
            None => Ok(()),
        }
    }
}
