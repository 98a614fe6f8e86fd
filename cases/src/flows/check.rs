//! Comparing what happened in a step with what was expected.

use super::*;
use crate::difference::{Found, Part, Wanted, contains, readable, same, same_answer, text_body};
use std::collections::BTreeSet;

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
                contains("a reason", part, reason)
            }
            (None, None, Ended::Accepted) => Ok(()),
            (Some(part), ..) => Err(format!("expected it to be rejected with `{part}`, and {said}")),
            (None, Some(part), _) => Err(format!("expected it to be malformed with `{part}`, and {said}")),
            (None, None, _) => Err(format!("expected it to be accepted, and {said}")),
        }
    }

    fn check_answered(&self, answered: &Answered) -> Result<(), String> {
        match (answered, &self.malformed, &self.answer) {
            (Err(reason), Some(part), _) => contains("a reason", part, reason),
            (Err(reason), None, _) => Err(format!("expected an answer, and got none: {reason}")),
            (Ok(answer), Some(_), _) => Err(format!("expected no answer, and got {answer:#}")),
            (Ok(answer), None, Some(expected)) => same_answer(expected, answer),
            (Ok(_), None, None) => Ok(()),
        }
    }

    fn check_dead_letters(&self, happened: &[(String, String)]) -> Result<(), String> {
        let expected = self.dead_letters.iter().flatten().map(|letter| (letter.consumer.clone(), &letter.reason));
        check_reasons("dead letters", expected, happened.to_vec())
    }
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

/// Compares messages. As in Kafka, those of different keys have no order, so they are compared key by key where all expected ones
/// of a topic have a key.
fn check_messages(expected: &[FlowMessage], happened: &[Published]) -> Result<(), String> {
    let without_key: BTreeSet<&str> =
        expected.iter().filter(|message| message.key.is_none()).map(|message| &*message.topic).collect();
    let mut of_keys: Vec<&FlowMessage> = expected.iter().collect();
    of_keys.sort_by_key(|message| (!without_key.contains(&*message.topic)).then_some(message.key.as_deref()));
    let mut published: Vec<&Published> = happened.iter().collect();
    published.sort_by_key(|(topic, key, _)| (!without_key.contains(&**topic)).then_some(key.as_deref()));
    let wanted = |FlowMessage { topic, key, value }: &FlowMessage| {
        let value = value.as_ref().map(|value| format!("{value:#}"));
        Wanted::new("message", topic, [("key", key.clone()), ("value", value)])
    };
    let found = |(topic, key, value): &Published| {
        let key = key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        let value = value.as_ref().map(|value| format!("{:#}", readable(value)));
        Found::new("message", topic, [("key", Part::of(key)), ("value", Part::of(value))])
    };
    compare_shown("messages", of_keys.into_iter().map(wanted), published.into_iter().map(found))
}

fn check_requests(expected: &[FlowRequest], happened: &[SentRequest]) -> Result<(), String> {
    let wanted = |FlowRequest { endpoint, method, path, json, text }: &FlowRequest| {
        let body = match (json, text) {
            (Some(json), _) => Some(format!("{json:#}")),
            (None, text) => text.as_deref().map(text_body),
        };
        Wanted::new("request", endpoint, [("method", method.clone()), ("path", path.clone()), ("body", body)])
    };
    compare_shown("requests", expected.iter().map(wanted), happened.iter().map(found_request))
}

fn found_request(SentRequest { endpoint, method, path, body, .. }: &SentRequest) -> Found<'_> {
    let (method, path) = (Part::Text(method.clone()), Part::Text(path.clone()));
    Found::new("request", endpoint, [("method", method), ("path", path), ("body", Part::Body(body))])
}

/// Compares things by what they are for. Their order counts only among those that are for the same.
fn compare_shown<'h>(
    what: &str,
    expected: impl Iterator<Item = Wanted>,
    happened: impl Iterator<Item = Found<'h>>,
) -> Result<(), String> {
    let expected = by_group(expected.map(|wanted| (wanted.of.clone(), wanted)));
    let happened = by_group(happened.map(|found| (found.of.clone(), found)));
    compare(what, &expected, &happened, Wanted::shown, Found::shown)
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
    same(&format!("the {what} are"), &wanted, &actual)
}
