//! The keys of `[schedules.NAME]`.

use super::*;
use crate::due_times::{DueTimes, Invalid, Zone};
use crate::model::StreamId;
use serde_json::{Number, Value as Json};

const CRON: &str = "a cron expression of five fields, minute, hour, day, month and weekday, such as \"0 3 * * *\"; a \
                    sixth field in front of them has the seconds";
const TIME_ZONE: &str = "the IANA name of a time zone, such as \"Europe/Berlin\" or \"UTC\"";
const AGGREGATE: &str = "the type of the aggregate that the command is sent to";
const ID: &str = "the id of the aggregate that the command is sent to";
const COMMAND: &str = "the name of the command";

pub(super) fn schedule(mut section: Section<'_>) -> Option<Schedule> {
    let cron = section.need("cron", CRON);
    let zone = section.get("time_zone").map(|entry| entry.parse(TIME_ZONE, zone));
    // With a wrong time zone the expression is still checked.
    let due = cron.and_then(|entry| due(&entry, zone.clone().flatten().unwrap_or_else(Zone::utc)));
    let aggregate = section.need("aggregate", AGGREGATE);
    let aggregate = aggregate.and_then(|entry| named_by(&entry, AGGREGATE, Rule::Part));
    let id = section.need("id", ID).and_then(|entry| entry.text(ID));
    let command = section.need("command", COMMAND);
    let command = command.and_then(|entry| named_by(&entry, COMMAND, Rule::Message));
    let payload = section.get("payload").map_or(Some(Json::Null), |entry| json(&entry, entry.value.get_ref()));
    let missed = [("latest", Missed::Latest), ("all", Missed::All), ("skip", Missed::Skip)];
    let missed = section.choice("missed", &missed);
    section.finish();
    Some(Schedule {
        due: due?,
        stream: StreamId::new(aggregate?, id?),
        command: command?.to_owned(),
        payload: payload?.to_string().into_bytes(),
        missed,
    })
}

fn zone(name: &str) -> Result<Zone, String> {
    Zone::find(name).ok_or_else(|| format!("must be {TIME_ZONE}; there is no {name:?}"))
}

fn due(entry: &Entry<'_>, zone: Zone) -> Option<DueTimes> {
    entry.parse(CRON, |text| {
        DueTimes::parse(text, zone).map_err(|invalid| match invalid {
            Invalid::Expression(cause) => format!("must be {CRON}; found {text:?}: {cause}"),
            Invalid::Never => format!("would never be due: no date fits {text:?}; change its day or its month"),
        })
    })
}

/// Converts a value of the manifest to JSON.
fn json(entry: &Entry<'_>, value: &DeValue<'_>) -> Option<Json> {
    Some(match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Json::Number(number.into()),
            Err(_) => return refused(entry, digits.as_str(), "a whole number of 64 bits"),
        },
        DeValue::Float(digits) => match digits.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => Json::Number(number),
            None => return refused(entry, digits.as_str(), "a finite number, since JSON has no other"),
        },
        DeValue::Boolean(value) => Json::Bool(*value),
        DeValue::Datetime(time) => Json::String(time.to_string()),
        DeValue::Array(items) => {
            Json::Array(items.iter().map(|item| json(entry, item.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(table) => {
            let fields =
                table.iter().map(|(key, value)| Some((key.get_ref().to_string(), json(entry, value.get_ref())?)));
            Json::Object(fields.collect::<Option<_>>()?)
        }
    })
}

fn refused(entry: &Entry<'_>, digits: &str, expected: &str) -> Option<Json> {
    entry.note(&format!("has {digits} in it, which must be {expected}"));
    None
}
