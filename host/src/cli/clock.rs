//! `wasmill clock`: shows the host's clock, and moves a manual one.

use super::client::{Client, Target};
use super::failure::CommandFailure;
use super::{output, table};
use crate::status::ClockStatus;
use std::time::{Duration, UNIX_EPOCH};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Move a manual clock forward by this time, such as `90s` or `2h 30m`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "to")]
    advance: Option<Duration>,
    /// Move a manual clock to this time, such as `2026-11-28T12:00:00Z`, also back.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    to: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn time_ms(text: &str) -> Result<u64, String> {
    let time = humantime::parse_rfc3339(text).map_err(|_| "expected a time such as 2026-11-28T12:00:00Z".to_owned())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "expected a time after 1970".to_owned())?;
    Ok(since.as_millis() as u64)
}

pub(super) fn clock(Args { advance, to, target }: &Args, json: bool) -> Result<(), CommandFailure> {
    let client = Client::new(target)?;
    let body = match (advance, to) {
        (Some(advance), _) => Some(serde_json::json!({ "advance_ms": advance.as_millis() as u64 })),
        (None, Some(to)) => Some(serde_json::json!({ "to_ms": to })),
        (None, None) => None,
    };
    let reply = match body {
        Some(body) => client.post("/v1/clock", &[], body.to_string().as_bytes())?,
        None => client.get("/v1/clock")?,
    };
    let reply = reply.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let ClockStatus { now_ms, manual } = reply.decoded()?;
    let kind = if manual { "manual" } else { "the machine's" };
    output::line(&format!("{} ({kind})", table::time(now_ms)))
}

#[cfg(test)]
mod tests {
    use super::time_ms;

    #[test]
    fn a_time_is_that_of_rfc_3339_after_1970() {
        assert_eq!(time_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(["", "now", "1969-12-31T23:59:59Z", "12:00"].iter().all(|text| time_ms(text).is_err()));
    }
}
