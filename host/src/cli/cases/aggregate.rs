//! Cases of aggregates: the history is applied, and the aggregate decides on the command.

use super::super::test;
use super::{history, not_applied, refusal};
use crate::model::{Command, StreamId};
use crate::plugin::{AggregateGuest, Error, Plugin};
use wasmill_cases::NewEvent;
use wasmill_cases::aggregate::{self, Answer, Case};

pub(super) fn decide(plugin: &Plugin, aggregate_type: &str, case: &Case) -> Result<Answer, Error> {
    let stream = StreamId::new(aggregate_type, case.when.aggregate_id.as_str());
    let mut guest = AggregateGuest::new(plugin, aggregate_type)?;
    let live = guest.create(&stream.aggregate_id)?;
    if let Err(failure) = guest.apply(&live, &history(&stream, &case.given))? {
        return Ok(Answer::Failed(not_applied(failure)));
    }
    Ok(match guest.handle(&live, &command(stream, &case.when))? {
        Ok(events) => {
            let event = |event: crate::model::NewEvent| NewEvent { name: event.name, payload: event.payload };
            Answer::Decided(events.into_iter().map(event).collect())
        }
        Err(refused) => Answer::Refused(refusal(refused)),
    })
}

fn command(stream: StreamId, sent: &aggregate::Command) -> Command {
    let command = test::command("command-1".into(), stream, &sent.name, sent.bytes(), &sent.headers, sent.time_ms);
    Command { correlation_id: "test".into(), causation_id: "test".into(), ..command }
}
