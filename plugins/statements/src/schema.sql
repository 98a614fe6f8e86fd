-- The entries of each account, numbered from 1.
CREATE TABLE entries (
    account TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    cents INTEGER NOT NULL,         -- negative if the money left the account
    balance_cents INTEGER NOT NULL, -- with this entry
    transfer TEXT,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (account, number)
) WITHOUT ROWID;

CREATE TABLE accounts (
    account TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    balance_cents INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    is_closed INTEGER NOT NULL
) WITHOUT ROWID;
