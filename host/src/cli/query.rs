//! `wasmill query`: sends one query to a projection.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::output;
use super::send::payload;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The projection, such as sales.
    projection: String,
    /// The query's name, such as totals.
    name: String,
    /// The query's parameters; `-` reads them from standard input.
    #[arg(value_name = "JSON", default_value = "null", allow_negative_numbers = true)]
    payload: String,
    /// Wait until the projection has reached this position, such as the one that `send` printed.
    #[arg(long, value_name = "N")]
    position: Option<u64>,
    /// The longest time to wait for the position.
    #[arg(long, value_name = "MS", requires = "position")]
    timeout_ms: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn query(args: Args, json: bool) -> Result<(), CommandFailure> {
    let params = payload(args.payload)?;
    let mut path = format!("/v1/queries/{}/{}", segment(&args.projection), segment(&args.name));
    let position = args.position.map(|position| format!("position={position}"));
    let timeout = args.timeout_ms.map(|timeout| format!("timeout_ms={timeout}"));
    let waiting: Vec<String> = position.into_iter().chain(timeout).collect();
    if !waiting.is_empty() {
        path = format!("{path}?{}", waiting.join("&"));
    }
    let reply = Client::new(&args.target)?.post(&path, &[], params.as_bytes())?.successful()?;
    if json { output::line(&reply.text()) } else { output::line(&pretty(&reply.text())) }
}

/// Indents JSON without changing the order of its keys. Text that is not JSON is returned unchanged.
fn pretty(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut to = serde_json::Serializer::pretty(&mut out);
    match serde_transcode::transcode(&mut serde_json::Deserializer::from_str(text), &mut to) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_answer_keeps_the_order_of_its_keys() {
        assert_eq!(super::pretty(r#"{"b":[1,2.5],"a":{}}"#), "{\n  \"b\": [\n    1,\n    2.5\n  ],\n  \"a\": {}\n}");
        assert_eq!(super::pretty("plain"), "plain");
    }
}
