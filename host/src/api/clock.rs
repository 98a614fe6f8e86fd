//! `/v1/clock`: shows the host's clock, and moves a manual one.

use super::Server;
use super::answer::HttpError;
use super::body::Whole;
use super::problem::ProblemType;
use super::wording;
use crate::host::Unmoved;
use crate::status::ClockStatus;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) async fn show(State(server): State<Server>) -> Json<ClockStatus> {
    Json(server.host.clock_status())
}

/// Where a request moves the clock.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Move {
    /// By so many milliseconds.
    AdvanceMs(u64),
    /// To this time, in milliseconds since 1970-01-01T00:00:00Z.
    ToMs(u64),
}

/// Moves the clock. The body is `{"advance_ms":N}` or `{"to_ms":N}`.
pub(super) async fn set(
    State(server): State<Server>,
    body: Result<Whole, HttpError>,
) -> Result<Json<ClockStatus>, HttpError> {
    let wanted = wording::body(&body?.0, r#"{"advance_ms":N} or {"to_ms":N}, N being milliseconds"#)?;
    let to = |now_ms: u64| match wanted {
        Move::AdvanceMs(ms) => now_ms.saturating_add(ms),
        Move::ToMs(ms) => ms,
    };
    server.host.move_clock(to).await.map(Json).map_err(|unmoved| match unmoved {
        Unmoved::NotManual => HttpError::new(ProblemType::NotPossibleNow, unmoved.to_string()),
        Unmoved::TooLate => HttpError::malformed(unmoved.to_string()),
        Unmoved::Store(error) => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_moved_by_a_time_or_to_a_time() {
        let read = |text: &str| serde_json::from_str::<Move>(text).ok();
        assert_eq!(read(r#"{"advance_ms":5}"#), Some(Move::AdvanceMs(5)));
        assert_eq!(read(r#"{"to_ms":5}"#), Some(Move::ToMs(5)));
        for wrong in ["", "{}", "5", r#"{"to_ms":-1}"#, r#"{"to_ms":1,"advance_ms":1}"#, r#"{"by":1}"#] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
