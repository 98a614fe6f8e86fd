-- Texts that may have any character are BYTEA in UTF-8, because PostgreSQL takes no NUL in a TEXT: ids of aggregates, keys,
-- reasons. Names that the host has checked are TEXT, in the order of their bytes.

-- The head of the store, in one row: the newest number of everything that somebody follows. Each transaction of a writer locks it,
-- numbers what it writes, and holds it until its commit. So numbers are the order of commits and have no gaps.
CREATE TABLE head (
    number INTEGER PRIMARY KEY CHECK (number = 1),
    identity BYTEA NOT NULL,            -- UUID version 7
    commits BIGINT NOT NULL,            -- rises with each transaction of a writer, whoever it is
    position BIGINT NOT NULL,           -- of the newest event
    message BIGINT NOT NULL,            -- the newest number in the outbox
    dead_letter BIGINT NOT NULL,        -- the newest number
    callback BIGINT NOT NULL,           -- the newest number
    http_request BIGINT NOT NULL,       -- the newest number
    dead_letters BIGINT NOT NULL,       -- how many there are
    dead_letter_bytes BIGINT NOT NULL,
    dead_letters_dropped BIGINT NOT NULL,
    newest_id BYTEA,                    -- of the newest event; ids rise with positions
    running_ms BIGINT NOT NULL,         -- how long hosts have run on the store in all
    wall_ms BIGINT NOT NULL,            -- the wall's time when that was noted last
    membership BIGINT NOT NULL          -- rises when a row of hosts is added or removed
) WITH (fillfactor = 20);

-- The hosts that have the store open, and `wasmill store` commands that write to it. A host whose row is gone has lost the store.
CREATE TABLE hosts (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL,                 -- for people
    process TEXT,                       -- tells hosts on the same machine whether its process is there; NULL: nobody knows
    is_alone BOOLEAN NOT NULL,          -- whether no other host may have the store open
    commits BIGINT NOT NULL,            -- the count in the head row after its last commit
    lease_until TIMESTAMPTZ NOT NULL,   -- by the clock of the database; after that others may remove the row
    url TEXT,                           -- of its API
    settings BYTEA                      -- JSON: a digest of each key that all hosts must have in common
) WITH (fillfactor = 20);

-- The host that runs a part. Other parts run on every host.
CREATE TABLE leases (
    part TEXT COLLATE "C" PRIMARY KEY,
    host BIGINT NOT NULL REFERENCES hosts ON DELETE CASCADE,
    wanted_by BIGINT REFERENCES hosts ON DELETE SET NULL -- the host to which it should be handed over
);

-- The names, which are stored once.
CREATE TABLE aggregate_types (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE
);
CREATE TABLE event_types (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_type INTEGER NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    UNIQUE (aggregate_type, name)
);

-- The recorded events. They are appended by position and never changed.
CREATE TABLE events (
    position BIGINT PRIMARY KEY,
    type INTEGER NOT NULL,              -- event_types
    aggregate_type INTEGER NOT NULL,    -- aggregate_types
    aggregate_id BYTEA NOT NULL,
    version BIGINT NOT NULL,            -- from 1 in each stream, no gaps
    id BYTEA NOT NULL,                  -- UUID version 7
    time_ms BIGINT NOT NULL,
    correlation_id BYTEA NOT NULL,
    causation_id BYTEA NOT NULL,
    headers BYTEA,                      -- postcard; NULL where there are none
    payload BYTEA NOT NULL,
    CONSTRAINT events_of_stream UNIQUE (aggregate_type, aggregate_id, version)
);

-- The same for people who look into the database.
CREATE VIEW readable_events AS
    SELECT e.position, a.name AS aggregate_type, convert_from(e.aggregate_id, 'UTF8') AS aggregate_id, e.version,
        t.name AS event, convert_from(e.payload, 'UTF8') AS payload, to_timestamp(e.time_ms / 1000.0) AS time
    FROM events e JOIN event_types t ON t.id = e.type JOIN aggregate_types a ON a.id = e.aggregate_type;

-- The ledgers. In each of them everything below `next` is settled, and the ranges `ahead` (postcard).
CREATE TABLE ledgers (name TEXT COLLATE "C" PRIMARY KEY, next BIGINT NOT NULL, ahead BYTEA NOT NULL) WITH (fillfactor = 50);

-- The checkpoint of each subscription, and the number of commands that it has sent.
CREATE TABLE checkpoints (
    subscription TEXT COLLATE "C" PRIMARY KEY,
    position BIGINT NOT NULL,
    commands BIGINT NOT NULL
) WITH (fillfactor = 50);

-- The keys of subscriptions that are held because an event failed: the first version that is not handled, and the dead letter
-- that the key waits behind. The key of a saga is its stream, and that of a record has the type `record`; both have version 0.
CREATE TABLE held_keys (
    subscription TEXT COLLATE "C" NOT NULL,
    aggregate_type TEXT COLLATE "C" NOT NULL,
    aggregate_id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    dead_letter BIGINT,                 -- NULL: the event is to be retried
    PRIMARY KEY (subscription, aggregate_type, aggregate_id)
);
CREATE INDEX held_keys_behind ON held_keys (dead_letter) WHERE dead_letter IS NOT NULL;

-- The outbox: effects of subscriptions that are not sent yet, with a row for each step, kind and queue.
CREATE TABLE outbox (
    kind TEXT COLLATE "C" NOT NULL,     -- 'commands' or 'messages'
    queue TEXT COLLATE "C" NOT NULL,    -- of commands their subscription; all messages are in the queue ''
    first BIGINT NOT NULL,              -- the numbers of the row's effects in their queue
    last BIGINT NOT NULL,
    body BYTEA NOT NULL,                -- postcard
    PRIMARY KEY (kind, queue, first)
);

-- The callbacks of subscriptions: outcomes of their commands, timers, and events of sagas and records that were deferred.
CREATE TABLE callbacks (
    number BIGINT PRIMARY KEY,
    subscription TEXT COLLATE "C" NOT NULL,
    timer BYTEA,                        -- the name of a timer; NULL: an outcome, or a timer without a name
    key BYTEA,                          -- of the delivery that asked for it; that of the saga
    time_ms BIGINT NOT NULL,            -- when the outcome was recorded, something deferred, or when the timer is due
    due_ms BIGINT NOT NULL,             -- 0 for an outcome, which is due at once; time_ms for a timer; -1 for what was put
                                        -- off, or 2^63-1 while it waits behind a dead letter
    body BYTEA NOT NULL                 -- postcard
);
CREATE INDEX callbacks_due ON callbacks (subscription, due_ms, number);
CREATE INDEX callbacks_waiting ON callbacks (subscription, key) WHERE due_ms = 9223372036854775807;
CREATE UNIQUE INDEX callbacks_of_timer ON callbacks (subscription, timer) WHERE timer IS NOT NULL;

-- The HTTP requests of subscriptions that have not ended. The transaction that has the answer deletes the row.
CREATE TABLE http_requests (
    number BIGINT PRIMARY KEY,
    subscription TEXT COLLATE "C" NOT NULL,
    endpoint TEXT COLLATE "C" NOT NULL,
    key BYTEA,                          -- of the delivery that asked for it; that of the saga
    correlation_id BYTEA NOT NULL,
    due_ms BIGINT NOT NULL,             -- when the next attempt is due; 2^63-1 while one is under way, or while an earlier
                                        -- request of the key to the endpoint has not ended
    attempts BIGINT NOT NULL,           -- that were begun
    interrupted BIGINT NOT NULL,        -- attempts in the middle of which a host ended
    begun_ms BIGINT,                    -- when the attempt under way began; NULL: none is under way
    error BYTEA,                        -- why the last attempt failed
    body BYTEA NOT NULL                 -- postcard
);
CREATE INDEX http_requests_due ON http_requests (subscription, endpoint, due_ms, number);
CREATE INDEX http_requests_of_key ON http_requests (subscription, endpoint, key, number) WHERE key IS NOT NULL;
CREATE INDEX http_requests_of_flow ON http_requests (correlation_id);

-- The number of the last message that each sink has published.
CREATE TABLE sinks (name TEXT COLLATE "C" PRIMARY KEY, position BIGINT NOT NULL) WITH (fillfactor = 50);

-- Outcomes of commands whose sender chose the id.
CREATE TABLE outcomes (
    id BYTEA PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    outcome BYTEA NOT NULL,             -- JSON
    time_ms BIGINT NOT NULL,
    running_ms BIGINT NOT NULL          -- the store's running time when it was stored
);
CREATE INDEX outcomes_by_age ON outcomes (running_ms);

-- The number of commands that ended in each way, since the store was created.
CREATE TABLE tallies (
    aggregate_type TEXT COLLATE "C" NOT NULL,
    command BYTEA NOT NULL,
    accepted BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    malformed BIGINT NOT NULL,
    PRIMARY KEY (aggregate_type, command)
) WITH (fillfactor = 50);

-- The dead letters, with all that a retry needs.
CREATE TABLE dead_letters (
    number BIGINT PRIMARY KEY,
    consumer TEXT COLLATE "C" NOT NULL,
    place BYTEA NOT NULL,
    key BYTEA,
    reason BYTEA NOT NULL,
    time_ms BIGINT,                     -- of what could not be handled; NULL if nobody knows
    dead_lettered_ms BIGINT NOT NULL,
    running_ms BIGINT NOT NULL,         -- the store's running time when it was dead-lettered
    bytes BIGINT NOT NULL,              -- of the content, the reason and the place
    content BYTEA NOT NULL              -- postcard
);
CREATE INDEX dead_letters_of ON dead_letters (consumer, number);

-- The archived streams, which accept no more events.
CREATE TABLE archived_streams (
    aggregate_type INTEGER NOT NULL,
    aggregate_id BYTEA NOT NULL,
    time_ms BIGINT NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
);

-- The facts: what parts remember of the world outside of the store, to notice if it has changed.
CREATE TABLE facts (name TEXT COLLATE "C" PRIMARY KEY, value BYTEA NOT NULL);

-- The newest snapshot of each aggregate. This is a cache, so it need not survive a crash of the server.
CREATE UNLOGGED TABLE snapshots (
    aggregate_type TEXT COLLATE "C" NOT NULL,
    aggregate_id BYTEA NOT NULL,
    version BIGINT NOT NULL,
    event BYTEA NOT NULL,               -- the id of the event at this version
    code TEXT COLLATE "C" NOT NULL,
    state BYTEA NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
);
