//! Comparing what happened in a step with what was expected.

use super::*;
use crate::difference;

impl Then {
    /// Compares what happened with what was expected.
    pub(super) fn check(
        &self,
        ended: Option<&Ended>,
        answered: Option<&Answered>,
        happened: &Happened,
    ) -> Result<(), String> {
        if let Some(ended) = ended {
            self.check_ended(ended)?;
        }
        if let Some(answered) = answered {
            self.check_answered(answered)?;
        }
        self.check_dead_letters(&happened.dead_letters)?;
        if let Some(expected) = &self.events {
            check_events(expected, &happened.events)?;
        }
        if let Some(expected) = &self.messages {
            check_messages(expected, &happened.messages)?;
        }
        if let Some(expected) = &self.requests {
            check_requests(expected, &happened.requests)?;
        }
        let Some(expected) = &self.refused else { return Ok(()) };
        let texts = |refused: &(Stream, String, String)| (format!("{} to {}", refused.1, refused.0), refused.2.clone());
        let expected = expected.iter().map(|refused| (format!("{} to {}", refused.name, refused.to), &refused.reason));
        check_reasons("refused commands", expected, happened.refused.iter().map(texts).collect())
    }

    fn check_ended(&self, ended: &Ended) -> Result<(), String> {
        let said = match ended {
            Ended::Accepted => "it was accepted".to_owned(),
            Ended::Rejected(reason) => format!("it was rejected: {reason}"),
            Ended::Malformed(reason) => format!("it is malformed: {reason}"),
            Ended::Otherwise(text) => text.clone(),
        };
        match (&self.rejected, &self.malformed, ended) {
            (Some(part), _, Ended::Rejected(reason)) | (None, Some(part), Ended::Malformed(reason)) => {
                contains(part, reason)
            }
            (None, None, Ended::Accepted) => Ok(()),
            (Some(part), ..) => Err(format!("expected it to be rejected with `{part}`, and {said}")),
            (None, Some(part), _) => Err(format!("expected it to be malformed with `{part}`, and {said}")),
            (None, None, _) => Err(format!("expected it to be accepted, and {said}")),
        }
    }

    fn check_answered(&self, answered: &Answered) -> Result<(), String> {
        match (answered, &self.malformed, &self.answer) {
            (Err(reason), Some(part), _) => contains(part, reason),
            (Err(reason), None, _) => Err(format!("expected an answer, and got none: {reason}")),
            (Ok(answer), Some(_), _) => Err(format!("expected no answer, and got {answer:#}")),
            (Ok(answer), None, Some(expected)) if answer != expected => {
                let difference = difference(&format!("{expected:#}"), &format!("{answer:#}"));
                Err(format!(
                    "the answer is not the expected one; missing lines have -, unexpected lines have +:\n{difference}"
                ))
            }
            (Ok(_), None, _) => Ok(()),
        }
    }

    fn check_dead_letters(&self, happened: &[(String, String)]) -> Result<(), String> {
        let expected = self.dead_letters.iter().flatten().map(|letter| (letter.consumer.clone(), &letter.reason));
        check_reasons("dead letters", expected, happened.to_vec())
    }
}

fn contains(part: &str, reason: &str) -> Result<(), String> {
    if reason.contains(part) {
        return Ok(());
    }
    Err(format!("expected a reason with the text after -, got the text after +:\n- {part}\n+ {reason}"))
}

/// Compares things that have a reason, in any order.
fn check_reasons<'e>(
    what: &str,
    expected: impl Iterator<Item = (String, &'e String)>,
    mut happened: Vec<(String, String)>,
) -> Result<(), String> {
    let mut missing = Vec::new();
    for (thing, part) in expected {
        let found = happened.iter().position(|(other, reason)| *other == thing && reason.contains(part.as_str()));
        match found {
            Some(index) => drop(happened.remove(index)),
            None => missing.push(format!("- {thing}: {part}")),
        }
    }
    let unexpected = happened.into_iter().map(|(thing, reason)| format!("+ {thing}: {reason}"));
    let lines: Vec<String> = missing.into_iter().chain(unexpected).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let lines = lines.join("\n");
    Err(format!("the {what} are not the expected ones; missing lines have -, unexpected lines have +:\n{lines}"))
}

fn check_events(expected: &[FlowEvent], happened: &[Occurred]) -> Result<(), String> {
    let is_checked =
        |on: &Stream| expected.is_empty() || expected.iter().any(|event| event.on.aggregate_type == on.aggregate_type);
    let happened = happened.iter().filter(|event| is_checked(&event.on));
    let expected = by_group(expected.iter().map(|event| (event.on.to_string(), event)));
    let happened = by_group(happened.map(|event| (event.on.to_string(), event)));
    let listed = |event: &FlowEvent| match &event.payload {
        Some(payload) => format!("{} {payload:#}", event.name),
        None => event.name.clone(),
    };
    let found = |event: &&Occurred, expected: Option<&&FlowEvent>| {
        let mut payload = readable(&event.payload);
        let expected = expected.filter(|expected| expected.name == event.name).map(|expected| &expected.payload);
        if let (Some(Some(Json::Object(fields))), Json::Object(found)) = (expected, &mut payload)
            && !fields.contains_key("@schema")
        {
            found.remove("@schema");
        }
        match expected {
            Some(None) => event.name.clone(),
            _ => format!("{} {payload:#}", event.name),
        }
    };
    compare("events", &expected, &happened, |event| listed(event), found)
}

fn check_messages(expected: &[FlowMessage], happened: &[Published]) -> Result<(), String> {
    let expected = by_group(expected.iter().map(|message| (message.topic.clone(), message)));
    let happened = by_group(happened.iter().map(|message| (message.0.clone(), message)));
    let part = |name: &str, value: Option<String>| value.map_or(String::new(), |value| format!(" {name} {value}"));
    let listed = |message: &FlowMessage| {
        let key = part("key", message.key.clone());
        format!("message{key}{}", part("value", message.value.as_ref().map(|value| format!("{value:#}"))))
    };
    let found = |(_, key, value): &&Published, expected: Option<&&FlowMessage>| {
        let key = expected
            .is_none_or(|expected| expected.key.is_some())
            .then(|| key.as_ref().map_or("none".to_owned(), |key| String::from_utf8_lossy(key).into_owned()));
        let value = expected
            .is_none_or(|expected| expected.value.is_some())
            .then(|| value.as_ref().map_or("none".to_owned(), |value| format!("{:#}", readable(value))));
        format!("message{}{}", part("key", key), part("value", value))
    };
    compare("messages", &expected, &happened, |message| listed(message), found)
}

fn check_requests(expected: &[FlowRequest], happened: &[SentRequest]) -> Result<(), String> {
    let expected = by_group(expected.iter().map(|request| (request.endpoint.clone(), request)));
    let happened = by_group(happened.iter().map(|request| (request.endpoint.clone(), request)));
    let shown = |method: Option<&String>, path: Option<&String>, body: Option<String>| {
        let parts = [("method", method.cloned()), ("path", path.cloned()), ("body", body)];
        let parts = parts.into_iter().filter_map(|(name, part)| part.map(|part| format!(" {name} {part}")));
        format!("request{}", parts.collect::<String>())
    };
    let listed = |request: &FlowRequest| {
        let body = match (&request.json, &request.text) {
            (Some(json), _) => Some(format!("{json:#}")),
            (None, text) => text.as_ref().map(|text| format!("text {text}")),
        };
        shown(request.method.as_ref(), request.path.as_ref(), body)
    };
    let found = |request: &&SentRequest, expected: Option<&&FlowRequest>| {
        let is_said = |part: fn(&FlowRequest) -> bool| expected.is_none_or(|expected| part(expected));
        let body = match expected {
            Some(FlowRequest { json: None, text: None, .. }) => None,
            Some(FlowRequest { text: Some(_), .. }) => Some(text_of(&request.body)),
            Some(_) | None => Some(body_of(&request.body)),
        };
        let method = is_said(|expected| expected.method.is_some()).then_some(&request.method);
        let path = is_said(|expected| expected.path.is_some()).then_some(&request.path);
        shown(method, path, body)
    };
    compare("requests", &expected, &happened, |request| listed(request), found)
}

/// Returns a body in a readable form: as JSON if it is JSON, and as text otherwise.
fn body_of(body: &[u8]) -> String {
    match serde_json::from_slice::<Json>(body) {
        Ok(json) => format!("{json:#}"),
        Err(_) => text_of(body),
    }
}

fn text_of(body: &[u8]) -> String {
    format!("text {}", String::from_utf8_lossy(body))
}

fn by_group<T>(items: impl Iterator<Item = (String, T)>) -> BTreeMap<String, Vec<T>> {
    let mut groups: BTreeMap<String, Vec<T>> = BTreeMap::new();
    items.for_each(|(group, item)| groups.entry(group).or_default().push(item));
    groups
}

/// Compares items group by group. `found` shows an item as far as the expected one at its place says something of it.
fn compare<E, H>(
    what: &str,
    expected: &BTreeMap<String, Vec<E>>,
    happened: &BTreeMap<String, Vec<H>>,
    listed: impl Fn(&E) -> String,
    found: impl Fn(&H, Option<&E>) -> String,
) -> Result<(), String> {
    let (mut wanted, mut actual) = (String::new(), String::new());
    let mut groups: Vec<&String> = expected.keys().chain(happened.keys()).collect();
    groups.sort();
    groups.dedup();
    for group in groups {
        let (of_expected, of_happened) = (expected.get(group), happened.get(group));
        let (of_expected, of_happened) =
            (of_expected.map_or(&[][..], Vec::as_slice), of_happened.map_or(&[][..], Vec::as_slice));
        of_expected.iter().for_each(|item| wanted.push_str(&format!("{group} {}\n", listed(item))));
        let texts = of_happened.iter().enumerate().map(|(index, item)| found(item, of_expected.get(index)));
        texts.for_each(|text| actual.push_str(&format!("{group} {text}\n")));
    }
    if wanted == actual {
        return Ok(());
    }
    let difference = difference(&wanted, &actual);
    Err(format!("the {what} are not the expected ones; missing lines have -, unexpected lines have +:\n{difference}"))
}

fn readable(payload: &[u8]) -> Json {
    serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into())
}
