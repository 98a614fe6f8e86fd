//! `wasmill dead-letters`: lists, shows, replays and discards dead letters.

use super::client::{Client, Reply, Target};
use super::failure::CommandFailure;
use super::table::{Align, Table, number, time, time_if_known};
use super::{output, render};
use crate::status::{DeadLetterItem, DeadLetters, Replayed};
use serde_json::Value;
use std::io::{BufRead, BufReader, IsTerminal};

/// Number of letters per request.
const PAGE: usize = 1_000;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List dead letters, newest first.
    List {
        /// Only dead letters of this source or subscription.
        #[arg(long, value_name = "NAME")]
        consumer: Option<String>,
        /// Only dead letters with a lower number than this.
        #[arg(long, value_name = "N")]
        before: Option<u64>,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Show one dead letter with its content.
    Show {
        /// The number of the dead letter.
        number: u64,
        #[command(flatten)]
        target: Target,
    },
    /// Retry dead letters, each in the way that it first came. Those that succeed are removed.
    Replay(Selected),
    /// Discard dead letters. Their content is lost.
    Discard(Selected),
}

#[derive(clap::Args)]
pub(super) struct Selected {
    /// The numbers of the dead letters.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    numbers: Vec<u64>,
    /// All current dead letters, oldest first.
    #[arg(long)]
    all: bool,
    /// With --all: only dead letters of this source or subscription.
    #[arg(long, value_name = "NAME", requires = "all")]
    consumer: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn dead_letters(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List { consumer, before, limit, target } => {
            list(&Client::new(&target)?, consumer.as_deref(), before, limit, json)
        }
        Command::Show { number, target } => show(&Client::new(&target)?, number, json),
        Command::Replay(selected) => each(&selected, json, "replay", |reply| {
            let Replayed { number, outcome, reason, .. } = reply.decoded()?;
            let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
            Ok(format!("{number}: {outcome}{reason}"))
        }),
        Command::Discard(selected) if selected.all => discard_all(&selected, json),
        Command::Discard(selected) => each(&selected, json, "discard", |reply| {
            let answer: Value = reply.decoded()?;
            Ok(format!("{}: discarded", answer["number"]))
        }),
    }
}

fn list(
    client: &Client,
    consumer: Option<&str>,
    before: Option<u64>,
    limit: usize,
    json: bool,
) -> Result<(), CommandFailure> {
    let (mut before, mut left) = (before, limit);
    let mut letters = Vec::new();
    let total = loop {
        let page = page(client, consumer, before, left.min(PAGE))?;
        left -= page.letters.len().min(left);
        before = page.letters.last().map(|letter| letter.number);
        letters.extend(page.letters);
        if left == 0 || before.is_none() {
            break page.total;
        }
    };
    if json {
        return letters.iter().try_for_each(|letter| output::line(&serde_json::json!(letter).to_string()));
    }
    if letters.is_empty() {
        return output::line("no dead letters");
    }
    output::text(&table(&letters).to_string())?;
    match total - letters.len().min(total as usize) as u64 {
        0 => Ok(()),
        more => output::line(&format!("{} of {}; the others are older", number(total - more), number(total))),
    }
}

fn page(
    client: &Client,
    consumer: Option<&str>,
    before: Option<u64>,
    limit: usize,
) -> Result<DeadLetters, CommandFailure> {
    let mut path = format!("/v1/dead-letters?limit={limit}");
    if let Some(consumer) = consumer {
        path += &format!("&consumer={}", super::client::segment(consumer));
    }
    if let Some(before) = before {
        path += &format!("&before={before}");
    }
    client.get(&path)?.successful()?.decoded()
}

fn table(letters: &[DeadLetterItem]) -> Table {
    let mut table = Table::new([
        ("NUMBER", Align::Right),
        ("DEAD-LETTERED", Align::Left),
        ("OF", Align::Left),
        ("CONSUMER", Align::Left),
        ("PLACE", Align::Left),
        ("KEY", Align::Left),
    ]);
    for DeadLetterItem { number, consumer, place, key, reason, time_ms, dead_lettered_ms, waiting } in letters {
        let key = key.as_ref().map_or(String::new(), |key| format!("{key:?}"));
        let of = time_if_known(*time_ms);
        table.row([number.to_string(), time(*dead_lettered_ms), of, consumer.clone(), place.clone(), key]);
        table.note(reason);
        if *waiting > 0 {
            table.note(&render::waiting(*waiting));
        }
    }
    table
}

fn show(client: &Client, number: u64, json: bool) -> Result<(), CommandFailure> {
    let reply = client.get(&format!("/v1/dead-letters/{number}"))?.successful()?;
    if json { output::line(&reply.text()) } else { output::text(&render::dead_letter(&reply.decoded()?)) }
}

/// Discards all letters of one consumer, or of all consumers, in one request. Progress goes to standard error.
fn discard_all(selected: &Selected, json: bool) -> Result<(), CommandFailure> {
    let client = Client::new(&selected.target)?;
    let consumer = selected.consumer.as_deref().map(|name| format!("?consumer={}", super::client::segment(name)));
    let path = format!("/v1/dead-letters/discard{}", consumer.unwrap_or_default());
    let (status, body) = client.open_post(&path)?;
    let mut last = Value::Null;
    for line in BufReader::new(body).lines() {
        let line = line.map_err(|cause| client.unreadable(cause))?;
        let reply = Reply { status, body: line.into_bytes() }.successful()?;
        last = reply.decoded()?;
        if !json && last["done"] != true && std::io::stderr().is_terminal() {
            eprint!("\r{} of {} discarded", last["discarded"], last["of"]);
        }
    }
    if !json && std::io::stderr().is_terminal() {
        eprintln!();
    }
    let discarded = last["discarded"].as_u64().unwrap_or(0);
    match last["error"].as_str() {
        Some(error) => Err(CommandFailure::failed(format!("{discarded} discarded, then: {error}"))),
        None if last["done"] != true => {
            Err(CommandFailure::failed(format!("{discarded} discarded, then the host's answer ended early")))
        }
        None if json => output::line(&last.to_string()),
        None => output::line(&format!("{} discarded", number(discarded))),
    }
}

/// Applies an action to one letter after the other and prints the result of each. It fails if one of them failed.
fn each(
    selected: &Selected,
    json: bool,
    verb: &str,
    told: impl Fn(&Reply) -> Result<String, CommandFailure>,
) -> Result<(), CommandFailure> {
    let client = Client::new(&selected.target)?;
    let mut failed = 0;
    for number in numbers(&client, selected)? {
        let reply = client.post(&format!("/v1/dead-letters/{number}/{verb}"), &[], b"")?;
        let done = reply.status == 200;
        failed += usize::from(!done);
        match (json, done) {
            (true, true) => output::line(&reply.text())?,
            (true, false) => {
                let problem: Value = reply.decoded()?;
                output::line(&serde_json::json!({ "number": number, "error": problem["detail"] }).to_string())?;
            }
            (false, true) => output::line(&told(&reply)?)?,
            (false, false) => output::line(&format!("{number}: failed: {}", reply.refusal().text()))?,
        }
    }
    if failed == 0 { Ok(()) } else { Err(CommandFailure::told()) }
}

fn numbers(client: &Client, selected: &Selected) -> Result<Vec<u64>, CommandFailure> {
    if !selected.all {
        return Ok(selected.numbers.clone());
    }
    let (mut numbers, mut before) = (Vec::new(), None);
    loop {
        let page = page(client, selected.consumer.as_deref(), before, PAGE)?;
        numbers.extend(page.letters.iter().map(|letter| letter.number));
        before = page.letters.last().map(|letter| letter.number);
        if before.is_none() {
            break;
        }
    }
    numbers.reverse();
    Ok(numbers)
}
