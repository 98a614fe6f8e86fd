//! The rules of what a statement may touch. SQLite's authorizer checks them when a statement is prepared.

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// The prefix of the owner's tables. A guest can neither read nor write them, and its own names can't have the prefix.
pub(crate) const OWN: &str = "_wasmill";

/// The text of the refusal.
pub(crate) const NOT_ALLOWED: &str = "not allowed in a read model: no transaction control, ATTACH, VACUUM, PRAGMA, ALTER \
    TABLE, temporary or virtual tables, and nothing whose name begins with `_wasmill`";

/// Bytes of one statement.
pub(crate) const SQL_BYTES_MAX: i32 = 256 << 10;
/// Columns of a table, of an index and of a result.
pub(crate) const COLUMNS_MAX: i32 = 256;
/// Nested expressions.
pub(crate) const EXPRESSION_DEPTH_MAX: i32 = 100;
/// SELECTs joined by UNION and the like.
pub(crate) const COMPOUND_SELECTS_MAX: i32 = 50;
/// Bytes of a pattern for LIKE or GLOB. The time for a match grows with pattern length times text length, and a match
/// can't be interrupted.
pub(crate) const LIKE_PATTERN_BYTES_MAX: i32 = 500;
/// Nested triggers.
pub(crate) const TRIGGER_DEPTH_MAX: i32 = 20;

pub(crate) fn authorize(is_guest: bool, context: &AuthContext<'_>) -> Authorization {
    // To SQLite, `CREATE TABLE temp.t` is not a CREATE TEMP TABLE.
    let is_temporary = context.database_name == Some("temp");
    if !is_guest || !is_temporary && is_allowed(&context.action) { Authorization::Allow } else { Authorization::Deny }
}

/// Returns whether an action is allowed. Actions that are not listed here are refused.
fn is_allowed(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name } => is_foreign(table_name),
        // It gathers statistics, of all tables unless one is named.
        AuthAction::Analyze { .. } => true,
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => is_foreign(view_name),
        AuthAction::Reindex { index_name } => is_foreign(index_name),
        AuthAction::CreateIndex { index_name, table_name } | AuthAction::DropIndex { index_name, table_name } => {
            is_foreign(index_name) && is_foreign(table_name)
        }
        AuthAction::CreateTrigger { trigger_name, table_name }
        | AuthAction::DropTrigger { trigger_name, table_name } => is_foreign(trigger_name) && is_foreign(table_name),
        _ => false,
    }
}

/// Returns whether a name does not have the owner's prefix, in upper or lower case.
fn is_foreign(name: &str) -> bool {
    !name.as_bytes().get(..OWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN.as_bytes()))
}
