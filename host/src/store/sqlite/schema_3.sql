-- A row of the stream index holds several versions in a row: `version` and `position` are of the first, and `more` (postcard)
-- says how far each of the next events is behind the one before it; NULL where there is none.
ALTER TABLE stream_index ADD COLUMN more BLOB;
