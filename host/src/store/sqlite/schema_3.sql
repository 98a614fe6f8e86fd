-- A row of the stream index holds several versions in a row: `version` and `position` are of the first, and `more` (postcard)
-- says how far each of the next events is behind the one before it; NULL where there is none.
ALTER TABLE stream_index ADD COLUMN more BLOB;

-- Rows of a run that was cut short would hide the events behind them. Above the mark the events are read again anyway.
DELETE FROM stream_index WHERE position > (SELECT coalesce(max(value), 0) FROM marks WHERE name = 'indexed');

-- Steps of subscriptions are large, and a table without rowid would read them whole wherever it looks for one.
ALTER TABLE outbox_commands RENAME TO outbox_commands_1;
CREATE TABLE outbox_commands (
    number INTEGER PRIMARY KEY,
    subscription TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    body BLOB NOT NULL
);
INSERT INTO outbox_commands (subscription, first, last, body)
    SELECT subscription, first, last, body FROM outbox_commands_1 ORDER BY subscription, first;
DROP TABLE outbox_commands_1;
CREATE UNIQUE INDEX outbox_commands_of ON outbox_commands (subscription, first, last);
