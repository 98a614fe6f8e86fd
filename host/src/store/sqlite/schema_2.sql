-- What was put aside, with what it takes to try it again. AUTOINCREMENT never gives a number twice: people and
-- replays name a letter by it.
ALTER TABLE dead_letters RENAME TO dead_letters_1;
CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL,
    place TEXT NOT NULL,
    key TEXT,
    reason TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    content BLOB,                   -- postcard; NULL where format 1 put it aside
    payload BLOB                    -- what format 1 kept; NULL where there is content
);
INSERT INTO dead_letters (number, consumer, place, key, reason, time_ms, payload)
    SELECT number, consumer, place, key, reason, time_ms, payload FROM dead_letters_1;
DROP TABLE dead_letters_1;
CREATE INDEX dead_letters_of ON dead_letters (consumer);

-- Streams that take no more events.
CREATE TABLE archived_streams (
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
) WITHOUT ROWID;
