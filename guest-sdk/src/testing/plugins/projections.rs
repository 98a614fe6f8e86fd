//! The code of projections.

use super::code::{Failed, Given};
use crate::bindings::types;
use crate::projection::QueryError;
use crate::reading::Shape;
use serde_json::Value as Json;

/// A projection with its read model.
pub(super) struct ProjectionPart {
    pub(super) name: &'static str,
    /// The type that an author wrote.
    #[cfg(feature = "testing-sql")]
    pub(super) type_name: &'static str,
    pub(super) given: Given,
    /// The patterns of the events that it gets.
    pub(super) patterns: Vec<&'static str>,
    /// The shape in which it gets them.
    pub(super) shape: Shape,
    /// The place of the next event.
    pub(super) next: usize,
    pub(super) code: Box<dyn ProjectionCode>,
}

/// The code of a projection, with its read model.
pub(super) trait ProjectionCode {
    /// Folds an event into the read model, or skips it.
    fn fold(&mut self, given: &Given, event: &types::RecordedEvent) -> Result<(), Failed>;

    /// Answers a query, given by its name and its parameters.
    fn query(&self, given: &Given, name: &str, params: &[u8]) -> Result<Json, QueryError>;
}

#[cfg(feature = "testing-sql")]
impl<P: crate::Projection> ProjectionCode for crate::testing::ReadModel<P> {
    fn fold(&mut self, given: &Given, event: &types::RecordedEvent) -> Result<(), Failed> {
        // After a panic its transaction is open, so it can't be tried again.
        let folded = super::code::guarded(given, || self.fold(event.clone())).map_err(Failed::Malformed)?;
        Ok(folded.map(drop)?)
    }

    fn query(&self, given: &Given, name: &str, params: &[u8]) -> Result<Json, QueryError> {
        super::code::guarded(given, || self.try_query(name, params)).map_err(QueryError::Failed)?
    }
}
