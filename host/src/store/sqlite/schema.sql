-- One row. What tells this store from every other, and which of its openers may write: each raises the epoch, and each
-- transaction of a writer begins with a look whether the epoch is still its own.
CREATE TABLE store (
    number INTEGER PRIMARY KEY CHECK (number = 1),
    identity BLOB NOT NULL,         -- UUID version 7
    owner_epoch INTEGER NOT NULL,
    running_ms INTEGER NOT NULL,    -- how long hosts have run on it in all
    wall_ms INTEGER NOT NULL        -- the wall's time when that was noted last
);

-- Names, each stored once.
CREATE TABLE aggregate_types (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE event_types (
    id INTEGER PRIMARY KEY,
    aggregate_type INTEGER NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (aggregate_type, name)
);

-- The truth. Appended to by position, never changed.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,          -- event_types
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,       -- from 1 in each stream, no gaps
    id BLOB NOT NULL,               -- UUID version 7
    time_ms INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    headers BLOB,                   -- postcard; NULL where there are none
    payload BLOB NOT NULL
);

-- Where the events of a stream are: complete up to marks.indexed, filled in sorted runs behind the writer. A row holds
-- several versions in a row: `version` and `position` are of the first, and `more` (postcard) says how far each of the
-- next events is behind the one before it; NULL if there is none. Rows are large and come in the order of runs: with a
-- rowid they are appended, and only the small entries of the index go in between others.
CREATE TABLE stream_index (
    number INTEGER PRIMARY KEY,
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    more BLOB
);
CREATE UNIQUE INDEX stream_index_of ON stream_index (aggregate_type, aggregate_id, version);

-- Single numbers: `indexed` (position), `messages` (number of the newest message of the outbox).
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- What of each numbered sequence is settled: all below `next`, and the ranges `ahead` (postcard).
CREATE TABLE ledgers (name TEXT PRIMARY KEY, next INTEGER NOT NULL, ahead BLOB NOT NULL) WITHOUT ROWID;

-- How far each subscription is, and how many commands it has sent.
CREATE TABLE checkpoints (subscription TEXT PRIMARY KEY, position INTEGER NOT NULL, commands INTEGER NOT NULL) WITHOUT ROWID;

-- Effects of subscriptions, a row for each step: its commands, or its messages (postcard). Steps are large, and a table
-- without rowid would read them whole wherever it looks for one.
CREATE TABLE outbox_commands (
    number INTEGER PRIMARY KEY,
    subscription TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX outbox_commands_of ON outbox_commands (subscription, first, last);
CREATE TABLE outbox_messages (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, body BLOB NOT NULL);

-- The number of the last message that each sink has published.
CREATE TABLE sinks (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;

-- Outcomes of commands whose sender chose the id.
CREATE TABLE outcomes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    outcome BLOB NOT NULL,          -- JSON
    time_ms INTEGER NOT NULL,
    running_ms INTEGER NOT NULL     -- the store's running time when it was stored
);

-- How commands ended, since the store was made.
CREATE TABLE tallies (
    aggregate_type TEXT NOT NULL,
    command TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    malformed INTEGER NOT NULL,
    PRIMARY KEY (aggregate_type, command)
) WITHOUT ROWID;

-- What could not be handled, with what it takes to try it again. AUTOINCREMENT never gives a number twice: people and
-- replays name a letter by it.
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL,
    place TEXT NOT NULL,
    key TEXT,
    reason TEXT NOT NULL,
    time_ms INTEGER,                -- of what could not be handled; NULL if nobody knows
    dead_lettered_ms INTEGER NOT NULL,
    running_ms INTEGER NOT NULL,    -- the store's running time when it was dead-lettered
    bytes INTEGER NOT NULL,         -- of the content, the reason and the place
    content BLOB NOT NULL           -- postcard
);
CREATE INDEX dead_letters_of ON dead_letters (consumer);

-- Streams that take no more events.
CREATE TABLE archived_streams (
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
) WITHOUT ROWID;

-- What parts remember of the world outside, to notice that it became another.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
