//! What a statement may touch, decided by SQLite's authorizer while it prepares the statement.

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// How the names of the owner's tables begin. A guest neither reads nor writes them, and names nothing of its own so.
pub(crate) const OWN: &str = "_wasmill";

/// The refusal, as people read it.
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
/// Bytes of a pattern for LIKE or GLOB. Matching takes as long as pattern times text, and can't be interrupted.
pub(crate) const LIKE_PATTERN_BYTES_MAX: i32 = 500;
/// Triggers that set off one another.
pub(crate) const TRIGGER_DEPTH_MAX: i32 = 20;

pub(crate) fn authorize(is_guest: bool, context: &AuthContext<'_>) -> Authorization {
    // `CREATE TABLE temp.t` is no CREATE TEMP TABLE to SQLite.
    let is_temporary = context.database_name == Some("temp");
    if !is_guest || !is_temporary && is_allowed(&context.action) { Authorization::Allow } else { Authorization::Deny }
}

/// What is not named here is refused.
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
        // Counts rows, of all tables unless one is named.
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

/// Whether a name is not one of the owner's, in any case of letters.
fn is_foreign(name: &str) -> bool {
    !name.as_bytes().get(..OWN.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN.as_bytes()))
}
