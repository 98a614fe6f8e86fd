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

-- Where the events of a stream are: complete up to marks.indexed, filled in sorted runs behind the writer.
CREATE TABLE stream_index (
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, version)
) WITHOUT ROWID;

-- Single numbers: `indexed` (position), `messages` (number of the newest message of the outbox).
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- What of each numbered sequence is settled: all below `next`, and the ranges `ahead` (postcard).
CREATE TABLE ledgers (name TEXT PRIMARY KEY, next INTEGER NOT NULL, ahead BLOB NOT NULL) WITHOUT ROWID;

-- How far each subscription is, and how many commands it has sent.
CREATE TABLE checkpoints (subscription TEXT PRIMARY KEY, position INTEGER NOT NULL, commands INTEGER NOT NULL) WITHOUT ROWID;

-- Effects of subscriptions, a row for each step: its commands, or its messages (postcard).
CREATE TABLE outbox_commands (
    subscription TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (subscription, first)
) WITHOUT ROWID;
CREATE TABLE outbox_messages (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, body BLOB NOT NULL);

-- The number of the last message that each sink has published.
CREATE TABLE sinks (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;

-- Outcomes of commands whose sender chose the id.
CREATE TABLE outcomes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    outcome BLOB NOT NULL,          -- JSON
    time_ms INTEGER NOT NULL
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

CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY,
    consumer TEXT NOT NULL,
    place TEXT NOT NULL,
    key TEXT,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    time_ms INTEGER NOT NULL
);
