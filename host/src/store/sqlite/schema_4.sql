-- Rows of the stream index are large, and come in the order of runs: with a rowid they are appended, and only the small
-- entries of an index beside them go in between others.
ALTER TABLE stream_index RENAME TO stream_index_3;
CREATE TABLE stream_index (
    number INTEGER PRIMARY KEY,
    aggregate_type INTEGER NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    more BLOB
);
INSERT INTO stream_index (aggregate_type, aggregate_id, version, position, more)
    SELECT aggregate_type, aggregate_id, version, position, more FROM stream_index_3;
DROP TABLE stream_index_3;
CREATE UNIQUE INDEX stream_index_of ON stream_index (aggregate_type, aggregate_id, version);
