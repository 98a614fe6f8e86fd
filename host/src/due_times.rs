//! Due times: the seconds at which a cron expression is due in a time zone.
//!
//! When the clocks change, some local times are skipped or repeated. An expression with one second, one minute and one
//! hour (`30 2 * * *`) names a time of day. It is due once on each of its days: at the end of the skipped span if its
//! time is skipped, and the first time if its time is repeated. Any other expression (`*/15 * * * *`) follows the local
//! clock: it is not due at skipped times, and it is due both times at repeated ones. This module does not know what is
//! done at a due time.

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Returns coordinated universal time.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Finds a time zone by its name. The machine's database has precedence over the bundled one.
    pub fn find(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().filter(|zone| !zone.is_unknown()).map(Self)
    }
}

/// The due times of a cron expression in a time zone, in whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueTimes {
    cron: Cron,
    zone: TimeZone,
}

/// The reason why a text is not a usable cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It does not parse. The text says what is wrong with it.
    #[error("{0}")]
    Expression(String),
    /// It parses, and no date fits it.
    #[error("no date fits it")]
    Never,
}

impl DueTimes {
    /// Parses an expression of five fields: minute, hour, day, month and weekday. A sixth field in front of them has the
    /// seconds.
    pub fn parse(expression: &str, zone: Zone) -> Result<Self, Invalid> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| Invalid::Expression(explained(expression, error)))?;
        let due = Self { cron, zone: zone.0 };
        if due.first(0).is_some() { Ok(due) } else { Err(Invalid::Never) }
    }

    /// Returns the first due time that is not before `from_s`.
    pub fn first(&self, from_s: u64) -> Option<u64> {
        // The search begins after the second before. If it began at `from_s` itself, it would miss a time of day that is
        // due there because it was skipped.
        let before = Timestamp::from_second(i64::try_from(from_s).ok()? - 1).ok()?;
        let found = self.cron.find_next_occurrence(&before.to_zoned(self.zone.clone()), false).ok()?;
        found.timestamp().as_second().try_into().ok()
    }

    /// Returns the latest due time from `from_s` to `to_s`, both included.
    pub fn latest(&self, from_s: u64, to_s: u64) -> Option<u64> {
        let mut latest = self.first(from_s).filter(|due| *due <= to_s)?;
        // The latest due time is in `latest..end`.
        let mut end = to_s + 1;
        while end - latest > 1 {
            let middle = latest + (end - latest) / 2;
            match self.first(middle).filter(|due| *due < end) {
                Some(due) => latest = due,
                None => end = middle,
            }
        }
        Some(latest)
    }
}

/// Says what is wrong with an expression, as the end of a sentence.
fn explained(expression: &str, error: CronError) -> String {
    let fields = expression.split_whitespace().count();
    match error {
        _ if expression.trim().starts_with('@') => "there is no such short form".to_owned(),
        _ if !(5..=6).contains(&fields) => format!("the number of fields is {fields}"),
        CronError::ComponentError(text) | CronError::IllegalCharacters(text) | CronError::InvalidPattern(text) => {
            text.trim_end_matches('.').replacen("CronPattern", "it", 1).to_lowercase()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(expression: &str, zone: &str) -> DueTimes {
        DueTimes::parse(expression, Zone::find(zone).expect("a known zone")).expect("a valid expression")
    }

    fn seconds(time: &str) -> u64 {
        time.parse::<Timestamp>().expect("a time").as_second().try_into().expect("a time since 1970")
    }

    /// Lists the due times between two times, the first one included.
    fn between(due: &DueTimes, from: &str, to: &str) -> Vec<String> {
        let (mut from, to) = (seconds(from), seconds(to));
        let mut found = Vec::new();
        while let Some(next) = due.first(from).filter(|next| *next < to) {
            assert!(next >= from, "{next} is before {from}");
            found.push(Timestamp::from_second(next as i64).unwrap().to_string());
            from = next + 1;
        }
        found
    }

    #[test]
    fn a_time_of_day_is_that_of_the_zone() {
        let berlin = due("0 3 * * *", "Europe/Berlin");
        let winter = between(&berlin, "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z");
        assert_eq!(winter, ["2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"]);
        let summer = between(&berlin, "2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z");
        assert_eq!(summer, ["2026-07-01T01:00:00Z"]);
        let utc = between(&due("0 3 * * *", "UTC"), "2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z");
        assert_eq!(utc, ["2026-07-01T03:00:00Z"]);
    }

    #[test]
    fn a_sixth_field_in_front_has_the_seconds() {
        let often = due("*/20 * * * * *", "UTC");
        let found = between(&often, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        assert_eq!(found, ["2026-01-01T00:00:00Z", "2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]);
    }

    /// In Berlin the clocks went from 02:00 to 03:00 on 29 March 2026, which was 01:00 UTC.
    #[test]
    fn a_skipped_time_of_day_is_due_when_the_skipped_hour_ends() {
        let skipped = due("30 2 * * *", "Europe/Berlin");
        let day = between(&skipped, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(day, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        // A search that begins in that very second finds it too.
        assert_eq!(skipped.first(seconds("2026-03-29T01:00:00Z")), Some(seconds("2026-03-29T01:00:00Z")));
        let quarters = due("*/30 * * * *", "Europe/Berlin");
        let found = between(&quarters, "2026-03-29T00:15:00Z", "2026-03-29T01:45:00Z");
        assert_eq!(found, ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    }

    /// In Berlin the clocks went from 03:00 back to 02:00 on 25 October 2026, which was 01:00 UTC.
    #[test]
    fn a_repeated_time_of_day_is_due_the_first_time_and_an_interval_both_times() {
        let repeated = due("30 2 * * *", "Europe/Berlin");
        let day = between(&repeated, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(day, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let halves = due("*/30 * * * *", "Europe/Berlin");
        let found = between(&halves, "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z");
        let expected = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"];
        assert_eq!(found, expected);
    }

    #[test]
    fn wherever_a_search_begins_it_finds_the_same_due_times() {
        let (from, to) = ("2026-03-28T22:00:00Z", "2026-03-29T04:00:00Z");
        let back = ("2026-10-24T22:00:00Z", "2026-10-25T04:00:00Z");
        for expression in ["30 2 * * *", "0 3 * * *", "*/20 * * * *", "15 * * * *", "0 2,3 * * *", "59 59 1 * * *"] {
            let due = due(expression, "Europe/Berlin");
            for (from, to) in [(from, to), back] {
                let all: Vec<u64> = between(&due, from, to).iter().map(|time| seconds(time)).collect();
                for start in (seconds(from)..seconds(to)).step_by(601).chain(all.iter().flat_map(|due| [*due, due + 1]))
                {
                    let expected = all.iter().copied().find(|due| *due >= start);
                    let found = due.first(start).filter(|due| *due < seconds(to));
                    assert_eq!(found, expected, "{expression} from {start}");
                }
            }
        }
    }

    #[test]
    fn the_latest_due_time_of_a_span_is_found() {
        let hourly = due("0 * * * *", "UTC");
        let [from, to] = ["2025-01-01T00:30:00Z", "2026-01-01T00:30:00Z"].map(seconds);
        assert_eq!(hourly.latest(from, to), Some(seconds("2026-01-01T00:00:00Z")));
        assert_eq!(hourly.latest(from, from + 29 * 60), None);
        assert_eq!(hourly.latest(from, from + 30 * 60), Some(from + 30 * 60));
        let dense = due("* * 3 1 1 *", "UTC");
        assert_eq!(dense.latest(from, to), Some(seconds("2025-01-01T03:59:59Z")));
    }

    #[test]
    fn what_is_no_expression_or_never_due_is_refused() {
        for text in ["", "* * * *", "61 * * * *", "0 0 3 * * * 2027", "every day", "* * * * * * *"] {
            assert!(matches!(DueTimes::parse(text, Zone::utc()), Err(Invalid::Expression(_))), "{text}");
        }
        for (text, cause) in [
            ("* * * *", "the number of fields is 4"),
            ("@often", "there is no such short form"),
            ("61 * * * *", "number out of bounds"),
            ("0 3 * * MONDAY", "it contains illegal character 'd' in part '1day'"),
        ] {
            assert_eq!(DueTimes::parse(text, Zone::utc()), Err(Invalid::Expression(cause.to_owned())));
        }
        assert!(DueTimes::parse("@daily", Zone::utc()).is_ok());
        assert_eq!(DueTimes::parse("0 0 30 2 *", Zone::utc()), Err(Invalid::Never));
        assert!(DueTimes::parse("0 0 29 2 *", Zone::utc()).is_ok());
        assert_eq!([Zone::find("Mars/Phobos"), Zone::find("")], [None, None]);
    }

    #[test]
    fn no_due_time_follows_the_end_of_the_calendar() {
        assert_eq!(due("* * * * *", "UTC").first(u64::MAX), None);
        assert_eq!(due("* * * * *", "UTC").first(i64::MAX as u64), None);
    }
}
