-- What it takes to try a dead letter again (postcard); NULL for those that were put aside before this version.
ALTER TABLE dead_letters ADD COLUMN content BLOB;
