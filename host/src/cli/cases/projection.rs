//! Cases of projections: the events are folded into a read model in a temporary folder, and the query is answered.

use super::{failure, recorded_of, refusal};
use crate::cli::failure::CommandFailure;
use crate::model::RecordedEvent;
use crate::plugin::{self, Plugin};
use crate::projection::{Error, QueryError, Trial};
use std::sync::Arc;
use wasmill_cases::projection::{Answer, Case};
use wasmill_cases::versions;

pub(super) fn answer(plugin: &Arc<Plugin>, case: &Case) -> Result<Answer, CommandFailure> {
    let folder = tempfile::tempdir().map_err(|cause| failure(format!("can't make a temporary folder: {cause}")))?;
    let mut trial = Trial::new(plugin, folder.path()).map_err(failure)?;
    if let Some(answer) = not_folded(plugin, &mut trial, case)? {
        return Ok(answer);
    }
    let answered = trial.query(&case.when.query, &case.when.bytes());
    Ok(match answered {
        Ok(answer) => {
            Answer::Answer(serde_json::from_slice(&answer).unwrap_or_else(|_| String::from_utf8_lossy(&answer).into()))
        }
        Err(QueryError::Plugin(plugin::QueryError::Unknown { known })) => Answer::Unknown(known),
        Err(QueryError::Plugin(plugin::QueryError::Malformed(reason))) => Answer::Malformed(reason),
        Err(QueryError::Plugin(plugin::QueryError::Failed(reason))) => Answer::Failed(reason),
        Err(QueryError::Unavailable(cause)) => return Err(failure(cause)),
    })
}

/// Folds the events of a case. Returns the answer if one of them is not folded.
fn not_folded(plugin: &Plugin, trial: &mut Trial, case: &Case) -> Result<Option<Answer>, CommandFailure> {
    let filter = plugin.projection_filter();
    for ((event, version), place) in case.given.iter().zip(versions(&case.given)).zip(1..) {
        if !filter.matches(&event.on.aggregate_type, &event.name) {
            return Ok(Some(Answer::not_folded(place, event, &event.not_selected())));
        }
        let skipped_before = plugin.unknown_events();
        let recorded: RecordedEvent = recorded_of(event, (place as u64, version));
        let cause = match trial.project(&recorded) {
            Ok(Ok(())) if plugin.unknown_events() > skipped_before => return Ok(Some(Answer::skipped(place, event))),
            Ok(Ok(())) => continue,
            Ok(Err(failed)) => refusal(failed.refusal).to_string(),
            Err(Error::Plugin(trap @ (plugin::Error::Trap { .. } | plugin::Error::Overrun { .. }))) => trap.to_string(),
            Err(error) => return Err(failure(error)),
        };
        return Ok(Some(Answer::not_folded(place, event, &cause)));
    }
    Ok(None)
}
