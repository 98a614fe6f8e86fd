//! What a route says about itself, for the OpenAPI document: what it takes and what it answers.

use crate::api::answer::LINES;
use crate::api::problem::PROBLEM_JSON;
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// Makes the schema of a type.
pub(in crate::api) type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

const JSON: &str = "application/json";

/// What a route takes and answers.
#[derive(Clone)]
pub(in crate::api) struct Operation {
    /// The name by which generated clients call it. It never changes.
    pub(in crate::api) id: &'static str,
    pub(super) summary: &'static str,
    /// The parameters of the query string: an object with a member for each of them.
    pub(super) query: Option<MakeSchema>,
    pub(super) headers: &'static [HeaderParameter],
    pub(super) body: Option<Body>,
    pub(super) answers: Vec<Answer>,
}

/// A header that a request may have.
pub(in crate::api) struct HeaderParameter {
    pub(in crate::api) name: &'static str,
    pub(in crate::api) description: &'static str,
    /// A regular expression of its values, unless any will do.
    pub(in crate::api) pattern: Option<&'static str>,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(super) struct Body {
    pub(super) description: &'static str,
    pub(super) media_type: &'static str,
    /// The schema; `None` if any JSON will do, also none. If each line has a value, it is that of a line.
    pub(super) schema: Option<MakeSchema>,
}

/// One answer.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) description: &'static str,
    pub(super) media_type: &'static str,
    pub(super) content: Content,
}

/// What an answer consists of.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// One value.
    Value(MakeSchema),
    /// A problem, which has members of its own or not.
    Problem(MakeSchema),
    /// Values, each on a line.
    Lines(MakeSchema),
    /// A text.
    Text,
}

/// Begins the description of a route by its id and a sentence.
pub(in crate::api) fn says(id: &'static str, summary: &'static str) -> Operation {
    Operation { id, summary, query: None, headers: &[], body: None, answers: Vec::new() }
}

impl Operation {
    /// Adds the parameters of the query string.
    pub(in crate::api) fn query<T: JsonSchema>(self) -> Self {
        Self { query: Some(T::json_schema), ..self }
    }

    /// Adds headers that the request may have.
    pub(in crate::api) fn headers(self, headers: &'static [HeaderParameter]) -> Self {
        Self { headers, ..self }
    }

    /// Adds the body, which the request must have.
    pub(in crate::api) fn body<T: JsonSchema>(self) -> Self {
        Self { body: Some(Body { description: "", media_type: JSON, schema: Some(T::json_schema) }), ..self }
    }

    /// Adds a body that may be any JSON.
    pub(in crate::api) fn any_body(self, description: &'static str) -> Self {
        Self { body: Some(Body { description, media_type: JSON, schema: None }), ..self }
    }

    /// Adds a body with a value on each line.
    pub(in crate::api) fn line_body<T: JsonSchema>(self, description: &'static str) -> Self {
        Self { body: Some(Body { description, media_type: LINES, schema: Some(T::json_schema) }), ..self }
    }

    /// Adds the answer of success: one value.
    pub(in crate::api) fn answers<T: JsonSchema>(self) -> Self {
        self.answers_with(subschema::<T>)
    }

    /// Adds the answer of success with a schema that no type has.
    pub(in crate::api) fn answers_with(self, schema: MakeSchema) -> Self {
        self.with(200, "The answer.", JSON, Content::Value(schema))
    }

    /// Adds the answer of success: values, each on a line.
    pub(in crate::api) fn lines<T: JsonSchema>(self) -> Self {
        self.with(200, "A value on each line.", LINES, Content::Lines(subschema::<T>))
    }

    /// Adds the answer of success: a text.
    pub(in crate::api) fn text(self, media_type: &'static str) -> Self {
        self.with(200, "A text.", media_type, Content::Text)
    }

    /// Adds another answer that is no problem.
    pub(in crate::api) fn or_answers<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.with(status, description, JSON, Content::Value(subschema::<T>))
    }

    /// Adds a problem that may have members of its own.
    pub(in crate::api) fn or_problem<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.with(status, description, PROBLEM_JSON, Content::Problem(subschema::<T>))
    }

    fn with(mut self, status: u16, description: &'static str, media_type: &'static str, content: Content) -> Self {
        self.answers.push(Answer { status, description, media_type, content });
        self
    }
}

fn subschema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}
