//! The queries of the read model.

use wasmill_guest::prelude::*;

/// The most entries of one page.
const PAGE_MAX: u32 = 1_000;

/// The queries: their names in kebab-case, their fields as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatementsQuery {
    /// An account with its balance, or null.
    Account {
        /// Its id.
        account: String,
    },
    /// A page of the entries of an account, the oldest first.
    Statement {
        /// The account.
        account: String,
        /// The number of the last entry of the page before. The default is 0, for the first page.
        #[serde(default)]
        after: u64,
        /// The number of entries. The default is 20, and a page has at most 1,000.
        #[serde(default = "twenty")]
        limit: u32,
    },
    /// The number of accounts, and the sum of their balances.
    Totals,
}

const fn twenty() -> u32 {
    20
}

#[derive(Serialize, Deserialize)]
struct Account {
    account: String,
    holder: String,
    balance_cents: i64,
    entries: u64,
    is_closed: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    number: u64,
    kind: String,
    cents: i64,
    balance_cents: i64,
    transfer: Option<String>,
    time_ms: u64,
}

#[derive(Serialize)]
struct Page {
    entries: Vec<Entry>,
    /// What `after` must be for the next page, or null if this is the last one.
    next: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Totals {
    accounts: u64,
    cents: i64,
}

impl StatementsQuery {
    pub(crate) fn answer(self, sql: &Sql) -> Result<Answer, QueryError> {
        match self {
            Self::Account { account } => {
                let account: Option<Account> = sql.row(ACCOUNT, params![account])?;
                Answer::json(&account)
            }
            Self::Statement { account, after, limit } => {
                let limit = limit.clamp(1, PAGE_MAX);
                let mut entries: Vec<Entry> = sql.rows(ENTRIES, params![account, after, limit + 1])?;
                let has_more = entries.len() > limit as usize;
                entries.truncate(limit as usize);
                let next = entries.last().map(|entry| entry.number).filter(|_| has_more);
                Answer::json(&Page { entries, next })
            }
            Self::Totals => {
                let totals: Option<Totals> = sql.row(TOTALS, params![])?;
                Answer::json(&totals)
            }
        }
    }
}

const ACCOUNT: &str = "SELECT account, holder, balance_cents, entries, is_closed FROM accounts WHERE account = ?1";
const ENTRIES: &str = "SELECT number, kind, cents, balance_cents, transfer, time_ms FROM entries
    WHERE account = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
const TOTALS: &str = "SELECT count(*) AS accounts, coalesce(sum(balance_cents), 0) AS cents FROM accounts";
