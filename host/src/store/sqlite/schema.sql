-- The identity of the store, and its ownership, in one row. Whoever opens the store for writing raises the epoch, and
-- each transaction of a writer first checks that the epoch is still its own.
CREATE TABLE store (
    number INTEGER PRIMARY KEY CHECK (number = 1),
    identity BLOB NOT NULL,         -- UUID version 7
    owner_epoch INTEGER NOT NULL,
    running_ms INTEGER NOT NULL,    -- how long hosts have run on it in all
    wall_ms INTEGER NOT NULL        -- the wall's time when that was noted last
);

-- The names, which are stored once.
CREATE TABLE aggregate_types (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE event_types (
    id INTEGER PRIMARY KEY,
    aggregate_type INTEGER NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (aggregate_type, name)
);

-- The recorded events. They are appended by position and never changed.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    type INTEGER NOT NULL,          -- event_types
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,       -- from 1 in each stream, no gaps
    id BLOB NOT NULL,               -- UUID version 7
    time_ms INTEGER NOT NULL,
    correlation_id BLOB NOT NULL,   -- the 16 bytes of a UUID, or text
    causation_id BLOB,              -- the same; NULL where it is the correlation_id
    headers BLOB,                   -- postcard; NULL where there are none
    payload BLOB NOT NULL
);

-- The stream index: the positions of the events of each stream. It is complete up to marks.indexed, and the writer
-- fills it in sorted runs. A row has several consecutive versions: `version` and `position` are those of the first one,
-- and `more` (postcard) has the distance of each following position from the one before it, or NULL if there is none.
-- Rows are large and arrive in the order of runs. With a rowid they are appended, and only the small entries of the
-- index are inserted between others.
CREATE TABLE stream_index (
    number INTEGER PRIMARY KEY,
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    more BLOB
);
CREATE UNIQUE INDEX stream_index_of ON stream_index (aggregate_type, aggregate_id, version);

-- Single numbers: `indexed` (a position), `messages` (the number of the newest message of the outbox), `dead_letters`
-- (their number), `dead_letter_bytes` and `dead_letters_dropped`.
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- The ledgers. In each of them everything below `next` is settled, and the ranges `ahead` (postcard).
CREATE TABLE ledgers (name TEXT PRIMARY KEY, next INTEGER NOT NULL, ahead BLOB NOT NULL) WITHOUT ROWID;

-- The checkpoint of each subscription, and the number of commands that it has sent.
CREATE TABLE checkpoints (subscription TEXT PRIMARY KEY, position INTEGER NOT NULL, commands INTEGER NOT NULL) WITHOUT ROWID;

-- The keys of subscriptions that are held because an event failed: the first version that is not handled, and the dead
-- letter that the key waits behind. The checkpoint is past the events of a held key. The key of a saga is its stream, and that
-- of a record has the type `record`; both have version 0, and what waits are callbacks.
CREATE TABLE held_keys (
    subscription TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    dead_letter INTEGER,            -- NULL: the event is to be retried
    PRIMARY KEY (subscription, aggregate_type, aggregate_id)
) WITHOUT ROWID;
CREATE INDEX held_keys_behind ON held_keys (dead_letter) WHERE dead_letter IS NOT NULL;

-- The outbox: effects of subscriptions that are not sent yet, with a row for each step, kind and queue. It has the
-- step's commands, or its messages (postcard). Rows are large: without a rowid SQLite would read whole rows while it
-- searches.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,             -- 'commands' or 'messages'
    queue TEXT NOT NULL,            -- of commands their subscription; all messages are in the queue ''
    first INTEGER NOT NULL,         -- the numbers of the row's effects in their queue
    last INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX outbox_of ON outbox (kind, queue, first, last);

-- The callbacks of subscriptions: outcomes of their commands, timers, and events of sagas and records that were deferred. A
-- row is deleted by the step that handles it.
-- AUTOINCREMENT never assigns a number twice, because ids derive from it.
CREATE TABLE callbacks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription TEXT NOT NULL,
    timer TEXT,                     -- the name of a timer; NULL: an outcome, or a timer without a name
    key BLOB,                       -- of the delivery that asked for it; that of the saga
    time_ms INTEGER NOT NULL,       -- when the outcome was recorded, something deferred, or when the timer is due
    due_ms INTEGER NOT NULL,        -- 0 for an outcome, which is due at once; time_ms for a timer; -1 for what was put
                                    -- off, or 2^63-1 while it waits behind a dead letter
    body BLOB NOT NULL              -- postcard
);
CREATE INDEX callbacks_due ON callbacks (subscription, due_ms, number);
CREATE INDEX callbacks_waiting ON callbacks (subscription, key) WHERE due_ms = 9223372036854775807;
CREATE UNIQUE INDEX callbacks_of_timer ON callbacks (subscription, timer) WHERE timer IS NOT NULL;

-- The HTTP requests of subscriptions that have not ended. The transaction that has the answer deletes the row.
-- AUTOINCREMENT never assigns a number twice, because people refer to a request by it.
CREATE TABLE http_requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    key BLOB,                       -- of the delivery that asked for it; that of the saga
    correlation_id TEXT NOT NULL,
    due_ms INTEGER NOT NULL,        -- when the next attempt is due; 2^63-1 while one is under way, or while an earlier
                                    -- request of the key to the endpoint has not ended
    attempts INTEGER NOT NULL,      -- that were begun
    interrupted INTEGER NOT NULL,   -- attempts in the middle of which a host ended
    begun_ms INTEGER,               -- when the attempt under way began; NULL: none is under way
    error TEXT,                     -- why the last attempt failed
    body BLOB NOT NULL              -- postcard
);
CREATE INDEX http_requests_due ON http_requests (subscription, endpoint, due_ms, number);
CREATE INDEX http_requests_of_key ON http_requests (subscription, endpoint, key, number) WHERE key IS NOT NULL;
CREATE INDEX http_requests_of_flow ON http_requests (correlation_id);

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

-- The number of commands that ended in each way, since the store was created.
CREATE TABLE tallies (
    aggregate_type TEXT NOT NULL,
    command TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    malformed INTEGER NOT NULL,
    PRIMARY KEY (aggregate_type, command)
) WITHOUT ROWID;

-- The dead letters, with all that a retry needs. AUTOINCREMENT never assigns a number twice, because people and replays
-- refer to a dead letter by it.
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

-- The archived streams, which accept no more events.
CREATE TABLE archived_streams (
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
) WITHOUT ROWID;

-- The facts: what parts remember of the world outside of the store, to notice if it has changed.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
